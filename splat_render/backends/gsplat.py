"""gsplat (PyTorch, CUDA) over DLPack: fast on NVIDIA GPUs, but outside jit.

JAX poses the splats and evaluates their colours, gsplat rasterises, JAX finishes the picture;
arrays change hands without a copy. The only file that imports torch.
"""

import functools
import math

import jax
import jax.core
import jax.dlpack
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from scenes.contract.extras import is_installed, not_installed
from splat_render.backends.external import (
    FIXED,
    at_least_one,
    camera_in_bodies,
    over_background,
    require_fixed,
    rotate,
    worlds_at_once,
)
from splat_render.projection import spherical_harmonics
from splat_render.types import Background, BodyPoses, CameraBatch, Frame, GaussianSet, RasterConfig

TRACEABLE = False
DIFFERENTIABLE = False


@struct.dataclass
class Prepared:
    """What `gsplat.rasterization` takes: splats posed in the frame of each of N worlds.

    Attributes:
        means: [m].
        quats: wxyz.
        scales: standard deviations [m].
        opacities: in [0, 1].
        colors: as each camera sees them.
        viewmats: world to camera (OpenCV).
        Ks: intrinsics [px].
    """

    means: Float[Array, "N G 3"]
    quats: Float[Array, "N G 4"]
    scales: Float[Array, "G 3"]
    opacities: Float[Array, "N G"]
    colors: Float[Array, "N C G 3"]
    viewmats: Float[Array, "N C 4 4"]
    Ks: Float[Array, "N C 3 3"]


def unavailable() -> str | None:
    """Return why gsplat cannot run here, in one line; None where it can."""
    for name in ("torch", "gsplat"):
        if not is_installed(name):
            return not_installed(name, "gsplat")
    import torch
    import torch.utils.cpp_extension

    if not torch.cuda.is_available():
        return "torch sees no CUDA device; install the torch built for this machine's driver"
    if jax.default_backend() != "gpu":
        return "jax has no GPU to hand arrays over from; pip install 'mjx-serl[cuda]'"
    built = is_installed("gsplat.csrc")
    if not built and torch.utils.cpp_extension.CUDA_HOME is None:
        return "gsplat compiles its kernels on first use and finds no nvcc; set CUDA_HOME"
    return None


def rasterize(
    splats: GaussianSet,
    poses: BodyPoses,
    cameras: CameraBatch,
    config: RasterConfig,
    background: Background | None = None,
    look: Int[Array, "*n"] | None = None,
) -> Frame:
    """Draw splats, see `Rasterize`; what is behind a background is decided per pixel.

    gsplat wants every world's splats written out, so worlds are drawn in chunks that fit
    `external.CHUNK_BYTES`.

    Raises:
        TypeError: called under jit, vmap, scan or grad.
        ValueError: `config` has other alpha limits than those compiled into gsplat.
    """
    require_fixed(config, FIXED, owner="gsplat")
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((splats, poses, cameras))):
        raise TypeError("gsplat cannot be traced by jax: call it outside jit, or use splax")
    splats = at_least_one(splats)
    lead = poses.xpos.shape[:-2]
    count = math.prod(lead)
    looks = jnp.zeros(lead, jnp.int32) if look is None else jnp.asarray(look)
    worlds = jax.tree.map(
        lambda x: x.reshape(count, *x.shape[len(lead) :]), (poses, cameras, looks)
    )
    per_splat = bytes_per_splat(cameras.viewmats.shape[-3])
    chunk = worlds_at_once(splats.means.shape[0], per_splat)
    frames = []
    for start in range(0, count, chunk):
        bodies, views, which = jax.tree.map(lambda x, at=start: x[at : at + chunk], worlds)
        drawn = _draw(prepare(splats, bodies, views), config)
        frames.append(_finish(drawn, config, background, which))
    frame = jax.tree.map(lambda *parts: jnp.concatenate(parts), *frames)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), frame)


