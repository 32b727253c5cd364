"""Pictures as the image encoder wants them: square, of its size, in [-1, 1]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def unit_pictures(pictures: Shaped[Array, "B H W 3"], size: int) -> Float[Array, "B S S 3"]:
    """Return pictures uint8, or float in [-1, 1], as float32 in [-1, 1] of `size` px."""
    if pictures.dtype == jnp.uint8:
        pictures = pictures.astype(jnp.float32) / 255.0 * 2.0 - 1.0
    return resize_with_pad(pictures, size, size)


def resize_with_pad(
    pictures: Shaped[Array, "B H W C"], height: int, width: int
) -> Shaped[Array, "B h w C"]:
    """Fit pictures, uint8 or float in [-1, 1], into height x width [px] with black around them.

    Their proportions stay; bilinear and antialiased, as openpi's.
    """
    high, wide = pictures.shape[1:3]
    if (high, wide) == (height, width):
        return pictures
    ratio = max(wide / width, high / height)
    inner = (int(high / ratio), int(wide / ratio))
    whole = pictures.dtype == jnp.uint8
    shape = (pictures.shape[0], *inner, pictures.shape[3])
    resized = jax.image.resize(pictures.astype(jnp.float32), shape, "linear")
    if whole:
        resized = jnp.round(resized).clip(0, 255).astype(jnp.uint8)
    else:
        resized = resized.clip(-1.0, 1.0)
    before = [(total - part) // 2 for total, part in zip((height, width), inner, strict=True)]
    after = [
        total - part - first
        for total, part, first in zip((height, width), inner, before, strict=True)
    ]
    pads = ((0, 0), *zip(before, after, strict=True), (0, 0))
    return jnp.pad(resized, pads, constant_values=0 if whole else -1.0)
