"""The scene that all renderers are measured on: a jointed arm and a cube at a table with two walls.

Flat splats on every surface, 35 % of them on bodies that move; numpy only, because peers run it in
virtual environments of their own.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from scenes.contract.rotations import multiply_quats

LINKS = 7
CUBE = LINKS + 1
MOVING = 0.35
_LENGTH = 0.14  # of a link [m]
_OVERLAP = 0.55  # standard deviation of a splat in parts of its distance to the next
_THICKNESS = 0.05  # of a splat, in parts of its width
_EYE, _TARGET = (1.2, -1.0, 0.9), (0.0, 0.0, 0.3)  # of the camera [m]


class Splats(NamedTuple):
    """The fields of `splat_render.types.GaussianSet`.

    Attributes:
        means: in the body's frame [m].
        quats: in the body's frame (wxyz).
        scales: standard deviations [m].
        opacities: in [0, 1].
        sh: spherical harmonics of the colour minus 0.5.
        body_id: row of the poses.
    """

    means: Float[np.ndarray, "G 3"]
    quats: Float[np.ndarray, "G 4"]
    scales: Float[np.ndarray, "G 3"]
    opacities: Float[np.ndarray, " G"]
    sh: Float[np.ndarray, "G K 3"]
    body_id: Int[np.ndarray, " G"]


def make_splats(count: int, degree: int) -> Splats:
    """Return `count` splats spread over the boxes below, by their surface within each group."""
    rng = np.random.default_rng(0)
    moving = round(count * MOVING)
    still = [
        ((0.0, 0.0, -0.01), (0.8, 0.8, 0.01), 0),
        ((0.81, 0.0, 0.6), (0.01, 0.8, 0.6), 0),
        ((0.0, 0.81, 0.6), (0.8, 0.01, 0.6), 0),
    ]
    arm = [((0.0, 0.0, _LENGTH / 2), (0.05, 0.05, _LENGTH / 2), i + 1) for i in range(LINKS)]
    cube = ((0.0, 0.0, 0.0), (0.03, 0.03, 0.03), CUBE)
    parts = [_cover(rng, still, count - moving), _cover(rng, [*arm, cube], moving)]
    means, quats, scales, bodies = (np.concatenate(x) for x in zip(*parts, strict=True))
    sh = rng.normal(size=(count, (degree + 1) ** 2, 3)) * 0.1
    sh[:, 0] = rng.normal(size=(count, 3)) * 0.6
    return Splats(
        means=means.astype(np.float32),
        quats=quats.astype(np.float32),
        scales=scales.astype(np.float32),
        opacities=np.full(count, 0.9, np.float32),
        sh=sh.astype(np.float32),
        body_id=bodies.astype(np.int32),
    )


def make_poses(num: int) -> tuple[Float[np.ndarray, "N B 3"], Float[np.ndarray, "N B 4"]]:
    """Return positions [m] and quaternions (wxyz) of all bodies in worlds whose arms differ."""
    rng = np.random.default_rng(1)
    xpos, xquat = np.zeros((num, CUBE + 1, 3)), np.zeros((num, CUBE + 1, 4))
    xquat[:, [0, CUBE], 0] = 1.0
    xpos[:, CUBE] = (0.2, 0.0, 0.03)
    xpos[:, CUBE, :2] += rng.uniform(-0.1, 0.1, (num, 2))
    at, turned = np.tile([-0.4, 0.0, 0.0], (num, 1)), np.tile([1.0, 0.0, 0.0, 0.0], (num, 1))
    for link in range(1, LINKS + 1):
        about_z, about_y = rng.uniform(-0.6, 0.6, num), rng.uniform(-0.2, 0.5, num)
        turned = multiply_quats(multiply_quats(turned, _turn(about_z, 3)), _turn(about_y, 2))
        xpos[:, link], xquat[:, link] = at, turned
        at = at + _LENGTH * _third_axis(turned)
    return xpos.astype(np.float32), xquat.astype(np.float32)


def make_camera(size: int) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"]]:
    """Return the world-to-camera matrix (OpenCV) and intrinsics of a square picture [px]."""
    ahead = np.subtract(_TARGET, _EYE)
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    view = np.eye(4)
    view[:3, :3] = right, np.cross(ahead, right), ahead
    view[:3, 3] = -view[:3, :3] @ _EYE
    K = np.array([[1.1 * size, 0, size / 2], [0, 1.1 * size, size / 2], [0, 0, 1]])
    return view.astype(np.float32), K.astype(np.float32)


def _cover(rng: np.random.Generator, boxes: list, count: int) -> tuple[np.ndarray, ...]:
    """Return means, quats, scales and bodies of splats on boxes (centre, half sizes, body)."""
    centers, halves, bodies = (np.array(x) for x in zip(*boxes, strict=True))
    # Two faces each, across x, y and z [m^2].
    areas = 8 * halves[:, [1, 2, 0]] * halves[:, [2, 0, 1]]
    shares = areas.ravel() / areas.sum()
    box, axis = np.divmod(np.sort(rng.choice(areas.size, count, p=shares)), 3)
    at = rng.uniform(-1.0, 1.0, (count, 3))
    at[np.arange(count), axis] = rng.choice([-1.0, 1.0], count)
    width = _OVERLAP * np.sqrt(areas.sum() / max(count, 1))
    scales = np.full((count, 3), width)
    scales[np.arange(count), axis] *= _THICKNESS
    quats = np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))
    return centers[box] + at * halves[box], quats, scales, bodies[box]


def _turn(angle: Float[np.ndarray, " N"], axis: int) -> Float[np.ndarray, "N 4"]:
    quat = np.zeros((len(angle), 4))
    quat[:, 0], quat[:, axis] = np.cos(angle / 2), np.sin(angle / 2)
    return quat


def _third_axis(quat: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 3"]:
    w, x, y, z = quat.T
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
