"""A scan of a desk without the robot: how large it is, where the table is, where the robot stands.

    python -m splat_render.assets.place SCAN.ply --model scene.xml --out my_scene \\
        --length AX AY AZ  BX BY BZ  0.60 --base X Y Z --front X Y Z

The scan becomes the world of the scene; the robot and all objects are simulated and baked. See
docs/scans.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges
from splat_render.assets.align import OVERLAY, load_model
from splat_render.assets.bake import pose, scene_samples
from splat_render.assets.clean_scan import MARGIN, solid_part
from splat_render.assets.load import load_splats
from splat_render.assets.overlay import draw_overlay
from splat_render.assets.scan import save_scan
from splat_render.assets.similarity import Similarity
from splat_render.assets.splat_sets import move_splats, take
from splat_render.assets.surface import in_world
from splat_render.assets.thin_scan import KEEP_ALL, ThinOptions, thin_if_asked
from splat_render.types import GaussianSet

LENGTH_LIMIT = 0.05  # share by which two lengths may disagree about the scale
ON_PLANE = 0.01  # [m]
PLANE_REACH = 0.8  # [m] around the base: further out the plane may be another one
SHARE_LIMIT = 0.3  # of the splats within reach that must lie on the plane
RMS_LIMIT = 0.006  # [m] of those on the plane; evenly spread in 1 cm they would have 5.8 mm
BASE_LIMIT = 0.03  # [m] of the base's point from the plane
_TRIES = 500  # planes through three points
_POINTS = 20_000  # of the scan; more changes nothing
_HIGH = 0.03  # [m] above the plane: things on the table, not the table
_CLEARLY = 1.5  # times as many splats on one side as on the other
_SURFACE_POINTS = 20_000
_SIZES = (0.2, 50.0)  # [m] that a desk with its surroundings can have
_SEEN = 0.1  # opacity of a splat that lies on a surface

Point = tuple[float, float, float]
Length = tuple[float, float, float, float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """The plane that the robot stands on, in the scan's frame.

    Attributes:
        point: on it.
        normal: unit vector, up.
        share: of the splats near the base that lie within 1 cm of it.
        rms: of those [m].
    """

    point: Float[np.ndarray, " 3"]
    normal: Float[np.ndarray, " 3"]
    share: float
    rms: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Placement:
    """A scan with a place for the robot.

    Attributes:
        motion: scan to world.
        plane: that it stands on.
        splats: in the world, all on the world's body.
        floaters: number of scan splats that are faint, alone or outside the box.
        in_the_way: number of splats left out where the robot stands.
    """

    motion: Similarity
    plane: Plane
    splats: GaussianSet
    floaters: int
    in_the_way: int


def scale_of(lengths: Float[np.ndarray, "L 7"]) -> float:
    """Return metres per unit of the scan; InputError where lengths disagree or are none.

    Args:
        lengths: rows of two points of the scan and how far apart they are [m].
    """
    if not len(lengths):
        raise InputError(
            "--length is missing: two points of the scan and how far apart they are [m], for "
            "example the corners of a printed board; give two or more to have them compared"
        )
    apart = np.linalg.norm(lengths[:, 3:6] - lengths[:, :3], axis=1)
    if not (np.isfinite(lengths).all() and (apart > 0).all() and (lengths[:, 6] > 0).all()):
        raise InputError("--length: needed two different points and a distance above 0 [m]")
    scales = lengths[:, 6] / apart
    scale = float(np.median(scales))
    worst = float(np.max(np.abs(scales / scale - 1)))
    if worst > LENGTH_LIMIT:
        each = ", ".join(f"{one:.4g}" for one in scales)
        raise InputError(
            f"the lengths disagree about the scale by {worst:.0%} ({each} m per unit), allowed: "
            f"{LENGTH_LIMIT:.0%}; is one measured or clicked in another place?"
        )
    return scale


def find_plane(
    points: Float[np.ndarray, "N 3"],
    base: Float[np.ndarray, " 3"],
    *,
    scale: float,
    above: Float[np.ndarray, " 3"] | None = None,
) -> Plane:
    """Return the plane that most splats near the base lie on (RANSAC, Fischler and Bolles 1981).

    Args:
        points: of the scan.
        base: near the plane, in the scan.
        scale: metres per unit.
        above: any point above the plane, in the scan; None takes the side with more splats.

    Raises:
        InputError: too few splats lie on a plane, the base is not on it, or which side is up is
            not clear.
    """
    around = (points - base) * scale
    near = around[np.linalg.norm(around, axis=1) < PLANE_REACH]
    if len(near) < 100:
        raise InputError(
            f"{len(near)} splats lie within {PLANE_REACH} m of --base, needed: 100; check the "
            "point and --length"
        )
    rng = np.random.default_rng(0)
    near = near[rng.permutation(len(near))[:_POINTS]]
    normal, offset = _most_common_plane(near, rng)
    for _ in range(3):
        on_it = np.abs(near @ normal - offset) < ON_PLANE
        middle = near[on_it].mean(axis=0)
        normal = np.linalg.svd(near[on_it] - middle, full_matrices=False)[2][2]
        offset = float(normal @ middle)
    height = near @ normal - offset
    on_it = np.abs(height) < ON_PLANE
    share, rms = float(on_it.mean()), float(np.sqrt(np.mean(height[on_it] ** 2)))
    if share < SHARE_LIMIT or rms > RMS_LIMIT:
        raise InputError(
            f"no table at --base: {share:.0%} of the splats within {PLANE_REACH} m lie on one "
            f"plane with {1e3 * rms:.1f} mm rms, needed: {SHARE_LIMIT:.0%} and at most "
            f"{1e3 * RMS_LIMIT:.1f} mm; crop the scan with --box, or check --base and --length"
        )
    if abs(offset) > BASE_LIMIT:
        raise InputError(
            f"--base is {1e3 * abs(offset):.0f} mm off the plane of the table, allowed: "
            f"{1e3 * BASE_LIMIT:.0f} mm; pick it on the table where the robot stands"
        )
    side = (
        _up_side(around @ normal - offset)
        if above is None
        else (above - base) @ normal * scale - offset
    )
    up = normal * np.sign(side)
    return Plane(point=base + normal * offset / scale, normal=up, share=share, rms=rms)


def _most_common_plane(
    points: Float[np.ndarray, "N 3"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " 3"], float]:
    """Return normal and offset [m] of the plane through three points with most others on it."""
    best, result = -1, (np.array([0.0, 0.0, 1.0]), 0.0)
    for a, b, c in points[rng.integers(len(points), size=(_TRIES, 3))]:
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-9:
            continue
        normal /= length
        count = int(np.sum(np.abs(points @ normal - a @ normal) < ON_PLANE))
        if count > best:
            best, result = count, (normal, float(a @ normal))
    return result


def _up_side(height: Float[np.ndarray, " N"]) -> float:
    """Return the sign of the side that things stand on."""
    over, under = int(np.sum(height > _HIGH)), int(np.sum(height < -_HIGH))
    if max(over, under) < _CLEARLY * (min(over, under) + 1):
        raise InputError(
            f"which side of the table is up is not clear ({over} and {under} splats); give "
            "--above X Y Z, any point of the scan above it"
        )
    return 1.0 if over > under else -1.0


def place_scan(
    scan: GaussianSet,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    scale: float,
    base: Float[np.ndarray, " 3"],
    front: Float[np.ndarray, " 3"] | None = None,
    above: Float[np.ndarray, " 3"] | None = None,
    box: tuple[float, ...] | None = None,
) -> Placement:
    """Return a scan as the world that the model's robot stands in.

    Args:
        scan: in any frame and unit.
        model, data: with the robot where it stands.
        scale: metres per unit of the scan.
        base: where the robot's base stands, in the scan.
        front: what it looks at, in the scan; None is the middle of the table.
        above: as of `find_plane`.
        box: low and high corner of what to take of the scan, in its frame.

    Raises:
        InputError: as `find_plane`; or a scan of an impossible size, or the two points are one.
    """
    kept = take(scan, np.flatnonzero(solid_part(scan, box=box)))
    points = np.asarray(kept.means, np.float64)
    solid = points[np.asarray(kept.opacities) > _SEEN]
    size = scale * float(np.linalg.norm(np.ptp(np.quantile(solid, [0.05, 0.95], axis=0), axis=0)))
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise InputError(
            f"the scan would be {size:.3g} m large, allowed: {_SIZES[0]} to {_SIZES[1]} m; is "
            "--length in metres?"
        )
    plane = find_plane(solid, base, scale=scale, above=above)
    ahead = _middle_of_table(solid, plane, scale) if front is None else front
    motion = _onto_base(plane, scale, ahead, model, data)
    placed = move_splats(kept, motion)
    world = placed.replace(body_id=jnp.zeros_like(placed.body_id))
    free = ~_in_the_way(np.asarray(world.means, np.float64), model, data)
    return Placement(
        motion=motion,
        plane=plane,
        splats=take(world, np.flatnonzero(free)),
        floaters=len(scan.means) - len(points),
        in_the_way=int((~free).sum()),
    )


def _middle_of_table(
    points: Float[np.ndarray, "N 3"], plane: Plane, scale: float
) -> Float[np.ndarray, " 3"]:
    offset = (points - plane.point) * scale
    on_it = np.linalg.norm(offset, axis=1) < PLANE_REACH
    on_it &= np.abs(offset @ plane.normal) < ON_PLANE
    return points[on_it].mean(axis=0)


def _base_body(model: mujoco.MjModel) -> int:
    """Return the body that the robot stands on: the root of its first hinge or slide."""
    moving = np.flatnonzero(
        (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
        | (model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE)
    )
    if not len(moving):
        raise InputError("the model has no hinge and no slide, so no robot to place")
    return int(model.body_rootid[model.jnt_bodyid[moving[0]]])


def _onto_base(
    plane: Plane,
    scale: float,
    front: Float[np.ndarray, " 3"],
    model: mujoco.MjModel,
    data: mujoco.MjData,
) -> Similarity:
    """Return scan to world: the plane's point to the robot's base, front to where that looks."""
    ahead = front - plane.point
    ahead = ahead - (ahead @ plane.normal) * plane.normal
    if np.linalg.norm(ahead) * scale < MARGIN:
        raise InputError("--front is above --base; pick a point that the robot looks at")
    ahead /= np.linalg.norm(ahead)
    in_scan = np.stack([ahead, np.cross(plane.normal, ahead), plane.normal], axis=1)
    body = _base_body(model)
    looks = data.xmat[body].reshape(3, 3)[:, 0] * (1.0, 1.0, 0.0)
    looks /= np.linalg.norm(looks)
    up = np.array([0.0, 0.0, 1.0])
    rotation = np.stack([looks, np.cross(up, looks), up], axis=1) @ in_scan.T
    return Similarity(scale, rotation, data.xpos[body] - scale * rotation @ plane.point)


def _in_the_way(
    points: Float[np.ndarray, "N 3"], model: mujoco.MjModel, data: mujoco.MjData
) -> Bool[np.ndarray, " N"]:
    """Return which points are where the robot or an object is, the table under them not."""
    samples = scene_samples(model, data, points=_SURFACE_POINTS)
    moving = samples.body_id > 0
    surface = in_world(samples.points[moving], samples.body_id[moving], data)
    table = data.xpos[_base_body(model)][2]
    return (cKDTree(surface).query(points)[0] < MARGIN) & (points[:, 2] > table + MARGIN / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Put the robot of a MuJoCo model into a scan without it; docs/scans.md goes through it.

    Attributes:
        scan: .ply (3DGS, plain or compressed), .spz or .splat.
        model: MJCF or .mjb of the scene; its robot stands on the table.
        out: folder to write.
        length: two points of the scan and how far apart they are [m]; several are compared.
        base: point of the scan where the robot's base stands.
        front: point of the scan that the robot looks at; the middle of the table if left out.
        above: any point of the scan above the table, where which side is up is not clear.
        box: low and high corner of what to take of the scan, in its frame.
        thin: how many splats are kept.
        strict: refuse a scan of which splats would be left out or mended.
    """

    scan: tyro.conf.Positional[Path]
    model: Path
    out: Path
    length: tyro.conf.UseAppendAction[tuple[Length, ...]] = ()
    base: Point
    front: Point | None = None
    above: Point | None = None
    box: tuple[float, float, float, float, float, float] | None = None
    thin: tyro.conf.OmitArgPrefixes[ThinOptions] = KEEP_ALL
    strict: tyro.conf.FlagCreatePairsOff[bool] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Place a robot in a scan from the command line; returns the exit status."""
    options = tyro.cli(PlaceOptions, prog="python -m splat_render.assets.place", args=arguments)
    return guarded(lambda: _place(options))


def _place(options: PlaceOptions) -> int:
    check_ranges(options, flat=("thin",))
    scale = scale_of(np.array(options.length).reshape(-1, 7))
    model = load_model(options.model)
    data = pose(model)
    done = place_scan(
        load_splats(options.scan, strict=options.strict),
        model,
        data,
        scale=scale,
        base=np.array(options.base),
        front=None if options.front is None else np.array(options.front),
        above=None if options.above is None else np.array(options.above),
        box=options.box,
    )
    splats, thinned = thin_if_asked(done.splats, model, data, options.thin)
    save_scan(options.out, splats, model)
    picture = options.out / OVERLAY
    draw_overlay(picture, done.splats, model, data)
    sys.stdout.write(
        f"scale {scale:.5f} m per unit, plane of the table: {done.plane.share:.0%} of the splats "
        f"within {PLANE_REACH} m of the base on it, {1e3 * done.plane.rms:.1f} mm rms\n"
        f"{done.floaters} floaters and {done.in_the_way} splats where robot and objects are left "
        f"out, {len(splats.means)} splats of the world written\n{thinned}"
        f"{picture}: the robot's edges on the scan, look at it: does it stand on the table, and "
        "look the right way?\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
