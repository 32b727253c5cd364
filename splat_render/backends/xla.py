"""Splats in plain jax.numpy: any platform, exact, with gradients, but slow.

Each picture is a scan over its splats, nearest first, that touches every pixel: no tiles, so there
is no capacity that could overflow. On a CPU that takes some hundred times the C++ kernel's time.
Worlds are drawn side by side as far as `_BYTES` allow; under an outer vmap that is counted per
call. The backward pass keeps the picture between chunks of `_CHUNK` splats and recomputes the rest.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from splat_render.projection import BodySplats, Projected, project, shape_splats
from splat_render.types import (
    Background,
    BodyPoses,
    CameraBatch,
    Frame,
    GaussianSet,
    RasterConfig,
    as_dtype,
    median_depth,
)

TRACEABLE = True
DIFFERENTIABLE = True

# Near the square root of the 10,000 splats of a large scene, where the backward pass needs least.
_CHUNK = 64
# Splats in one compiled step of the scan: to blend 10,000 at 64 px takes 84 ms of CPU with 1, 72
# with 4, 86 with 16; fewer steps mean fewer launches on a GPU.
_UNROLL = 4
# For the splats and pictures that are in work at a time [B].
_BYTES = 512 * 2**20
# Floats in work per splat (see `projection`) and per pixel (see `Canvas`).
_PER_SPLAT, _PER_PIXEL = 60, 16


def unavailable() -> str | None:
    """Return None: it runs everywhere."""
    return None


@functools.partial(jax.jit, static_argnames="config")
def rasterize(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Return the pictures; see `backend.Rasterize`."""
    return draw_worlds(blend, splats, poses, cameras, config, background, look)


