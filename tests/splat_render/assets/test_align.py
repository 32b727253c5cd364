"""A scan finds its place on the model, its splats their bodies, and its gaps are filled."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scenes.build import build_scene
from scenes.contract.command_line import BAD_INPUT
from scenes.layouts import pick_cube
from scenes.mjcf import to_mjspec
from splat_render.assets import align
from splat_render.assets import bake as baking
from splat_render.assets.alignment_checks import check_fit
from splat_render.assets.bake import bake, pose
from splat_render.assets.clean_scan import solid_part
from splat_render.assets.formats.ply import save_ply
from splat_render.assets.overlay import draw_overlay
from splat_render.assets.scan import load_scan, save_scan
from splat_render.assets.similarity import Similarity, fit_similarity
from splat_render.assets.splat_sets import concatenate, move_splats, take, turn_harmonics
from splat_render.backends.reference import rasterize, spherical_harmonics
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

JOINTS = [0.0, 0.2, 0.0, -2.0, 0.0, 2.3, 0.8, 0.04, 0.04]
SCALE = 2.7
NOISE = 0.003  # [m]
FLOATERS = 300
CLICK = 0.015  # [m] error of a picked point


@dataclass(frozen=True, eq=False)
class Scan:
    """A synthetic scan and what only its maker knows."""

    splats: GaussianSet
    world: np.ndarray
    body_id: np.ndarray
    to_world: Similarity
    pairs: np.ndarray


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture(scope="module")
def data(model: mujoco.MjModel) -> mujoco.MjData:
    return pose(model, align.joints_to_qpos(model, JOINTS))


@pytest.fixture(scope="module")
def scan(model: mujoco.MjModel, data: mujoco.MjData) -> Scan:
    """Other splats of the same scene than the aligner bakes, moved, with noise and floaters."""
    rng = np.random.default_rng(3)
    samples = baking.scene_samples(model, data, points=96_000, seed=7)
    # A scan is denser than what we would bake for pictures.
    made = baking._to_splats(samples, model, data, budget=8000, least_points=1)
    body_id = np.asarray(made.body_id)
    world = in_world(made, data)
    # A scan is cropped to the workspace, and the far half of the table is not recorded.
    kept = np.flatnonzero((np.abs(world).max(axis=1) < 0.9) & (world[:, 1] > -0.35))
    world = world[kept]
    made = take(made, kept)
    floaters = rng.uniform([-0.9, -0.9, 0.1], [0.9, 0.9, 1.2], (FLOATERS, 3))
    points = np.concatenate([world + NOISE * rng.normal(size=world.shape), floaters])
    splats = concatenate([made, take(made, np.arange(FLOATERS))])
    splats = splats.replace(
        means=jnp.asarray(points, jnp.float32), body_id=jnp.zeros(len(points), jnp.int32)
    )
    turn = Rotation.random(random_state=3).as_matrix()
    to_scan = Similarity(SCALE, turn, np.array([0.8, -2.0, 1.3]))
    to_world = Similarity(1 / SCALE, turn.T, -turn.T @ to_scan.shift / SCALE)
    picked = world[rng.choice(len(world), 4, replace=False)]
    clicks = picked + CLICK * rng.uniform(-1, 1, picked.shape)
    return Scan(
        splats=move_splats(splats, to_scan),
        world=world,
        body_id=np.concatenate([body_id[kept], np.full(FLOATERS, -1)]),
        to_world=to_world,
        pairs=np.concatenate([to_scan.apply(picked), clicks], axis=1),
    )


def in_world(splats: GaussianSet, data: mujoco.MjData) -> np.ndarray:
    return align.in_world(np.asarray(splats.means), np.asarray(splats.body_id), data)


@pytest.fixture(scope="module")
def aligned(
    tmp_path_factory: pytest.TempPathFactory, scan: Scan, model: mujoco.MjModel
) -> tuple[GaussianSet, str]:
    """What the command wrote, and what it said."""
    folder = tmp_path_factory.mktemp("scan")
    save_ply(folder / "scan.ply", scan.splats)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert align.main(command(folder, model, scan.pairs)) == 0
    return load_scan(folder / "out", model), output.getvalue()


def command(folder: Path, model: mujoco.MjModel, pairs: np.ndarray) -> list[str]:
    """The command line that aligns `scan.ply` in a folder."""
    (folder / "scene.xml").write_text(xml_of_pick_cube())
    given = [str(folder / "scan.ply"), "--model", str(folder / "scene.xml")]
    given += ["--joints", *map(str, JOINTS), "--out", str(folder / "out"), "--fill", "1000"]
    for pair in pairs:
        given += ["--pair", *(f"{value:.6f}" for value in pair)]
    return given


def xml_of_pick_cube() -> str:
    builder = to_mjspec(pick_cube())
    builder.compile()
    return builder.to_xml()


def test_the_scan_is_placed_within_2_mm(
    scan: Scan, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    samples = align.scene_samples(model, data, points=20_000)
    surface = align.in_world(samples.points, samples.body_id, data)
    points = np.asarray(scan.splats.means, np.float64)
    motion, residual = align.register(points, surface, scan.pairs)
    real = points[: len(scan.world)]
    error = np.linalg.norm(motion.apply(real) - scan.to_world.apply(real), axis=1)
    clicked = fit_similarity(scan.pairs[:, :3], scan.pairs[:, 3:])
    by_clicks = np.linalg.norm(clicked.apply(real) - scan.to_world.apply(real), axis=1)
    assert by_clicks.mean() > 0.004, "the clicks alone must not be good enough already"
    assert error.mean() <= 0.002
    assert motion.scale == pytest.approx(1 / SCALE, rel=3e-3)
    assert residual < 2 * NOISE

    found = align.segment(motion.apply(points), samples, data)
    real, robot = scan.body_id >= 0, scan.body_id > 0
    assert (found == scan.body_id)[real].mean() >= 0.93
    assert (found == scan.body_id)[robot].mean() >= 0.93
    assert (found[~real] < 0).mean() >= 0.93


def test_the_command_writes_a_scene_in_body_frames(
    aligned: tuple[GaussianSet, str], scan: Scan, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    splats, said = aligned
    assert "residual" in said and "link3:" in said and "LOOK AT" not in said
    assert "pairs 9.4 mm rms" in said and "near the model on it" in said
    body_id = np.asarray(splats.body_id)
    assert (np.diff(body_id) >= 0).all()
    assert set(np.unique(body_id)) == set(np.unique(scan.body_id[scan.body_id >= 0]))
    # Every body's splats lie where they were scanned, once each body is put where it was.
    distance = cKDTree(in_world(splats, data)).query(scan.world)[0]
    assert np.quantile(distance, 0.95) < 3 * NOISE
    # The half of the table that was not recorded is there, and floaters are not.
    table = in_world(splats, data)[body_id == 0]
    assert ((np.abs(table[:, 2]) < 0.01) & (table[:, 1] < -0.4)).sum() > 10
    assert (in_world(splats, data)[:, 2] > 1.0).mean() < 0.01


def test_segmentation_gate_is_wider_along_a_coarse_surface_than_off_it(
    model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    samples = align.scene_samples(model, data, points=3000)
    floor = -pick_cube().table.height
    points = np.array([[2.5, 2.5, floor + 0.02], [2.5, 2.5, floor + 0.04], [0.6, 0.3, 0.031]])
    assert align.segment(points, samples, data).tolist() == [0, -1, -1]


def test_floaters_are_left_out_and_surfaces_are_not(scan: Scan) -> None:
    kept = solid_part(scan.splats)
    real = scan.body_id >= 0
    assert kept[real].mean() > 0.99 and kept[~real].mean() < 0.05
    low, high = (np.asarray(scan.splats.means)[real].min(0), np.asarray(scan.splats.means).max(0))
    boxed = solid_part(scan.splats, box=(*low, *high))
    assert (np.asarray(scan.splats.means)[boxed] >= low).all() and boxed.sum() > 0.9 * kept.sum()
    with pytest.raises(ValueError, match="no splat lies in the box"):
        solid_part(scan.splats, box=(99, 99, 99, 100, 100, 100))


def test_nothing_of_an_object_stays_where_it_stood(
    model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    """A scan whose table ends under the cube and is black around it, as shadows leave it."""
    made = bake(model, data.qpos, budget=6000)
    body_id, cube = np.asarray(made.body_id), model.body("cube").id
    world = in_world(made, data)
    gap = cKDTree(world[body_id == cube]).query(world)[0]
    fine = np.random.default_rng(0).uniform(-0.08, 0.08, (3000, 2)) + data.xpos[cube][:2]
    table = np.concatenate([fine, np.full((3000, 1), -0.0005)], axis=1)
    from_cube = cKDTree(world[body_id == cube]).query(table)[0]
    inside = (np.abs(table[:, :2] - data.xpos[cube][:2]) < 0.019).all(axis=1)
    template = take(made, np.flatnonzero(body_id == 0)[:1])
    patch = take(template, np.zeros((~inside).sum(), int))
    dark = from_cube[~inside] < 0.012
    sh = np.asarray(patch.sh).copy()
    sh[:, 0] = np.where(dark[:, None], -1.7, (np.array([0.8, 0.65, 0.5]) - 0.5) / 0.28209)
    patch = patch.replace(
        means=jnp.asarray(table[~inside], jnp.float32),
        scales=jnp.full((len(sh), 3), 0.004, jnp.float32),
        sh=jnp.asarray(sh),
    )
    flat = made.replace(means=jnp.asarray(world, jnp.float32), body_id=jnp.zeros_like(made.body_id))
    away = np.flatnonzero((body_id > 0) | (gap > 0.1))
    scan = concatenate([take(flat, away), patch])
    pairs = np.repeat(np.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]), 2, axis=1)
    pairs = np.concatenate([pairs[:, ::2], pairs[:, ::2]], axis=1)
    done = align.align_scan(scan, pairs, model, data)
    assert done.remnants > 100
    left = np.asarray(done.splats.body_id) == 0
    at = np.asarray(done.splats.means)[left]
    here = (np.abs(at[:, :2] - data.xpos[cube][:2]) < 0.03).all(axis=1) & (np.abs(at[:, 2]) < 0.01)
    colour = 0.5 + 0.28209 * np.asarray(done.splats.sh)[left][here, 0]
    assert colour.min() > 0.3  # nothing black
    # The table is closed where the cube stood: no point of it is far from a splat.
    grid = np.stack(np.meshgrid(*[np.linspace(-0.02, 0.02, 9)] * 2), axis=-1).reshape(-1, 2)
    spots = np.concatenate([grid + data.xpos[cube][:2], np.zeros((len(grid), 1))], axis=1)
    assert cKDTree(at[here]).query(spots)[0].max() < 0.012


def test_swapped_pairs_and_a_scan_elsewhere_are_refused(
    scan: Scan, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    swapped = scan.pairs.copy()
    swapped[[0, 1], 3:] = swapped[[1, 0], 3:]
    # ICP finds the right place all the same, so that its residual says nothing.
    with pytest.raises(ValueError, match=r"the pairs do not fit each other: 197 mm rms"):
        align.align_scan(scan.splats, swapped, model, data, budget=0)
    # Pairs that agree with each other and not with the model: all 42 cm aside.
    elsewhere = scan.pairs + np.array([0, 0, 0, 0.0, 0.3, 0.3])
    with pytest.raises(ValueError, match=r"fits the model best \d{3} mm away from the pairs"):
        align.align_scan(scan.splats, elsewhere, model, data, budget=0)
    samples = align.scene_samples(model, data, points=5000)
    surface = align.in_world(samples.points, samples.body_id, data)
    with pytest.raises(ValueError, match="0% of the scan points near the model lie on it"):
        check_fit(surface[:100] + 0.06, surface[:100], samples.body_id[:100], model, rms=0.01)


@pytest.mark.parametrize(
    ("joint", "by", "moved"), [(3, 0.1, "hand"), (5, 0.1, "hand"), (0, 0.1, "cube"), (1, 0.0, None)]
)
def test_a_wrong_joint_angle_is_noticed_at_its_links(
    scan: Scan, model: mujoco.MjModel, joint: int, by: float, moved: str | None
) -> None:
    joints = list(JOINTS)
    joints[joint] += by
    wrong = pose(model, align.joints_to_qpos(model, joints))
    quality = align.align_scan(scan.splats, scan.pairs, model, wrong, budget=0).quality
    assert quality.pair_rms < 0.02 and quality.inliers > 0.9
    assert (moved in quality.suspects) if moved else (quality.suspects == ())
    assert "link0" not in quality.suspects and "link1" not in quality.suspects


def test_the_overlay_shows_edges_where_the_robot_is(
    tmp_path: Path, scan: Scan, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    placed = move_splats(scan.splats, scan.to_world)
    draw_overlay(tmp_path / "a.png", placed, model, data)
    picture = imread(tmp_path / "a.png")[..., :3]
    assert picture.shape == (640, 1280, 3)
    edges = (picture[..., 0] > 0.99) & (picture[..., 1] < 0.01) & (picture[..., 2] > 0.99)
    for half in (edges[:, :640], edges[:, 640:]):
        rows, columns = np.nonzero(half)
        assert 500 < len(rows) < 30_000
        assert np.ptp(rows) > 200 and np.ptp(columns) > 100  # around the arm, not at one spot


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_turned_harmonics_show_the_old_colour_in_the_turned_direction(degree: int) -> None:
    rng = np.random.default_rng(degree)
    sh = rng.normal(size=(20, (degree + 1) ** 2, 3))
    rotation = Rotation.random(random_state=degree).as_matrix()
    directions = rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(
        spherical_harmonics(directions @ rotation.T, turn_harmonics(sh, rotation)),
        spherical_harmonics(directions, sh),
        atol=1e-12,
    )


def colourful(count: int = 60) -> GaussianSet:
    """A cloud whose colour depends on the direction, in front of a camera at the origin."""
    rng = np.random.default_rng(5)
    quats = rng.normal(size=(count, 4))
    return GaussianSet(
        means=jnp.asarray(rng.uniform([-0.5, -0.5, 1.5], [0.5, 0.5, 2.5], (count, 3)), jnp.float32),
        quats=jnp.asarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), jnp.float32),
        scales=jnp.asarray(rng.uniform(0.02, 0.2, (count, 3)), jnp.float32),
        opacities=jnp.asarray(rng.uniform(0.2, 0.9, count), jnp.float32),
        sh=jnp.asarray(0.3 * rng.normal(size=(count, 16, 3)), jnp.float32),
        body_id=jnp.asarray(rng.integers(0, 3, count), jnp.int32),
    )


def photograph(splats: GaussianSet, poses: BodyPoses, viewmat: np.ndarray) -> np.ndarray:
    """The reference's picture, 24 px."""
    config = RasterConfig(width=24, height=24, rgb_dtype="float32", near=1e-4)
    Ks = jnp.array([[[24.0, 0, 12], [0, 24, 12], [0, 0, 1]]])
    return np.asarray(
        rasterize(splats, poses, CameraBatch(jnp.asarray(viewmat)[None], Ks), config).rgb
    )


