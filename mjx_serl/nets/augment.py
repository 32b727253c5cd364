"""Augmentation: random crops, as in DrQ (arXiv 2004.13649), and words that are misheard."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from mjx_serl.types import Batch, Obs, PRNGKey
from scenes.contract.language import PAD
from scenes.contract.specs import ObsSpec


def crop_batch(key: PRNGKey, batch: Batch, pad: int, *, cameras: Sequence[str]) -> Batch:
    """`crop_images` of obs and next_obs, apart."""
    now, later = jax.random.split(key)
    return batch.replace(
        obs=crop_images(now, batch.obs, pad, cameras=cameras),
        next_obs=crop_images(later, batch.next_obs, pad, cameras=cameras),
    )


def crop_images(key: PRNGKey, obs: Obs, pad: int, *, cameras: Sequence[str]) -> Obs:
    """Shift the pictures [B, H, W, C] of `cameras` by up to `pad` pixels; the rest passes through.

    Each image of each camera has an offset of its own. SERL moves all cameras alike; two cameras
    see the world from different places, so there is no common shift that means anything, and
    independent ones are more varied for the same price.
    """
    keys = jax.random.split(key, len(cameras)) if cameras and pad else ()
    return obs | {n: random_crop(k, obs[n], pad) for n, k in zip(cameras, keys, strict=False)}


def random_crop(key: PRNGKey, images: UInt8[Array, "B H W C"], pad: int) -> UInt8[Array, "B H W C"]:
    """Return a window of the same size out of each image, padded with its edge by `pad` pixels."""
    margin = (pad, pad)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode="edge")
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1)

    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, corners)


def replace_words(key: PRNGKey, obs: Obs, spec: ObsSpec, *, share: float) -> Obs:
    """Return an observation in which a share of the words is replaced by any other.

    Args:
        key: draws which, and by what.
        obs: [B, ...].
        spec: of it; what has no instruction stays as it is.
        share: of the words [1].
    """
    words = {}
    for i, field in enumerate(spec.of_kind("tokens")):
        which, what = jax.random.split(jax.random.fold_in(key, i))
        ids = obs[field.name]
        others = jax.random.randint(what, ids.shape, PAD + 1, int(field.scale))
        wrong = (ids != PAD) & (jax.random.uniform(which, ids.shape) < share)
        words[field.name] = jnp.where(wrong, others, ids)
    return obs | words