def bytes_per_splat(num_cameras: int) -> int:
    """Return the device memory for one splat of one world [B].

    In: mean 12, quat 16, scale 12, opacity 4; per camera a colour 12. Out of the projection, per
    camera: radii 8, mean 8, depth 4, conic 12, compensation 4, opacity 4, colour and depth 16;
    and room for two tiles of key 8, value 4, doubled by the sort.
    """
    return 44 + num_cameras * (12 + 56 + 2 * 2 * 12)


@jax.jit
def prepare(splats: GaussianSet, poses: BodyPoses, cameras: CameraBatch) -> Prepared:
    """Pose the splats in N worlds and evaluate the colours that C cameras see."""
    xpos, xquat = poses.xpos[:, splats.body_id], poses.xquat[:, splats.body_id]
    opacities = jnp.broadcast_to(splats.opacities, xpos.shape[:2])
    if poses.opacity is not None:
        opacities = opacities * poses.opacity[:, splats.body_id]
    return Prepared(
        means=rotate(xquat, splats.means) + xpos,
        quats=_multiply(xquat, splats.quats),
        scales=splats.scales,
        opacities=opacities,
        colors=_colors(splats, poses, cameras),
        viewmats=cameras.viewmats,
        Ks=cameras.Ks,
    )


def to_torch(array: jax.Array):
    """Hand an array over to torch: the same memory, and torch's stream waits for JAX's."""
    import torch

    return torch.from_dlpack(array)


def to_jax(tensor) -> jax.Array:
    """Hand a tensor over to JAX: the same memory where it is contiguous, else a copy."""
    # JAX takes no strided tensors.
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def _draw(given: Prepared, config: RasterConfig) -> Frame:
    """Rasterise N worlds with nothing behind them."""
    import gsplat
    import torch

    tensors = {name: to_torch(array) for name, array in vars(given).items()}
    worlds = tensors["means"].shape[0]
    tensors["scales"] = tensors["scales"].expand(worlds, *tensors["scales"].shape)
    with torch.no_grad():
        rgbd, alpha, _ = gsplat.rasterization(
            **tensors,
            width=config.width,
            height=config.height,
            near_plane=config.near,
            eps2d=config.blur,
            packed=False,
            render_mode="RGB+D",  # depth is the sum of weight * z, as ours
            rasterize_mode="antialiased" if config.antialiased else "classic",
        )
    picture = to_jax(rgbd)
    return Frame(picture[..., :3], picture[..., 3], to_jax(alpha)[..., 0])


@functools.partial(jax.jit, static_argnums=1)
def _finish(
    drawn: Frame, config: RasterConfig, background: Background | None, look: Int[Array, " N"]
) -> Frame:
    return over_background(drawn, config, background, look)


def _colors(splats: GaussianSet, poses: BodyPoses, cameras: CameraBatch) -> Float[Array, "N C G 3"]:
    """Return colours as the cameras see them; harmonics turn with their body."""

    def seen(viewmat: jax.Array, xpos: jax.Array, xquat: jax.Array) -> jax.Array:
        centre = camera_in_bodies(viewmat, xpos, xquat)
        rays = splats.means - centre[splats.body_id]
        rays = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
        return jnp.maximum(spherical_harmonics(rays, splats.sh) + 0.5, 0.0)

    each_camera = jax.vmap(seen, in_axes=(0, None, None))
    colors = jax.vmap(each_camera)(cameras.viewmats, poses.xpos, poses.xquat)
    return colors if poses.gain is None else colors * poses.gain[:, None, splats.body_id]


def _multiply(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Return the Hamilton product of quaternions (wxyz): first b's rotation, then a's."""
    scalar = a[..., :1] * b[..., :1] - jnp.sum(a[..., 1:] * b[..., 1:], axis=-1, keepdims=True)
    vector = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:]
    return jnp.concatenate([scalar, vector + jnp.cross(a[..., 1:], b[..., 1:])], axis=-1)