def test_a_moved_scan_looks_the_same_to_a_camera_that_moved_along() -> None:
    splats = colourful()
    still = BodyPoses(jnp.zeros((3, 3)), jnp.tile(jnp.array([1.0, 0, 0, 0]), (3, 1)))
    turn = Rotation.random(random_state=8).as_matrix()
    motion = Similarity(1 / SCALE, turn, np.array([0.3, -0.2, 0.5]))
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = turn.T, -turn.T @ motion.shift
    before = photograph(splats, still, np.eye(4))
    assert before.std() > 0.05
    np.testing.assert_allclose(
        photograph(move_splats(splats, motion), still, viewmat), before, atol=2e-4
    )


def test_splats_on_their_bodies_look_as_in_the_scan(
    model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    poses = BodyPoses(jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32))
    splats = colourful()
    bodies = np.array([0, model.body("link3").id, model.body("hand").id])[splats.body_id]
    flat = splats.replace(body_id=jnp.zeros_like(splats.body_id))
    on_bodies = align.attach(flat, bodies, data)
    np.testing.assert_allclose(
        photograph(on_bodies, poses, np.eye(4)), photograph(flat, poses, np.eye(4)), atol=2e-4
    )


LINE = np.array([[0.0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]])
CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_similarity_of_exact_pairs_is_exact_and_no_mirror() -> None:
    motion = Similarity(SCALE, Rotation.random(random_state=1).as_matrix(), np.array([1.0, 2, 3]))
    found = fit_similarity(CORNERS[:3], motion.apply(CORNERS[:3]))
    np.testing.assert_allclose(found.apply(CORNERS), motion.apply(CORNERS), atol=1e-12)
    mirrored = fit_similarity(CORNERS, CORNERS * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (CORNERS[:2], CORNERS[:2], "got 2 point pairs, needed: at least 3"),
        (LINE, CORNERS, "the scan points of the pairs lie on a line"),
        (CORNERS, LINE, "the world points of the pairs lie on a line"),
        (CORNERS, np.zeros((4, 3)), "the world points of the pairs lie on a line"),
        (CORNERS, np.full((4, 3), np.nan), "finite"),
    ],
)
def test_pairs_that_fix_no_place_are_refused(
    source: np.ndarray, target: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_similarity(source, target)


def test_command_faults_are_one_line(
    tmp_path: Path,
    scan: Scan,
    model: mujoco.MjModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # How finely the model is sampled changes none of the messages.
    monkeypatch.setattr(align, "_SURFACE_POINTS", 1000)
    save_ply(tmp_path / "scan.ply", take(scan.splats, np.arange(500)))
    good = command(tmp_path, model, scan.pairs)
    far = command(tmp_path, model, scan.pairs + np.array([0, 0, 0, 50, 50, 50]))
    (tmp_path / "broken.xml").write_text("<mujoco><worldbody><geom/></mujoco>")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x01")
    degrees = [*good, "--joints", *(f"{57.3 * angle:.1f}" for angle in JOINTS)]
    faults = {
        "got 2 point pairs": command(tmp_path, model, scan.pairs[:2]),
        "got 8 joint values, needed 9: joint1,": [v for i, v in enumerate(good) if i != 4],
        "scan points lie within 0.1 m": far,
        "No such file": [str(tmp_path / "none.ply"), *good[1:]],
        "no model file": [*good, "--model", "none.xml"],
        "is no model that MuJoCo reads": [*good, "--model", str(tmp_path / "broken.xml")],
        "line 1: got": [*good, "--pairs", str(tmp_path / "bytes.txt")],
        "joint2 is 11.5, allowed: -1.763 to 1.763 [rad] or [m]; are the angles in deg": degrees,
        "max_splats -5, allowed: at least 1": [*good, "--max-splats", "-5"],
        "gate -1.0, allowed: above 0": [*good, "--gate", "-1"],
    }
    for message, given in faults.items():
        assert align.main(given) == BAD_INPUT
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in last, (message, last)


def test_a_scene_folder_is_read_by_body_names(tmp_path: Path, model: mujoco.MjModel) -> None:
    splats = colourful()
    names = ("world", "link3", "cube")
    ids = np.array([model.body(name).id for name in names])
    splats = splats.replace(body_id=jnp.asarray(ids[np.asarray(splats.body_id)]))
    save_scan(tmp_path, splats, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cube.ply",
        "link3.ply",
        "world.ply",
    ]
    read = load_scan(tmp_path, model)
    assert sorted(np.asarray(read.body_id)) == sorted(np.asarray(splats.body_id))
    with pytest.raises(FileExistsError, match="has .ply files already"):
        save_scan(tmp_path, splats, model)
    (tmp_path / "link3.ply").rename(tmp_path / "lnk3.ply")
    with pytest.raises(KeyError, match=r"lnk3.*Did you mean 'link3'"):
        load_scan(tmp_path, model)
    with pytest.raises(FileNotFoundError, match=r"has no \.ply"):
        load_scan(tmp_path / "none", model)
