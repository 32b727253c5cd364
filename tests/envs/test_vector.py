"""Many worlds: endings, restarts, sums, and what becomes of a world that leaves the numbers."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_joints

from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.task import TASKS, TaskIn
from mjx_serl.envs.vector import (
    VecEnv,
    VecState,
    _count,
    clear_stats,
    episode_metrics,
    vectorize,
)
from mjx_serl.types import Transition

NUM_ENVS, STEPS = 6, 205


@pytest.fixture(scope="module")
def vec_env(sparse: Env) -> VecEnv:
    return vectorize(sparse, num_envs=NUM_ENVS, pool_size=8)


@pytest.fixture(scope="module")
def history(vec_env: VecEnv) -> tuple[VecState, list[VecState], Transition]:
    """The start, every state after it and the transitions [T, N]; half the worlds play well."""
    start = jax.jit(vec_env.reset)(jax.random.key(0))
    expert = jnp.arange(NUM_ENVS) < NUM_ENVS // 2
    demonstrate = jax.vmap(vec_env.env.task.demonstrate)

    @jax.jit
    def step(state: VecState) -> tuple[VecState, Transition]:
        worlds = state.envs
        action = demonstrate(worlds.sim, worlds.command, worlds.task_state)
        return vec_env.step(state, action * expert[:, None])

    states, rows = [], []
    state = start
    for _ in range(STEPS):
        state, row = step(state)
        states.append(on_host(state))
        rows.append(row)
    return on_host(start), states, jax.tree.map(lambda *x: np.stack(x), *jax.device_get(rows))


def on_host(state: VecState) -> VecState:
    """What tests compare as numpy: picking a row of a jax array compiles a program."""
    return state.replace(envs=jax.device_get(state.envs), pool=jax.device_get(state.pool))


def test_a_time_out_is_no_termination(history):
    _, _, rows = history
    assert not (rows.terminated & rows.truncated).any()
    lazy = slice(NUM_ENVS // 2, None)
    assert not rows.terminated[:, lazy].any()
    assert np.flatnonzero(rows.truncated[:, -1]).tolist() == [99, 199]
    assert (rows.truncated[:, lazy].sum(0) == 2).all()


def test_success_terminates_with_reward_one(history):
    _, _, rows = history
    good = rows.terminated[:, : NUM_ENVS // 2]
    assert good.any(0).all()
    assert not rows.truncated[:, : NUM_ENVS // 2].any()
    np.testing.assert_array_equal(rows.reward[:, : NUM_ENVS // 2], good.astype(np.float32))


def test_success_in_the_last_step_is_a_termination(sparse: Env):
    """Termination outranks the time limit."""
    state = jax.jit(sparse.reset)(jax.random.key(0))
    lifted = state.task_state.replace(start_height=state.task_state.start_height - 0.2)
    last = state.replace(t=jnp.int32(99), task_state=lifted)
    after = jax.jit(sparse.step)(last, jnp.zeros(4))
    assert after.terminated and not after.truncated
    timed_out = jax.jit(sparse.step)(state.replace(t=jnp.int32(99)), jnp.zeros(4))
    assert timed_out.truncated and not timed_out.terminated


def test_the_next_row_is_the_successor_unless_ended(history):
    start, states, rows = history
    for name, obs in rows.obs.items():
        np.testing.assert_array_equal(obs[0], start.envs.obs[name])
        following = np.stack([s.envs.obs[name] for s in states])
        np.testing.assert_array_equal(obs[1:], following[:-1])


def test_ended_worlds_restart_from_the_pool_in_the_same_step(history):
    start, states, rows = history
    ended = rows.terminated | rows.truncated
    pool = np.asarray(start.pool.sim.qpos)
    for step, world in zip(*np.nonzero(ended), strict=True):
        worlds = states[step].envs
        (chosen,) = np.flatnonzero((pool == np.asarray(worlds.sim.qpos[world])).all(1))
        for fresh, now in zip(jax.tree.leaves(start.pool), jax.tree.leaves(worlds), strict=True):
            np.testing.assert_array_equal(fresh[chosen], now[world])
        assert worlds.t[world] == 0


def test_running_worlds_are_left_alone(history):
    start, states, rows = history
    ended = rows.terminated | rows.truncated
    t = np.stack([start.envs.t] + [s.envs.t for s in states])
    np.testing.assert_array_equal(t[1:], np.where(ended, 0, t[:-1] + 1))


def test_episode_sums(history):
    _, states, rows = history
    ended = rows.terminated | rows.truncated
    stats = states[-1].stats
    ends = [np.flatnonzero(e) for e in ended.T]
    assert stats.episodes == ended.sum()
    assert stats.successes == rows.terminated.sum()
    assert stats.steps == sum(e[-1] + 1 for e in ends)
    done = [rows.reward[: e[-1] + 1, i].sum() for i, e in enumerate(ends)]
    np.testing.assert_allclose(stats.returns, np.sum(done), rtol=1e-6)
    left = [rows.reward[e[-1] + 1 :, i].sum() for i, e in enumerate(ends)]
    np.testing.assert_allclose(stats.running_return, left, rtol=1e-6)
    assert stats.nan_worlds == 0
    assert not states[-1].bad.seen


def test_clearing_the_sums_keeps_what_runs(history):
    _, states, _ = history
    running = jnp.arange(NUM_ENVS, dtype=jnp.float32)
    state = states[-1].replace(stats=states[-1].stats.replace(running_return=running))
    cleared = jax.jit(clear_stats)(state)
    assert all(float(v) == 0.0 for v in episode_metrics(cleared.stats).values())
    np.testing.assert_array_equal(cleared.stats.running_return, running)


def test_sums_that_nobody_clears_stay_at_the_largest_number(history):
    start, states, _ = history
    most = jnp.int32(2**31 - 1)
    counts = {"episodes": most, "successes": most, "steps": most - 1, "nan_worlds": most}
    full = start.stats.replace(**counts)
    ended = jnp.ones_like(states[-1].envs.valid)
    after = states[-1].envs.replace(success=ended, valid=~ended, t=jnp.full(ended.shape, 3))
    sums = _count(full, after, ended)
    assert {int(getattr(sums, name)) for name in counts} == {2**31 - 1}


def test_first_worlds_do_not_depend_on_how_many_follow(sparse: Env):
    few, many = (
        jax.jit(vectorize(sparse, num_envs=n, pool_size=4).reset)(jax.random.key(3)) for n in (3, 8)
    )
    np.testing.assert_array_equal(few.envs.sim.qpos, many.envs.sim.qpos[:3])
    assert len(np.unique(many.envs.obs["cube_position"][:, 0])) == 8


def test_refresh_draws_another_pool(vec_env: VecEnv, history):
    start, *_ = history
    fresh = jax.jit(vec_env.refresh)(start)
    assert (fresh.pool.sim.qpos != start.pool.sim.qpos).any()
    assert (jax.random.key_data(fresh.key) != jax.random.key_data(start.key)).any()
    np.testing.assert_array_equal(fresh.envs.sim.qpos, start.envs.sim.qpos)


def test_no_worlds_is_an_error(sparse: Env):
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        vectorize(sparse, num_envs=0)


class Poisoned:
    """Eight worlds on one physics, their compiled step, and the same with one world's NaN."""

    BAD = 2

    def __init__(self, env: Env, num_envs: int = 8) -> None:
        self.vec_env = vectorize(env, num_envs=num_envs, pool_size=4)
        self.start = jax.jit(self.vec_env.reset)(jax.random.key(0))
        self.action = jax.random.uniform(jax.random.key(1), (num_envs, 4), minval=-1, maxval=1)
        self.step = jax.jit(self.vec_env.step)

    def poison(self, state: VecState, world: int) -> VecState:
        """Put a NaN into the first joint's velocity in one world's carry."""
        carry = state.envs.carry
        if isinstance(carry, jax.Array):
            # MuJoCo's row starts with time and qpos, in float64.
            rows = np.array(carry).view(np.float64)
            rows[world, 1 + self.vec_env.env.scene.model.nq] = np.nan
            carry = jnp.asarray(rows.view(np.uint32))
        else:
            carry = carry.replace(qvel=carry.qvel.at[world, 0].set(jnp.nan))
        return state.replace(envs=state.envs.replace(carry=carry))


