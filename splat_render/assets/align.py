"""A user's scan onto a MuJoCo model: where it is, what belongs to which body, what is missing.

    python -m splat_render.assets.align SCAN.ply --model scene.xml --out my_scene \\
        --joints 0 0.2 0 -2 0 2.3 0.8 0.04 0.04 \\
        --pair SX SY SZ X Y Z --pair ... --pair ...

See docs/scans.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from splat_render.assets.alignment_checks import FitQuality, check_drift, check_fit, pair_rms
from splat_render.assets.bake import DEFAULT_BUDGET, pose, scene_samples, scene_splats
from splat_render.assets.clean_scan import MARGIN, fill_holes, solid_part
from splat_render.assets.load import load_splats
from splat_render.assets.overlay import draw_overlay
from splat_render.assets.scan import save_scan
from splat_render.assets.similarity import Similarity, fit_similarity
from splat_render.assets.splat_sets import concatenate, move_splats, take
from splat_render.assets.surface import Samples, in_world
from splat_render.assets.thin_scan import KEEP_ALL, ThinOptions, thin_if_asked
from splat_render.types import GaussianSet

GATE = 0.03  # [m] a splat further than this from every surface belongs to none
_SURFACE_POINTS = 40_000
_ICP_POINTS = 20_000  # of the scan; more changes nothing
_ROUNDS = 100
_TRIM = 0.8  # share of the closest pairs that count: noise, floaters, what the model lacks
_REACH = 0.1  # [m] pairs further apart are wrong whatever their share
_SETTLED = 1e-7  # [m] change of the residual between rounds
OVERLAY = "overlay.png"  # beside the .ply files that are written
_BEYOND = 0.05  # [rad], [m] that a joint may be read beyond its range
_SEEN = 0.1  # opacity of a splat that lies on a surface


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Alignment:
    """A scan on its bodies.

    Attributes:
        motion: scan to world.
        residual: root mean square of the trimmed pairs [m].
        splats: sorted by body, in body frames.
        floaters: number of scan splats that are faint, alone or outside the box.
        remnants: number of the world's around what can move.
        dropped: number of the others that are near no surface.
        filled: number of splats added.
        quality: how well the pairs, the points and each link fit.
    """

    motion: Similarity
    residual: float
    splats: GaussianSet
    floaters: int
    remnants: int
    dropped: int
    filled: int
    quality: FitQuality


def align_scan(
    scan: GaussianSet,
    pairs: Float[np.ndarray, "P 6"],
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    gate: float = GATE,
    keep_unknown: bool = False,
    budget: int = DEFAULT_BUDGET,
    box: tuple[float, ...] | None = None,
) -> Alignment:
    """Return a scan registered, cut into bodies, its gaps filled with baked splats.

    Args:
        scan: in any frame and unit.
        pairs: rows of a point in the scan and the same point in the world [m].
        model, data: with all bodies where they were during the scan.
        gate: [m] from the nearest surface.
        keep_unknown: give splats beyond the gate to the world (a room) instead of dropping them.
        budget: splats to bake for the gaps; 0 leaves them.
        box: low and high corner of what to take of the scan, in its frame; None takes all.

    Raises:
        InputError: too few pairs, pairs on a line or that do not fit each other, or a scan that
            does not lie on the model.
    """
    rms = pair_rms(pairs)
    whole, scan = len(scan.means), take(scan, np.flatnonzero(solid_part(scan, box=box)))
    samples = scene_samples(model, data, points=_SURFACE_POINTS)
    surface = in_world(samples.points, samples.body_id, data)
    centres = np.asarray(scan.means, np.float64)
    solid = centres[np.asarray(scan.opacities) > _SEEN]
    motion, residual = register(solid, surface, pairs)
    check_drift(pairs, motion)
    quality = check_fit(motion.apply(solid), surface, samples.body_id, model, rms=rms)
    body_id = segment(motion.apply(centres), samples, data, gate=gate)
    # What is near a body and not of it is its shadow, its fog or its rim: it would stay behind.
    moving = surface[samples.body_id > 0]
    remnant = (body_id <= 0) & _near(
        moving, motion.apply(centres), np.where(body_id, 2 * gate, MARGIN)
    )
    kept = np.flatnonzero(~remnant & ((body_id >= 0) | keep_unknown))
    placed = move_splats(take(scan, kept), motion)
    owner = body_id[kept].clip(min=0)
    splats = attach(placed, owner, data)
    room = take(placed, np.flatnonzero(owner == 0))
    floor = fill_holes(room, moving, model, data) if budget else None
    if floor is not None:
        splats = concatenate([splats, floor])
    missing = _unseen(splats, scene_splats(model, data.qpos, budget=budget)) if budget else None
    return Alignment(
        motion=motion,
        residual=residual,
        splats=splats if missing is None else concatenate([splats, missing]),
        floaters=whole - len(centres),
        remnants=int(remnant.sum()),
        dropped=len(centres) - len(kept) - int(remnant.sum()),
        filled=sum(0 if part is None else len(part.means) for part in (missing, floor)),
        quality=quality,
    )


def register(
    points: Float[np.ndarray, "N 3"],
    surface: Float[np.ndarray, "M 3"],
    pairs: Float[np.ndarray, "P 6"],
) -> tuple[Similarity, float]:
    """Return the similarity from scan points to surface points and its residual [m].

    The pairs give the start; then the closest 80 % of nearest neighbours are fitted until nothing
    changes (trimmed ICP, Chetverikov et al. 2002, with a scale).
    """
    motion, residual = fit_similarity(pairs[:, :3], pairs[:, 3:]), np.inf
    some = np.random.default_rng(0).permutation(len(points))[:_ICP_POINTS]
    tree = cKDTree(surface)
    for _ in range(_ROUNDS):
        distance, nearest = tree.query(motion.apply(points[some]), distance_upper_bound=_REACH)
        near = np.flatnonzero(np.isfinite(distance))
        if len(near) < 100:
            raise InputError(
                f"{len(near)} scan points lie within {_REACH} m of the model, needed: 100; check "
                "the pairs (scan first, then world in metres) and the joint angles"
            )
        best = near[np.argsort(distance[near])[: int(_TRIM * len(near))]]
        motion = fit_similarity(points[some][best], surface[nearest[best]])
        before, residual = residual, float(np.sqrt(np.mean(distance[best] ** 2)))
        if abs(before - residual) < _SETTLED:
            break
    return motion, residual


def segment(
    points: Float[np.ndarray, "N 3"],
    samples: Samples,
    data: mujoco.MjData,
    *,
    gate: float = GATE,
) -> Int[np.ndarray, " N"]:
    """Return the body of the nearest surface for each world point [m]; -1 beyond the gate."""
    surface = in_world(samples.points, samples.body_id, data)
    nearest = cKDTree(surface).query(points)[1]
    rotation = data.xmat.reshape(-1, 3, 3)[samples.body_id[nearest]]
    normal = np.einsum("nij,nj->ni", rotation, samples.normals[nearest])
    offset = points - surface[nearest]
    above = np.einsum("ni,ni->n", offset, normal)
    beside = np.linalg.norm(offset - above[:, None] * normal, axis=1)
    # Points on a large floor are far apart: the gate is wider along a surface than off it.
    near = (np.abs(above) <= gate) & (beside <= gate + 1.5 * np.sqrt(samples.area[nearest]))
    return np.where(near, samples.body_id[nearest], -1)


def attach(splats: GaussianSet, body_id: Int[np.ndarray, " G"], data: mujoco.MjData) -> GaussianSet:
    """Return splats that lie in the world in the frames of their bodies, sorted by body."""
    parts = []
    for body in np.unique(body_id):
        own = np.flatnonzero(body_id == body)
        rotation = data.xmat[body].reshape(3, 3).T
        motion = Similarity(1.0, rotation, -rotation @ data.xpos[body])
        part = move_splats(take(splats, own), motion)
        parts.append(part.replace(body_id=jnp.asarray(np.full(len(own), body, np.int32))))
    return concatenate(parts)


def _near(
    surface: Float[np.ndarray, "M 3"],
    points: Float[np.ndarray, "N 3"],
    within: Float[np.ndarray, " N"],
) -> Bool[np.ndarray, " N"]:
    return (
        cKDTree(surface).query(points)[0] < within if len(surface) else np.zeros(len(points), bool)
    )


def _unseen(scan: GaussianSet, baked: GaussianSet) -> GaussianSet:
    """Return baked splats that cover what no scan splat of the same body does."""
    at, owner = np.asarray(baked.means), np.asarray(baked.body_id)
    reach = np.maximum(GATE, np.asarray(baked.scales).max(axis=1))
    missing = np.ones(len(at), bool)
    for body in np.unique(owner):
        own, seen = owner == body, np.asarray(scan.means)[np.asarray(scan.body_id) == body]
        if len(seen):
            missing[own] = cKDTree(seen).query(at[own])[0] > reach[own]
    return take(baked, np.flatnonzero(missing))


Pair = tuple[float, float, float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Put a scan onto the bodies of a MuJoCo model; docs/scans.md goes through it.

    Attributes:
        scan: .ply (3DGS, plain or compressed), .spz or .splat.
        model: MJCF or .mjb of the scene.
        joints: one value per hinge and slide of the model, in its order [rad], [m].
        pair: a point in the scan, and the same point in the world [m]; at least three times.
        pairs: file of such pairs, one per line, as `splat_render.assets.pick_pairs` writes it.
        out: folder to write.
        box: low and high corner of what to take of the scan, in its frame.
        gate: distance to the nearest surface beyond which a splat belongs to none [m].
        keep_unknown: keep what lies beyond the gate.
        fill: baked splats for what the scan lacks; 0 adds none.
        thin: how many splats are kept of all.
        strict: refuse a scan of which splats would be left out or mended.
    """

    scan: tyro.conf.Positional[Path]
    model: Path
    joints: tuple[float, ...]
    pair: tyro.conf.UseAppendAction[tuple[Pair, ...]] = ()
    pairs: Path | None = None
    out: Path
    box: tuple[float, float, float, float, float, float] | None = None
    gate: float = ranged(GATE, above=0)
    keep_unknown: tyro.conf.FlagCreatePairsOff[bool] = False
    fill: int = ranged(DEFAULT_BUDGET, least=0)
    thin: tyro.conf.OmitArgPrefixes[ThinOptions] = KEEP_ALL
    strict: tyro.conf.FlagCreatePairsOff[bool] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Align a scan from the command line; returns the exit status."""
    options = tyro.cli(AlignOptions, prog="python -m splat_render.assets.align", args=arguments)
    return guarded(lambda: _align(options))


def _align(options: AlignOptions) -> int:
    check_ranges(options, flat=("thin",))
    model = load_model(options.model)
    data = pose(model, joints_to_qpos(model, options.joints))
    scan = load_splats(options.scan, strict=options.strict)
    done = align_scan(
        scan,
        _pairs(options),
        model,
        data,
        gate=options.gate,
        box=options.box,
        keep_unknown=options.keep_unknown,
        budget=options.fill,
    )
    splats, thinned = thin_if_asked(done.splats, model, data, options.thin)
    save_scan(options.out, splats, model)
    picture = options.out / OVERLAY
    draw_overlay(picture, move_splats(scan, done.motion), model, data)
    sys.stdout.write(
        _summary(done, model) + thinned + f"{picture}: the model's edges on the scan, look at it\n"
    )
    return 0


def _pairs(options: AlignOptions) -> Float[np.ndarray, "P 6"]:
    given = [list(pair) for pair in options.pair]
    lines = [] if options.pairs is None else options.pairs.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            given.append([float(word) for word in line.split()])
        except ValueError:
            given.append([])
        if len(given[-1]) != 6:
            raise InputError(
                f"{options.pairs}, line {number}: got '{line[:60]}', needed: SX SY SZ X Y Z"
            )
    return np.array(given).reshape(-1, 6)


def joints_to_qpos(model: mujoco.MjModel, joints: Sequence[float]) -> Float[np.ndarray, " Q"]:
    """Return the home pose with the angles [rad] and travels [m] of all hinges and slides.

    Raises InputError unless there is one value per joint, each within the joint's range.
    """
    scalar = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    moving = np.flatnonzero(np.isin(model.jnt_type, [int(kind) for kind in scalar]))
    if len(joints) != len(moving):
        names = ", ".join(model.joint(int(joint)).name for joint in moving)
        raise InputError(f"got {len(joints)} joint values, needed {len(moving)}: {names}")
    for joint, value in zip(moving, joints, strict=True):
        low, high = model.jnt_range[joint]
        if model.jnt_limited[joint] and not low - _BEYOND <= value <= high + _BEYOND:
            raise InputError(
                f"--joints: {model.joint(int(joint)).name} is {value:g}, allowed: {low:.4g} to "
                f"{high:.4g} [rad] or [m]; are the angles in degrees?"
            )
    qpos = pose(model).qpos.copy()
    qpos[model.jnt_qposadr[moving]] = joints
    return qpos


def load_model(path: Path) -> mujoco.MjModel:
    """Return a model from MJCF or .mjb.

    Raises FileNotFoundError with what to do, InputError for a file that is no model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}; docs/scans.md says how to write one")
    read = (
        mujoco.MjModel.from_binary_path if path.suffix == ".mjb" else mujoco.MjModel.from_xml_path
    )
    try:
        return read(str(path))
    except ValueError as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path} is no model that MuJoCo reads (MJCF or .mjb): {why}") from None


