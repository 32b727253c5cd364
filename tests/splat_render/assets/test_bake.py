"""Baked splats have the model's shape and colours, sit on its bodies and are made by a seed."""

import copy
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from solidity import SIZES, agreement, pictures, robot_alpha, transparent_share

from scenes.bases import Legged
from scenes.build import build_scene
from scenes.contract.command_line import BAD_INPUT
from scenes.layouts import pick_cube
from scenes.mjcf import to_mjspec
from scenes.robots import robot_named
from scenes.robots.go2 import go2
from scenes.robots.piper import piper
from scenes.specs import MountedArm, SceneSpec
from splat_render.assets import bake as baking
from splat_render.assets.bake import SH_C0, bake, bake_samples, main, pose, scene_splats
from splat_render.assets.robot_models import model_from_menagerie, model_from_wheel
from splat_render.assets.robot_surfaces import (
    load_surface,
    make_surface,
    save_surface,
    surface_names,
)
from splat_render.assets.surface import geom_triangles, openness, sample_geom, triangle_areas
from splat_render.backends.reference import rasterize
from splat_render.cameras import make_rig, place
from splat_render.types import BodyPoses, GaussianSet, RasterConfig

SIZE = 128
ARM = [f"link{i}" for i in range(8)]

KINDS = """<mujoco><worldbody>
  <geom name="plane" type="plane" size="1 2 .1"/>
  <geom name="endless" type="plane" size="0 0 .1"/>
  <geom name="box" type="box" size="1 2 3"/>
  <geom name="sphere" type="sphere" size="1"/>
  <geom name="capsule" type="capsule" size="1 2"/>
  <geom name="cylinder" type="cylinder" size="1 2"/>
  <geom name="ellipsoid" type="ellipsoid" size="1 2 3"/>
  <geom name="mesh" type="mesh" mesh="tetrahedron"/>
</worldbody><asset><mesh name="tetrahedron" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset></mujoco>"""


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture(scope="module")
def splats(model: mujoco.MjModel) -> GaussianSet:
    return scene_splats(model)


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("plane", 8.0),
        ("endless", 16.0),
        ("box", 88.0),
        ("sphere", 4 * np.pi),
        ("capsule", 12 * np.pi),
        ("cylinder", 10 * np.pi),
        ("ellipsoid", 48.88),  # Thomsen's formula, within 1 %
        ("mesh", 1.5 + np.sqrt(3) / 2),
    ],
)
def test_triangles_have_the_area_of_the_geom_and_point_outwards(name: str, area: float) -> None:
    kinds = mujoco.MjModel.from_xml_string(KINDS)
    vertices, faces = triangles = geom_triangles(kinds, kinds.geom(name).id)
    assert triangle_areas(triangles).sum() == pytest.approx(area, rel=0.015)
    samples = sample_geom(kinds, kinds.geom(name).id, 500, np.random.default_rng(0))
    assert samples.area.sum() == pytest.approx(area, rel=0.015)
    np.testing.assert_allclose(np.linalg.norm(samples.normals, axis=1), 1, atol=1e-9)
    if "plane" not in name and name != "endless":
        inside = vertices[faces].mean(axis=(0, 1))
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, kinds.geom_quat[kinds.geom(name).id])
        middle = rotation.reshape(3, 3) @ inside + kinds.geom_pos[kinds.geom(name).id]
        assert (np.einsum("ni,ni->n", samples.points - middle, samples.normals) > 0).all()


def test_a_kind_without_surface_is_named() -> None:
    field = """<mujoco><asset><hfield name="h" nrow="2" ncol="2" size="1 1 1 1"/></asset>
    <worldbody><geom name="hills" type="hfield" hfield="h"/></worldbody></mujoco>"""
    with pytest.raises(ValueError, match="'hills' is a hfield, allowed: mesh, box"):
        bake(mujoco.MjModel.from_xml_string(field), budget=100)


@pytest.mark.parametrize(
    ("geom", "budget", "message"),
    [
        ('<geom size="1" rgba="1 1 1 0"/>', 100, "no geom is drawn"),
        ('<geom size="1" group="3"/>', 100, "no geom is drawn"),
        ('<geom size="1"/>', 0, "a budget of 0 splats for 1 geoms"),
    ],
)
def test_nothing_to_bake_is_said(geom: str, budget: int, message: str) -> None:
    empty = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{geom}</worldbody></mujoco>")
    with pytest.raises(ValueError, match=message):
        bake(empty, budget=budget)


def test_qpos_of_another_model_is_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(ValueError, match=r"qpos has shape \(3,\), the model's is \(16,\)"):
        bake(model, np.zeros(3))


