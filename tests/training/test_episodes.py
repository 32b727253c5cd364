"""One loop for every episode: what is kept belongs to its step, and streams are told apart."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from toy_env import STEPS, ToyEnv

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.training.collect import noisy_expert
from mjx_serl.training.episodes import (
    EpisodeKeys,
    EpisodeResult,
    EpisodeStep,
    episode_keys,
    play_episodes,
)

KEY = jax.random.key(3)


def push(worlds, pictures, key):
    return jax.random.uniform(key, (worlds.t.shape[0], 2))


def play(keys: EpisodeKeys, keep: Callable[[EpisodeStep], Any]) -> tuple[EpisodeResult, Any]:
    """Episodes as numpy, from one program."""
    run = jax.jit(lambda keys: play_episodes(Observer(ToyEnv()), push, keys, keep=keep))
    return jax.device_get(run(keys))


def test_what_is_kept_belongs_to_its_step():
    keys = episode_keys(KEY, episodes=30, steps=STEPS)
    result, kept = play(keys, lambda step: step)
    assert isinstance(kept, EpisodeStep)
    np.testing.assert_array_equal(kept.before.t, np.arange(STEPS)[:, None].repeat(30, 1))
    np.testing.assert_array_equal(kept.after.t[:-1], kept.before.t[1:])
    moved = kept.before.carry + 0.1 * kept.action
    np.testing.assert_allclose(kept.after.carry, moved, atol=1e-6)
    ended = kept.after.terminated | kept.after.truncated
    np.testing.assert_array_equal(kept.running[1:], ~np.logical_or.accumulate(ended[:-1]))
    assert kept.running[0].all()
    np.testing.assert_array_equal(kept.running.sum(0), result.steps)


def test_actions_are_drawn_from_the_keys_of_the_steps():
    keys = episode_keys(KEY, episodes=4, steps=STEPS)
    _, actions = play(keys, lambda step: step.action)
    want = jax.vmap(lambda key: jax.random.uniform(key, (4, 2)))(keys.steps)
    np.testing.assert_array_equal(actions, want)


def test_starts_do_not_depend_on_the_number_of_episodes_or_steps():
    few, many = episode_keys(KEY, episodes=2, steps=1), episode_keys(KEY, episodes=9, steps=50)
    data = jax.random.key_data
    np.testing.assert_array_equal(data(few.starts), data(many.starts[:2]))
    np.testing.assert_array_equal(data(few.look), data(many.look))


def test_a_shorter_play_leaves_episodes_running():
    keys = episode_keys(KEY, episodes=50, steps=2)
    result, running = play(keys, lambda step: step.running)
    assert running.shape == (2, 50) and (result.steps <= 2).all()
    assert (result.returns == result.steps).all()


def test_a_chunk_is_played_to_its_end_before_the_next_is_asked_for():
    keys, horizon = episode_keys(KEY, episodes=4, steps=STEPS), 3

    def chunks(worlds, pictures, key):
        return jax.random.uniform(key, (worlds.t.shape[0], horizon, 2))

    run = jax.jit(
        lambda keys: play_episodes(
            Observer(ToyEnv()), chunks, keys, keep=lambda step: step.action, horizon=horizon
        )
    )
    result, actions = jax.device_get(run(keys))
    asked = jax.vmap(lambda key: jax.random.uniform(key, (4, horizon, 2)))(keys.steps[::horizon])
    want = np.asarray(asked).swapaxes(1, 2).reshape(-1, 4, 2)[:STEPS]
    np.testing.assert_array_equal(actions, want)
    assert STEPS % horizon  # the last chunk is cut short
    np.testing.assert_array_equal(result.returns, result.steps)


def test_worlds_that_are_paused_after_their_end_change_nothing_that_counts(sparse: Env):
    keys = episode_keys(KEY, episodes=6, steps=30)
    act = noisy_expert(sparse, None)

    def keep(step: EpisodeStep) -> Any:
        return step.running, step.after.sim.time

    def run(pause: bool) -> tuple[EpisodeResult, Any]:
        play = partial(play_episodes, Observer(sparse), act, keep=keep, pause=pause)
        return jax.device_get(jax.jit(play)(keys))

    (plain, (running, _)), (paused, (_, time)) = run(False), run(True)
    assert plain.success.any() and plain.steps.min() < 25
    jax.tree.map(np.testing.assert_array_equal, plain, paused)
    # Time passes in those that run, and in no other.
    passed = np.diff(time, axis=0) > 0
    np.testing.assert_array_equal(passed, running[1:])
