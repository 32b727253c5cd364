"""What is done to a batch before it is learned from."""

from functools import partial

import jax
from jaxtyping import Array, Int

from mjx_serl.nets.augment import crop_images
from mjx_serl.types import Batch, PRNGKey
from scenes.contract.errors import InputError


def cropped(batch: Batch, key: PRNGKey, *, pad: int, cameras: tuple[str, ...]) -> Batch:
    """A batch whose images are shifted at random by up to `pad` px, obs and next_obs apart."""
    now, later = jax.random.split(key)
    crop = partial(crop_images, pad=pad, cameras=cameras)
    return batch.replace(obs=crop(now, batch.obs), next_obs=crop(later, batch.next_obs))


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