def test_what_touches_inside_a_linked_body_is_hidden_and_a_cubes_underside_is_not(
    model: mujoco.MjModel,
) -> None:
    data, rng = pose(model), np.random.default_rng(0)
    table = sample_geom(model, model.geom("table_body").id, 400, rng)
    top = table.take(table.normals[:, 2] > 0.5)
    assert openness(model, data, top, rng).max() == 0.0
    cube = sample_geom(model, model.geom("cube").id, 400, rng)
    assert openness(model, data, cube, rng).min() == 1.0


def test_splats_are_sorted_unit_and_within_the_budget(splats: GaussianSet) -> None:
    count = len(splats.means)
    assert 0.9 * baking.DEFAULT_BUDGET < count <= baking.DEFAULT_BUDGET
    assert (np.diff(splats.body_id) >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(splats.quats, axis=1), 1, atol=1e-5)
    assert (np.asarray(splats.scales) > 0).all()
    assert np.isfinite(np.asarray(splats.sh)).all()
    assert (np.asarray(splats.opacities) <= 0.98).all()
    # Flat: the first axis is the normal.
    assert (np.asarray(splats.scales[:, 0]) < 0.2 * np.asarray(splats.scales[:, 1])).all()


def test_the_seed_decides(model: mujoco.MjModel) -> None:
    first, again, other = (bake(model, budget=600, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.means[:50], other.means[:50])


@pytest.mark.parametrize("size", SIZES)
def test_the_robot_is_opaque(model: mujoco.MjModel, splats: GaussianSet, size: int) -> None:
    assert transparent_share(robot_alpha(splats, model, size)) <= 0.03


@pytest.mark.parametrize(
    ("budget", "size"),
    [
        (3000, 64),
        pytest.param(10_000, 64, marks=pytest.mark.slow),
        pytest.param(10_000, 128, marks=pytest.mark.slow),
        pytest.param(30_000, 64, marks=pytest.mark.slow),
    ],
)
def test_the_robot_is_opaque_to_the_cameras_it_is_baked_for(
    model: mujoco.MjModel, budget: int, size: int
) -> None:
    splats = scene_splats(model, budget=budget, cameras=pictures(size))
    assert transparent_share(robot_alpha(splats, model, size)) <= 0.03


def test_opaque_splats_keep_the_outline(model: mujoco.MjModel, splats: GaussianSet) -> None:
    assert agreement(robot_alpha(splats, model, SIZE)) >= 0.97


def test_cameras_decide_how_many_splats_and_how_large(model: mujoco.MjModel) -> None:
    coarse, fine = (scene_splats(model, cameras=pictures(size, "front")) for size in (32, 256))
    assert len(coarse.means) < 0.8 * len(fine.means)
    arm, cube = model.body("link5").id, model.body("cube").id
    sizes = [
        np.median(np.asarray(splats.scales)[np.asarray(splats.body_id) == body, 1])
        for body in (arm, cube)
        for splats in (coarse, fine)
    ]
    assert sizes[0] > 1.5 * sizes[1] and sizes[2] > sizes[3]


def test_a_splat_covers_its_share_of_the_surface_however_few_points_it_has() -> None:
    block = '<mujoco><worldbody><geom type="box" size=".1 .1 .1"/></worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(block)
    covered = []
    for points in (100, 4000):
        samples = sample_geom(model, 0, points, np.random.default_rng(0))
        made = baking._to_splats(samples, model, pose(model), budget=25)
        covered.append(float(np.prod(np.asarray(made.scales)[:, 1:], axis=1).sum()))
    assert covered[0] == pytest.approx(covered[1], rel=0.15)


def test_skipped_bodies_have_no_splats(model: mujoco.MjModel) -> None:
    cube = model.body("cube").id
    assert cube in bake(model, budget=400).body_id
    assert cube not in bake(model, budget=400, skip_bodies=("cube",)).body_id


def test_objects_and_scenery_have_their_colours(model: mujoco.MjModel, splats: GaussianSet) -> None:
    rgb = np.asarray(splats.sh[:, 0]) * SH_C0 + 0.5
    at, body = np.asarray(splats.means), np.asarray(splats.body_id)
    red, green, _ = rgb[body == model.body("cube").id].T
    assert (red > 2.5 * green).all()
    # Planes lie below their surface, by 8 mm at most.
    below = [z - at[:, 2] for z in (0, -0.75)]
    within = [(body == 0) & (x > -1e-3) & (x < 8e-3 + 1e-3) for x in below]
    table, floor = (np.median(rgb[mask], 0) for mask in within)
    assert table[0] - table[2] > 0.15, "wood is warm"
    assert floor[2] > floor[0], "the floor is cold"
    # What faces the light is brighter than what turns away.
    white = rgb[body == model.body("link1").id].mean(axis=1)
    assert np.quantile(white, 0.95) > 1.3 * np.quantile(white, 0.05)


@pytest.mark.parametrize("robot", ["fr3", "panda"])
def test_the_shipped_surface_fits_both_franka_arms(robot: str) -> None:
    model, surface = build_scene(pick_cube(robot_named(robot))).model, load_surface("panda")
    assert set(surface.bodies) == {*ARM, "hand", "left_finger", "right_finger"}
    assert surface.fits(model)


def test_a_surface_does_not_fit_another_robots_link1(model: mujoco.MjModel) -> None:
    surface = load_surface("panda")
    moved = copy.copy(model)
    moved.body_pos[model.body("link3").id, 1] += 2e-4
    assert surface.fits(model) and not surface.fits(moved)
    other = '<mujoco><worldbody><body name="link1"><geom size="1"/></body></worldbody></mujoco>'
    stranger = mujoco.MjModel.from_xml_string(other)
    assert not surface.fits(stranger)
    assert len(scene_splats(stranger, budget=100).means) > 50


def test_the_surface_lies_on_our_own_arm(model: mujoco.MjModel) -> None:
    """Frames agree to 0.1 mm (fits), and the real shape is where the drawn primitives are."""
    own = bake_samples(model, pose(model), points=4000)
    surface = load_surface("panda").samples_for(model, first_geom=0)
    for name in [*ARM, "hand", "left_finger"]:
        body = model.body(name).id
        ours, theirs = (s.points[s.body_id == body] for s in (own, surface))
        assert np.abs(ours.min(0) - theirs.min(0)).max() < 0.06, name
        assert np.abs(ours.max(0) - theirs.max(0)).max() < 0.06, name


@pytest.fixture(scope="module")
def dog() -> mujoco.MjModel:
    """The Go2 under its arm."""
    base = Legged(robot=go2(), mount=(0.0, 0.0, 0.057))
    return build_scene(SceneSpec(name="dog", arms=(MountedArm(robot=piper(), base=base),))).model


def test_the_go2_has_its_real_shape_on_every_leg(dog: mujoco.MjModel) -> None:
    surface = load_surface("go2")
    assert set(surface.bodies) == {"trunk", *go2().joint_names} and surface.fits(dog)
    own, real = bake_samples(dog, pose(dog), points=3000), surface.samples_for(dog, first_geom=0)
    for name in surface.bodies:
        body = dog.body(name).id
        ours, theirs = (s.points[s.body_id == body] for s in (own, real))
        # The motors of the hips reach 8 cm further in than what is drawn of ours.
        assert np.abs(ours.min(0) - theirs.min(0)).max() < 0.09, name
        assert np.abs(ours.max(0) - theirs.max(0)).max() < 0.09, name


@pytest.mark.parametrize(
    ("name", "most", "licence"),
    [
        ("panda", 1_200_000, "Apache License"),  # points, and fitted splats for two sizes
        ("go2", 300_000, "Redistributions in binary form must reproduce"),
    ],
)
def test_a_shipped_file_is_small_and_has_its_licence(name: str, most: int, licence: str) -> None:
    file = Path(baking.__file__).parent / "data" / f"{name}.npz"
    assert file.stat().st_size < most
    assert licence in file.with_suffix(".LICENSE").read_text()


def test_unknown_surfaces_are_answered() -> None:
    assert surface_names() == ("go2", "panda")
    assert set(surface_names()) == set(baking.SHIPPED)
    with pytest.raises(KeyError, match="Unknown robot surface 'pandas'. Did you mean 'panda'"):
        load_surface("pandas")
    with pytest.raises(FileNotFoundError):
        load_surface("none.npz")


def test_a_surface_comes_back_from_its_file(tmp_path: Path, model: mujoco.MjModel) -> None:
    samples = bake_samples(model, pose(model), points=3000, skip_bodies=("world",))
    surface = make_surface(model, samples, source="a test")
    save_surface(surface, tmp_path / "a.npz")
    read = load_surface(str(tmp_path / "a.npz"))
    assert (read.bodies, read.source) == (surface.bodies, "a test")
    assert read.fits(model)
    np.testing.assert_allclose(read.samples.points, samples.points, atol=1.1e-5)
    np.testing.assert_allclose(read.samples.normals, samples.normals, atol=0.02)
    np.testing.assert_allclose(read.samples.rgba, samples.rgba, atol=0.002)
    np.testing.assert_allclose(read.samples.area, samples.area, rtol=1e-6)
    placed = read.samples_for(model, first_geom=0)
    np.testing.assert_array_equal(placed.body_id, samples.body_id)


def test_the_command_bakes_a_wheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "robot.whl", "w") as wheel:
        wheel.writestr("robots/arm/arm.xml", ARM_XML)
        wheel.writestr("robots/arm/assets/tip.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n" + FACES)
    out = tmp_path / "arm.npz"
    given = ["arm", "--wheel", str(tmp_path / "robot.whl"), "--out", str(out), "--points", "500"]
    assert main(given) == 0
    assert "2 bodies" in capsys.readouterr().out
    surface = load_surface(str(out))
    assert surface.bodies == ("base", "tip") and surface.parents.tolist() == [-1, 0]
    assert main([*given, "--rename", "base=trunk"]) == 0
    assert load_surface(str(out)).bodies == ("trunk", "tip")
    capsys.readouterr()
    for spoilt, message in (
        (["leg", *given[1:]], "has 0 files leg.xml"),
        (["arm", "--out", "x.npz"], "give NAME and --wheel"),
        (["arm", "--wheel", "none.whl", "--out", "x.npz"], "none.whl is no wheel"),
        ([*given, "--rename", "foot=tip"], "allowed: THEIRS=OURS, theirs one of base, tip"),
    ):
        assert main(spoilt) == BAD_INPUT
        assert message in capsys.readouterr().err.splitlines()[-1]


