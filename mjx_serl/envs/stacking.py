"""The last few pictures as one: side by side on their last axis, oldest first.

The layout is that of SERL's ChunkingWrapper (reference serl_family.md 1.4, "stack"). At the start
of an episode there is one picture, which is repeated.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from mjx_serl.types import Obs

Frame = Shaped[Array, "N *shape C"]
Stacked = Shaped[Array, "N *shape KC"]


def repeated(frame: Frame, stack: int) -> Stacked:
    """Return what is seen when an episode starts: `stack` times its first picture."""
    return jnp.concatenate([frame] * stack, axis=-1)


def pushed(before: Stacked, frame: Frame, fresh: Bool[Array, " N"]) -> Stacked:
    """Return the stack a step later; where an episode is `fresh`, that of its first picture."""
    width = frame.shape[-1]
    going_on = jnp.concatenate([before[..., width:], frame], axis=-1)
    start = repeated(frame, before.shape[-1] // width)
    return jnp.where(fresh.reshape(-1, *[1] * (frame.ndim - 1)), start, going_on)


def newest(stacked: Stacked, stack: int) -> Frame:
    """Return the last picture of a stack."""
    width = stacked.shape[-1] // stack
    return stacked[..., (stack - 1) * width :]


def by_frame(encode: Callable[[Obs], Frame], pictures: Obs, stack: int) -> Stacked:
    """Return the stacked features of stacked pictures: an encoder reads one picture at a time."""
    if stack == 1:
        return encode(pictures)
    # All in one batch, the oldest first.
    apart = {n: jnp.concatenate(jnp.split(x, stack, axis=-1)) for n, x in pictures.items()}
    return jnp.concatenate(jnp.split(encode(apart), stack), axis=-1)
