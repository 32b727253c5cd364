"""What never moves is drawn once per camera: the finished picture and its median depth.

Then only the moving splats are drawn, each in the pixels where it is nearer than that depth. One
depth per pixel is right where static things are solid. Thin parts that move on a static surface
are not drawn right, nor is what moves inside fuzzy static splats: measure with `background_psnr`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from splat_render.backend import Rasterize
from splat_render.backends import xla
from splat_render.types import Background, BodyPoses, CameraBatch, GaussianSet, RasterConfig

# Solid scenes reach 44 to 55 dB; fighting surfaces fell to 32 (splat_rendering.md section 4).
POOR_PSNR = 35.0


def static_bodies(
    body_weldid: Int[np.ndarray, " B"], body_mocapid: Int[np.ndarray, " B"]
) -> Bool[np.ndarray, " B"]:
    """Return which bodies never move: welded to the world and not mocap; arrays are MjModel's."""
    return (np.asarray(body_weldid) == 0) & (np.asarray(body_mocapid) < 0)


def split_static(
    splats: GaussianSet, static: Bool[Array | np.ndarray, " B"]
) -> tuple[GaussianSet, GaussianSet]:
    """Return the splats on static bodies and those on the others; not traceable."""
    still = np.asarray(static)[np.asarray(splats.body_id)]

    # numpy: jax would compile the selection anew for every number of splats.
    def pick(which: Bool[np.ndarray, " G"]) -> GaussianSet:
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[which]), splats)

    return pick(still), pick(~still)


def build_background(
    splats: GaussianSet, cameras: CameraBatch, config: RasterConfig, poses: BodyPoses
) -> Background:
    """Draw one look of the things that never move.

    Args:
        splats: the static ones, see `split_static`.
        cameras: fixed ones, [C, ...], or [V, C, ...] where V variants are mounted differently.
        config: of the pictures that will be drawn before it.
        poses: of one world [B, ...], where it stands still.

    Returns:
        [V, C, ...] for cameras [V, C, ...]; [C, ...] for [C, ...], of which the V looks of a
        scene, each with its own colours, are to be stacked.
    """
    if cameras.viewmats.ndim == 3:
        return xla.draw_background(splats, poses, cameras, config)
    return jax.lax.map(lambda c: build_background(splats, c, config, poses), cameras)


def background_psnr(
    splats: GaussianSet,
    static: Bool[Array | np.ndarray, " B"],
    background: Background,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    *,
    rasterize: Rasterize = xla.rasterize,
) -> Float[np.ndarray, "*n C"]:
    """Compare pictures before the background's first look with pictures of all splats.

    Args:
        splats: all, with the first look's colours.
        static: which bodies the background shows.
        background: [V, C, ...].
        poses, cameras: of worlds [*n] to look at.
        config: of the pictures.
        rasterize: of the backend that will draw.

    Returns:
        peak signal-to-noise ratio [dB] of each picture, inf where there is no difference.
    """
    _, moving = split_static(splats, static)
    cached = rasterize(moving, poses, cameras, config, background)
    full = rasterize(splats, poses, cameras, config)
    return psnr(_unit(cached.rgb), _unit(full.rgb))


def poor_background(psnr: Float[np.ndarray, "..."]) -> str | None:
    """One line that warns of a scene whose background should not be cached; None where it may."""
    worst = float(np.min(psnr, initial=np.inf))
    if worst >= POOR_PSNR:
        return None
    return (
        f"the cached background differs from the full picture ({worst:.1f} dB, good: "
        f"{POOR_PSNR:.0f} dB or more); draw everything in every step with cached=False, or put "
        "thin parts and what lies under them on the same body"
    )


def psnr(a: Float[np.ndarray, "*n H W 3"], b: Float[np.ndarray, "*n H W 3"]) -> np.ndarray:
    """Return the peak signal-to-noise ratio [dB] of pictures in [0, 1]."""
    error = np.square(np.float64(a) - b).mean((-3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def _unit(rgb: Shaped[Array, "*n H W 3"]) -> Float[np.ndarray, "*n H W 3"]:
    pixels = np.asarray(rgb)
    return pixels / 255.0 if pixels.dtype == np.uint8 else np.clip(pixels, 0.0, 1.0)
