"""The implementations of physics by name."""

from collections.abc import Callable

import jax
import mujoco

from mjx_serl.envs.physics.protocol import Physics, PhysicsName
from mjx_serl.registry import Registry
from scenes.contract.extras import is_installed, not_installed

PHYSICS: Registry[Callable[[mujoco.MjModel, int], Physics]] = Registry("physics")


@PHYSICS.register("native")
def _native(model: mujoco.MjModel, max_worlds: int) -> Physics:
    from mjx_serl.envs.physics.native import build_native

    del max_worlds
    return build_native(model)


@PHYSICS.register("mjx")
def _mjx(model: mujoco.MjModel, max_worlds: int) -> Physics:
    from mjx_serl.envs.physics.mjx import MjxPhysics

    del max_worlds
    return MjxPhysics(model)


@PHYSICS.register("warp")
def _warp(model: mujoco.MjModel, max_worlds: int) -> Physics:
    if not is_installed("warp"):
        raise ValueError(f"physics 'warp': {not_installed('warp', 'warp')}")
    from mjx_serl.envs.physics.mjx import MjxPhysics

    return MjxPhysics(model, impl="warp", max_worlds=max_worlds)


def default_physics() -> PhysicsName:
    """Return C MuJoCo on a CPU, MuJoCo Warp on an NVIDIA GPU where installed, else MJX."""
    platform = jax.default_backend()
    if platform == "cpu":
        return "native"
    return "warp" if platform == "gpu" and is_installed("warp") else "mjx"
