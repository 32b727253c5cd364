import functools
from dataclasses import replace

import jax
import mujoco
import numpy as np
import pytest
import splat_scenes as scenes

from splat_render import background
from splat_render.backends import cpu, reference, xla
from splat_render.types import Background, RasterConfig

# Poses of the arm [rad] in which the box hides much of it from the camera.
HIDDEN = (
    (0.4, 0.5, 0.5, 0.4, 0.3, 0.2, 0.2),
    (0.2, 0.5, 0.7, 0.7, 0.4, 0.3, 0.2),
    (-0.3, 0.5, 0.5, 0.7, 0.4, 0.2, 0.2),
    (0.4, 0.2, 0.5, 0.6, 0.6, 0.6, 0.3),
)
SIZE, SMALL = scenes.config(), scenes.config(24, 24)
build = background.build_background
# The same pictures (test_cpu.py, test_xla.py) in a hundredth of the time.
RASTERIZE = xla.rasterize if cpu.unavailable() else cpu.rasterize


@functools.cache
def table(count: int = 10_000, size: RasterConfig = SIZE):
    """The scene, and the background [1, 1, ...] of its camera."""
    splats, camera = scenes.table_scene(count), scenes.table_camera(size)
    still, _ = background.split_static(splats, scenes.table_static())
    one = build(still, camera, size, scenes.table_poses())
    return splats, camera, jax.tree.map(lambda x: x[None], one)


def quality(behind: Background, angles) -> float:
    splats, camera, _ = table()
    poses = scenes.table_poses(angles)
    args = (splats, scenes.table_static(), behind, poses, camera, SIZE)
    return float(background.background_psnr(*args, rasterize=RASTERIZE)[0])


@pytest.mark.parametrize("angles", HIDDEN)
def test_a_cached_background_with_depth_is_as_good_as_drawing_everything(angles):
    _, _, behind = table()
    assert quality(behind, angles) >= 42
    # Without the test per splat the arm shows through the box: this test can see it.
    no_depth = replace(behind, depth=np.full_like(behind.depth, np.inf))
    assert quality(no_depth, angles) < 32


def test_the_check_warns_of_a_poor_background():
    _, _, behind = table()
    no_depth = replace(behind, depth=np.full_like(behind.depth, np.inf))
    said = background.poor_background(np.array([50.0, quality(no_depth, HIDDEN[0])]))
    assert said.startswith("the cached background differs from the full picture (2")
    assert len(said.splitlines()) == 1
    assert background.poor_background(np.array([50.0, 36.0])) is None
    assert background.poor_background(np.array([np.inf])) is None


def test_the_check_compares_what_is_shown():
    """Bytes of worlds, by the backend that is not named, are about as good as floats."""
    splats, camera, behind = table(1000, SMALL)
    poses = jax.tree.map(
        lambda *x: np.stack(x), *[scenes.table_poses(angles) for angles in HIDDEN[:2]]
    )
    cameras = jax.tree.map(lambda x: np.stack([x, x]), camera)
    args = (splats, scenes.table_static(), behind, poses, cameras)
    floats = background.background_psnr(*args, SMALL, rasterize=RASTERIZE)
    got = background.background_psnr(*args, replace(SMALL, rgb_dtype="uint8"))
    assert got.shape == (2, 1)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, floats, atol=1.0)


def test_what_is_drawn_without_moving_splats_is_the_static_picture():
    splats, camera, behind = table(1000, SMALL)
    still, moving = background.split_static(splats, scenes.table_static())
    none = jax.tree.map(lambda x: x[:0], moving)
    frame = xla.rasterize(none, scenes.table_poses(), camera, SMALL, behind)
    full = xla.rasterize(still, scenes.table_poses(), camera, SMALL)
    assert np.array_equal(frame.rgb, full.rgb)
    assert (np.asarray(frame.alpha) == 1).all()
    assert np.array_equal(np.isfinite(behind.depth[0]), np.asarray(full.alpha) >= 0.5)


def test_the_median_depth_is_the_references():
    splats, camera, behind = table()
    still, _ = background.split_static(splats, scenes.table_static())
    one = jax.tree.map(lambda x: x[0], camera)
    want = reference.draw(still, scenes.table_poses(), one, SIZE).median
    got = np.asarray(behind.depth[0, 0])
    same = np.isclose(got, want, atol=1e-5)
    # Where a splat leaves half of the light to the last digit, float32 may take the next one.
    assert same.mean() > 0.999
    assert 0.7 < np.isfinite(want).mean() < 1.0


def test_variants_of_the_mounting_are_drawn_at_once():
    size = SMALL
    splats, poses = scenes.table_scene(1000), scenes.table_poses()
    still, _ = background.split_static(splats, scenes.table_static())
    eyes = [[(1.0, -0.7, 0.55), (0.9, 0.1, 0.6)], [(1.1, -0.6, 0.5), (0.8, 0.2, 0.7)]]
    mounted = [scenes.table_camera(size, eye) for eye in eyes]
    both = build(still, jax.tree.map(lambda *x: np.stack(x), *mounted), size, poses)
    assert both.rgb.shape == (2, 2, 24, 24, 3)
    for v, cameras in enumerate(mounted):
        one = build(still, cameras, size, poses)
        np.testing.assert_allclose(both.rgb[v], one.rgb, atol=1e-5)


def test_the_split_keeps_every_splat_once():
    splats = scenes.table_scene(1000)
    still, moving = background.split_static(splats, scenes.table_static())
    assert len(still.means) == 650
    assert (np.asarray(still.body_id) == scenes.WORLD).all()
    assert (np.asarray(moving.body_id) != scenes.WORLD).all()
    assert len(moving.means) == 350
    assert not np.intersect1d(still.means[:, 0], moving.means[:, 0]).size


MODEL = """
<mujoco><worldbody>
  <body name="table"><geom size=".1"/><body name="plate"><geom size=".1"/></body></body>
  <body name="arm"><joint/><geom size=".1"/><body name="hand"><geom size=".1"/></body></body>
  <body name="mark" mocap="true"><geom size=".1"/><body name="flag"><geom size=".1"/></body></body>
</worldbody></mujoco>
"""


def test_static_is_what_is_welded_to_the_world_and_not_mocap():
    model = mujoco.MjModel.from_xml_string(MODEL)
    names = [model.body(b).name for b in range(model.nbody)]
    still = background.static_bodies(model.body_weldid, model.body_mocapid)
    assert [n for n, s in zip(names, still, strict=True) if s] == ["world", "table", "plate"]
