"""Splats learn to look like photographs, keep in few bytes, and are used where pictures show it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from solidity import pictures, robot_alpha, transparent_share

from scenes.build import build_scene
from scenes.layouts import pick_cube
from splat_render.assets.bake import _finest, pose, scene_splats
from splat_render.assets.fitting.optimise import FitConfig, fit
from splat_render.assets.fitting.stored import FittedSplats, from_columns
from splat_render.assets.fitting.studio import Photos, Studio, around
from splat_render.assets.robot_surfaces import load_surface
from splat_render.assets.surface import geom_triangles
from splat_render.backends import cpu
from splat_render.cameras import intrinsics
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

SIZE = 32
PHOTO = Path(__file__).parent / "data" / "panda_photo.npz"


def patches(count: int, seed: int = 0) -> GaussianSet:
    """A ball of flat splats, its colour a function of the place and the direction."""
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    sh = np.zeros((count, 4, 3))
    sh[:, 0], sh[:, 2] = np.sin(3 * out), 0.3
    quats = rng.normal(size=(count, 4))
    columns = {
        "means": 0.12 * out + np.array([0.3, 0.0, 0.3]),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": np.full((count, 3), 0.02),
        "opacities": np.full(count, 0.9),
        "sh": sh,
    }
    columns = {name: jnp.asarray(value, jnp.float32) for name, value in columns.items()}
    return GaussianSet(**columns, body_id=jnp.zeros(count, jnp.int32))


def photographed(splats: GaussianSet, count: int, seed: int) -> Photos:
    """Pictures by our own renderer, before black."""
    eyes = around(np.random.default_rng(seed), count)
    eyes = [dataclasses.replace(eye, target=np.array([0.3, 0.0, 0.3])) for eye in eyes]
    viewmats = np.stack([eye.viewmat() for eye in eyes])
    Ks = np.stack([intrinsics(25.0, SIZE, SIZE)] * count)
    xpos, xquat = np.zeros((count, 1, 3)), np.tile([1.0, 0, 0, 0], (count, 1, 1))
    config = RasterConfig(width=SIZE, height=SIZE, rgb_dtype="float32")
    frame = cpu.rasterize(
        splats,
        BodyPoses(*(jnp.asarray(x, jnp.float32) for x in (xpos, xquat))),
        CameraBatch(*(jnp.asarray(x[:, None], jnp.float32) for x in (viewmats, Ks))),
        config,
    )
    alpha = np.asarray(frame.alpha[:, 0])
    rgb = np.asarray(frame.rgb[:, 0])
    return Photos(
        rgb=np.uint8(np.clip(rgb, 0, 1) * 255),
        alpha=np.uint8(alpha * 255),
        viewmats=viewmats,
        Ks=Ks,
        xpos=xpos,
        xquat=xquat,
    )


def error(splats: GaussianSet, photos: Photos) -> float:
    """Mean squared error of the colours where the photographs show something."""
    drawn = photographed(splats, len(photos), seed=99)
    seen = photos.alpha > 127
    return float(np.square((drawn.rgb / 255.0 - photos.rgb / 255.0)[seen]).mean())


def test_a_fit_looks_like_its_photographs_from_sides_it_has_not_seen() -> None:
    truth = patches(500)
    first = patches(120, seed=1)
    first = first.replace(sh=jnp.zeros((120, 1, 3)))
    losses = []
    fitted = fit(
        first,
        photographed(truth, 16, seed=5),
        FitConfig(steps=300, degree=1),
        log=lambda step, loss: losses.append(loss),
    )
    held_out = photographed(truth, 8, seed=99)
    assert error(fitted, held_out) < 0.4 * error(first, held_out)
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert fitted.sh.shape == (120, 4, 3)
    assert np.asarray(fitted.opacities).max() <= 0.98


def test_fitted_splats_come_back_from_their_columns() -> None:
    splats = jax.tree.map(np.asarray, patches(50))
    read = from_columns(FittedSplats(splats=splats, pixel=0.004).columns())
    assert read.pixel == pytest.approx(0.004)
    np.testing.assert_allclose(read.splats.means, splats.means, atol=1.1e-5)
    np.testing.assert_allclose(read.splats.scales, splats.scales, rtol=0.03)
    np.testing.assert_allclose(read.splats.sh, splats.sh, atol=0.008)
    np.testing.assert_allclose(read.splats.opacities, splats.opacities, atol=0.002)
    turned = np.abs(np.einsum("gi,gi->g", read.splats.quats, splats.quats))
    assert turned.min() > np.cos(np.radians(0.5))


HAMMER = """<mujoco><asset>
  <mesh name="head" vertex="0 0 0  .1 0 0  0 .2 0  0 0 .3" refpos=".05 0 0"/>
  <material name="steel" rgba=".3 .4 .5 1" specular=".9" shininess=".2"/>
</asset><worldbody><body name="hammer" pos=".1 .2 .3" euler="30 40 50"><freejoint/>
  <geom type="mesh" mesh="head" material="steel" pos="0 0 .1" euler="0 20 0"/>
  <geom type="capsule" size=".01 .1" pos="0 0 -.1"/>
