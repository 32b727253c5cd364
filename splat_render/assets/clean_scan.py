"""What a scan holds that no picture should: floaters, remnants of what has moved, and the holes.

Floaters are found much as in PCL's statistical outlier removal (Rusu et al. 2008): by how far a
splat's neighbours are, here compared with everyone's and with its own size.
"""

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scenes.contract.errors import InputError
from splat_render.assets.surface import drawn_geoms, join, sample_geom
from splat_render.types import GaussianSet

MARGIN = 0.02  # [m] around what can move, where the world's splats are remnants of it
_FAINT = 0.05  # opacity below which a splat is fog
_NEIGHBOURS = 12
_FAR = 3.0  # robust deviations of the neighbours' distance above its median
# Splats on surfaces have their neighbours within 12 of their own deviations; floaters of 50.
_ALONE = 15.0
_FILL_SPACING = 0.006  # [m] between the splats that close a hole
_FILL_POINTS = 200_000  # most points that are spread over one surface to find a hole
_AROUND = 24  # splats around a hole that give its colour
_FILL_OPACITY, _FILL_THICKNESS, _FILL_SPREAD = 0.98, 0.1, 1.0


def solid_part(
    splats: GaussianSet, *, box: tuple[float, ...] | None = None
) -> Bool[np.ndarray, " G"]:
    """Return which splats are neither faint nor alone, and within a box.

    Args:
        splats: of a scan, in any unit.
        box: low and high corner in the scan's frame; None is everywhere.
    """
    points = np.asarray(splats.means, np.float64)
    kept = np.asarray(splats.opacities) >= _FAINT
    if box is not None:
        kept &= ((points >= box[:3]) & (points <= box[3:])).all(axis=1)
        if not kept.any():
            raise InputError(f"no splat lies in the box {' '.join(f'{x:g}' for x in box)}")
    rest = np.flatnonzero(kept)
    if len(rest) <= _NEIGHBOURS:
        return kept
    distance = cKDTree(points[rest]).query(points[rest], _NEIGHBOURS + 1)[0][:, 1:].mean(axis=1)
    middle = np.median(distance)
    deviation = 1.4826 * np.median(np.abs(distance - middle))
    size = np.asarray(splats.scales)[rest].max(axis=1)
    kept[rest[(distance > middle + _FAR * deviation) & (distance > _ALONE * size)]] = False
    return kept


def fill_holes(
    room: GaussianSet,
    moving: Float[np.ndarray, "M 3"],
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    margin: float = MARGIN,
) -> GaussianSet | None:
    """Return splats on the world's surfaces where bodies stood or lay, coloured as around.

    Args:
        room: what is left of the world, in the world's frame.
        moving: points on the surfaces of the bodies, where they were [m].
        model, data: with the bodies there.
        margin: around them [m].

    None where nothing is missing.
    """
    if not (len(room.means) and len(moving)):
        return None
    around = cKDTree(np.asarray(room.means, np.float64))
    near = cKDTree(moving)
    rng = np.random.default_rng(0)
    world = [g for g in drawn_geoms(model) if model.geom_bodyid[g] == 0]
    parts = []
    for geom in world:
        pilot = sample_geom(model, geom, 1, rng)
        count = int(np.clip(2 * pilot.area[0] / _FILL_SPACING**2, 1, _FILL_POINTS))
        samples = sample_geom(model, geom, count, rng)
        gap, nearest = near.query(samples.points, distance_upper_bound=2 * margin)
        under = np.isfinite(gap)
        # Only what faces the body: the underside of a table is no hole.
        offset = moving[np.minimum(nearest, len(moving) - 1)] - samples.points
        under &= np.einsum("ni,ni->n", offset, samples.normals) > -margin / 4
        parts.append(samples.take(under))
    holes = join(parts)
    if not len(holes.points):
        return None
    holes = holes.take(around.query(holes.points)[0] > _FILL_SPACING)
    holes = holes.take(_thinned(holes.points, _FILL_SPACING))
    if not len(holes.points):
        return None
    nearest = around.query(holes.points, min(_AROUND, len(room.means)))[1].reshape(
        len(holes.points), -1
    )
    count = len(holes.points)
    sh = np.zeros((count, *np.shape(room.sh)[1:]), np.float32)
    # The median: among the neighbours are some that the object has shaded or coloured.
    sh[:, 0] = np.median(np.asarray(room.sh)[nearest, 0], axis=1)
    size = _FILL_SPREAD * _FILL_SPACING
    return GaussianSet(
        means=jnp.asarray(holes.points, jnp.float32),
        quats=jnp.asarray(_facing(holes.normals), jnp.float32),
        scales=jnp.tile(jnp.array([size, size, _FILL_THICKNESS * size], jnp.float32), (count, 1)),
        opacities=jnp.full(count, _FILL_OPACITY, jnp.float32),
        sh=jnp.asarray(sh),
        body_id=jnp.zeros(count, jnp.int32),
    )


def _thinned(points: Float[np.ndarray, "N 3"], spacing: float) -> Bool[np.ndarray, " N"]:
    """Return one point of each cell of a grid."""
    cells = np.unique(np.round(points / spacing).astype(np.int64), axis=0, return_index=True)[1]
    kept = np.zeros(len(points), bool)
    kept[cells] = True
    return kept


def _facing(normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    """Return orientations whose third axis is the normal."""
    aside = np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    first = np.cross(aside, normals)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    axes = np.stack([first, np.cross(normals, first), normals], axis=-1)
    return Rotation.from_matrix(axes).as_quat(scalar_first=True)
