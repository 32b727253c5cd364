"""Pictures in the environment: what is drawn when, and who sees what."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.appearance import LookConfig, apply_look, draw_looks
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.vector import VecEnv, VecState, vectorize
from mjx_serl.training.collect import rollout
from mjx_serl.training.policies import random_policy
from mjx_serl.types import Transition
from splat_render.types import BodyPoses

WORLDS, SIZE = 3, 32
CONFIG = PixelConfig(cameras=("front", "wrist"), size=SIZE, splats=800)


@pytest.fixture(scope="module")
def env() -> Env:
    return make_env("franka/pick_cube", max_worlds=WORLDS)


@pytest.fixture(scope="module")
def worlds(env: Env) -> VecEnv:
    return vectorize(CONFIG.build(env), num_envs=WORLDS, pool_size=2)


@pytest.fixture(scope="module")
def reset(worlds: VecEnv) -> Callable[[jax.Array], VecState]:
    return jax.jit(worlds.reset)


Played = tuple[VecState, VecState, Transition]


@pytest.fixture(scope="module")
def played(worlds: VecEnv, reset: Callable[[jax.Array], VecState]) -> Played:
    """The worlds before and after three steps, and the rows, from one program."""
    start = reset(jax.random.key(1))
    policy = random_policy(worlds.env.action_dim)
    return start, *jax.jit(lambda s: rollout(worlds, policy, s, jax.random.key(2), 3))(start)


def test_policies_with_cameras_do_not_see_what_only_a_simulator_knows(
    env: Env, worlds: VecEnv
) -> None:
    names = worlds.observer.obs_spec.names
    assert {"front", "wrist", "ee_position", "gripper_width"} <= set(names)
    assert not {"cube_position", "cube_from_ee"} & set(names)
    assert "cube_position" in PixelConfig().build(env).obs_spec.names


def test_observations_are_as_declared_and_show_something(
    worlds: VecEnv, reset: Callable[[jax.Array], VecState]
) -> None:
    state = reset(jax.random.key(0))
    obs = worlds.observe(state)
    spec = worlds.observer.obs_spec
    assert set(obs) == set(spec.names)
    for field in spec.fields:
        assert obs[field.name].shape == (WORLDS, *field.shape)
        assert obs[field.name].dtype == field.dtype
    for camera in ("front", "wrist"):
        assert np.asarray(obs[camera]).std() > 10


def test_a_transition_holds_the_picture_of_before_and_the_next_row_that_of_after(
    worlds: VecEnv, played: Played
) -> None:
    state, last, rows = played
    np.testing.assert_array_equal(rows.obs["wrist"][0], state.pictures["wrist"])
    drawn = worlds.observer.pictures(last.envs, last.look)
    np.testing.assert_array_equal(last.pictures["front"], drawn["front"])
    assert np.any(np.asarray(rows.obs["wrist"][1]) != np.asarray(rows.obs["wrist"][2]))


def test_a_restarted_world_is_drawn_as_it_starts(
    worlds: VecEnv, reset: Callable[[jax.Array], VecState]
) -> None:
    state = reset(jax.random.key(3))
    limit = worlds.env.task.episode_steps
    t = np.array(state.envs.t)
    t[1] = limit - 1
    late = state.envs.replace(t=t)
    step = jax.jit(worlds.step)
    after, row = step(state.replace(envs=late), jnp.zeros((WORLDS, worlds.env.action_dim)))
    assert bool(row.truncated[1]) and int(after.envs.t[1]) == 0
    drawn = worlds.observer.pictures(after.envs, after.look)
    np.testing.assert_array_equal(after.pictures["front"], drawn["front"])


def test_looks_differ_between_episodes_and_stay_within_one(env: Env) -> None:
    look = LookConfig(variants=3, background=0.2, camera_position=0.02, color=0.2, light=0.2)
    varied = vectorize(
        dataclasses.replace(CONFIG, cameras=("front",), look=look).build(env),
        num_envs=WORLDS,
        pool_size=2,
    )
    state = jax.jit(varied.reset)(jax.random.key(5))
    sim = jax.device_get(state.envs.sim)
    same = state.envs.replace(sim=jax.tree.map(lambda x: np.repeat(x[:1], WORLDS, 0), sim))
    pictures = np.asarray(varied.observer.pictures(same, state.look)["front"], int)
    assert all(np.abs(pictures[0] - pictures[i]).mean() > 1 for i in range(1, WORLDS))
    after, _ = jax.jit(varied.step)(state, jnp.zeros((WORLDS, varied.env.action_dim)))
    jax.tree.map(np.testing.assert_array_equal, after.look, state.look)


def test_a_camera_on_the_hand_sees_the_colours_of_its_variant(env: Env) -> None:
    look = LookConfig(variants=2, background=0.4)
    home = jax.tree.map(lambda x: x[None], env.reset(jax.random.key(0)))
    poses = BodyPoses(home.sim.xpos, home.sim.xquat)
    seen = {}
    for cached in (True, False):
        view = dataclasses.replace(CONFIG, look=look, cached=cached).build(env).cameras
        assert view is not None
        seen[cached] = [view.renderer.render(poses, jnp.array([v])).rgb[0] for v in range(2)]
    (front, wrist), (front_1, wrist_1) = np.asarray(seen[True], float)
    assert np.abs(front_1 - front).mean() > 10 and np.abs(wrist_1 - wrist).mean() > 10
    # The hand and the cube keep their colours: without them the table's gain is everywhere.
    ratio = wrist_1 / np.maximum(wrist, 1.0)
    assert (np.abs(ratio - 1.0).max(-1) < 0.02).mean() > 0.05
    # A background that is drawn once has the colours that splats drawn every time have.
    drawn = np.asarray(seen[False][1], float)[0]
    assert np.abs(drawn - front_1).mean() < 2.0


def test_gain_and_slope_are_what_they_say() -> None:
    config = LookConfig(color=0.5, light=0.5)
    look = draw_looks(config, jax.random.key(0), 1).replace(
        gain=jnp.array([[0.5, 1.0, 2.0]]), slope=jnp.array([[0.5, 0.0]])
    )
    rgb = jnp.full((1, 1, 3, 3, 3), 100, jnp.uint8)
    out = np.asarray(apply_look(config, look, rgb))[0, 0]
    np.testing.assert_array_equal(out[1, 1], [50, 100, 200])
    np.testing.assert_array_equal(out[:, 0], np.tile([25, 50, 100], (3, 1)))
    np.testing.assert_array_equal(apply_look(LookConfig(), look, rgb), rgb)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"cameras": ("frnt",)}, KeyError, "Unknown camera 'frnt'. Did you mean 'front'"),
        ({"cameras": ("front", "front")}, ValueError, "names one twice"),
        ({"size": 0}, ValueError, "size 0, allowed: 1 to 4096"),
        ({"backend": "opengl"}, KeyError, "Unknown render backend 'opengl'"),
    ],
)
def test_bad_input_is_named(env: Env, change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(CONFIG, **change).build(env)


def test_a_camera_inside_the_table_is_refused(env: Env) -> None:
    front, wrist = env.scene.spec.cameras
    sunk = dataclasses.replace(front, pos=(0.32, 0.0, -0.02))
    spec = dataclasses.replace(env.scene.spec, cameras=(sunk, wrist))
    scene = dataclasses.replace(env.scene, spec=spec)
    with pytest.raises(ValueError, match=r"Camera 'front' at \[0.32, 0.0, -0.02\] m is inside"):
        CONFIG.build(dataclasses.replace(env, scene=scene))


def test_staged_equals_fused(env: Env, worlds: VecEnv, played: Played) -> None:
    """The same functions, traced as a whole or called piece by piece."""

    class Untraceable(Observer):
        @property
        def traceable(self) -> bool:
            return False

    start, _, fused = played
    in_pieces = Untraceable(env, worlds.observer.cameras)
    vec_env = vectorize(in_pieces, num_envs=WORLDS, pool_size=2)
    _, staged = rollout(vec_env, random_policy(env.action_dim), start, jax.random.key(2), 3)
    for name, want in fused.obs.items():
        # A float that rounds the other way is one step of a uint8.
        atol = 1.0 if name in CONFIG.cameras else 1e-5
        np.testing.assert_allclose(np.float64(staged.obs[name]), np.float64(want), atol=atol)
