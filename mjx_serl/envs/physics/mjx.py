"""MJX on any device: pure JAX, or MuJoCo Warp's kernels."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
from flax import struct
from jaxtyping import Array, Float
from mujoco import mjx

from mjx_serl.envs.physics.protocol import PhysicsName, SimState
from scenes.build import warp_model

# Upper bounds for Warp's buffers; MuJoCo Playground's PandaPickCube uses the same
# (reference performance.md section 4). An overflow drops contacts and is printed by Warp.
CONTACTS_PER_WORLD = 24
ROWS_PER_WORLD = 128
# mujoco_warp's OverflowType.ITERATIONS | LS_ITERATIONS.
_WARP_ITERATION_LIMITS = 1 << 9 | 1 << 10

_FIELDS = tuple(f.name for f in dataclasses.fields(SimState))


@struct.dataclass
class MjxCarry:
    """The part of `mjx.Data` that the next step depends on; the rest is scratch.

    Attributes:
        qpos: as in MuJoCo.
        qvel: as in MuJoCo.
        act: as in MuJoCo.
        qacc_warmstart: where the solver starts.
        time: simulated [s].
    """

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
        """Return carry and SimState after a scan of `mjx.step`; see `Physics.step`."""

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
    """Return the model on the device without warnings of the solver's iteration limits.

    Warp would print two lines for each world and step that reaches one, where C MuJoCo stops
    without a word. What it prints about buffers that are too small stays.
    """
    put = mjx.put_model(warp_model(model), impl="warp")
    flags = put.opt._impl.warn_overflow & ~_WARP_ITERATION_LIMITS
    quiet: Any = put.tree_replace({"opt._impl.warn_overflow": flags})
    return quiet
