"""splax: Warp kernels on an NVIDIA GPU, traceable and differentiable; an optional extra.

splax is MIT (parts Apache-2.0), but importing it imports plyfile, which is GPLv3: that is why it
is opt-in and why nothing else here needs it.
"""

import os
import sys
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scenes.contract.extras import is_installed, not_installed, require
from scenes.contract.rotations import quats_to_matrices
from splat_render.backends.external import (
    FIXED,
    at_least_one,
    camera_in_bodies,
    over_background,
    require_fixed,
    worlds_at_once,
)
from splat_render.types import Background, BodyPoses, CameraBatch, Frame, GaussianSet, RasterConfig

TRACEABLE = True
DIFFERENTIABLE = True

# Per splat and picture [B]: colour 12, projection 36 (`_project_warp`'s outputs), and room for
# four sort keys and values with their radix-sort doubles, 8 B each, grown by a quarter.
BYTES_PER_SPLAT = 12 + 36 + 4 * 2 * 8 * 5 // 4
_MIN_JAX = (0, 10)


def unavailable() -> str | None:
    """Return why splax cannot run here, in one line; None where it can."""
    if not is_installed("splax"):
        return f"{not_installed('splax', 'splax')} (opt-in: it imports GPLv3 plyfile)"
    if jax.__version_info__[:2] < _MIN_JAX:
        return f"needs jax 0.10 or newer, this is {jax.__version__}; pip install -U 'jax[cuda13]'"
    if jax.default_backend() != "gpu" and not _on_cpu():
        return "needs an NVIDIA GPU and a jax for it; splax_backend.enable_cpu() is for tests"
    return None


def enable_cpu() -> None:
    """Run splax's kernels on a CPU from now on, so that they can be tested without a GPU.

    Slow: 29 ms per 64 px picture of 10k splats where the cpu backend takes 1.6. Needs warp-lang
    1.18. Two settings: Warp emulates blocks of threads, and splax's wish for a CUDA graph, which
    Warp refuses on a CPU, is not passed on.

    Raises:
        RuntimeError: splax was imported before.
    """
    if "splax" in sys.modules:
        raise RuntimeError("splax_backend.enable_cpu() came after the first import of splax")
    warp: Any = require("warp", "splax")
    warp.config.enable_cpu_blocks = True
    jax_callable = warp.jax_callable

    def without_graph(*args: Any, **options: Any) -> Any:
        return jax_callable(*args, **options | {"graph_mode": warp.JaxCallableGraphMode.NONE})

    warp.jax_callable = without_graph
    try:
        _splax()
    finally:
        warp.jax_callable = jax_callable


def rasterize(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Draw splats, see `Rasterize`; what is behind a background is decided per pixel.

    Raises ValueError unless `config` has the alpha limits and the blur compiled into splax.
    """
    require_fixed(config, FIXED | {"blur": 0.3}, owner="splax")
    splats = at_least_one(splats)
    lead = poses.xpos.shape[:-2]
    worlds = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]), (poses, cameras))

    def draw_world(world: tuple[BodyPoses, CameraBatch]) -> Frame:
        bodies, views = world
        draw = jax.vmap(_draw, in_axes=(None, None, 0, 0, None))
        return draw(splats, bodies, views.viewmats, views.Ks, config)

    count = worlds[0].xpos.shape[0]
    pictures = cameras.viewmats.shape[-3]
    chunk = worlds_at_once(splats.means.shape[0], BYTES_PER_SPLAT * pictures)
    if count > chunk:
        drawn = jax.lax.map(draw_world, worlds, batch_size=chunk)
    else:
        drawn = jax.vmap(draw_world)(worlds)
    drawn = jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), drawn)
    return over_background(drawn, config, background, look)


def _draw(
    splats: GaussianSet,
    poses: BodyPoses,
    viewmat: Float[Array, "4 4"],
    K: Float[Array, "3 3"],
    config: RasterConfig,
) -> Frame:
    """Return one picture, with nothing behind it; its depth is the sum of weight * z."""
    splax = _splax()
    shape = (config.height, config.width)
    centre = camera_in_bodies(viewmat, poses.xpos, poses.xquat)
    colors = splax.spherical_harmonics(splats.sh, splats.means - centre[splats.body_id])
    focal = config.height / 2
    opacities = splats.opacities
    if poses.opacity is not None:
        opacities = opacities * poses.opacity[splats.body_id]
    if poses.gain is not None:
        colors = colors * poses.gain[splats.body_id]
    xys, depths, radii, conics, _, hits = splax.project(
        splats.means,
        splats.scales,
        splats.quats,
        fold_intrinsics(viewmat, K, config, focal=focal),
        opacities=opacities,
        img_shape=shape,
        f=(focal, focal),
        clip_thresh=config.near,
        gaussian_transforms=_matrices(poses),
        transform_ids=splats.body_id.astype(jnp.int32),
    )
    inputs = (colors, opacities, jnp.zeros(3), xys, depths, radii, conics, hits)
    rgbd, alpha = splax.rasterize_depth(*inputs, img_shape=shape, antialiased=config.antialiased)
    # splax divides by alpha.
    return Frame(rgbd[..., :3], rgbd[..., 3] * alpha, alpha)


def fold_intrinsics(
    viewmat: Float[Array, "4 4"], K: Float[Array, "3 3"], config: RasterConfig, *, focal: float
) -> Float[Array, "4 4"]:
    """Return the view matrix with which a camera of static `focal` [px] sees what K would show.

    splax takes focal lengths and principal point as Python numbers, one for the whole batch. A
    pinhole's K only stretches and shears the camera's frame along its rays: with
    D = [[fx/f, 0, (cx - w/2)/f], [0, fy/f, (cy - h/2)/f], [0, 0, 1]] the pixels, the depths, the
    projected covariances and the limits of the field of view are those of K exactly.
    """
    center = jnp.array([config.width / 2, config.height / 2])
    stretch = jnp.eye(4).at[:2, :2].set(jnp.diag(jnp.diag(K)[:2]) / focal)
    stretch = stretch.at[:2, 2].set((K[:2, 2] - center) / focal)
    return jnp.matmul(stretch, viewmat, precision=jax.lax.Precision.HIGHEST)


def _matrices(poses: BodyPoses) -> Float[Array, "B 4 4"]:
    top = jnp.concatenate([quats_to_matrices(poses.xquat), poses.xpos[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def _splax() -> ModuleType:
    # What splax does itself where SciPy has not been imported; JAX has imported it long since.
    os.environ.setdefault("SCIPY_ARRAY_API", "1")
    return require("splax", "splax")


def _on_cpu() -> bool:
    warp = sys.modules.get("warp")
    return "splax" in sys.modules and warp is not None and bool(warp.config.enable_cpu_blocks)
