"""Depth in pictures: against MuJoCo's own rays, in levels that simulator and bridge share."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import (
    CameraView,
    Observer,
    PixelConfig,
    colors,
    require_plain_pictures,
)
from mjx_serl.envs.rendering import build_renderer
from robot_bridge.cameras.camera import Frame, pinhole
from robot_bridge.clock import MonotonicClock
from robot_bridge.drivers.simulated import SimEye
from robot_bridge.policy.observation import ObservationBuilder
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract, depth_levels
from scenes.contract.serialize import digest
from splat_render.assets.bake import pose
from splat_render.scene_renderer import SceneRenderer, mounted
from splat_render.types import BodyPoses, CameraBatch

FAR, SIZE = 2.0, 32
PIXELS = PixelConfig(cameras=("front", "wrist"), size=SIZE, splats=6000, backend="cpu", depth=FAR)


@pytest.fixture(scope="module")
def renderer(sparse: Env) -> SceneRenderer:
    return build_renderer(PIXELS, sparse)


def at_home(env: Env) -> BodyPoses:
    """One world."""
    home = pose(env.scene.model)
    return BodyPoses(*(jnp.asarray(x, jnp.float32)[None] for x in (home.xpos, home.xquat)))


def measured(env: Env, camera: CameraBatch) -> np.ndarray:
    """Depth by MuJoCo's rays through the middles of the pixels [m]; FAR where nothing is hit."""
    model, home = env.scene.model, pose(env.scene.model)
    view, K = np.asarray(camera.viewmats, float), np.asarray(camera.Ks, float)
    turn, depth = view[:3, :3].T, np.full((SIZE, SIZE), FAR)
    origin = -turn @ view[:3, 3]
    for i, j in np.ndindex(SIZE, SIZE):
        ray = np.array([(j + 0.5 - K[0, 2]) / K[0, 0], (i + 0.5 - K[1, 2]) / K[1, 1], 1.0])
        length, hit = np.linalg.norm(ray), np.full(1, -1, np.int32)
        ray = turn @ (ray / length)
        distance = mujoco.mj_ray(model, home, origin, ray, None, 1, -1, hit, np.zeros(3))
        if hit[0] >= 0:
            depth[i, j] = min(distance / length, FAR)
    return depth


def test_depth_is_what_mujocos_rays_measure(sparse: Env, renderer: SceneRenderer) -> None:
    poses, variant = at_home(sparse), jnp.zeros(1, jnp.int32)
    drawn = np.asarray(jax.jit(renderer.render)(poses, variant).depth)[0]
    for view in renderer.views:
        cameras = jax.tree.map(lambda x: x[0], mounted(view.rig, poses, variant))
        for i, camera in enumerate(view.cameras):
            want = measured(sparse, jax.tree.map(lambda x, i=i: x[i], cameras))
            error = np.abs(np.minimum(drawn[camera], FAR) - want)
            # A pixel at an edge is a mixture, and a level is FAR / 255 = 8 mm.
            assert np.median(error) < 0.01, camera
            assert np.mean(error < 0.04) > 0.85, camera
            assert np.ptp(want) > 0.2, "there is something to measure"


def test_levels_are_the_same_for_numpy_and_jax_and_survive_the_bridge() -> None:
    depth = np.linspace(-0.1, 2.5, 4001, dtype=np.float32)
    levels = depth_levels(depth, FAR)
    np.testing.assert_array_equal(levels, depth_levels(jnp.asarray(depth), FAR))
    assert levels[0] == 0 and levels[-1] == 255 and levels.dtype == np.uint8
    assert np.abs(levels[200:3000] / 255.0 * FAR - depth[200:3000]).max() <= FAR / 510 + 1e-6
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(depth_levels(every * np.float32(FAR / 255.0), FAR), every)


def test_a_picture_has_a_fourth_channel(sparse: Env, renderer: SceneRenderer) -> None:
    observer = Observer(sparse, CameraView(PIXELS, renderer))
    worlds = jax.eval_shape(jax.vmap(sparse.reset), jax.random.split(jax.random.key(0), 1))
    look = observer.looks(jax.random.key(1), 1)
    poses = at_home(sparse)
    sim = dataclasses.replace(worlds.sim, xpos=poses.xpos, xquat=poses.xquat)
    assert observer.cameras is not None
    seen = observer.cameras.pictures(worlds.replace(sim=sim, varied=()), look)
    frame = renderer.render(poses, look.variant)
    for i, name in enumerate(PIXELS.cameras):
        np.testing.assert_array_equal(seen[name][..., :3], frame.rgb[:, i])
        levels = depth_levels(frame.depth[:, i], FAR)
        np.testing.assert_array_equal(seen[name][..., 3], levels)
        assert observer.obs_spec[name].shape == (SIZE, SIZE, 4)
        assert colors(seen)[name].shape == (1, SIZE, SIZE, 3)
    plain = Observer(sparse, CameraView(dataclasses.replace(PIXELS, depth=0.0), renderer))
    assert observer.contract.depth == FAR and plain.contract.depth == 0.0
    assert digest(observer.contract) != digest(plain.contract)
    with pytest.raises(InputError, match="--pixels.depth 2 with single colour pictures"):
        require_plain_pictures(observer)
    _check_bridge(observer.contract, {name: np.asarray(x[0]) for name, x in seen.items()})


def _check_bridge(contract: Contract, pictures: dict[str, np.ndarray]) -> None:
    """A simulated camera shows the policy the same; one without depth is refused."""
    clock, world = MonotonicClock(), SimpleNamespace(pictures=lambda: pictures)
    sim: Any = world
    eyes = {c.name: SimEye(sim, clock, c, far=contract.depth) for c in contract.cameras}
    builder = ObservationBuilder(contract, eyes=eyes)
    for camera in contract.cameras:
        eye = eyes[camera.name]
        shown = builder._picture(eye.latest(), eye.intrinsics, camera)
        np.testing.assert_array_equal(shown, pictures[camera.name])
    front = contract.cameras[0]
    flat = Frame(pictures["front"][..., :3], 0.0, 1)
    with pytest.raises(LookupError, match="Camera 'front' has sent a picture without depth"):
        builder._picture(flat, pinhole(SIZE, SIZE, fovy=front.fovy), front)
    blind = {c.name: SimEye(sim, clock, c) for c in contract.cameras}
    with pytest.raises(KeyError, match="depth up to 2 m and camera 'front' measures none"):
        ObservationBuilder(contract, eyes=blind)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(InputError, match="pixels.depth 2 with --pixels.frozen"):
        PixelConfig(cameras=("front", "wrist"), frozen="pick_cube", depth=2.0)
    with pytest.raises(InputError, match="pixels.depth 2 without cameras, allowed: 0"):
        PixelConfig(depth=2.0)
    with pytest.raises(InputError, match="pixels.depth"):
        PixelConfig(cameras=("front",), depth=-1.0)