def draw_worlds(
    blend: "Blend",
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Return the pictures that a way to blend makes of the splats of each camera."""
    shaped = shape_splats(jax.tree.map(jnp.asarray, splats))
    lead = cameras.viewmats.shape[:-3]
    look = jnp.zeros(lead, jnp.int32) if look is None else look
    worlds = jax.tree.map(
        lambda x: jnp.reshape(x, (-1, *x.shape[len(lead) :])), (poses, cameras, look)
    )
    draw = functools.partial(_draw_world, blend, shaped, config, background)
    at_once = _worlds_at_once(len(splats.means), cameras.viewmats.shape[-3], config)
    if math.prod(lead) <= at_once:
        frame = jax.vmap(draw)(*worlds)
    else:
        frame = jax.lax.map(lambda world: draw(*world), worlds, batch_size=at_once)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), frame)


def _worlds_at_once(num_splats: int, num_cameras: int, config: RasterConfig) -> int:
    floats = num_splats * _PER_SPLAT + config.width * config.height * _PER_PIXEL
    return max(1, _BYTES // (4 * floats * max(1, num_cameras)))


@functools.partial(jax.jit, static_argnames="config")
def draw_background(
    splats: GaussianSet, poses: BodyPoses, cameras: CameraBatch, config: RasterConfig
) -> Background:
    """Return rgb [C, H, W, 3], whatever `config.rgb_dtype` is, and median depth of one world.

    The median is the depth of the splat behind which less than half of the light is left [m].
    """
    shaped = shape_splats(jax.tree.map(jnp.asarray, splats))
    poses, cameras = jax.tree.map(jnp.asarray, (poses, cameras))
    config = replace(config, rgb_dtype="float32")

    def one(camera: CameraBatch) -> Background:
        limit = jnp.full((config.height, config.width), jnp.inf)
        canvas = blend(project(shaped, poses, camera, config), limit, config)
        return Background(_finish(canvas, config, None).rgb, canvas.median)

    return jax.vmap(one)(cameras)


def _draw_world(
    blend: "Blend",
    shaped: BodySplats,
    config: RasterConfig,
    background: Background | None,
    poses: BodyPoses,
    cameras: CameraBatch,
    look: Int[Array, ""],
) -> Frame:
    """Return pictures of the C cameras of one world."""

    def one(camera: CameraBatch, behind: Background | None) -> Frame:
        limit = jnp.full((config.height, config.width), jnp.inf)
        limit = limit if behind is None else behind.depth
        return _finish(blend(project(shaped, poses, camera, config), limit, config), config, behind)

    behind = jax.tree.map(lambda x: jnp.asarray(x)[look], background)
    return jax.vmap(one)(cameras, behind)


@struct.dataclass
class Canvas:
    """What a picture's pixels have gathered so far.

    Attributes:
        rgb: sum of the colours, weighted.
        depth: sum of the depths, weighted [m].
        light: the transmittance.
        median: depth at which half of the light is left [m].
        unfinished: pixels that the next splat may still change.
    """

    rgb: Float[Array, "3 H W"]
    depth: Float[Array, "H W"]
    light: Float[Array, "H W"]
    median: Float[Array, "H W"]
    unfinished: Bool[Array, "H W"]


Blend = Callable[[Projected, Float[Array, "H W"], RasterConfig], Canvas]


def blend(seen: Projected, limit: Float[Array, "H W"], config: RasterConfig) -> Canvas:
    """Lay the splats behind each other where they are nearer than `limit` [m]."""
    zeros = jnp.zeros_like(limit)
    canvas = Canvas(
        rgb=jnp.zeros((3, *limit.shape), limit.dtype),
        depth=zeros,
        light=zeros + 1,
        median=zeros + jnp.inf,
        unfinished=zeros == 0,
    )
    count = len(seen.depths)
    # The last chunk is filled up with splats of opacity 0, which draw nothing.
    chunks = jax.tree.map(
        lambda x: jnp.pad(x, [(0, -count % _CHUNK)] + [(0, 0)] * (x.ndim - 1)).reshape(
            -1, _CHUNK, *x.shape[1:]
        ),
        seen,
    )

    def step(canvas: Canvas, splat: Projected) -> tuple[Canvas, None]:
        return _blend_one(canvas, splat, limit, config), None

    @jax.checkpoint
    def chunk(canvas: Canvas, splats: Projected) -> tuple[Canvas, None]:
        return jax.lax.scan(step, canvas, splats, unroll=_UNROLL)

    return jax.lax.scan(chunk, canvas, chunks)[0]


def _blend_one(
    canvas: Canvas, splat: Projected, limit: Float[Array, "H W"], config: RasterConfig
) -> Canvas:
    """Lay one splat (fields without the axis G) behind those already drawn."""
    dx = jnp.arange(config.width) + 0.5 - splat.means2d[0]
    dy = (jnp.arange(config.height) + 0.5 - splat.means2d[1])[:, None]
    xx, xy, yy = splat.conics
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = jnp.minimum(splat.opacities * jnp.exp(-sigma), config.alpha_max)
    rest = canvas.light * (1 - alpha)
    drawn = canvas.unfinished & (alpha >= config.alpha_min) & (splat.depths < limit)
    # A splat that would finish the pixel is not drawn itself, and nothing after it.
    finishes = drawn & (rest <= config.transmittance_min)
    drawn &= ~finishes
    weight = jnp.where(drawn, alpha * canvas.light, 0.0)
    z = jnp.where(jnp.isfinite(splat.depths), splat.depths, 0.0)
    halves = drawn & (canvas.light > 0.5) & (rest <= 0.5)
    return Canvas(
        rgb=canvas.rgb + weight * splat.colors[:, None, None],
        depth=canvas.depth + weight * z,
        light=jnp.where(drawn, rest, canvas.light),
        median=jnp.where(halves, z, canvas.median),
        unfinished=canvas.unfinished & ~finishes,
    )


def _finish(canvas: Canvas, config: RasterConfig, behind: Background | None) -> Frame:
    """Return the picture: what light is left is filled with the background or the plain colour."""
    rgb = jnp.moveaxis(canvas.rgb, 0, -1)
    if behind is None:
        rgb = rgb + canvas.light[..., None] * jnp.asarray(config.color, rgb.dtype)
        depth = median_depth(canvas.median, jnp.inf, config) if config.far else canvas.depth
        return Frame(as_dtype(rgb, config), depth, 1 - canvas.light)
    far = jnp.where(jnp.isfinite(behind.depth), behind.depth, 0.0)
    rgb = rgb + canvas.light[..., None] * behind.rgb
    depth = canvas.depth + canvas.light * far
    if config.far:
        depth = median_depth(canvas.median, behind.depth, config)
    return Frame(as_dtype(rgb, config), depth, jnp.ones_like(depth))
