"""Control laws by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mjx_serl.envs.control.arms import Arms
from mjx_serl.envs.control.controller import Control, Controller
from mjx_serl.envs.control.damped_least_squares import DampedLeastSquares
from mjx_serl.envs.control.joint_delta import JointDelta
from mjx_serl.envs.control.legged import LeggedArm
from mjx_serl.envs.control.operational_space import OperationalSpace
from mjx_serl.envs.control.wrench import Wrench
from mjx_serl.registry import Registry
from scenes.build import Scene
from scenes.contract.errors import InputError

CONTROLLERS: Registry[Callable[[Any, Scene], Controller]] = Registry("control law")
CONTROLLERS.register("dls")(DampedLeastSquares)
CONTROLLERS.register("osc")(OperationalSpace)
CONTROLLERS.register("wrench")(Wrench)
CONTROLLERS.register("joint_delta")(JointDelta)
CONTROLLERS.register("legged")(LeggedArm)
# What the actuators are told by the laws that tell one kind.
ACTUATION = {
    "dls": "position",
    "osc": "torque",
    "wrench": "torque",
    "joint_delta": "position",
    "legged": "position",
}


def build_controller(config: Control, scene: Scene) -> Controller:
    """Return the controller of a compiled scene.

    Raises ValueError where the rates do not divide or the arm's actuators do not take what the law
    commands, KeyError for an unknown law.
    """
    takes = ACTUATION.get(config.law, scene.spec.actuation)
    if takes != scene.spec.actuation:
        raise InputError(
            f"Control law '{config.law}' commands {takes}s; "
            f"the actuators of scene '{scene.spec.name}' take {scene.spec.actuation}s"
        )
    sim_rate = 1.0 / scene.model.opt.timestep
    for name, slow, fast in (
        ("inner_rate", config.rate, config.inner_rate),
        ("simulation rate", config.inner_rate, sim_rate),
    ):
        if abs(fast / slow - round(fast / slow)) > 1e-6:
            raise InputError(f"{name} {fast:g} Hz is no multiple of {slow:g} Hz")
    return CONTROLLERS[config.law](config, scene)


CONTROLLERS.register("arms")(partial(Arms, build=build_controller))
