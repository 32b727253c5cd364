"""Reward terms: pure functions of positions, each in [0, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def reach(a: Float[Array, " 3"], b: Float[Array, " 3"], *, rate: float) -> Float[Array, ""]:
    """exp(-rate * |a - b|), 1 at contact. `rate` [1/m]."""
    return jnp.exp(-rate * distance(a, b))


def lift(height: Float[Array, ""], *, full: float) -> Float[Array, ""]:
    """Share of the wanted lift `full` [m] that `height` [m] above the start is."""
    return jnp.clip(height / full, 0.0, 1.0)


def distance(a: Float[Array, " 3"], b: Float[Array, " 3"]) -> Float[Array, ""]:
    """Euclidean distance [m] with a finite gradient at zero."""
    return jnp.sqrt(jnp.sum((a - b) ** 2) + 1e-12)
