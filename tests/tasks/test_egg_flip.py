"""The egg: the expert's swing turns it over, and only lying so in the pan counts."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.egg_flip import EGG_FLIP
from mjx_serl.training.collect import demonstrate

NAME = "franka/egg_flip"
EPISODES = 20


def test_the_expert_turns_it_over_in_80_percent_of_noisy_episodes(
    make_native: Callable[[str], Env],
):
    env = make_native(NAME)
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=EPISODES))(
        jax.random.key(5)
    )
    assert np.mean(solved) >= 0.8
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"


@pytest.mark.parametrize(
    ("at", "turned", "over"),
    [
        ((0.0, 0.0, 0.007), np.pi, True),
        ((0.05, -0.05, 0.007), np.pi, True),
        ((0.0, 0.0, 0.007), 0.0, False),
        # On its edge, thrown, beside the pan, below it.
        ((0.0, 0.0, 0.03), np.pi / 2, False),
        ((0.0, 0.0, 0.05), np.pi, False),
        ((0.15, 0.0, 0.007), np.pi, False),
        ((0.0, 0.0, -0.02), np.pi, False),
    ],
)
def test_it_counts_where_it_lies_upside_down_in_the_pan(
    at, turned, over, make_native: Callable[[str], Env]
):
    """In the frame of the pan, however that is tilted."""
    env = make_native(NAME)
    pan, egg = (env.scene.objects[name].body_id for name in ("pan", "egg"))
    tilt = 0.4
    c, s = np.cos(tilt), np.sin(tilt)
    place = np.array([0.6, 0.0, 0.4])
    world = place + np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.asarray(at)
    xquat = np.zeros((env.scene.model.nbody, 4), np.float32)
    xquat[pan] = [np.cos(tilt / 2), 0, np.sin(tilt / 2), 0]
    half = (tilt + turned) / 2
    xquat[egg] = [np.cos(half), 0, np.sin(half), 0]
    xpos = np.zeros((env.scene.model.nbody, 3), np.float32)
    xpos[pan], xpos[egg] = place, world
    sim: Any = SimpleNamespace(xpos=jnp.asarray(xpos), xquat=jnp.asarray(xquat))
    assert bool(env.task.success(sim, None)) is over


def test_a_still_hand_keeps_the_egg_where_it_lay(make_native: Callable[[str], Env]):
    """On the pan's floor, no deeper than its contacts give."""
    env = make_native(NAME)
    state, step = jax.jit(env.reset)(jax.random.key(3)), jax.jit(env.step)
    task: Any = env.task
    before, _ = task._in_pan(state.sim)
    for _ in range(3):
        state = step(state, np.zeros(3, np.float32))
    after, axis = task._in_pan(state.sim)
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert after[2] > EGG_FLIP.egg[2] - 5e-4 and axis[2] > 0.999
