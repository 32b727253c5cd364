"""What the simulated arm does when it is told what the real one was told."""

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from jaxtyping import Float
from mujoco import rollout

from mjx_serl.sysid.arm_model import ArmModel
from mjx_serl.sysid.motion import Motion, delayed
from mjx_serl.sysid.parameters import Candidate, gathered

# Measurements of the first moments depend on what was before, which nobody recorded [s].
SETTLE = 0.5


class Predictor:
    """Simulates motions with many sets of parameters at once.

    Args:
        arm: simulated.
        all_of: every parameter that there is.
        motions: to be predicted.
    """

    def __init__(
        self, arm: ArmModel, all_of: Sequence[Candidate], motions: Sequence[Motion]
    ) -> None:
        self._arm, self._all, self.motions = arm, tuple(all_of), tuple(motions)
        self._data = mujoco.MjData(arm.model)

    def predict(self, sets: Sequence[Mapping[str, float]]) -> list[Float[np.ndarray, "N T 2J"]]:
        """Positions [rad] and velocities [rad/s] of each motion, one row per set of values."""
        made = [gathered(self._arm.robot, self._all, values) for values in sets]
        models = [self._arm.variant(fields) for fields, _ in made]
        delays = [delay for _, delay in made]
        return [self._motion(motion, models, delays) for motion in self.motions]

    def errors(self, sets: Sequence[Mapping[str, float]]) -> list[Float[np.ndarray, "N T 2J"]]:
        """Predicted minus measured, of each motion, from `SETTLE` on."""
        return [
            predicted[:, kept(motion)] - measured(motion)[kept(motion)]
            for motion, predicted in zip(self.motions, self.predict(sets), strict=True)
        ]

    def _motion(
        self, motion: Motion, models: Sequence[mujoco.MjModel], delays: Sequence[float]
    ) -> Float[np.ndarray, "N T 2J"]:
        arm, dt = self._arm, self._arm.dt
        steps = int(np.ceil((motion.t[-1] - motion.t[0]) / dt)) + 1
        grid = motion.t[0] + dt * np.arange(steps)
        told = {d: arm.controls(delayed(motion, grid, dt, d), motion.width) for d in set(delays)}
        start = arm.start(motion.q[0], motion.dq[0], motion.width)
        found, _ = rollout.rollout(
            list(models),
            [self._data],
            np.repeat(start[None], len(models), axis=0),
            np.stack([told[d] for d in delays]),
        )
        states = np.asarray(found)
        states = np.concatenate([np.broadcast_to(start, states[:, :1].shape), states], axis=1)
        # A full state is time, qpos, qvel.
        q = states[:, :, 1 + arm.qpos]
        dq = states[:, :, 1 + arm.model.nq + arm.dofs]
        return _interpolated(motion.t - motion.t[0], dt, q, dq)


def measured(motion: Motion) -> Float[np.ndarray, "T 2J"]:
    """Positions [rad] beside velocities [rad/s]."""
    return np.hstack([motion.q, motion.dq])


def kept(motion: Motion) -> np.ndarray:
    """Which measurements are compared."""
    return motion.t - motion.t[0] >= SETTLE


def _interpolated(
    t: Float[np.ndarray, " T"],
    dt: float,
    q: Float[np.ndarray, "N S J"],
    dq: Float[np.ndarray, "N S J"],
) -> Float[np.ndarray, "N T 2J"]:
    """Values between physics steps: positions by cubics, velocities by straight lines."""
    # A time on the grid must be its step, whatever the last bit of its float says.
    place = np.round(t / dt, 9)
    row = np.minimum(place.astype(int), q.shape[1] - 2)
    x = (place - row)[:, None]
    q0, q1, v0, v1 = q[:, row], q[:, row + 1], dq[:, row], dq[:, row + 1]
    smooth = x * x * (3.0 - 2.0 * x)
    bend = x * (1.0 - x) * dt * ((1.0 - x) * v0 - x * v1)
    return np.concatenate([q0 + smooth * (q1 - q0) + bend, v0 + x * (v1 - v0)], axis=2)
