"""C MuJoCo on CPU threads for worlds that differ in entries of the model; see `native`.

`mujoco.batch.Batch` gives each simulation its own copy of a field and derives what mj_setConst
derives. Values are written, and derived from, only where a world's differ from those of the call
before: between two resets a step compares them and does no more.
"""

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float
from mujoco import batch as mujoco_batch

from mjx_serl import devices
from mjx_serl.envs.physics import native_ffi as native
from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.envs.physics.native import (
    CallbackPhysics,
    HostStep,
    Running,
    alone_and_quiet,
    result_shapes,
)
from mjx_serl.envs.physics.protocol import PhysicsName, SimState, VariedCarry


class NativeVaried:
    """`NativePhysics` of worlds that differ in entries of the model.

    Attributes:
        name: in the registry of physics.
        can_pause: see `NativePhysics`.
    """

    name: PhysicsName = "native"
    can_pause = True

    def __init__(
        self, model: mujoco.MjModel, entries: ModelEntries, *, num_threads: int = 0
    ) -> None:
        self.model = model
        number = native.register_model(model, num_threads=num_threads, entries=entries)
        self._number, self._results = np.int64(number), result_shapes(model)

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], values: Float[Array, " P"]
    ) -> tuple[VariedCarry, SimState]:
        """See `VariedPhysics.reset`."""
        return self._call("mjx_serl_reset_varied", qpos, qvel, values)

    def step(
        self,
        carry: VariedCarry,
        ctrl: Float[Array, " nu"],
        n_substeps: int,
        running: Running = True,
    ) -> tuple[VariedCarry, SimState]:
        """See `Physics.step`."""
        args = carry.carry, ctrl, carry.values, jnp.asarray(running)
        return self._call("mjx_serl_step_varied", *args, n_substeps=np.int64(n_substeps))

    def _call(
        self, target: str, *args: Array, **attributes: np.int64
    ) -> tuple[VariedCarry, SimState]:
        call = jax.ffi.ffi_call(target, self._results, vmap_method="broadcast_all")
        share = np.int64(devices.at_once())
        row, *fields = call(*args, model=self._number, devices=share, **attributes)
        return VariedCarry(row, args[2]), SimState(*fields)


class CallbackVaried:
    """The slow twin of `NativeVaried`.

    Attributes:
        name: in the registry of physics.
    """

    name: PhysicsName = "native"

    def __init__(
        self, model: mujoco.MjModel, entries: ModelEntries, *, num_threads: int = 0
    ) -> None:
        self.model = model
        self._entries = entries
        self._plain = CallbackPhysics(model, num_threads=num_threads)
        self._results = result_shapes(model)

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], values: Float[Array, " P"]
    ) -> tuple[VariedCarry, SimState]:
        """See `VariedPhysics.reset`."""
        return self._call(self._reset_host, qpos, qvel, values)

    def step(
        self, carry: VariedCarry, ctrl: Float[Array, " nu"], n_substeps: int
    ) -> tuple[VariedCarry, SimState]:
        """See `Physics.step`."""
        return self._call(HostStep(self, n_substeps), carry.carry, ctrl, carry.values)

    def host_step(self, row: Any, ctrl: Any, values: Any, n_substeps: int) -> tuple[Any, ...]:
        """Return rows [*n, row] stepped on the host; the body of the callback."""
        with alone_and_quiet():
            self._set(np.asarray(values))
            return self._plain.host_step(row, ctrl, n_substeps)

    def _reset_host(self, qpos: Any, qvel: Any, values: Any) -> tuple[Any, ...]:
        with alone_and_quiet():
            self._set(np.asarray(values))
            return self._plain.host_reset(qpos, qvel)

    def _set(self, values: np.ndarray) -> None:
        sims: mujoco_batch.Batch = self._plain.batch(values.shape[:-1])
        rows, begin = values.reshape(sims.nsim, -1), 0
        for name, index in self._entries.fields:
            flat = sims.expand(name).reshape(sims.nsim, -1)
            flat[:, list(index)] = rows[:, begin : begin + len(index)]
            begin += len(index)
        if self._entries.derived:
            sims.set_const()

    def _call(self, host: Any, *args: Array) -> tuple[VariedCarry, SimState]:
        row, *fields = jax.pure_callback(host, self._results, *args, vmap_method="broadcast_all")
        return VariedCarry(row, args[-1]), SimState(*fields)
