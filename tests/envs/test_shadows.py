"""Soft shadows on the table: where they fall, who draws them, and what a run remembers of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.commands import parse_train
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import CameraView, Observer, PixelConfig
from mjx_serl.envs.rendering import build_renderer
from mjx_serl.run.folder import RunFolder
from scenes.contract.errors import InputError
from scenes.contract.serialize import digest, to_json
from splat_render.assets.bake import pose
from splat_render.backend import choose_backend
from splat_render.cameras import place
from splat_render.scene_renderer import SceneRenderer
from splat_render.shadows import casting_bodies
from splat_render.types import BodyPoses, CameraBatch

SIZE = 48
PLAIN = PixelConfig(cameras=("front",), size=SIZE, splats=1500, backend="cpu")
SHADED = dataclasses.replace(PLAIN, shadows=True)
Pair = tuple[SceneRenderer, SceneRenderer]
Draw = Callable[[BodyPoses], np.ndarray]


@pytest.fixture(scope="module")
def renderers(sparse: Env) -> Pair:
    """Without and with shadows."""
    return build_renderer(PLAIN, sparse), build_renderer(SHADED, sparse)


@pytest.fixture(scope="module")
def darkness(renderers: Pair) -> Draw:
    return darkening(renderers)


def darkening(renderers: Pair) -> Draw:
    """How much darker each pixel [3, H, W] of three worlds is for the shadows."""

    @jax.jit
    def draw(poses: BodyPoses) -> tuple[jax.Array, jax.Array]:
        variant = jnp.zeros(3, jnp.int32)
        plain, shaded = (r.render(poses, variant).rgb[:, 0].astype(float) for r in renderers)
        return plain, shaded

    def difference(poses: BodyPoses) -> np.ndarray:
        plain, shaded = map(np.asarray, draw(poses))
        return (plain - shaded).mean(axis=-1)

    return difference


def worlds(env: Env, cubes: list[tuple[float, float, float]]) -> BodyPoses:
    """Worlds whose cube's centre is there [m], the arm at home."""
    model = env.scene.model
    home = pose(model).qpos
    at = model.jnt_qposadr[model.body("cube").jntadr[0]]
    posed = []
    for cube in cubes:
        qpos = home.copy()
        qpos[at : at + 3] = cube
        posed.append(pose(model, qpos))
    arrays = (np.float32([getattr(d, name) for d in posed]) for name in ("xpos", "xquat"))
    return BodyPoses(*map(jnp.asarray, arrays))


def pixel_of(renderer: SceneRenderer, poses: BodyPoses, point: tuple[float, ...]) -> np.ndarray:
    """Where the front camera sees a point of the world [px]."""
    first = jax.tree.map(lambda x: x[0], (renderer.views[0].rig, poses))
    camera: CameraBatch = jax.tree.map(lambda x: np.asarray(x)[0], place(*first))
    seen = camera.Ks @ (camera.viewmats[:3, :3] @ np.array(point) + camera.viewmats[:3, 3])
    return seen[:2] / seen[2]


def test_a_shadow_lies_around_a_cube_follows_it_and_is_gone_below_a_lifted_one(
    sparse: Env, renderers: Pair, darkness: Draw
) -> None:
    places = [(0.55, 0.0, 0.02), (0.6, 0.16, 0.02), (0.55, 0.0, 0.25)]
    poses = worlds(sparse, places)
    dark = darkness(poses)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    for world in (0, 1):
        x, y, _ = places[world]
        weight = dark[world] / dark[world].sum()
        centre = np.array([(weight * columns).sum(), (weight * rows).sum()])
        assert np.abs(centre - pixel_of(renderers[0], poses, (x, y, 0.0))).max() < 1.5
    assert dark[:2].max(axis=(1, 2)).min() > 15 and dark.min() >= 0
    assert dark[2].max() < 1


def test_a_shadow_fades_while_its_cube_rises(sparse: Env, darkness: Draw) -> None:
    dark = darkness(worlds(sparse, [(0.55, 0.0, 0.02 + h) for h in (0.0, 0.03, 0.06)]))
    first, second, third = dark.sum(axis=(1, 2))
    assert first > 1.2 * second > 2 * third > 0


def test_the_cpu_and_the_xla_backend_cast_the_same_shadows(
    sparse: Env, renderers: Pair, darkness: Draw
) -> None:
    poses = worlds(sparse, [(0.55, 0.0, 0.02), (0.55, 0.1, 0.03), (0.5, 0.0, 0.05)])
    plain, shaded = (dataclasses.replace(r, chosen=choose_backend("xla")) for r in renderers)
    kernel, traced = darkness(poses), darkening((plain, shaded))(poses)
    assert np.abs(kernel - traced).max() <= 1 < kernel.max()


def test_a_page_lays_strong_shadows_on_the_table_and_hides_faint_ones(
    sparse: Env, renderers: Pair
) -> None:
    poses = worlds(sparse, [(0.55, 0.1, 0.02), (0.55, 0.1, 0.3)])
    shadows = renderers[1].shadows
    assert shadows is not None
    bodies = sparse.scene.model.nbody
    of_cube = bodies + np.flatnonzero(shadows.body_id == sparse.scene.model.body("cube").id)
    shown = np.asarray(shadows.around(poses).xpos)
    np.testing.assert_array_equal(shown[:, :bodies], poses.xpos)
    assert shown.shape[1] == bodies + len(shadows.body_id)
    assert shown[0, of_cube, 2].max() > 0 > shown[1, of_cube, 2].max()
    assert np.abs(shown[0, of_cube, :2] - [0.55, 0.1]).max() < 0.03


def test_objects_fingers_and_the_hand_cast_shadows(sparse: Env) -> None:
    model = sparse.scene.model
    names = [model.body(b).name for b in casting_bodies(model.body_parentid, model.body_weldid)]
    assert names == ["hand", "left_finger", "right_finger", "cube"]


def test_what_a_policy_was_trained_on_says_whether_there_were_shadows(
    sparse: Env, renderers: Pair
) -> None:
    plain, shaded = (
        Observer(sparse, CameraView(config.pinned(), renderer)).contract
        for config, renderer in zip((PLAIN, SHADED), renderers, strict=True)
    )
    assert "shadows" not in to_json(plain) and shaded.shadows
    assert digest(plain) != digest(shaded)
    assert digest(dataclasses.replace(shaded, shadows=False)) == digest(plain)
    # A config from before, which lacks the field.
    assert "shadows" not in to_json(PLAIN) and to_json(SHADED)["shadows"] is True


def test_shadows_are_an_option_of_training(tmp_path: Path) -> None:
    cfg, _ = parse_train(["--pixels.shadows", "--run.folder", str(tmp_path), "--run.name", "a"])
    assert cfg.pixels.shadows
    folder = RunFolder.create(tmp_path, task=cfg.task, agent="sac", seed=0, name="a")
    folder.write_config(cfg)
    resumed, _ = parse_train(["--resume", str(tmp_path / "a")])
    assert resumed.pixels.shadows


def test_a_scene_without_a_table_says_that_shadows_need_one(
    sparse: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("desk", "a geom 'desk', which this scene lacks"), ("cube", "stands still")):
        monkeypatch.setattr("mjx_serl.envs.rendering._TABLE", name)
        with pytest.raises(InputError, match=said):
            build_renderer(dataclasses.replace(SHADED, splats=100), sparse)
