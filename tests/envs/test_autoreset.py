"""What follows an episode's end: a reset from the pool, one a step later, or none."""

import jax
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv

from mjx_serl.envs.vector import VecEnv, VecState, vectorize
from mjx_serl.types import Choice, Transition

WORLDS, LENGTH = 6, 3 * STEPS


def play(vec_env: VecEnv) -> tuple[list[VecState], Transition, list]:
    """States before each step and after the last, rows [T, N], worlds before any restart."""
    state = jax.jit(vec_env.reset)(jax.random.key(0))
    advance = jax.jit(vec_env.advance)
    states, rows, lasts = [state], [], []
    for i in range(LENGTH):
        push = np.full((WORLDS, 1, 2), 0.5, np.float32)
        log_prob = np.full(WORLDS, i, np.float32)
        chosen = Choice(push, {"log_prob": log_prob}, np.arange(WORLDS) == 1)
        state, row, last = advance(state, chosen)
        states.append(state)
        rows.append(row)
        lasts.append(last)
    return states, jax.tree.map(lambda *x: np.stack(x), *jax.device_get(rows)), lasts


@pytest.fixture(scope="module")
def pooled() -> VecEnv:
    return vectorize(ToyEnv(), num_envs=WORLDS)


@pytest.fixture(scope="module")
def played(pooled: VecEnv) -> tuple[list[VecState], Transition, list]:
    return play(pooled)


def test_what_the_agent_keeps_and_who_chose_are_stored(played: tuple):
    _, rows, _ = played
    np.testing.assert_array_equal(rows.extras["log_prob"][:, 0], np.arange(LENGTH))
    np.testing.assert_array_equal(rows.expert, np.tile(np.arange(WORLDS) == 1, (LENGTH, 1)))


def test_the_last_observation_of_a_time_out_is_kept(pooled: VecEnv, played: tuple):
    vec_env, (states, rows, lasts) = pooled, played
    assert rows.truncated.any()
    for t, n in np.argwhere(rows.truncated):
        seen = vec_env.observe_last(lasts[t], states[t])
        assert float(seen["age"][n, 0]) == STEPS, "the observation at the limit"
        np.testing.assert_allclose(seen["x"][n], rows.obs["x"][t, n] + 0.05, rtol=1e-6)
        assert float(states[t + 1].envs.obs["age"][n, 0]) == 0.0, "the world itself restarted"


def test_next_step_waits_a_step_that_is_not_learned_from():
    states, rows, _ = play(vectorize(ToyEnv(), num_envs=WORLDS, autoreset="next_step"))
    over = rows.terminated | rows.truncated
    ended = np.argwhere(over[:-1])
    assert len(ended) > WORLDS
    for t, n in ended:
        assert rows.valid[t, n] and not rows.valid[t + 1, n] and not over[t + 1, n]
        assert rows.reward[t + 1, n] == 0.0
        # The row of the reset shows what the step that ended the episode led to.
        np.testing.assert_allclose(rows.obs["x"][t + 1, n], rows.obs["x"][t, n] + 0.05, rtol=1e-6)
        assert float(states[t + 2].envs.obs["age"][n, 0]) == 0.0
    assert int(states[-1].stats.episodes) == over.sum()


def test_never_goes_on_from_where_the_episode_ended():
    rows = play(vectorize(ToyEnv(), num_envs=WORLDS, autoreset="never"))[1]
    over = rows.terminated | rows.truncated
    assert over[:-1].any() and rows.valid.all()
    x = np.asarray(rows.obs["x"])
    np.testing.assert_allclose(x[1:], x[:-1] + 0.05, rtol=1e-5)
    ages = np.asarray(rows.obs["age"])[1:][over[:-1]]
    assert (ages == 0.0).all(), "a new episode is counted from its start"


def test_never_still_restarts_a_world_whose_physics_failed():
    vec_env = vectorize(ToyEnv(), num_envs=WORLDS, autoreset="never")
    state = jax.jit(vec_env.reset)(jax.random.key(0))
    inner = state.envs
    carry = np.array(inner.carry)
    carry[2] = np.nan
    sick = inner.replace(carry=carry)
    state, row, _ = jax.jit(vec_env.advance)(
        state.replace(envs=sick), Choice(np.zeros((WORLDS, 1, 2), np.float32))
    )
    np.testing.assert_array_equal(row.valid, np.arange(WORLDS) != 2)
    assert np.isfinite(state.envs.carry).all()


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        ValueError, match="autoreset 'always', allowed: pool, next_step, never, lost"
    ):
        vectorize(ToyEnv(), num_envs=2, autoreset="always")


def test_lost_worlds_are_put_back_and_solved_ones_go_on():
    """Half of the toy's episodes end unsolved."""
    vec_env = vectorize(ToyEnv(), num_envs=WORLDS, autoreset="lost")
    _, rows, lasts = play(vec_env)
    success = np.stack([np.asarray(last.success) for last in lasts])
    put_back = rows.terminated & ~success
    over = rows.terminated | rows.truncated
    assert put_back[:-1].any() and (over & ~put_back)[:-1].any()
    x, ages = np.asarray(rows.obs["x"]), np.asarray(rows.obs["age"])
    goes_on = np.isclose(x[1:], x[:-1] + 0.05, rtol=1e-5).all(-1)
    np.testing.assert_array_equal(goes_on, ~put_back[:-1])
    assert (ages[1:][over[:-1]] == 0.0).all()
