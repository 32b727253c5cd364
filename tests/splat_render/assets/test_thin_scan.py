"""Fewer splats look the same to the cameras, and nothing opens up between them."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from scenes.build import build_scene
from scenes.layouts import pick_cube
from splat_render.assets import align
from splat_render.assets.bake import bake, pose
from splat_render.assets.contribution import (
    Viewpoint,
    _bent,
    blending_weights,
    contributions,
    task_views,
)
from splat_render.assets.thin_scan import likeness, thin
from splat_render.backends.reference import rasterize_float64
from splat_render.types import GaussianSet, RasterConfig

CONFIG = RasterConfig(width=32, height=32, color=(0.6, 0.7, 0.8))


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture(scope="module")
def data(model: mujoco.MjModel) -> mujoco.MjData:
    return pose(model)


@pytest.fixture(scope="module")
def splats(model: mujoco.MjModel) -> GaussianSet:
    """A scene of patches of several colours."""
    made = bake(model, budget=1200)
    stripes = np.sin(40 * np.asarray(made.means)[:, :2]).sum(axis=1)
    sh = np.asarray(made.sh) + 0.2 * stripes[:, None, None].astype(np.float32)
    return made.replace(sh=jnp.asarray(sh))


@pytest.fixture(scope="module")
def views(model: mujoco.MjModel, data: mujoco.MjData) -> list[Viewpoint]:
    return task_views(model, data, size=CONFIG.width, count=2)


def test_weights_times_colours_are_the_reference_picture(
    splats: GaussianSet, views: list[Viewpoint]
) -> None:
    view = views[-1]
    weights, seen = blending_weights(splats, view, CONFIG)
    colors = np.zeros((len(splats.means), 3))
    colors[seen.index] = seen.colors
    left = 1 - np.asarray(weights.sum(axis=1))[:, None]
    picture = weights @ colors + left * CONFIG.color
    one = jax.tree.map(lambda x: np.asarray(x)[None], view.camera)
    exact = rasterize_float64(splats, view.poses, one, CONFIG).rgb[0]
    np.testing.assert_allclose(picture.reshape(exact.shape), exact, atol=1e-9)


def test_what_lies_behind_something_contributes_nothing_however_opaque(
    splats: GaussianSet, views: list[Viewpoint], model: mujoco.MjModel
) -> None:
    total, pixel = contributions(splats, views, CONFIG)
    inside = np.asarray(splats.body_id) == model.body("link0").id
    assert (np.asarray(splats.opacities)[total == 0] > 0.9).sum() > 10
    assert total.sum() == pytest.approx(len(views) * 32 * 32, rel=0.2)
    # A pixel of the front camera is about 2 cm large at the robot's base.
    assert 0.005 < np.median(pixel[inside]) < 0.05


def test_a_third_of_the_splats_looks_the_same_and_leaves_no_hole(
    splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    thinned = thin(splats, model, data, most=500, size=32, poses=5)
    assert len(thinned.means) <= 500
    body = np.asarray(thinned.body_id)
    assert (np.diff(body) >= 0).all() and set(body) <= set(np.asarray(splats.body_id))
    alike = likeness(thinned, splats, model, data, size=32, poses=2)
    assert set(alike) == {"front", "wrist"} and min(alike.values()) > 30
    opaque = opened = 0
    for view in task_views(model, data, size=32, count=2, seed=5):
        before, after = (
            np.asarray(blending_weights(s, view, CONFIG)[0].sum(axis=1)) for s in (splats, thinned)
        )
        opaque += (before > 0.95).sum()
        opened += ((before > 0.95) & (after < 0.8)).sum()
    assert opaque > 500 and opened < 0.01 * opaque
    assert thin(splats, model, data, most=len(splats.means)) is splats


FAR_AND_NEAR = """<mujoco><worldbody>
  <camera name="far" pos="0 0 1.2" fovy="37"/><camera name="near" pos="3 0 0.2" fovy="37"/>
</worldbody></mujoco>"""


def test_what_a_near_camera_sees_is_divided_as_finely_in_its_pixels() -> None:
    """Two patches that fill a picture each, one six times as large and as far as the other."""
    model = mujoco.MjModel.from_xml_string(FAR_AND_NEAR)
    rng, count = np.random.default_rng(0), 400
    side = np.repeat([0.8, 0.8 / 6], count)[:, None]
    means = np.zeros((2 * count, 3), np.float32)
    means[:, :2] = side * rng.uniform(-0.5, 0.5, (2 * count, 2))
    means[count:, 0] += 3
    flat = np.tile([1.0, 1.0, 0.01], (2 * count, 1)) * side / 25
    patches = GaussianSet(
        means=jnp.asarray(means),
        quats=jnp.tile(jnp.array([1.0, 0, 0, 0]), (2 * count, 1)),
        scales=jnp.asarray(flat, jnp.float32),
        opacities=jnp.full(2 * count, 0.9),
        sh=jnp.zeros((2 * count, 1, 3)),
        body_id=jnp.zeros(2 * count, jnp.int32),
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    thinned = thin(patches, model, data, most=100, size=32, poses=1)
    near = int((np.asarray(thinned.means)[:, 0] > 1.5).sum())
    assert 40 <= near <= 60


def test_no_view_is_taken_from_where_a_cameras_housing_would_be_inside_something(
    model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    low = pose(model)
    low.qpos[:7] = (0.0, 0.7, 0.0, -2.2, 0.0, 2.0, 0.8)  # the camera near the table
    rng, wrist = np.random.default_rng(0), model.camera("wrist").id
    heights = [_bent(model, low, rng).cam_xpos[wrist, 2] for _ in range(20)]
    assert min(heights) > 0.045


def test_a_model_without_cameras_and_too_few_splats_are_refused(
    splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    with pytest.raises(ValueError, match=r"--max-splats 3, allowed: \d+, one for each body"):
        thin(splats, model, data, most=3)
    blind = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="the model has no camera"):
        thin(splats, blind, mujoco.MjData(blind), most=100)


def test_the_command_line_thins_and_says_how_like_the_pictures_are(
    splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData
) -> None:
    options = align.ThinOptions(max_splats=500, picture_size=16)
    thinned, said = align.thin_if_asked(splats, model, data, options)
    assert len(thinned.means) <= 500
    assert f"thinned from {len(splats.means)} to 500 splats; pictures of 16 px" in said
    assert "dB front" in said and "dB wrist" in said
    assert align.thin_if_asked(splats, model, data, align.ThinOptions()) == (splats, "")