def _summary(done: Alignment, model: mujoco.MjModel) -> str:
    bodies, counts = np.unique(np.asarray(done.splats.body_id), return_counts=True)
    rows = [
        _describe(model.body(int(body)).name, int(count), done.quality)
        for body, count in zip(bodies, counts, strict=True)
    ]
    suspects = done.quality.suspects
    if suspects:
        rows.append(
            f"LOOK AT {', '.join(suspects)}: not where the model has it; is a joint angle wrong, "
            "or has something been moved since?\n"
        )
    return (
        f"scale {done.motion.scale:.5f}, residual {1e3 * done.residual:.2f} mm, "
        f"pairs {1e3 * done.quality.pair_rms:.1f} mm rms, {done.quality.inliers:.1%} of the points "
        f"near the model on it\n{done.floaters} floaters, {done.remnants} remnants around what "
        f"can move and {done.dropped} splats near no surface left out, {done.filled} added\n"
        f"{''.join(rows)}"
    )


def _describe(body: str, count: int, quality: FitQuality) -> str:
    link = quality.links.get(body)
    if link is None:
        return f"{body}: {count} splats\n"
    off = (
        "too few to say how far off" if np.isnan(link.offset) else f"{1e3 * link.offset:.1f} mm off"
    )
    return f"{body}: {count} splats, {off}, {link.cover:.0%} covered\n"


if __name__ == "__main__":
    sys.exit(main())
