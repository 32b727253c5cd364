"""Rows on the host in blocks of one size, so that one compiled program stores them."""

import jax
import numpy as np

from mjx_serl.types import Transition


def blocks_of(rows: Transition, size: int) -> list[Transition]:
    """Split rows [T, ...] of an episode into blocks of `size`; the last is filled up.

    Rows that fill up are not learned from, and what follows them is another episode.
    """
    length = len(rows.reward)
    short = -length % size

    def filled(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)])

    padded = jax.tree.map(filled, rows)
    padded.truncated[length:] = True
    return [
        jax.tree.map(lambda x, i=i: x[i : i + size], padded) for i in range(0, length + short, size)
    ]
