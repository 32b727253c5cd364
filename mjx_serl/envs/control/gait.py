"""A trot from the clock: where four feet are to be, and which joint positions bring them there.

Ours, and of the simplest kind: feet in a rhythm that nothing measured changes, tracked by joint
position drives, with the share of the weight that a foot on the ground carries fed forward. A stiff
leg on each corner levels the trunk by itself; at walking speeds that needs no balance beyond it.
At rest the feet stay down and the same law is a stand at the commanded height.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scenes.contract.quadruped import QuadrupedSpec

PERIOD = 0.4  # [s] of a step cycle
_DUTY = 0.6  # share of it that a foot is on the ground: more than half, so two always are
_CLEARANCE = 0.05  # [m] a swinging foot is lifted
# Feet are lifted in full from this speed on: below it the steps themselves get short [m/s].
_SLOW = 0.05
_TURN = 0.3  # [m] at which a turn moves the feet
_PHASES = np.array([0.0, 0.5, 0.5, 0.0], np.float32)  # of a trot: the diagonals together
_GRAVITY = 9.81  # [m/s^2]


class Trot:
    """Joint targets of the legs of a robot.

    Args:
        robot: its legs.
        mass: that they carry, their own included [kg].
    """

    def __init__(self, robot: QuadrupedSpec, mass: float) -> None:
        signs = np.array([robot.side(leg) for leg in robot.LEGS], np.float32)
        self._left = signs[:, 1]
        # Sideways from the hip to the plane the leg bends in, thigh and calf [m].
        self._out, self._thigh = robot.thigh.pos[1], -robot.calf.pos[2]
        self._calf = -robot.foot_pos[2]
        hips = signs * np.asarray(robot.hip_pos[:2], np.float32)
        self._under = hips + np.stack([0 * self._left, self._out * self._left], -1)
        self._weight, self._kp = mass * _GRAVITY, robot.kp
        self.lowest = float(robot.foot_radius)

    def joints(
        self, time: Float[Array, ""], walk: Float[Array, " 3"], height: Float[Array, ""]
    ) -> Float[Array, " 12"]:
        """Commanded joint positions, leg by leg [rad].

        Args:
            time: simulated [s].
            walk: speed ahead and to the left [m/s], turning [rad/s].
            height: of the hips over the ground [m].
        """
        feet, grounded = self._feet(time, walk, height - self.lowest)
        q, down = self._bend(feet)
        # What a foot on the ground has to carry; a drive gives it for being asked to go further.
        share = jnp.where(grounded, self._weight / grounded.sum(), 0.0)
        return (q - down * share[:, None] / self._kp).reshape(-1)

    def _feet(
        self, time: Float[Array, ""], walk: Float[Array, " 3"], height: Float[Array, ""]
    ) -> tuple[Float[Array, "4 3"], Float[Array, " 4"]]:
        """Feet under their hips [m], and which are on the ground."""
        x, y = self._under[:, 0], self._under[:, 1]
        speed = jnp.stack([walk[0] - walk[2] * y, walk[1] + walk[2] * x], -1)
        lifted = jnp.minimum(1.0, speed_of(walk) / _SLOW)
        phase = jnp.mod(time / PERIOD + _PHASES, 1.0)
        stands = phase < _DUTY
        # From half a step ahead to half a step behind on the ground, and back in the air.
        share = jnp.where(stands, phase / _DUTY, (phase - _DUTY) / (1.0 - _DUTY))
        place = jnp.where(stands, 0.5 - share, -0.5 * jnp.cos(jnp.pi * share))
        step = speed * (PERIOD * _DUTY) * place[:, None]
        up = jnp.where(stands, 0.0, _CLEARANCE * lifted * jnp.sin(jnp.pi * share))
        feet = jnp.stack([step[:, 0], step[:, 1] + self._out * self._left, up - height], -1)
        return feet, stands | (lifted < 0.5)

    def _bend(self, feet: Float[Array, "4 3"]) -> tuple[Float[Array, "4 3"], Float[Array, "4 3"]]:
        """Joint positions that bring the feet there, and how fast each joint raises its foot."""
        x, y, z = feet[:, 0], feet[:, 1], feet[:, 2]
        out, thigh, calf = self._out * self._left, self._thigh, self._calf
        length = jnp.sqrt(jnp.maximum(y**2 + z**2 - self._out**2, 1e-6))
        hip = jnp.arctan2(z, y) - jnp.arctan2(-length, out)
        hip = jnp.mod(hip + jnp.pi, 2.0 * jnp.pi) - jnp.pi
        bend = (x**2 + length**2 - thigh**2 - calf**2) / (2.0 * thigh * calf)
        knee = -jnp.arccos(jnp.clip(bend, -0.999, 0.999))
        aside = jnp.arctan2(calf * jnp.sin(knee), thigh + calf * jnp.cos(knee))
        upper = jnp.arctan2(-x, length) - aside
        raises = jnp.stack([y, -x, calf * jnp.sin(upper + knee)], -1)
        return jnp.stack([hip, upper, knee], -1), raises


def speed_of(walk: Float[Array, " 3"]) -> Float[Array, ""]:
    """How fast the feet go [m/s], turning counted in."""
    return jnp.sqrt(walk[0] ** 2 + walk[1] ** 2 + (_TURN * walk[2]) ** 2 + 1e-12)
