"""A picture that shows a person whether a scan lies on its model: its edges drawn over the scan."""

from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from splat_render.assets.bake import scene_samples
from splat_render.assets.surface import in_world
from splat_render.backend import choose_backend
from splat_render.cameras import intrinsics
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

_SIZE = 640  # [px]
_FOVY = 40.0  # [deg]
_SIDES = ((1.0, -1.0, 0.6), (-0.2, 1.4, 0.9))  # from where it is looked at: right front, left
_POINTS = 60_000  # on the model
_STAMP = 3  # [px] half the side of a point
_EDGE = (1.0, 0.0, 1.0)  # a colour that no cell has
_ROOM = 1.3  # of the points' radius: what stands further out is not drawn before them
_SKY = (0.1, 0.1, 0.1)


def draw_overlay(path: Path, scan: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Write a .png of a scan in the world from two sides, with the edges of what can move."""
    from matplotlib.image import imsave  # slow to import

    samples = scene_samples(model, data, points=_POINTS)
    moving = samples.body_id > 0 if (samples.body_id > 0).any() else samples.body_id >= 0
    owner = samples.body_id[moving]
    points = in_world(samples.points[moving], owner, data)
    cameras, near = _cameras(points)
    still = BodyPoses(jnp.zeros((1, 3)), jnp.array([[1.0, 0, 0, 0]]))
    config = RasterConfig(width=_SIZE, height=_SIZE, color=_SKY, rgb_dtype="float32", near=near)
    pictures = np.array(choose_backend().backend.rasterize(scan, still, cameras, config).rgb)
    for picture, viewmat, K in zip(
        pictures, *map(np.asarray, (cameras.viewmats, cameras.Ks)), strict=True
    ):
        picture[_edges(_bodies(points, owner, viewmat, K))] = _EDGE
    imsave(path, np.concatenate(list(np.clip(pictures, 0, 1)), axis=1))


def _cameras(points: Float[np.ndarray, "N 3"]) -> tuple[CameraBatch, float]:
    """Cameras that have all the points in their pictures, and from where on they see [m].

    A wall between them and the points is not drawn.
    """
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = np.linalg.norm(points - centre, axis=1).max()
    distance = 1.1 * radius / np.sin(np.radians(_FOVY / 2))
    viewmats = np.stack([_look(centre, np.array(side), distance) for side in _SIDES])
    Ks = np.tile(intrinsics(_FOVY, _SIZE, _SIZE), (len(_SIDES), 1, 1))
    batch = CameraBatch(jnp.asarray(viewmats, jnp.float32), jnp.asarray(Ks))
    return batch, float(distance - _ROOM * radius)


def _look(
    target: Float[np.ndarray, " 3"], side: Float[np.ndarray, " 3"], distance: float
) -> Float[np.ndarray, "4 4"]:
    ahead = -side / np.linalg.norm(side)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ (target - distance * ahead)
    return viewmat


def _bodies(
    points: Float[np.ndarray, "N 3"],
    owner: Int[np.ndarray, " N"],
    viewmat: Float[np.ndarray, "4 4"],
    K: Float[np.ndarray, "3 3"],
) -> Int[np.ndarray, "H W"]:
    """Return the nearest body in every pixel, each point a square; 0 where there is none."""
    seen = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    column, row = (seen @ K.T)[:, :2].T / seen[:, 2]
    stamp = np.arange(-_STAMP, _STAMP + 1)
    rows, columns = np.broadcast_arrays(
        row.astype(int)[:, None, None] + stamp[:, None], column.astype(int)[:, None, None] + stamp
    )
    inside = (rows >= 0) & (rows < _SIZE) & (columns >= 0) & (columns < _SIZE)
    depth = np.broadcast_to(seen[:, 2, None, None], rows.shape)[inside]
    nearest_last = np.argsort(-depth, kind="stable")
    bodies = np.zeros((_SIZE, _SIZE), int)
    owners = np.broadcast_to(owner[:, None, None] + 1, rows.shape)[inside]
    bodies[rows[inside][nearest_last], columns[inside][nearest_last]] = owners[nearest_last]
    return bodies


def _edges(bodies: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    edge = np.zeros(bodies.shape, bool)
    edge[1:] |= bodies[1:] != bodies[:-1]
    edge[:, 1:] |= bodies[:, 1:] != bodies[:, :-1]
    return edge
