"""Small scenes of splats for tests: random clouds, and a jointed arm at a table with a box."""

from collections.abc import Sequence

import numpy as np

from scenes.contract.rotations import quats_to_matrices
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

# Bodies of the table scene; the arm's links are 1 to 7.
WORLD, LINKS, CUBE = 0, 7, 8
NUM_BODIES = 9
LINK_LENGTH = 0.13


def config(width: int = 64, height: int = 64, **changes) -> RasterConfig:
    return RasterConfig(width=width, height=height, **{"rgb_dtype": "float32", **changes})


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def multiply_quats(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Hamilton product (wxyz): first turned by q, then by p."""
    (pw, px, py, pz), (qw, qx, qy, qz) = np.moveaxis(p, -1, 0), np.moveaxis(q, -1, 0)
    parts = [
        pw * qw - px * qx - py * qy - pz * qz,
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
    ]
    return np.stack(parts, axis=-1)


def float32_set(means, quats, scales, opacities, sh, body_id=None) -> GaussianSet:
    """A GaussianSet of float32 arrays; what the tests compare with sees the same numbers."""
    count = len(means)
    body_id = np.zeros(count, np.int32) if body_id is None else np.asarray(body_id, np.int32)
    parts = (means, unit(np.asarray(quats, float)), scales, opacities, sh)
    return GaussianSet(*(np.asarray(part, np.float32) for part in parts), body_id)


def still_world(num_bodies: int = 1) -> BodyPoses:
    quat = np.tile(np.float32([1, 0, 0, 0]), (num_bodies, 1))
    return BodyPoses(np.zeros((num_bodies, 3), np.float32), quat)


def random_world(num_bodies: int, *, seed: int = 0, spread: float = 0.3) -> BodyPoses:
    """Bodies anywhere within `spread` [m] of the origin, turned any way; body 0 is the world."""
    rng = np.random.default_rng(seed)
    xpos, xquat = rng.uniform(-spread, spread, (num_bodies, 3)), rng.normal(size=(num_bodies, 4))
    xpos[0], xquat[0] = 0, (1, 0, 0, 0)
    return BodyPoses(np.float32(xpos), np.float32(unit(xquat)))


def random_colors(rng: np.random.Generator, count: int, degree: int) -> np.ndarray:
    """Coefficients whose colours stay mostly within [0, 1]."""
    sh = rng.normal(size=(count, (degree + 1) ** 2, 3)) * 0.15
    sh[:, 0] = rng.uniform(-1.5, 1.5, (count, 3))
    return sh


def cloud(count: int = 1000, *, degree: int = 0, num_bodies: int = 1, seed: int = 0) -> GaussianSet:
    """Anisotropic blobs of opacity 0.02 to 0.94 around the origin, on random bodies."""
    rng = np.random.default_rng(seed)
    return float32_set(
        rng.normal(size=(count, 3)) * 0.3,
        rng.normal(size=(count, 4)),
        np.exp(rng.uniform(np.log(0.004), np.log(0.08), (count, 3))),
        rng.uniform(0.02, 0.94, count),
        random_colors(rng, count, degree),
        rng.integers(0, num_bodies, count),
    )


def look_at(eye, target=(0.0, 0.0, 0.0), *, roll: float = 0.0) -> np.ndarray:
    """World-to-camera matrix of a camera at `eye` [m] that sees `target` in its centre."""
    ahead = unit(np.asarray(target, float) - eye)
    right = unit(np.cross(ahead, (0.0, 0.0, 1.0)))
    axes = np.stack([right, np.cross(ahead, right), ahead])
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    view = np.eye(4)
    view[:3, :3] = turn @ axes
    view[:3, 3] = -view[:3, :3] @ np.asarray(eye, float)
    return view


def pinhole(size: RasterConfig, *, fov: float = 60.0, stretch: float = 1.0, offset=(0.0, 0.0)):
    """Intrinsics [px]: `fov` [deg] across the height, fx = stretch * fy."""
    fy = size.height / 2 / np.tan(np.radians(fov) / 2)
    center = size.width / 2 + offset[0], size.height / 2 + offset[1]
    return np.array([[stretch * fy, 0, center[0]], [0, fy, center[1]], [0, 0, 1]])


def cameras(size: RasterConfig, eyes: Sequence = ((1.3, -0.9, 0.6),), **intrinsics) -> CameraBatch:
    """Cameras at `eyes` [C, 3] that look at the origin."""
    views = np.stack([look_at(eye) for eye in eyes])
    Ks = np.tile(pinhole(size, **intrinsics), (len(eyes), 1, 1))
    return CameraBatch(np.float32(views), np.float32(Ks))


# ---------------------------------------------------------------------------------------------
# An arm of seven links and a cube (moving) at a table with two walls and a box (static).


def table_scene(count: int = 10_000, *, degree: int = 0, seed: int = 0) -> GaussianSet:
    """Flat splats on all surfaces, 65 % of them on things that never move."""
    rng = np.random.default_rng(seed)
    still, moving = int(count * 0.65), count - int(count * 0.65)
    walls = [
        _box((0.0, 0.0, -0.02), (0.6, 0.6, 0.02), WORLD, (0.75, 0.6, 0.4)),
        _box((0.0, 0.62, 0.35), (0.6, 0.02, 0.37), WORLD, (0.5, 0.6, 0.7)),
        _box((-0.62, 0.0, 0.35), (0.02, 0.6, 0.37), WORLD, (0.7, 0.7, 0.65)),
        _box((0.25, -0.12, 0.17), (0.05, 0.14, 0.17), WORLD, (0.2, 0.5, 0.25)),
    ]
    arm = [
        _box((0.0, 0.0, LINK_LENGTH / 2), (0.04, 0.035, LINK_LENGTH / 2), i + 1, _link_color(i))
        for i in range(LINKS)
    ]
    cube = [_box((0.0, 0.0, 0.0), (0.03, 0.03, 0.03), CUBE, (0.85, 0.15, 0.1))]
    parts = _surfels(rng, walls, still) + _surfels(rng, arm + cube, moving)
    means, quats, scales, opacities, colors, body_id = (
        np.concatenate(x) for x in zip(*parts, strict=True)
    )
    sh = random_colors(rng, len(means), degree) * (0.3 if degree else 0.0)
    sh[:, 0] = (colors - 0.5) / 0.28209479177387814
    return float32_set(means, quats, scales, opacities, sh, body_id)


def table_poses(angles: Sequence[float] = (0.4, 0.5, 0.5, 0.4, 0.3, 0.2, 0.2)) -> BodyPoses:
    """Poses of a world: the arm bent by `angles` [rad], the first about the vertical."""
    xpos, rotation = [np.zeros(3)], [np.eye(3)]
    at, turned = np.array([-0.15, 0.05, 0.0]), np.eye(3)
    for i, angle in enumerate(angles):
        turned = turned @ _turn(angle, axis=2 if i == 0 else 1)
        xpos.append(at)
        rotation.append(turned)
        at = at + turned[:, 2] * LINK_LENGTH
    xpos.append(np.array([0.1, 0.2, 0.03]))
    rotation.append(_turn(0.5, axis=2))
    return BodyPoses(np.float32(xpos), np.float32([_quat(r) for r in rotation]))


def table_static() -> np.ndarray:
    return np.arange(NUM_BODIES) == WORLD


def table_camera(size: RasterConfig, eyes: Sequence = ((1.0, -0.7, 0.55),)) -> CameraBatch:
    views = np.stack([look_at(eye, (0.0, 0.05, 0.2)) for eye in eyes])
    Ks = np.tile(pinhole(size, fov=50.0), (len(eyes), 1, 1))
    return CameraBatch(np.float32(views), np.float32(Ks))


def _link_color(i: int) -> tuple[float, float, float]:
    return (0.9, 0.9, 0.92) if i % 2 else (0.25, 0.27, 0.3)


def _box(center, half, body: int, color) -> tuple:
    return np.array(center), np.array(half), body, np.array(color)


def _surfels(rng: np.random.Generator, boxes: Sequence, count: int) -> list[tuple]:
    """Share `count` among the boxes by their area."""
    areas = np.array([4 * (h[0] * h[1] + h[1] * h[2] + h[2] * h[0]) * 2 for _, h, *_ in boxes])
    parts = areas**0.75
    shares = np.floor(count * parts / parts.sum()).astype(int)
    shares[0] += count - shares.sum()
    return [
        _box_surfels(rng, box, n, area) for box, n, area in zip(boxes, shares, areas, strict=True)
    ]


def _box_surfels(rng: np.random.Generator, box: tuple, count: int, area: float) -> tuple:
    center, half, body, color = box
    faces = np.array([half[1] * half[2], half[2] * half[0], half[0] * half[1]]).repeat(2)
    face = np.searchsorted(np.cumsum(faces / faces.sum()), (np.arange(count) + 0.5) / count)
    axis = face // 2
    # Evenly spread (Roberts' R3 sequence), so that flat splats of little overlap leave no holes.
    at = (np.arange(count)[:, None] * [0.8191725134, 0.6710436067, 0.5497004779]) % 1 * 2 - 1
    at[np.arange(count), axis] = np.where(face % 2, 1.0, -1.0)
    normal = np.eye(3)[axis] * at
    sigma = 0.5 * np.sqrt(area / count)
    # Thin along the normal: the splat's own x axis, turned to the face's axis.
    quats = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, -1, 0]], float)[axis]
    scales = np.tile([0.05 * sigma, sigma, sigma], (count, 1))
    shade = 0.75 + 0.25 * (normal @ unit(np.array([0.5, -0.4, 0.8])))[:, None]
    checks = 0.85 + 0.15 * (np.floor((center + at * half) / 0.1).sum(-1, keepdims=True) % 2)
    colors = color * shade * checks
    opacities = np.full(count, 0.94)
    return center + at * half, quats, scales, opacities, colors, np.full(count, body)


def _turn(angle: float, *, axis: int) -> np.ndarray:
    quat = np.zeros(4)
    quat[0], quat[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return quats_to_matrices(quat)


def _quat(matrix: np.ndarray) -> np.ndarray:
    """Quaternion of a rotation by less than half a turn."""
    w = np.sqrt(max(1 + np.trace(matrix), 1e-12)) / 2
    m = matrix
    return np.array(
        [w, *(np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / (4 * w))]
    )
