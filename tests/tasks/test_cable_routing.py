"""The cable: the expert presses it into the clip, and only what lies in the slot counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.bin_relocation import ACROSS
from mjx_serl.tasks.resets import turned_arm_pose
from mjx_serl.training.collect import demonstrate


@pytest.fixture
def env(make_native: Callable[[str], Env]) -> Env:
    """The task on native physics."""
    return make_native("franka/cable_routing")


def test_the_expert_routes_it_in_80_percent_of_noisy_episodes(env: Env):
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=16))(jax.random.key(5))
    assert np.mean(solved) >= 0.8
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"


@pytest.mark.parametrize(
    ("x", "y", "z", "yaw", "solved"),
    [
        (0.0, 0.0, 0.0, 0.0, True),
        (0.004, 0.0, 0.0, 0.0, True),
        (0.005, 0.0, 0.0, 0.0, False),  # in a wall
        (0.0, 0.0, 0.006, 0.0, False),  # in the upper half of the slot
        (0.0, 0.0, 0.0, 0.1, False),  # across it
        (0.0, -0.08, 0.0, 0.0, False),  # not as far as its end
    ],
)
def test_a_straight_cable_counts_in_the_slot(env, x, y, z, yaw, solved: bool):
    task: Any = env.task
    qpos, state = task.sample(jax.random.key(0))
    hand = jnp.asarray(task.config.target) + jnp.array([x, y, z])
    arm = env.scene.arm
    joints = turned_arm_pose(env.scene, hand, ACROSS, jnp.float32(yaw))
    reset = jax.jit(env.physics.reset)
    _, sim = reset(qpos.at[arm.qpos_ids].set(joints), jnp.zeros(env.scene.model.nv))
    assert bool(task.success(sim, state)) is solved


def test_the_hand_feels_no_link_and_links_no_other(env: Env):
    """Only the clip, the table and, one by one, the links may touch: few pairs for MJX."""
    model, objects = env.scene.model, env.scene.objects
    links = objects["cable"].geom_ids
    bits = model.geom_contype[:, None] & model.geom_conaffinity[None, :]
    touching = (bits | bits.T)[links] != 0
    others = set(np.flatnonzero(touching.any(axis=0)).tolist())
    assert others == {*objects["clip"].geom_ids.tolist(), model.geom("table").id}
