"""Physics behind one protocol: C MuJoCo on CPU threads, or MJX on any device.

All are written for one world and batch under `jax.vmap`. The carry holds everything the next
step depends on, so a step is a pure function and a run can be resumed bit for bit.
"""

import importlib.util
from collections.abc import Callable
from typing import Literal, Protocol

import jax
import mujoco
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.registry import Registry
from mjx_serl.types import PyTree

PhysicsName = Literal["native", "mjx", "warp"]


@struct.dataclass
class SimState:
    """What a task may read; MuJoCo's names and shapes, float32, current at `time`."""

    qpos: Float[Array, "*n nq"]
    qvel: Float[Array, "*n nv"]
    ctrl: Float[Array, "*n nu"]
    xpos: Float[Array, "*n nbody 3"]
    xquat: Float[Array, "*n nbody 4"]
    site_xpos: Float[Array, "*n nsite 3"]
    site_xmat: Float[Array, "*n nsite 9"]
    sensordata: Float[Array, "*n nsensordata"]
    time: Float[Array, "*n"]


class Physics(Protocol):
    """One world's dynamics; `jax.vmap` turns it into many."""

    name: PhysicsName
    model: mujoco.MjModel

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]
    ) -> tuple[PyTree, SimState]:
        """Return the carry and the SimState at (qpos, qvel), controls at zero, time 0."""
        ...

    def step(
        self, carry: PyTree, ctrl: Float[Array, " nu"], n_substeps: int
    ) -> tuple[PyTree, SimState]:
        """Hold `ctrl` for `n_substeps` steps of `model.opt.timestep` [s]."""
        ...


PHYSICS: Registry[Callable[[mujoco.MjModel, int], Physics]] = Registry("physics")


# The implementations are imported when one is asked for: MJX alone takes a second or two.


@PHYSICS.register("native")
def _native(model: mujoco.MjModel, max_worlds: int) -> Physics:
    from mjx_serl.envs.native_physics import build_native

    del max_worlds
    return build_native(model)


@PHYSICS.register("mjx")
def _mjx(model: mujoco.MjModel, max_worlds: int) -> Physics:
    from mjx_serl.envs.mjx_physics import MjxPhysics

    del max_worlds
    return MjxPhysics(model)


@PHYSICS.register("warp")
def _warp(model: mujoco.MjModel, max_worlds: int) -> Physics:
    if importlib.util.find_spec("warp") is None:
        raise ValueError("physics 'warp' needs warp-lang: pip install 'mjx-serl[warp]'")
    from mjx_serl.envs.mjx_physics import MjxPhysics

    return MjxPhysics(model, impl="warp", max_worlds=max_worlds)


def default_physics() -> PhysicsName:
    """C MuJoCo on a CPU, MuJoCo Warp on an NVIDIA GPU where installed, else MJX."""
    platform = jax.default_backend()
    if platform == "cpu":
        return "native"
    return "warp" if platform == "gpu" and importlib.util.find_spec("warp") else "mjx"
