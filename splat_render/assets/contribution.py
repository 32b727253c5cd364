"""What each splat of a scene adds to its pictures, over the views that a policy will have."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from scenes.contract.errors import InputError
from splat_render.backends.reference import Projected, project
from splat_render.cameras import CameraRig, intrinsics, jittered, place
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

_SHIFT, _TURN = 0.02, 2.0  # deviations of a camera's jitter along and about each axis [m], [deg]
_BEND = 0.3  # deviation of a joint from the pose that views are taken around [rad]
_LIE = 0.08  # deviation of where free objects lie [m]
_DEEPEST = 0.005  # [m] a link so far in something is where no arm can be
_HOUSING = 0.045  # [m] what is nearer to a camera than this would be inside its housing
_TRIES = 50  # poses drawn for one that is kept
_AT_ONCE = 50_000  # splats whose pixels are listed together; bounds the memory
# To the corners, edges and sides of a cube.
_DIRECTIONS = np.array([d for d in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(d)])
_DIRECTIONS /= np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """One picture to be taken.

    Attributes:
        poses: of all bodies, of one world.
        camera: matrices without batch axes.
    """

    poses: BodyPoses
    camera: CameraBatch


def task_views(
    model: mujoco.MjModel, data: mujoco.MjData, *, size: int, count: int, seed: int = 0
) -> list[Viewpoint]:
    """Return `count` views of each of the model's cameras, of size x size pixels.

    The first is of `data` as it is. In the others joints are bent, objects moved and cameras
    shifted and turned a little; poses in which the arm or a camera is inside something are not
    taken.

    Raises InputError for a model without cameras.
    """
    if not model.ncam:
        raise InputError(
            "the model has no camera, so that nothing says which splats matter; add those of the "
            "task to it, or leave the scan as it is"
        )
    rng = np.random.default_rng(seed)
    posed = [data, *(_bent(model, data, rng) for _ in range(count - 1))]
    poses = BodyPoses(jnp.asarray([p.xpos for p in posed]), jnp.asarray([p.xquat for p in posed]))
    mounted = CameraRig(
        body_id=jnp.asarray(model.cam_bodyid),
        pos=jnp.asarray(model.cam_pos, jnp.float32),
        quat=jnp.asarray(model.cam_quat, jnp.float32),
        Ks=jnp.asarray([intrinsics(fovy, size, size) for fovy in model.cam_fovy]),
    )
    rig = jittered(mounted, count, position=_SHIFT, angle=_TURN, rng=rng)
    cameras = jax.tree.map(np.asarray, jax.vmap(place)(rig, poses))
    poses = jax.tree.map(np.asarray, poses)
    return [
        Viewpoint(
            BodyPoses(poses.xpos[k], poses.xquat[k]),
            CameraBatch(cameras.viewmats[k, c], cameras.Ks[k, c]),
        )
        for k in range(count)
        for c in range(model.ncam)
    ]


def _bent(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> mujoco.MjData:
    """Return a pose near another one in which no link is inside something."""
    posed = mujoco.MjData(model)
    for _ in range(_TRIES):
        posed.qpos[:] = data.qpos
        for joint in range(model.njnt):
            at, kind = int(model.jnt_qposadr[joint]), model.jnt_type[joint]
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                posed.qpos[at : at + 2] += _LIE * rng.normal(size=2)
            elif kind == mujoco.mjtJoint.mjJNT_HINGE:
                posed.qpos[at] += _BEND * rng.normal()
            elif kind == mujoco.mjtJoint.mjJNT_SLIDE and model.jnt_limited[joint]:
                posed.qpos[at] = rng.uniform(*model.jnt_range[joint])
            if model.jnt_limited[joint]:
                posed.qpos[at] = np.clip(posed.qpos[at], *model.jnt_range[joint])
        mujoco.mj_fwdPosition(model, posed)  # with the cameras
        free = posed.ncon == 0 or posed.contact.dist.min() > -_DEEPEST
        if free and all(_has_room(model, posed, camera) for camera in range(model.ncam)):
            return posed
    return data


def _has_room(model: mujoco.MjModel, data: mujoco.MjData, camera: int) -> bool:
    """Return whether nothing but what carries a camera is where its housing is."""
    carrier, geom = int(model.cam_bodyid[camera]), np.zeros(1, np.int32)
    for direction in _DIRECTIONS:
        distance = mujoco.mj_ray(
            model, data, data.cam_xpos[camera], direction, None, 1, carrier, geom
        )
        if 0 <= distance < _HOUSING:
            body = model.geom_bodyid[geom[0]]
            if model.body_rootid[body] != model.body_rootid[carrier]:
                return False
    return True


def blending_weights(
    splats: GaussianSet, view: Viewpoint, config: RasterConfig
) -> tuple[csr_array, Projected]:
    """Return the weight of each splat in each pixel [H W, G], and the splats as they are seen.

    The picture is these weights times the colours, plus the background in what is left of 1. The
    same numbers as the reference renderer's, all splats at once instead of one after the other.
    """
    seen = project(splats, view.poses, view.camera, config)
    parts = [
        _alphas(seen, np.arange(start, min(start + _AT_ONCE, len(seen.depths))), config)
        for start in range(0, len(seen.depths), _AT_ONCE)
    ]
    shape = (config.height * config.width, len(splats.means))
    if not parts:
        return csr_array(shape), seen
    pixel, splat, alpha = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    # Splats are listed nearest first, and stay so within each pixel.
    order = np.argsort(pixel, kind="stable")
    pixel, splat, alpha = pixel[order], splat[order], alpha[order]
    passed = np.cumsum(np.log1p(-alpha))
    first = np.flatnonzero(np.diff(pixel, prepend=-1))
    before = np.repeat(passed[first] - np.log1p(-alpha[first]), np.diff(first, append=len(pixel)))
    rest = np.exp(passed - before)
    weight = np.where(rest > config.transmittance_min, rest / (1 - alpha) * alpha, 0.0)
    return csr_array((weight, (pixel, seen.index[splat])), shape=shape), seen


def _alphas(
    seen: Projected, splat: Int[np.ndarray, " S"], config: RasterConfig
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Return pixel, splat and alpha wherever one of some splats counts."""
    a, b, c = (seen.covars2d[splat][:, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    det, opacity = a * c - b * b, seen.opacities[splat]
    counts = (det > 0) & (opacity >= config.alpha_min)
    splat, a, b, c, det, opacity = (x[counts] for x in (splat, a, b, c, det, opacity))
    reach = np.sqrt(2 * np.log(opacity / config.alpha_min) * np.stack([a, c]))
    centre = seen.means2d[splat].T
    size = np.array([[config.width], [config.height]])
    low = np.clip(np.ceil(centre - reach - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(centre + reach - 0.5), -1, size - 1).astype(np.int64)
    width, height = (high - low + 1).clip(min=0)
    area = width * height
    row = np.repeat(np.arange(len(splat)), area)
    step = np.arange(len(row)) - np.repeat(np.cumsum(area) - area, area)
    down, right = np.divmod(step, width[row])
    x, y = low[0][row] + right, low[1][row] + down
    dx, dy = x + 0.5 - centre[0][row], y + 0.5 - centre[1][row]
    sigma = (0.5 * (c[row] * dx * dx + a[row] * dy * dy) - b[row] * dx * dy) / det[row]
    alpha = np.minimum(opacity[row] * np.exp(-sigma), config.alpha_max)
    kept = alpha >= config.alpha_min
    return (y * config.width + x)[kept], splat[row[kept]], alpha[kept]


def contributions(
    splats: GaussianSet, views: Sequence[Viewpoint], config: RasterConfig
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Return the sum of each splat's weights over all pixels, and how large a pixel is there [m].

    Where it is not seen the weight is 0 and the size that of the pixels of the others.
    """
    total, length = np.zeros(len(splats.means)), np.zeros(len(splats.means))
    for view in views:
        weights, seen = blending_weights(splats, view, config)
        added = np.asarray(weights.sum(axis=0))
        total += added
        length[seen.index] += added[seen.index] * seen.depths / view.camera.Ks[1, 1]
    seen_at_all = total > 0
    if not seen_at_all.any():
        raise InputError("no splat is seen by the model's cameras; is the scan where the model is?")
    typical = np.median(length[seen_at_all] / total[seen_at_all])
    return total, np.where(seen_at_all, length / np.maximum(total, 1e-30), typical)
