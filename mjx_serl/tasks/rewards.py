"""Reward terms: pure functions of positions, each in [0, 1]."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command


@struct.dataclass
class GripState:
    """Whether the hand was told to close, and whether that changed in the last step.

    SERL and HIL-SERL charge each change (reference serl_family.md 2.2, 2.3).
    """

    closed: Bool[Array, "*n"]
    toggled: Bool[Array, "*n"]

    @classmethod
    def start(cls, closed: Bool[Array, ""]) -> "GripState":
        """At the start of an episode."""
        return cls(closed=closed, toggled=jnp.zeros_like(closed))

    def after(self, command: Command) -> "GripState":
        """After a step."""
        closed = command.gripper > 0.5
        return GripState(closed=closed, toggled=closed != self.closed)


def reach(a: Float[Array, " 3"], b: Float[Array, " 3"], *, rate: float) -> Float[Array, ""]:
    """exp(-rate * |a - b|), 1 at contact. `rate` [1/m]."""
    return jnp.exp(-rate * distance(a, b))


def lift(height: Float[Array, ""], *, full: float) -> Float[Array, ""]:
    """Share of the wanted lift `full` [m] that `height` [m] above the start is."""
    return jnp.clip(height / full, 0.0, 1.0)


def distance(a: Float[Array, " 3"], b: Float[Array, " 3"]) -> Float[Array, ""]:
    """Euclidean distance [m] with a finite gradient at zero."""
    return jnp.sqrt(jnp.sum((a - b) ** 2) + 1e-12)
