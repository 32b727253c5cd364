"""What system identification leaves open of an arm, as what differs from world to world."""

import dataclasses
from collections.abc import Iterator

from mjx_serl.envs.randomize import Delay, Latency, Randomize
from scenes.build import Scene
from scenes.contract.robot_fit import RobotFit, fit_ranges
from scenes.mjcf_robot import PAYLOAD
from scenes.specs import MountedArm, SceneSpec

# Of `Randomize`, by the fit's. Of a drive's two gains the damping goes along with the stiffness.
_FIELDS = {
    "kp": "gain",
    "armature": "armature",
    "damping": "damping",
    "friction_loss": "frictionloss",
    "payload": "mass",
}


def fit_terms(scene: Scene, fit: RobotFit) -> tuple[Randomize, ...]:
    """Return a term for each value of the fit that an arm of the scene has: its 95 % interval.

    What a task has set itself, such as soft gains, does not vary, nor does what was not fitted.
    """
    spec = scene.spec
    arms = spec.arms if isinstance(spec, SceneSpec) else ()
    return tuple(
        term for arm in arms if arm.robot.name == fit.robot for term in _terms_of(arm, fit)
    )


def fit_latency(own: Latency, fit: RobotFit) -> Latency:
    """Return a task's delays with the fit's in place of that of actions, if it has one."""
    action = own.action
    for found in fit_ranges(fit):
        if found.field == "delay":
            action = Delay(low=found.low, high=found.high)
    return dataclasses.replace(own, action=action)


def _terms_of(arm: MountedArm, fit: RobotFit) -> Iterator[Randomize]:
    values = {(v.field, v.joint): v.value for v in fit.values}
    for found in fit_ranges(fit):
        joint = "".join(found.joints)
        if found.field in _FIELDS and _has(arm, found.field, joint) == values[found.field, joint]:
            yield Randomize(
                field=_FIELDS[found.field],
                selector=(arm.prefix + (joint or PAYLOAD),),
                range=(found.low, found.high),
                operation="abs",
            )


def _has(arm: MountedArm, field: str, joint: str) -> float:
    """What the scene's arm has for a parameter of the fit."""
    robot = arm.robot
    held = getattr(robot, field)
    return held[robot.joint_names.index(joint)] if joint and held else 0.0 if joint else held
