"""The handover: the expert passes the stick on, and it counts in the right hand alone."""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.handover import HANDOVER, LEFT, RIGHT, HandoverState
from mjx_serl.training.collect import demonstrate

NAME = "dual_franka/handover"
# With noise the expert needs up to 85 of the 200 control steps; most episodes end before 40.
EPISODES, STEPS = 16, 60


def test_the_expert_hands_it_over_in_80_percent_of_noisy_episodes():
    short = dataclasses.replace(HANDOVER, episode_steps=STEPS)
    env = build_env(short, name=NAME, physics="native")
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=EPISODES))(
        jax.random.key(5)
    )
    assert np.mean(solved) >= 0.8
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"
    grippers = [env.action_spec.names.index(f"{role}/gripper") for role in (LEFT, RIGHT)]
    moved = np.asarray(rows.action)[np.asarray(rows.valid)]
    assert set(np.unique(moved[:, grippers])) == {-1.0, 1.0}, "no noise on what holds the stick"


@pytest.mark.parametrize(
    ("right", "left_width", "right_width", "taken"),
    [
        ((0.06, 0.0, 0.0), 0.08, 0.03, True),
        ((-0.1, 0.0, 0.01), 0.08, 0.031, True),
        # In both hands, beside it, above it, and in the left one.
        ((0.06, 0.0, 0.0), 0.03, 0.03, False),
        ((0.12, 0.0, 0.0), 0.08, 0.03, False),
        ((0.06, 0.0, 0.03), 0.08, 0.03, False),
        ((0.06, 0.0, 0.0), 0.08, 0.06, False),
    ],
)
def test_it_counts_where_only_the_right_hand_has_it(
    right, left_width, right_width, taken, make_native: Callable[[str], Env]
):
    env = make_native(NAME)
    model, arms = env.scene.model, env.scene.arms
    stick = env.scene.objects["stick"].body_id
    place = jnp.array([0.66, -0.01, 0.42])
    # The stick stands on its end: places on it turn with it.
    quat = jnp.array([0.70710678, 0.0, -0.70710678, 0.0])
    x, y, z = right
    qpos = jnp.zeros(model.nq)
    for role, width in ((LEFT, left_width), (RIGHT, right_width)):
        qpos = qpos.at[arms[role].finger_qpos_ids].set(width / 2)
    sim: Any = SimpleNamespace(
        xpos=jnp.zeros((model.nbody, 3)).at[stick].set(place),
        xquat=jnp.zeros((model.nbody, 4)).at[stick].set(quat),
        site_xpos=jnp.zeros((model.nsite, 3))
        .at[arms[RIGHT].ee_site_id]
        .set(place + jnp.array([-z, y, x])),
        qpos=qpos,
    )
    state = HandoverState(jnp.int32(HANDOVER.hold_steps - 1))
    after = env.task.advance(sim, None, state)
    assert int(after.taken) == (HANDOVER.hold_steps if taken else 0)
    assert bool(env.task.success(sim, after)) is taken
    assert not bool(env.task.success(sim, state)), "not before it was held long enough"


def test_a_dropped_stick_ends_the_episode_unsolved(make_native: Callable[[str], Env]):
    env = make_native(NAME)
    state, step = jax.jit(env.reset)(jax.random.key(2)), jax.jit(env.step)
    open_left = np.zeros(10, np.float32)
    open_left[4] = -1.0
    state = step(state, open_left)
    assert not bool(state.terminated), "it is on its way down"
    for _ in range(4):
        state = step(state, open_left)
        if bool(state.terminated):
            break
    assert bool(state.terminated) and not bool(state.success)
    assert float(state.reward) == 0.0
