"""The implementations of physics by name."""

import importlib.util
from collections.abc import Callable

import jax
import mujoco

from mjx_serl.envs.physics.protocol import Physics, PhysicsName
from mjx_serl.registry import Registry

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
    if importlib.util.find_spec("warp") is None:
        raise ValueError("physics 'warp' needs warp-lang: pip install 'mjx-serl[warp]'")
    from mjx_serl.envs.physics.mjx import MjxPhysics

    return MjxPhysics(model, impl="warp", max_worlds=max_worlds)


def default_physics() -> PhysicsName:
    """Return C MuJoCo on a CPU, MuJoCo Warp on an NVIDIA GPU where installed, else MJX."""
    platform = jax.default_backend()
    if platform == "cpu":
        return "native"
    return "warp" if platform == "gpu" and importlib.util.find_spec("warp") else "mjx"
