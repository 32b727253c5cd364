"""Control laws by name."""

from collections.abc import Callable

from mjx_serl.envs.control.controller import ControlConfig, Controller
from mjx_serl.envs.control.damped_least_squares import DampedLeastSquares
from mjx_serl.envs.control.operational_space import OperationalSpace
from mjx_serl.registry import Registry
from scenes.build import Scene
from scenes.contract.errors import InputError

CONTROLLERS: Registry[Callable[[ControlConfig, Scene], Controller]] = Registry("control law")
CONTROLLERS.register("dls")(DampedLeastSquares)
CONTROLLERS.register("osc")(OperationalSpace)


def build_controller(config: ControlConfig, scene: Scene) -> Controller:
    """Return the controller of a compiled scene.

    Raises ValueError where the rates do not divide, KeyError for an unknown law.
    """
    sim_rate = 1.0 / scene.model.opt.timestep
    for name, slow, fast in (
        ("inner_rate", config.rate, config.inner_rate),
        ("simulation rate", config.inner_rate, sim_rate),
    ):
        if abs(fast / slow - round(fast / slow)) > 1e-6:
            raise InputError(f"{name} {fast:g} Hz is no multiple of {slow:g} Hz")
    return CONTROLLERS[config.law](config, scene)
