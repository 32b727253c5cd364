"""What the backends around other people's rasterisers share: limits, chunks, backgrounds."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scenes.contract.errors import InputError
from splat_render.types import (
    Background,
    Frame,
    GaussianSet,
    RasterConfig,
    as_dtype,
    median_depth,
)

# What gsplat 1.5.3 (csrc/RasterizeToPixels3DGSFwd.cu, Common.h) and splax 0.2.3
# (_rasterize/_kernels.py, _intersect.py) compile in.
FIXED = {"alpha_max": 0.999, "alpha_min": 1.0 / 255.0, "transmittance_min": 1e-4}
# Device memory for the splats of the worlds that are drawn in one call [B]: a fortieth of an
# 80 GB card, and still thousands of worlds of a few thousand moving splats.
CHUNK_BYTES = 2 * 2**30
_FAR = 1e9  # [m]


def require_fixed(config: RasterConfig, fixed: dict[str, float], *, owner: str) -> None:
    """Raise ValueError unless the config has the values that a rasteriser was compiled with."""
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise InputError(
                f"{owner}: RasterConfig.{name} is {getattr(config, name)}, allowed: {value:.6g} "
                f"(compiled into {owner}); set it for every backend you compare"
            )


def at_least_one(splats: GaussianSet) -> GaussianSet:
    """Return the splats, or an invisible one where there are none: the kernels divide by G."""
    if len(splats.means):
        return splats
    return jax.tree.map(lambda x: jnp.ones((1, *x.shape[1:]), x.dtype), splats).replace(
        opacities=jnp.zeros(1), body_id=jnp.zeros(1, jnp.int32)
    )


def worlds_at_once(num_splats: int, bytes_per_splat: int) -> int:
    """Return how many worlds fit `CHUNK_BYTES`, at least one; bytes_per_splat [B] of one world."""
    return max(1, CHUNK_BYTES // max(1, num_splats * bytes_per_splat))


def over_background(
    drawn: Frame,
    config: RasterConfig,
    background: Background | None,
    look: Int[Array, "*n"] | None,
) -> Frame:
    """Put pictures of splats in front of what is behind them.

    These rasterisers cannot test each splat against the background's depth. So each pixel is
    tested once: where the splats' mean depth (depth / alpha) is behind the background's median
    depth, none of them is drawn. Against a full render that is 43 to 51 dB where the test per
    splat has 44 to 55 (`shared/reference/splat_rendering.md` section 4).

    Args:
        drawn: rgb float32, not yet multiplied by anything behind; depth: sum of weight * z [m].
        config: of the picture to return.
        background: see `Rasterize`.
        look: see `Rasterize`.
    """
    if background is None:
        through = (1 - drawn.alpha)[..., None]
        rgb = drawn.rgb + through * jnp.asarray(config.color, jnp.float32)
        depth = drawn.depth
        if config.far:
            depth = median_depth(_mean_as_median(drawn.depth, drawn.alpha), jnp.inf, config)
        return dataclasses.replace(drawn, rgb=as_dtype(rgb, config), depth=depth)
    index = jnp.zeros(drawn.alpha.shape[:-3], jnp.int32) if look is None else look
    rgb, depth = background.rgb[index], background.depth[index]
    # depth / alpha < background, without a division; and without inf * 0 where nothing is.
    front = drawn.depth < drawn.alpha * jnp.minimum(depth, _FAR)
    alpha = jnp.where(front, drawn.alpha, 0.0)
    rgb = jnp.where(front[..., None], drawn.rgb, 0.0) + (1 - alpha)[..., None] * rgb
    behind = jnp.where(jnp.isfinite(depth), depth, 0.0)
    total = jnp.where(front, drawn.depth, 0.0) + (1 - alpha) * behind
    if config.far:
        total = median_depth(_mean_as_median(drawn.depth, alpha), depth, config)
    return Frame(as_dtype(rgb, config), total, jnp.ones_like(alpha))


def _mean_as_median(depth: Float[Array, "*n"], alpha: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the splats' mean depth [m] where they hide half of the light or more, else inf."""
    hidden = alpha >= 0.5
    return jnp.where(hidden, depth / jnp.where(hidden, alpha, 1.0), jnp.inf)


def rotate(quat: Float[Array, "*n 4"], vector: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """Return vectors turned by unit quaternions (wxyz): v + 2 u x (u x v + w v)."""
    axis = quat[..., 1:]
    twist = jnp.cross(axis, vector) + quat[..., :1] * vector
    return vector + 2 * jnp.cross(axis, twist)


def camera_in_bodies(
    viewmat: Float[Array, "4 4"], xpos: Float[Array, "B 3"], xquat: Float[Array, "B 4"]
) -> Float[Array, "B 3"]:
    """Return where a camera's centre is in each body's frame [m]."""
    hold = jax.lax.Precision.HIGHEST
    centre = -jnp.matmul(viewmat[:3, :3].T, viewmat[:3, 3], precision=hold)
    return rotate(xquat * jnp.array([1.0, -1.0, -1.0, -1.0]), centre - xpos)