</body></worldbody></mujoco>"""


def corners(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Corners of all triangles in the world [m]."""
    parts = []
    for geom in range(model.ngeom):
        vertices, faces = geom_triangles(model, geom)
        turned = vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        parts.append(turned[faces].reshape(-1, 3))
    return np.concatenate(parts)


def test_the_studio_has_the_geoms_where_the_model_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mujoco, "Renderer", lambda *args: None)
    model = mujoco.MjModel.from_xml_string(HAMMER)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    studio = Studio([(model, ["hammer"])], size=8)
    studio._place(model, data)
    mujoco.mj_kinematics(studio.model, studio.data)
    np.testing.assert_allclose(corners(studio.model, studio.data), corners(model, data), atol=1e-6)
    material = studio.model.geom_matid[0]
    assert studio.model.mat_specular[material] == pytest.approx(0.9)


def test_without_a_sky_what_is_not_covered_is_black(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = np.ones(mujoco.mjtRndFlag.mjNRNDFLAG, np.uint8)
    renderer = SimpleNamespace(scene=SimpleNamespace(flags=flags), close=lambda: None)
    monkeypatch.setattr(mujoco, "Renderer", lambda *args: renderer)
    model = mujoco.MjModel.from_xml_string(HAMMER)
    for sky in (True, False):
        Studio([(model, ["hammer"])], size=8, sky=sky)
        assert bool(flags[mujoco.mjtRndFlag.mjRND_SKYBOX]) == sky


def test_a_pixel_of_a_photograph_is_the_mean_of_what_was_drawn_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mujoco, "Renderer", lambda *args: None)
    studio = Studio([(mujoco.MjModel.from_xml_string(HAMMER), ["hammer"])], size=4, oversample=3)
    drawn = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.float32)
    expected = [
        [drawn[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean((0, 1)) for x in range(4)]
        for y in range(4)
    ]
    np.testing.assert_array_equal(studio._averaged(drawn), np.round(expected))


def test_without_gl_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco, "Renderer", lambda *args: 1 / 0)
    model = mujoco.MjModel.from_xml_string(HAMMER)
    with pytest.raises(ValueError, match="no off-screen GL here .*MUJOCO_GL=egl or osmesa"):
        Studio([(model, ["hammer"])], size=8)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


# Budget of the scene and size of its pictures [px], which of the fitted sets they get, and how like
# MuJoCo's they are at least [dB], from a side that no fit has seen.
LOOKS = ((10_000, 256, 0, 28.0), (30_000, 512, 1, 30.0))


@pytest.fixture(scope="module")
def looks(model: mujoco.MjModel) -> dict[int, GaussianSet]:
    return {
        size: scene_splats(model, budget=budget, cameras=pictures(size, "front"))
        for budget, size, _, _ in LOOKS
    }


@pytest.mark.parametrize(("budget", "size", "which", "least"), LOOKS)
def test_large_pictures_have_the_fitted_splats_of_their_size(
    model: mujoco.MjModel,
    looks: dict[int, GaussianSet],
    budget: int,
    size: int,
    which: int,
    least: float,
) -> None:
    surface, splats = load_surface("panda"), looks[size]
    on_robot = np.isin(np.asarray(splats.body_id), surface.rows_in(model)).sum()
    assert on_robot == len(surface.fitted[which])
    assert len(splats.means) <= budget
    for smaller in (128, 256):
        assert transparent_share(robot_alpha(splats, model, smaller)) <= 0.03


@pytest.mark.parametrize(("budget", "size", "which", "least"), LOOKS)
def test_the_robot_looks_as_mujoco_draws_it(
    model: mujoco.MjModel,
    looks: dict[int, GaussianSet],
    budget: int,
    size: int,
    which: int,
    least: float,
) -> None:
    """At the home of our scenes; tools/picture_quality.py prints the mean of many views."""
    with np.load(PHOTO) as file:
        photo = dict(file)
    data = pose(model)
    config = RasterConfig(width=size, height=size)
    K = photo["K"] * np.array([size / 256, size / 256, 1.0])[:, None]
    drawn = cpu.rasterize(
        looks[size],
        BodyPoses(*(jnp.asarray(x, jnp.float32) for x in (data.xpos, data.xquat))),
        CameraBatch(*(jnp.asarray(x[None], jnp.float32) for x in (photo["viewmat"], K))),
        config,
    )
    off = np.asarray(drawn.rgb[0]) / 255 - photo[f"rgb{size}"] / 255
    assert -10 * np.log10(np.square(off)[photo[f"alpha{size}"] > 127].mean()) >= least


def test_small_pictures_and_small_budgets_are_baked(model: mujoco.MjModel) -> None:
    surface = load_surface("panda")
    for budget, size in ((3000, 256), (10_000, 64)):
        assert _finest(surface, model, pose(model), budget=budget, cameras=pictures(size)) is None