ARM_XML = """<mujoco><compiler meshdir="assets"/><asset><mesh file="tip.obj"/></asset><worldbody>
<body name="base"><geom size=".5"/><body name="tip" pos="0 0 1"><joint/>
<geom type="mesh" mesh="tip"/></body></body></worldbody></mujoco>"""
FACES = "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def test_menagerie_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    with pytest.raises(ValueError, match="pip install mujoco-menagerie") as caught:
        model_from_menagerie("unitree_go2")
    assert "\n" not in str(caught.value)


def test_a_missing_mesh_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "robot.whl", "w") as wheel:
        wheel.writestr("arm.xml", ARM_XML)  # without its mesh
    with pytest.raises(ValueError, match=r"tip\.obj"):
        model_from_wheel(tmp_path / "robot.whl", "arm")


def silhouette(splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Where the front camera sees more of the splats than of what is behind them."""
    camera = pick_cube().cameras[0]
    poses = BodyPoses(jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32))
    rig = make_rig([camera], {}, width=SIZE, height=SIZE)
    config = RasterConfig(width=SIZE, height=SIZE)
    return np.asarray(rasterize(splats, poses, place(rig, poses), config).alpha[0]) > 0.5


def ray_mask(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Where rays through the front camera's pixels meet a geom; any that is not hidden."""
    camera = model.camera("front").id
    focal = SIZE / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    rays = np.stack([columns / focal, -rows / focal, -np.ones_like(rows)], -1).reshape(-1, 3)
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    rays = rays @ data.cam_xmat[camera].reshape(3, 3).T
    groups, hit = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    eye = data.cam_xpos[camera]
    seen = [mujoco.mj_ray(model, data, eye, ray, groups, 1, -1, hit) >= 0 for ray in rays]
    return np.array(seen).reshape(SIZE, SIZE)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def robot() -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Robot and cube alone, so that the mask is theirs."""
    builder = to_mjspec(pick_cube())
    for name in ("table", "table_body", "floor"):
        builder.delete(builder.geom(name))
    model = builder.compile()
    data = pose(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_silhouette_is_that_of_rays(robot: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = robot
    assert overlap(silhouette(bake(model, budget=2500), model, data), ray_mask(model, data)) >= 0.95


def test_silhouette_is_that_of_opengl(
    tmp_path: Path, robot: tuple[mujoco.MjModel, mujoco.MjData]
) -> None:
    model, data = robot
    mujoco.mj_saveModel(model, str(tmp_path / "robot.mjb"))
    done = subprocess.run(
        [sys.executable, "-c", SEGMENT, str(tmp_path / "robot.mjb"), str(tmp_path / "mask.npy")],
        env={"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0:
        pytest.skip(f"no OSMesa here (apt-get install libosmesa6): {done.stderr[-100:]}")
    mask = np.load(tmp_path / "mask.npy")
    assert overlap(mask, ray_mask(model, data)) > 0.99
    assert overlap(silhouette(bake(model, budget=2500), model, data), mask) >= 0.95


SEGMENT = """
import sys, mujoco, numpy as np
model = mujoco.MjModel.from_binary_path(sys.argv[1])
data = mujoco.MjData(model)
mujoco.mj_resetDataKeyframe(model, data, 0)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 128, 128)
renderer.enable_segmentation_rendering()
renderer.update_scene(data, camera="front")
np.save(sys.argv[2], renderer.render()[:, :, 0] >= 0)
"""
