"""MJX on any device: pure JAX, or MuJoCo Warp's kernels."""

import copy
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from mujoco import mjx

from mjx_serl.envs.physics.constants import make_constants
from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.envs.physics.protocol import PhysicsName, SimState, VariedCarry
from scenes.build import warp_model
from scenes.contract.errors import InputError

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

    def varied(self, entries: ModelEntries) -> "MjxVaried":
        """Return the physics of worlds that differ in entries of the model."""
        if self._impl == "warp":
            raise InputError(
                "physics 'warp' has one model for all worlds and cannot randomise its fields, "
                "allowed: mjx, native"
            )
        return MjxVaried(self.model, entries)

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


class MjxVaried:
    """MJX in JAX, of worlds that differ in entries of the model.

    Attributes:
        name: in the registry of physics.
    """

    name: PhysicsName = "mjx"

    def __init__(self, model: mujoco.MjModel, entries: ModelEntries) -> None:
        self.model = model
        self._entries = entries
        self._shared = MjxPhysics(model)
        self._constants = make_constants(model) if entries.derived else None

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], values: Float[Array, " P"]
    ) -> tuple[VariedCarry, SimState]:
        """See `VariedPhysics.reset`."""
        changed = self._changed(values)
        constants = () if self._constants is None else self._constants(changed)
        carry, sim = self._of(values, constants).reset(qpos, qvel)
        return VariedCarry(carry, values, constants), sim

    def step(
        self, carry: VariedCarry, ctrl: Float[Array, " nu"], n_substeps: int
    ) -> tuple[VariedCarry, SimState]:
        """See `Physics.step`."""
        physics = self._of(carry.values, carry.constants)
        stepped, sim = physics.step(carry.carry, ctrl, n_substeps)
        return VariedCarry(stepped, carry.values, carry.constants), sim

    def _changed(self, values: Float[Array, " P"]) -> dict[str, Array]:
        """Whole model fields with the values in their entries."""
        fields, begin = {}, 0
        for name, index in self._entries.fields:
            whole = getattr(self._shared._mjx_model, name)
            own = values[begin : begin + len(index)]
            flat = whole.reshape(-1).at[np.asarray(index)].set(own)
            fields[name], begin = flat.reshape(whole.shape), begin + len(index)
        return fields

    def _of(self, values: Float[Array, " P"], constants: Any) -> MjxPhysics:
        """The physics of one world."""
        fields = self._changed(values) | dict(constants or {})
        own = copy.copy(self._shared)
        own._mjx_model = self._shared._mjx_model.tree_replace(fields)
        return own


def _put_warp(model: mujoco.MjModel) -> mjx.Model:
    """Return the model on the device without warnings of the solver's iteration limits.

    Warp would print two lines for each world and step that reaches one, where C MuJoCo stops
    without a word. What it prints about buffers that are too small stays.
    """
    put = mjx.put_model(warp_model(model), impl="warp")
    flags = put.opt._impl.warn_overflow & ~_WARP_ITERATION_LIMITS
    quiet: Any = put.tree_replace({"opt._impl.warn_overflow": flags})
    return quiet
