"""Scenes whose arms behave as system identification found theirs to, or as a policy knew them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenes.contract.errors import InputError
from scenes.contract.robot import RobotSpec
from scenes.contract.robot_fit import PER_JOINT, RobotFit, fitted_robot, load_robot_fit
from scenes.robots import robot_named
from scenes.specs import MountedArm, SceneSpec

_DYNAMICS = (*PER_JOINT, "payload")


def with_fit(path: Path | None) -> Callable[[Any], SceneSpec] | None:
    """What `make_env` changes scenes by: the fit in a file, or nothing."""
    if path is None:
        return None
    fit = load_robot_fit(path)
    return lambda spec: fitted_scene(spec, fit)


def fitted_scene(spec: Any, fit: RobotFit) -> SceneSpec:
    """The scene with the fit's values in every arm of its robot.

    Raises InputError where it has none, or another physics step than the fit.
    """
    if not isinstance(spec, SceneSpec):
        raise InputError("A robot fit is for scenes of our own robots, not for imported ones")
    names = sorted({arm.robot.name for arm in spec.arms})
    if fit.robot not in names:
        raise InputError(f"The robot fit is of a '{fit.robot}', allowed here: {', '.join(names)}")
    if fit.sim_dt != spec.sim_dt:
        raise InputError(
            f"The robot fit was made at a physics step of {fit.sim_dt:g} s, the scene's is "
            f"{spec.sim_dt:g} s: fit it again with --sim-dt {spec.sim_dt:g}"
        )
    registered = robot_named(fit.robot)
    return _with_robots(
        spec, fit.robot, lambda robot: fitted_robot(robot, fit, registered=registered)
    )


def with_dynamics_of(spec: Any, robot: RobotSpec) -> Any:
    """The scene whose arms of that name have a robot's gains, losses, inertias and payload.

    An imported scene stays as it is: its arms' numbers are in files of its own.
    """
    if not isinstance(spec, SceneSpec):
        return spec
    dynamics = {name: getattr(robot, name) for name in _DYNAMICS}
    return _with_robots(spec, robot.name, lambda one: dataclasses.replace(one, **dynamics))


def _with_robots(spec: SceneSpec, name: str, change: Callable[[RobotSpec], RobotSpec]) -> SceneSpec:
    def changed(arm: MountedArm) -> MountedArm:
        if arm.robot.name != name:
            return arm
        return dataclasses.replace(arm, robot=change(arm.robot))

    return dataclasses.replace(spec, arms=tuple(changed(arm) for arm in spec.arms))
