"""Physics behind one protocol: C MuJoCo on CPU threads, or MJX on any device.

All are written for one world and batch under `jax.vmap`. The carry holds everything the next
step depends on, so a step is a pure function and a run can be resumed bit for bit.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import mujoco
from flax import struct
from jaxtyping import Array, Float
from mujoco import mjx

from mjx_serl.registry import Registry
from mjx_serl.types import PyTree
from scenes.build import warp_model

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

# Upper bounds for Warp's buffers; MuJoCo Playground's PandaPickCube uses the same
# (reference performance.md section 4). An overflow drops contacts and is printed by Warp.
CONTACTS_PER_WORLD = 24
ROWS_PER_WORLD = 128
# mujoco_warp's OverflowType.ITERATIONS | LS_ITERATIONS.
_WARP_ITERATION_LIMITS = 1 << 9 | 1 << 10

_FIELDS = tuple(f.name for f in dataclasses.fields(SimState))


@struct.dataclass
class MjxCarry:
    """The part of `mjx.Data` that the next step depends on; the rest is scratch."""

    qpos: Float[Array, "*n nq"]
    qvel: Float[Array, "*n nv"]
    act: Float[Array, "*n na"]
    qacc_warmstart: Float[Array, "*n nv"]
    time: Float[Array, "*n"]


class MjxPhysics:
    """MJX, pure JAX (`mjx`) or MuJoCo Warp kernels (`warp`); the default on an accelerator.

    Only `MjxCarry` travels between steps: `mjx.Data` is rebuilt around it, so a reset is one
    `where` over small arrays (contact buffers of the warp implementation are shared between
    worlds and cannot be selected per world) and a checkpoint holds no scratch.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        *,
        impl: Literal["jax", "warp"] = "jax",
        max_worlds: int = 1,
    ) -> None:
        self.name: PhysicsName = "mjx" if impl == "jax" else "warp"
        self.model = model
        self._mjx_model = _put_warp(model) if impl == "warp" else mjx.put_model(model)
        self._impl = impl
        # Warp shares one contact buffer between all worlds.
        sizes = {"naconmax": CONTACTS_PER_WORLD * max_worlds, "njmax": ROWS_PER_WORLD}
        self._sizes: dict[str, Any] = sizes if impl == "warp" else {}

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]
    ) -> tuple[MjxCarry, SimState]:
        """Return the carry and the SimState at (qpos, qvel)."""
        m = self.model
        carry = MjxCarry(qpos, qvel, jnp.zeros(m.na), jnp.zeros(m.nv), jnp.zeros(()))
        return carry, self._observe(self._data(carry, jnp.zeros(m.nu)))

    def step(
        self, carry: MjxCarry, ctrl: Float[Array, " nu"], n_substeps: int
    ) -> tuple[MjxCarry, SimState]:
        """Scan `mjx.step`; see `Physics.step`."""

        def substep(data: mjx.Data, _: None) -> tuple[mjx.Data, None]:
            return mjx.step(self._mjx_model, data), None

        data, _ = jax.lax.scan(substep, self._data(carry, ctrl), None, length=n_substeps)
        names = [f.name for f in dataclasses.fields(MjxCarry)]
        return MjxCarry(**{k: getattr(data, k) for k in names}), self._observe(data)

    def _data(self, carry: MjxCarry, ctrl: jax.Array) -> mjx.Data:
        data = mjx.make_data(self.model, impl=self._impl, **self._sizes)
        return data.replace(ctrl=ctrl, **vars(carry))

    def _observe(self, data: mjx.Data) -> SimState:
        # mjx.step leaves positions of the state before its last substep.
        if self._impl == "warp":
            data = mjx.forward(self._mjx_model, data)
        else:
            data = mjx.sensor_pos(self._mjx_model, mjx.kinematics(self._mjx_model, data))
        shapes = {"site_xmat": (-1, 9)}
        return SimState(
            **{k: getattr(data, k).reshape(shapes.get(k, getattr(data, k).shape)) for k in _FIELDS}
        )


def _put_warp(model: mujoco.MjModel) -> mjx.Model:
    """Put the model, and hush the solver's iteration limits, at which C MuJoCo stops silently.

    Warp would print two lines for each world and step that reaches one. What it prints about
    buffers that are too small stays.
    """
    put = mjx.put_model(warp_model(model), impl="warp")
    loud = put.opt._impl.warn_overflow & ~_WARP_ITERATION_LIMITS
    hushed: Any = put.tree_replace({"opt._impl.warn_overflow": loud})
    return hushed


@PHYSICS.register("native")
def _native(model: mujoco.MjModel, max_worlds: int) -> Physics:
    from mjx_serl.envs.native_physics import build_native  # it needs SimState from here

    del max_worlds
    return build_native(model)


@PHYSICS.register("mjx")
def _mjx(model: mujoco.MjModel, max_worlds: int) -> Physics:
    del max_worlds
    return MjxPhysics(model)


@PHYSICS.register("warp")
def _warp(model: mujoco.MjModel, max_worlds: int) -> Physics:
    if importlib.util.find_spec("warp") is None:
        raise ValueError("physics 'warp' needs warp-lang: pip install 'mjx-serl[warp]'")
    return MjxPhysics(model, impl="warp", max_worlds=max_worlds)


def default_physics() -> PhysicsName:
    """C MuJoCo on a CPU, MuJoCo Warp on an NVIDIA GPU where installed, else MJX."""
    platform = jax.default_backend()
    if platform == "cpu":
        return "native"
    return "warp" if platform == "gpu" and importlib.util.find_spec("warp") else "mjx"
