"""Physics behind one protocol: C MuJoCo on CPU threads, or MJX on any device.

All are written for one world and batch under `jax.vmap`. The carry holds everything the next
step depends on, so a step is a pure function and a run can be resumed bit for bit.
"""

import dataclasses
from typing import Literal, Protocol

import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Float32, Int64

from mjx_serl.envs.physics.entries import ModelEntries
from mjx_serl.types import PyTree

PhysicsName = Literal["native", "mjx", "warp"]


@struct.dataclass
class SimState:
    """What a task may read; MuJoCo's names and shapes, float32, current at `time`.

    Attributes:
        qpos: joint positions [rad], [m].
        qvel: joint velocities [rad/s], [m/s].
        ctrl: controls, in the actuators' units.
        xpos: positions of the bodies [m].
        xquat: orientations of the bodies (wxyz).
        site_xpos: positions of the sites [m].
        site_xmat: rotation matrices of the sites, row by row.
        sensordata: readings, in the sensors' units.
        time: simulated [s].
    """

    qpos: Float[Array, "*n nq"]
    qvel: Float[Array, "*n nv"]
    ctrl: Float[Array, "*n nu"]
    xpos: Float[Array, "*n nbody 3"]
    xquat: Float[Array, "*n nbody 4"]
    site_xpos: Float[Array, "*n nsite 3"]
    site_xmat: Float[Array, "*n nsite 9"]
    sensordata: Float[Array, "*n nsensordata"]
    time: Float[Array, "*n"]


@struct.dataclass
class VariedCarry:
    """The carry of a world that differs from others in entries of the model.

    Attributes:
        carry: of the physics.
        values: of the entries, in their order.
        constants: what follows from them, where the physics does not derive it itself.
    """

    carry: PyTree
    values: Float[Array, "*n P"]
    constants: PyTree = ()


@dataclasses.dataclass(frozen=True, eq=False)
class TorqueLaw:
    """Operational-space control as numbers, for a physics that evaluates it between its substeps.

    Attributes:
        places: in the model, in the order of `native_ffi/operational_space.h`.
        numbers: of the law and the arm, likewise.
        n_updates: of the controls.
        n_substeps: after each of them.
    """

    places: Int64[np.ndarray, " I"]
    numbers: Float32[np.ndarray, " F"]
    n_updates: int
    n_substeps: int


class VariedPhysics(Protocol):
    """Like `Physics`, of worlds that differ in entries of the model; the carry holds theirs.

    Attributes:
        name: in the registry of physics.
        model: compiled.
    """

    name: PhysicsName
    model: mujoco.MjModel

    def reset(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], values: Float[Array, " P"]
    ) -> tuple[VariedCarry, SimState]:
        """Return carry and SimState of a world whose model has these values in its entries."""
        ...

    def step(
        self, carry: VariedCarry, ctrl: Float[Array, " nu"], n_substeps: int
    ) -> tuple[VariedCarry, SimState]:
        """See `Physics.step`."""
        ...


class Physics(Protocol):
    """One world's dynamics; `jax.vmap` turns it into many.

    Attributes:
        name: in the registry of physics.
        model: compiled.
    """

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
        """Return both after `n_substeps` steps of `model.opt.timestep` [s] under `ctrl`."""
        ...

    def varied(self, entries: ModelEntries) -> VariedPhysics:
        """Return the physics of worlds that differ in entries of the model.

        Raises InputError where it cannot step such worlds.
        """
        ...


# The implementations are imported when one is asked for: MJX alone takes a second or two.
