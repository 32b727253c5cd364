"""Evaluation counts each world's first episode, and no two streams share a start."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.envs.vector import vectorize
from mjx_serl.training import evaluate as streams
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import evaluate, stream_key
from mjx_serl.training.policies import random_policy

EPISODES = 64


def zero_policy(obs: dict, key: jax.Array) -> jax.Array:
    return jnp.zeros((obs["age"].shape[0], 2))


@pytest.fixture(scope="module")
def plan() -> ToyState:
    """The starts that `evaluate` draws from key 3, with the ends written in them."""
    k_start, _ = jax.random.split(jax.random.key(3))
    return jax.device_get(jax.jit(jax.vmap(ToyEnv().reset))(split_keys(k_start, EPISODES)))


@pytest.fixture(scope="module")
def result() -> EpisodeResult:
    play = partial(evaluate, Observer(ToyEnv()), zero_policy, episodes=EPISODES)
    return jax.device_get(jax.jit(play)(jax.random.key(3)))


def test_each_world_plays_exactly_one_episode(plan: ToyState, result: EpisodeResult):
    assert result.success.shape == result.returns.shape == result.steps.shape == (EPISODES,)
    np.testing.assert_array_equal(result.steps, np.minimum(plan.end, STEPS))
    assert (plan.end < STEPS).any() and (plan.end > STEPS).any()


def test_rewards_after_the_end_do_not_count(result: EpisodeResult):
    np.testing.assert_array_equal(result.returns, result.steps.astype(np.float32))


def test_success_after_the_end_does_not_count(plan: ToyState, result: EpisodeResult):
    on_time = (np.asarray(plan.late) == 0) & (np.asarray(plan.end) <= STEPS)
    too_late = (np.asarray(plan.late) == 1) & (np.asarray(plan.end) < STEPS)
    assert on_time.any() and too_late.any()
    np.testing.assert_array_equal(result.success, on_time)


def test_the_policy_sees_raw_observations_and_new_keys_each_step():
    seen = []

    def spy(obs: dict, key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda age, k: seen.append((age.copy(), k.copy())),
                           obs["age"], jax.random.key_data(key))  # fmt: skip
        return zero_policy(obs, key)

    jax.block_until_ready(evaluate(Observer(ToyEnv()), spy, jax.random.key(3), episodes=4))
    jax.effects_barrier()
    assert sorted(float(age[0, 0]) for age, _ in seen) == list(range(STEPS))
    assert len({tuple(np.ravel(key).tolist()) for _, key in seen}) == STEPS


def test_an_idle_arm_fails_for_the_full_time(dense: Env):
    def idle(obs: dict, key: jax.Array) -> jax.Array:
        return jnp.zeros((3, 4))

    play = jax.jit(lambda key: evaluate(Observer(dense), idle, key, episodes=3))
    result = play(jax.random.key(0))
    assert not result.success.any()
    assert (result.steps == 100).all()
    assert (result.returns > 0).all() and (result.returns < 20).all()


def test_random_actions_are_played_to_the_end(dense: Env):
    policy = random_policy(4)
    play = jax.jit(lambda key: evaluate(Observer(dense), policy, key, episodes=3))
    first, again, other = (play(jax.random.key(k)) for k in (0, 0, 1))
    assert (first.steps == 100).all()
    np.testing.assert_array_equal(first.returns, again.returns)
    assert (first.returns != other.returns).all()


def test_no_two_streams_share_a_start(dense: Env):
    """Training worlds and pools, demonstrations, checks and the final evaluation of one seed."""
    vec_env = vectorize(dense, num_envs=64)

    @jax.jit
    def starts(seed: int) -> dict[str, jax.Array]:
        train = vec_env.reset(jax.random.split(stream_key(seed, streams.TRAIN))[0])
        cubes = {
            "worlds": train.envs.obs["cube_position"],
            "pool": train.pool.obs["cube_position"],
            "next pool": vec_env.refresh(train).pool.obs["cube_position"],
        }
        for name in ("DEMOS", "CHECK", "FINAL", "ON_DEMAND"):
            key = stream_key(seed, getattr(streams, name))
            # The loop folds the epoch into the keys of its evaluations.
            if name in ("CHECK", "FINAL"):
                key = jax.random.fold_in(key, 0)
            keys = split_keys(jax.random.split(key)[0], 200)
            cubes[name] = jax.vmap(dense.reset)(keys).obs["cube_position"]
        return cubes

    cubes = {name: np.asarray(xyz)[:, :2] for name, xyz in starts(0).items()}
    everything = np.concatenate(list(cubes.values()))
    assert len(everything) == 64 + 256 + 256 + 4 * 200
    assert len(np.unique(everything, axis=0)) == len(everything)
    other = np.concatenate([np.asarray(xyz)[:, :2] for xyz in starts(1).values()])
    assert len(np.unique(np.concatenate([everything, other]), axis=0)) == 2 * len(everything)
