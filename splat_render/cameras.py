"""From cameras mounted on bodies (MuJoCo) to the matrices that renderers take (OpenCV)."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from scenes.contract.rotations import multiply_quats, quats_to_matrices
from scenes.contract.specs import CameraSpec
from splat_render.types import BodyPoses, CameraBatch

# MuJoCo's cameras look along -z with +y up, OpenCV's along +z with +y down.
_OPENCV_FROM_MUJOCO = np.array([1.0, -1.0, -1.0], np.float32)
# A GPU would else multiply in TF32, ten bits of mantissa.
_HOLD = jax.lax.Precision.HIGHEST


@struct.dataclass
class CameraRig:
    """C cameras fixed to bodies.

    Attributes:
        body_id: of the body that each is on.
        pos: in the body's frame [m].
        quat: in the body's frame (wxyz), MuJoCo's axes.
        Ks: intrinsics [px].
    """

    body_id: Int[Array, " C"]
    pos: Float[Array, "C 3"]
    quat: Float[Array, "C 4"]
    Ks: Float[Array, "C 3 3"]


def make_rig(
    cameras: Sequence[CameraSpec], body_ids: Mapping[str, int], *, width: int, height: int
) -> CameraRig:
    """Return mounted cameras that draw at width x height [px] what `fovy` spans vertically.

    Args:
        cameras: where they are.
        body_ids: row of `BodyPoses` by body name; a camera without a body is at row 0.
        width, height: of the picture; its vertical field of view is the camera's.
    """
    names = [camera.body for camera in cameras]
    return CameraRig(
        body_id=jnp.asarray([0 if n is None else body_ids[n] for n in names], jnp.int32),
        pos=jnp.asarray([camera.pos for camera in cameras], jnp.float32).reshape(-1, 3),
        quat=jnp.asarray([camera.quat for camera in cameras], jnp.float32).reshape(-1, 4),
        Ks=jnp.asarray([intrinsics(c.fovy, width, height) for c in cameras]).reshape(-1, 3, 3),
    )


def intrinsics(fovy: float, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Pinhole matrix [px] of square pixels: f = height / 2 / tan(fovy / 2), fovy in [deg]."""
    focal = height / 2.0 / math.tan(math.radians(fovy) / 2.0)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)


def axes_towards(
    position: Sequence[float] | Float[np.ndarray, " 3"],
    target: Sequence[float] | Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "3 3"]:
    """Return a camera's directions right, up and back as columns.

    Args:
        position: of the camera [m].
        target: a point in the middle of its picture [m]; the world's +z is up in the picture.
    """
    back = np.subtract(position, target)
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=-1)


def jittered(
    rig: CameraRig, count: int, *, position: float, angle: float, rng: np.random.Generator
) -> CameraRig:
    """Return a rig `count` times (leaves [count, C, ...]), mounted elsewhere; the first is not.

    Args:
        rig: cameras [C].
        count: how many.
        position: standard deviation of the shift along each axis [m].
        angle: standard deviation of the turn about each axis [deg]; small.
        rng: draws them.
    """
    shape = (count, rig.body_id.shape[0], 3)
    shift = position * rng.normal(size=shape)
    turn = np.radians(angle) * rng.normal(size=shape)
    shift[0], turn[0] = 0.0, 0.0
    small = np.concatenate([np.ones((*shape[:2], 1)), 0.5 * turn], axis=-1)
    small /= np.linalg.norm(small, axis=-1, keepdims=True)
    quat = multiply_quats(np.asarray(rig.quat), small)
    repeat = lambda x: jnp.broadcast_to(x, (count, *x.shape))  # noqa: E731
    return CameraRig(
        body_id=repeat(rig.body_id),
        pos=repeat(rig.pos) + jnp.asarray(shift, jnp.float32),
        quat=jnp.asarray(quat, jnp.float32),
        Ks=repeat(rig.Ks),
    )


def place(rig: CameraRig, poses: BodyPoses) -> CameraBatch:
    """Return the cameras of worlds [*n] whose bodies are at `poses`."""
    body_quat = poses.xquat[..., rig.body_id, :]
    turn = jnp.matmul(quats_to_matrices(body_quat), quats_to_matrices(rig.quat), precision=_HOLD)
    rotation = turn * _OPENCV_FROM_MUJOCO
    position = poses.xpos[..., rig.body_id, :] + _apply(quats_to_matrices(body_quat), rig.pos)
    inverse = jnp.swapaxes(rotation, -1, -2)
    top = jnp.concatenate([inverse, -_apply(inverse, position)[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*top.shape[:-2], 1, 4))
    viewmats = jnp.concatenate([top, bottom], axis=-2)
    return CameraBatch(viewmats, jnp.broadcast_to(rig.Ks, (*viewmats.shape[:-2], 3, 3)))


def _apply(matrix: Float[Array, "*n 3 3"], vector: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    return jnp.einsum("...ij,...j->...i", matrix, vector, precision=_HOLD)
