"""The parts of a batch."""

import jax
from jaxtyping import Array, Int

from mjx_serl.types import Batch
from scenes.contract.errors import InputError


def take_minibatch(batch: Batch, index: int | Int[Array, ""], count: int) -> Batch:
    """Return rows index, index + count, ... of a batch.

    Strided, so that each minibatch holds the same share of a mixture whose parts lie one after
    the other in the batch (RLPD's half and half). Rows are taken only when they are needed:
    splitting the whole batch at once would copy every image.
    """
    rows = batch.reward.shape[0]
    if rows % count:
        raise InputError(f"update: batch of {rows} rows, allowed: a multiple of utd_ratio {count}")
    return jax.tree.map(lambda x: x.reshape(rows // count, count, *x.shape[1:])[:, index], batch)
