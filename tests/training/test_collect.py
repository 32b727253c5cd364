"""Rollouts, random actions and what a scripted expert leaves behind."""

import jax
import numpy as np
from toy_env import STEPS, ToyEnv, ToyState, toy_worlds

from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.training.collect import demonstrate, rollout
from mjx_serl.training.policies import random_policy
from mjx_serl.types import Transition

WORLDS = 40


@jax.jit
def _play(key: jax.Array, noise: float) -> tuple[ToyState, Transition, jax.Array]:
    k_start, _ = jax.random.split(key)
    starts = jax.vmap(ToyEnv().reset)(split_keys(k_start, WORLDS))
    return starts, *demonstrate(Observer(ToyEnv()), key, episodes=WORLDS, noise=noise)


def play(noise: float) -> tuple[ToyState, Transition, np.ndarray]:
    """The expert's starts, rows [STEPS, WORLDS] and which episodes it solved."""
    return jax.device_get(_play(jax.random.key(2), noise))


def test_rows_after_the_end_of_an_episode_are_not_valid():
    starts, rows, _ = play(0.0)
    length = np.minimum(starts.end, STEPS)
    np.testing.assert_array_equal(rows.valid.sum(0), length)
    assert (np.asarray(rows.valid)[:-1] >= np.asarray(rows.valid)[1:]).all()
    last = length - 1, np.arange(WORLDS)
    ended = np.asarray(rows.terminated | rows.truncated)
    assert ended[last].all()
    np.testing.assert_array_equal(rows.terminated[last], np.asarray(starts.end) <= STEPS)


def test_success_counts_up_to_the_end_only():
    starts, _, solved = play(0.0)
    late, end = np.asarray(starts.late), np.asarray(starts.end)
    np.testing.assert_array_equal(solved, (late == 0) & (end <= STEPS))
    assert solved.any() and not solved.all()


def test_rows_are_the_experts():
    _, rows, _ = play(0.0)
    assert rows.expert.all()
    np.testing.assert_array_equal(rows.action, np.broadcast_to([0.5, 1.0], (STEPS, WORLDS, 2)))
    np.testing.assert_array_equal(rows.obs["age"][:, 0, 0], np.arange(STEPS))


def test_noise_is_in_metres_and_spares_the_gripper():
    """The toy's full step is 0.1 m: 0.005 m of noise are 0.05 of an action."""
    _, rows, _ = play(0.005)
    push = np.asarray(rows.action[..., 0])
    assert abs(push.std() - 0.05) < 0.01
    assert abs(push.mean() - 0.5) < 0.02
    assert (rows.action[..., 1] == 1.0).all()


def test_random_actions_fill_the_cube():
    act = jax.jit(random_policy(3))
    actions = np.asarray(act({"x": np.zeros((2000, 5), np.float32)}, jax.random.key(0)))
    assert actions.shape == (2000, 3)
    assert np.abs(actions).max() <= 1.0
    np.testing.assert_allclose(actions.mean(0), 0.0, atol=0.06)
    np.testing.assert_allclose(actions.std(0), 1 / np.sqrt(3), atol=0.03)


def test_a_rollout_shows_the_policy_what_the_worlds_show():
    worlds = toy_worlds(4)
    start = jax.jit(worlds.reset)(jax.random.key(0))

    def echo(obs: dict, key: jax.Array) -> jax.Array:
        return obs["x"] / 10

    play = jax.jit(lambda start, key: rollout(worlds, echo, start, key, 12))
    end, rows = play(start, jax.random.key(1))
    rows = jax.device_get(rows)
    assert rows.reward.shape == (12, 4)
    np.testing.assert_allclose(rows.action, rows.obs["x"] / 10, rtol=1e-6)
    np.testing.assert_array_equal(rows.obs["x"][0], start.envs.obs["x"])
    assert not rows.expert.any()
    assert int(end.stats.episodes) == int((rows.terminated | rows.truncated).sum())
