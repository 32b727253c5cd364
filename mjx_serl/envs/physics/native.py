"""C MuJoCo on all CPU threads, called from inside the jitted program.

The carry is MuJoCo's own float64 state row, seen as uint32 pairs because JAX runs in 32 bits:
nothing is rounded between steps. Each call first sets the whole state of each world, so it is a
pure function of its operands.
"""

import contextlib
import dataclasses
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32
from mujoco import batch as mujoco_batch

from mjx_serl import devices
from mjx_serl.envs.physics import native_ffi as native
from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.envs.physics.protocol import PhysicsName, SimState, TorqueLaw, VariedPhysics

Row = UInt32[Array, " row"]
Running = Bool[Array, ""] | bool

_FIELDS = tuple(f.name for f in dataclasses.fields(SimState))
_MOST_THREADS = 255  # a byte in what a model is filed under
# Position- and velocity-dependent fields and sensors are current after a call.
_STAGE = int(mujoco.mjtStage.mjSTAGE_VEL)


def pinned_threads() -> int:
    """How many CPUs this process may use where these are not all, else 0.

    MuJoCo's own choice, which 0 asks for, is a thread for each CPU of the machine.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    usable = len(os.sched_getaffinity(0))
    return 0 if usable == os.cpu_count() else min(usable, _MOST_THREADS)


class NativePhysics:
    """XLA FFI calls of `native_ffi`; see `build_native` for what is used without a compiler.

    A world that is not `running` stays where it is, and costs next to nothing.

    Attributes:
        name: in the registry of physics.
        can_pause: there may be worlds that are not running.
    """

    name: PhysicsName = "native"
    can_pause = True

    def __init__(self, model: mujoco.MjModel, *, num_threads: int = 0) -> None:
        self.model = model
        self._num_threads = num_threads or pinned_threads()
        self._number = np.int64(native.register_model(model, num_threads=self._num_threads))
        self._results = result_shapes(model)

    def reset(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> tuple[Row, SimState]:
        """Return the state row and the SimState at (qpos, qvel)."""
        return self._call("mjx_serl_reset", qpos, qvel)

    def step(
        self, carry: Row, ctrl: Float[Array, " nu"], n_substeps: int, running: Running = True
    ) -> tuple[Row, SimState]:
        """Return the stepped row and its SimState; see `Physics.step`."""
        args = carry, ctrl, jnp.asarray(running)
        return self._call("mjx_serl_step", *args, n_substeps=np.int64(n_substeps))

    def follow(
        self, carry: Row, aim: Float[Array, " 8"], law: TorqueLaw, running: Running = True
    ) -> tuple[Row, SimState]:
        """Return both after all updates of a law towards an aim, see `OperationalSpace.aim`.

        The threads that step the worlds evaluate it, and need not meet before each update.
        """
        counts = {"n_updates": law.n_updates, "n_substeps": law.n_substeps}
        attributes = {name: np.int64(count) for name, count in counts.items()}
        constants = {"places": law.places, "numbers": law.numbers}
        args = carry, aim, jnp.asarray(running)
        return self._call("mjx_serl_follow", *args, **attributes, **constants)

    def varied(self, entries: ModelEntries) -> VariedPhysics:
        """Return the physics of worlds that differ in entries of the model."""
        from mjx_serl.envs.physics.native_varied import NativeVaried  # it builds on this module

        return NativeVaried(self.model, entries, num_threads=self._num_threads)

    def _call(self, target: str, *args: Array, **attributes: Any) -> tuple[Row, SimState]:
        call = jax.ffi.ffi_call(target, self._results, vmap_method="broadcast_all")
        share = np.int64(devices.at_once())
        row, *fields = call(*args, model=self._number, devices=share, **attributes)
        return row, SimState(*fields)


class CallbackPhysics:
    """The slow twin: the same steps through a JAX callback, where nothing can be compiled.

    Attributes:
        name: in the registry of physics.
    """

    name: PhysicsName = "native"

    def __init__(self, model: mujoco.MjModel, *, num_threads: int = 0) -> None:
        self.model = model
        self._num_threads = num_threads or pinned_threads()
        self._results = result_shapes(model)
        self._batches: dict[int, mujoco_batch.Batch] = {}

    def reset(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> tuple[Row, SimState]:
        """Return the state row and the SimState at (qpos, qvel)."""
        return self._call(self.host_reset, qpos, qvel)

    def step(self, carry: Row, ctrl: Float[Array, " nu"], n_substeps: int) -> tuple[Row, SimState]:
        """Return the stepped row and its SimState; see `Physics.step`."""
        return self._call(HostStep(self, n_substeps), carry, ctrl)

    def host_step(self, row: Any, ctrl: Any, n_substeps: int) -> tuple[np.ndarray, ...]:
        """Return rows [*n, row] stepped on the host; the body of the callback."""
        row, ctrl = np.asarray(row), np.asarray(ctrl)
        with alone_and_quiet():
            sims = self.batch(row.shape[:-1])
            sims.state[...] = np.ascontiguousarray(row).view(np.float64).reshape(sims.nsim, -1)
            sims.bind("ctrl")[...] = ctrl.reshape(sims.nsim, -1)
            sims.step(nstep=n_substeps, stage=_STAGE)
            return _read(sims, row.shape[:-1])

    def host_reset(self, qpos: Any, qvel: Any) -> tuple[np.ndarray, ...]:
        """Return rows at (qpos, qvel) made on the host; the body of the callback."""
        qpos, qvel = np.asarray(qpos), np.asarray(qvel)
        with alone_and_quiet():
            sims = self.batch(qpos.shape[:-1])
            sims.reset(stage=int(mujoco.mjtStage.mjSTAGE_NONE))
            sims.bind("qpos")[...] = qpos.reshape(sims.nsim, -1)
            sims.bind("qvel")[...] = qvel.reshape(sims.nsim, -1)
            sims.forward(stage=_STAGE)
            return _read(sims, qpos.shape[:-1])

    def varied(self, entries: ModelEntries) -> VariedPhysics:
        """Return the physics of worlds that differ in entries of the model."""
        from mjx_serl.envs.physics.native_varied import CallbackVaried  # it builds on this module

        return CallbackVaried(self.model, entries, num_threads=self._num_threads)

    def _call(self, host: Callable[..., Any], *args: Array) -> tuple[Row, SimState]:
        row, *fields = jax.pure_callback(host, self._results, *args, vmap_method="broadcast_all")
        return row, SimState(*fields)

    def batch(self, lead: tuple[int, ...]) -> mujoco_batch.Batch:
        """Return the simulations of worlds with these leading axes."""
        nsim = int(np.prod(lead))
        if nsim not in self._batches:
            sims = mujoco_batch.Batch(self.model, nsim=nsim, nthread=self._num_threads)
            for name in _FIELDS:  # only fields bound before a call are copied out by it
                sims.bind(name)
            self._batches[nsim] = sims
        return self._batches[nsim]


# A batch serves one caller at a time, and two programs may run at once.
_ONE_CALLER = threading.RLock()


@contextlib.contextmanager
def alone_and_quiet() -> Iterator[None]:
    """Keep MuJoCo from noting each non-finite world on the terminal and in MUJOCO_LOG.TXT.

    They are counted and masked by the environment; the library does the same on its threads.
    """
    with _ONE_CALLER:
        before, quiet = mujoco.MjLogConfig.get(), mujoco.MjLogConfig.get()
        quiet.logto_console = quiet.logto_file = False
        quiet.set()
        try:
            yield
        finally:
            before.set()


@dataclasses.dataclass(frozen=True)
class HostStep:
    """A step as a hashable function, so that equal steps share one compiled program.

    Attributes:
        physics: whose step.
        n_substeps: physics steps per call.
    """

    physics: Any
    n_substeps: int

    def __call__(self, *args: Any) -> tuple[np.ndarray, ...]:
        """Return what the step of the physics returns."""
        return self.physics.host_step(*args, self.n_substeps)


def build_native(model: mujoco.MjModel) -> NativePhysics | CallbackPhysics:
    """Return the FFI physics, or the callback with a one-line warning where it cannot be built."""
    try:
        return NativePhysics(model)
    except native.NativeBuildError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return CallbackPhysics(model)


def result_shapes(model: mujoco.MjModel) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return the shapes of a call's results: the state row, then the fields of SimState."""
    data = mujoco.MjData(model)
    row = 2 * mujoco_batch.Batch(model, nsim=1, nthread=1).nstate
    fields = [jax.ShapeDtypeStruct(np.shape(getattr(data, k)), jnp.float32) for k in _FIELDS]
    return (jax.ShapeDtypeStruct((row,), jnp.uint32), *fields)


def _read(sims: mujoco_batch.Batch, lead: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    row = np.array(sims.state).view(np.uint32).reshape(*lead, -1)
    fields = [np.asarray(sims.bind(k), np.float32) for k in _FIELDS]
    return row, *[x.reshape(*lead, *x.shape[1:]) for x in fields]