@pytest.fixture(scope="module", params=["native", pytest.param("mjx", marks=pytest.mark.slow)])
def poisoned(request: pytest.FixtureRequest, sparse: Env) -> Poisoned:
    if request.param == "mjx":
        # As many iterations as a real arm's: a NaN uses all of them up.
        spec = sparse.scene.spec
        with two_joints.registered() as name:
            scene = dataclasses.replace(
                TASKS[name].scene(),
                solver_iterations=spec.solver_iterations,
                line_search_iterations=spec.line_search_iterations,
            )
            return Poisoned(build_env(TaskIn(TASKS[name], scene), name=name, physics="mjx"))
    return Poisoned(sparse)


def test_a_world_that_leaves_the_numbers_ends_alone(poisoned: Poisoned):
    sick = poisoned.poison(poisoned.start, poisoned.BAD)
    after, row = poisoned.step(sick, poisoned.action)
    clean, clean_row = poisoned.step(poisoned.start, poisoned.action)
    others = np.arange(poisoned.vec_env.num_envs) != poisoned.BAD
    bad = ~others
    assert row.terminated[bad].all() and not row.truncated.any() and not row.valid[bad].any()
    assert row.reward[bad] == 0.0
    assert row.valid[others].all() and clean_row.valid.all()
    assert int(after.stats.nan_worlds) == 1 and int(clean.stats.nan_worlds) == 0
    assert int(after.stats.successes) == 0
    for got, want in zip(
        jax.tree.leaves((after.envs, row)),
        jax.tree.leaves((clean.envs, clean_row)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(got)[others], np.asarray(want)[others])
    assert (after.envs.t == np.where(bad, 0, 1)).all()
    for leaf in jax.tree.leaves((after.envs.obs, after.envs.sim, row)):
        assert np.isfinite(leaf).all()


def test_the_reset_world_plays_on(poisoned: Poisoned):
    state, _ = poisoned.step(poisoned.poison(poisoned.start, poisoned.BAD), poisoned.action)
    for _ in range(3):
        state, row = poisoned.step(state, poisoned.action)
        assert row.valid.all()
        assert np.isfinite(state.envs.sim.qpos).all()
    assert int(state.stats.nan_worlds) == 1


def test_the_first_bad_world_is_remembered(poisoned: Poisoned):
    assert not poisoned.start.bad.seen
    sick = poisoned.poison(poisoned.start, poisoned.BAD)
    state, _ = poisoned.step(sick, poisoned.action)
    state, _ = poisoned.step(poisoned.poison(state, 5), poisoned.action)
    assert int(state.stats.nan_worlds) == 2
    assert bool(state.bad.seen) and int(state.bad.world) == poisoned.BAD
    np.testing.assert_array_equal(state.bad.action, poisoned.action[poisoned.BAD])
    np.testing.assert_array_equal(state.bad.qpos, sick.envs.sim.qpos[poisoned.BAD])
    for kept, was in zip(
        jax.tree.leaves(state.bad.carry), jax.tree.leaves(sick.envs.carry), strict=True
    ):
        np.testing.assert_array_equal(kept, was[poisoned.BAD])


def test_a_bad_world_does_not_slow_the_others(poisoned: Poisoned):
    """One NaN world slows an unguarded MJX batch six-fold, for ever; here it costs one step."""

    def seconds(state: VecState) -> float:
        best = np.inf
        for _ in range(3):
            begin, now = time.perf_counter(), state
            for _ in range(10):
                now, _ = poisoned.step(now, poisoned.action)
            jax.block_until_ready(now)
            best = min(best, time.perf_counter() - begin)
        return best

    clean = seconds(poisoned.start)
    assert seconds(poisoned.poison(poisoned.start, poisoned.BAD)) < 2.5 * clean + 0.05
