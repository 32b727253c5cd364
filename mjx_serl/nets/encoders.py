"""From an observation dict to one feature vector: the seam where image encoders will sit."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.types import Obs, ObsShapes


def vector_dim(obs_shapes: ObsShapes) -> int:
    """Return the length of `encode_vectors` for these single-sample shapes.

    Raises ValueError for an entry that is an image (uint8): it needs an image encoder.
    """
    for name, spec in sorted(obs_shapes.items()):
        if spec.dtype == jnp.uint8:
            raise ValueError(
                f"Observation '{name}' is an image {spec.dtype}{list(spec.shape)}; "
                "allowed: float vectors. Drop it or use an agent with an image encoder."
            )
    return sum(math.prod(spec.shape) for spec in obs_shapes.values())


def encode_vectors(obs: Obs, obs_shapes: ObsShapes) -> Float[Array, "*lead D"]:
    """Concatenate the entries [*lead, *shape], flattened, in sorted order of their names."""
    flat = []
    for name in sorted(obs_shapes):
        value, shape = obs[name], obs_shapes[name].shape
        lead = value.shape[: value.ndim - len(shape)]
        flat.append(value.reshape(*lead, math.prod(shape)).astype(jnp.float32))
    return jnp.concatenate(flat, axis=-1)
