"""From recorded motions to a fit: split, estimate, validate."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mjx_serl.sysid.arm_model import ArmModel, build_arm_model
from mjx_serl.sysid.estimate import Fitted, Say, errors_of, estimate, untuned
from mjx_serl.sysid.motion import Motion, split_motions
from mjx_serl.sysid.parameters import candidates
from scenes.contract.robot import RobotSpec
from scenes.contract.robot_fit import FitErrors, FittedRecording, FittedValue, RobotFit

_VERSIONS = ("mjx-serl", "mujoco", "numpy")


@dataclass(frozen=True, eq=False, kw_only=True)
class Identified:
    """A fit and what it was found with.

    Attributes:
        fit: the result.
        arm: that was simulated.
        shown: a motion that was not fitted.
        values: untuned and tuned parameters by name.
    """

    fit: RobotFit
    arm: ArmModel
    shown: Motion
    values: tuple[Mapping[str, float], Mapping[str, float]]


def identify(
    robot: RobotSpec,
    motions: Sequence[Motion],
    *,
    recordings: Sequence[FittedRecording] = (),
    sim_dt: float = 0.005,
    say: Say = lambda _: None,
) -> Identified:
    """Fit a robot to motions; InputError where they are too short or stand still.

    Args:
        robot: whose nominal values are the beginning.
        motions: recorded.
        recordings: that they are from.
        sim_dt: physics step of the fit [s]; that of the tasks that will take it.
        say: hears how it goes on.
    """
    train, validation = split_motions(motions)
    seconds = [sum(m.seconds for m in part) for part in (train, validation)]
    say(f"motions  {seconds[0]:.1f} s to fit, {seconds[1]:.1f} s to validate by")
    arm = build_arm_model(robot, sim_dt=sim_dt)
    found = estimate(arm, train, say=say)
    before = untuned(candidates(robot))
    after = {f.candidate.name: f.value for f in found}
    fit = RobotFit(
        robot=robot.name,
        sim_dt=sim_dt,
        values=tuple(_value(robot, f) for f in found),
        fitted=_errors(arm, train, before, after),
        validation=_errors(arm, validation, before, after),
        recordings=tuple(recordings),
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
    )
    return Identified(fit=fit, arm=arm, shown=validation[0], values=(before, after))


def _errors(
    arm: ArmModel,
    motions: Sequence[Motion],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> FitErrors:
    old, new = (errors_of(arm, motions, values) for values in (before, after))
    return FitErrors(
        position_before=old.position,
        position_after=new.position,
        velocity_before=old.velocity,
        velocity_after=new.velocity,
        seconds=sum(motion.seconds for motion in motions),
    )


def _value(robot: RobotSpec, found: Fitted) -> FittedValue:
    c = found.candidate
    return FittedValue(
        field=c.field,
        joint="" if c.joint is None else robot.joint_names[c.joint],
        value=found.value,
        # Nothing here can be negative.
        low=max(0.0, found.value - found.half_width),
        high=found.value + found.half_width,
        nominal=c.nominal,
        held=found.held,
    )
