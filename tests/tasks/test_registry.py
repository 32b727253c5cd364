"""Every registered task builds, resets, steps and keeps its observation's word."""

import dataclasses
import re
from collections.abc import Callable

import jax
import numpy as np
import pytest

from benchmarks.promises import broken_promises, player, same_bits, seen_wrong
from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.task import TASKS
from scenes.contract.serialize import digest

NUM_ENVS, STEPS = 2, 200


@pytest.fixture(scope="session")
def drawn() -> set[str]:
    """Scenes that pictures were drawn of: tasks that differ by their rewards share one."""
    return set()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_registered_task_keeps_its_word(
    make_native: Callable[[str], Env], drawn: set[str], name: str
):
    """200 random steps: finite, as the spec says, ended rightly, equal seeds to the last bit."""
    env = make_native(name)
    play = player(env, worlds=NUM_ENVS, steps=STEPS)
    worlds, one = jax.device_get(play(jax.random.key(0)))
    assert broken_promises(env, one) == []
    assert same_bits(one, jax.device_get(play(jax.random.key(0))[1]))
    assert not same_bits(one, jax.device_get(play(jax.random.key(1))[1]))
    scene = digest(dataclasses.replace(env.scene.spec, home=None))
    if scene not in drawn:
        drawn.add(scene)
        assert seen_wrong(env, worlds) == []


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
