"""What may be fitted, in units in which one is a likely error, as `mujoco.sysid` parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from scenes.contract.robot import RobotSpec

DELAY, PAYLOAD = "delay", "payload"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A parameter that could be fitted.

    Attributes:
        field: kp, kd, damping, friction_loss, armature of a joint; payload; delay.
        joint: its index; None for what the whole arm has.
        name: for people: "kp joint3".
        nominal: in the RobotSpec.
        low: smallest value that is tried; `high` the largest.
        scale: how wrong the nominal value may well be. Ours: half of it; of friction, which nobody
            states, 2 % of the largest torque; of a payload 0.5 kg; of the delay 20 ms.
        begin: where the fit begins: nominal, but off the bound of what cannot be negative.
    """

    field: str
    joint: int | None
    name: str
    nominal: float
    low: float
    high: float
    scale: float
    begin: float


# Which of several that act alike is held at its nominal value first.
FREEZE_ORDER = ("damping", "armature", "friction_loss", PAYLOAD, "kd", "kp", DELAY)


def candidates(robot: RobotSpec) -> tuple[Candidate, ...]:
    """All parameters of a robot, the delay first."""
    found = [_whole(DELAY, nominal=0.0, high=0.25, scale=0.02, begin=0.0)]
    for field, low, high in (("kp", 0.1, 10), ("kd", 0.05, 10), ("armature", 0.02, 10)):
        found += [_relative(robot, field, j, low=low, high=high) for j in range(robot.num_joints)]
    found += [_relative(robot, "damping", j, low=0.0, high=20) for j in range(robot.num_joints)]
    found += [_friction(robot, j) for j in range(robot.num_joints)]
    found.append(_whole(PAYLOAD, nominal=robot.payload, high=10.0, scale=0.5, begin=0.05))
    return tuple(found)


def _whole(field: str, *, nominal: float, high: float, scale: float, begin: float) -> Candidate:
    begin = max(nominal, begin)
    return Candidate(
        field=field, joint=None, name=field, nominal=nominal, low=0.0, high=high, scale=scale,
        begin=begin,
    )  # fmt: skip


def _relative(robot: RobotSpec, field: str, joint: int, *, low: float, high: float) -> Candidate:
    nominal = getattr(robot, field)[joint]
    return Candidate(
        field=field,
        joint=joint,
        name=f"{field} {robot.joint_names[joint]}",
        nominal=nominal,
        low=low * nominal,
        high=high * max(nominal, 1e-3),
        scale=0.5 * max(nominal, 1e-3),
        begin=nominal,
    )


def _friction(robot: RobotSpec, joint: int) -> Candidate:
    most = robot.tau_max[joint]
    nominal = robot.friction_loss[joint] if robot.friction_loss else 0.0
    return Candidate(
        field="friction_loss",
        joint=joint,
        name=f"friction_loss {robot.joint_names[joint]}",
        nominal=nominal,
        low=0.0,
        high=0.3 * most,
        scale=0.02 * most,
        begin=nominal or 0.005 * most,
    )


def to_sysid(sysid: Any, chosen: Sequence[Candidate], values: Mapping[str, float]) -> Any:
    """A `mujoco.sysid.ParameterDict` of those that are fitted, in units of their scales."""
    parameters = sysid.ParameterDict()
    for c in chosen:
        low, high = c.low / c.scale, c.high / c.scale
        # On a bound a fit may stall; a little inside it does not.
        inset = 2e-3 * (high - low)
        value = np.clip(values[c.name] / c.scale, low + inset, high - inset)
        parameters.add(sysid.Parameter(c.name, value, low, high))
    return parameters


def gathered(
    robot: RobotSpec, all_of: Sequence[Candidate], values: Mapping[str, float]
) -> tuple[dict[str, Float[np.ndarray, " J"]], float]:
    """Values by name as arrays by field, as `ArmModel.variant` takes them, and the delay [s]."""
    fields = {field: np.zeros(robot.num_joints) for field in FREEZE_ORDER if field != DELAY}
    fields[PAYLOAD] = np.zeros(1)
    for c in all_of:
        if c.field != DELAY:
            fields[c.field][c.joint or 0] = values[c.name]
    return fields, values[DELAY]
