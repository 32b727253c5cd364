"""Every registered task builds, resets, steps and keeps its observation's word."""

import re
from collections.abc import Callable

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.task import TASKS

NUM_ENVS = 2


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_registered_task_runs(make_native: Callable[[str], Env], name: str):
    env = make_native(name)
    keys = jax.random.split(jax.random.key(0), NUM_ENVS)
    state, step = jax.jit(jax.vmap(env.reset))(keys), jax.jit(jax.vmap(env.step))
    state = jax.device_get(state)
    for number in range(4):
        assert set(state.obs) == set(env.obs_spec.names)
        for field in env.obs_spec.fields:
            value = state.obs[field.name]
            assert (value.shape, value.dtype) == ((NUM_ENVS, *field.shape), field.dtype)
            assert np.isfinite(value).all(), field.name
        assert (state.t == number).all()
        assert state.valid.all()
        assert not (state.terminated | state.truncated).any()
        action = np.random.default_rng(number).uniform(-1.0, 1.0, (NUM_ENVS, env.action_dim))
        state = jax.device_get(step(state, action.astype(np.float32)))
    assert np.isfinite(state.reward).all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_is_named_and_dimensioned(make_native: Callable[[str], Env], name: str):
    env = make_native(name)
    assert re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", name)
    assert len(env.action_spec.names) == env.action_dim == len(env.action_spec.scale)
    assert env.ctrl_dt * env.task.episode_steps > 1.0
    assert env.obs_spec.fields
    assert all(field.unit for field in env.obs_spec.fields)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="Unknown task 'franka/pickcube'. Did you mean 'franka/pi"):
        make_env("franka/pickcube")


def test_an_unknown_physics_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="Unknown physics 'natve'. Did you mean 'native'"):
        make_env("franka/pick_cube", physics="natve")


def test_the_same_key_gives_the_same_start_and_another_does_not(sparse: Env):
    reset = jax.jit(sparse.reset)
    one, again, other = (np.asarray(reset(jax.random.key(k)).sim.qpos) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert np.isfinite(one).all()
