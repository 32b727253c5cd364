"""The USB plug: the expert brings it into the port, and held there it does not count yet."""

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
from mjx_serl.training.collect import demonstrate


@pytest.fixture
def env(make_native: Callable[[str], Env]) -> Env:
    """The task on native physics."""
    return make_native("franka/usb_pick_insert")


def test_the_port_is_as_wide_as_the_standard_says(env: Env):
    """A shell of 12.0 by 4.5 mm, an opening of 12.5 by 5.12 mm."""
    model, objects = env.scene.model, env.scene.objects
    shell = model.geom_size[objects["plug"].geom_ids[1]]
    np.testing.assert_allclose(2e3 * shell[[0, 2]], [12.0, 4.5])
    data = env.physics.model.geom_pos[objects["port"].geom_ids[1:]]
    size = model.geom_size[objects["port"].geom_ids[1:]]
    inner = 2e3 * (np.abs(data) - size)
    np.testing.assert_allclose([inner[:2, 0], inner[2:, 1]], [[12.5] * 2, [5.12] * 2])


def test_the_expert_inserts_it_in_80_percent_of_noisy_episodes(env: Env):
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=16))(jax.random.key(5))
    solved = np.asarray(solved)
    assert solved.mean() >= 0.8
    # HIL-SERL charges 0.02 for each time that the hand opens or closes.
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid[solved] <= 0.96 + 1e-5).all() and paid[solved].max() > 0.9
    assert (paid[~solved] <= 0.0).all()


@pytest.mark.parametrize(
    ("out", "width", "solved"),
    [(0.0, 0.04, True), (0.0, 0.031, False), (0.0025, 0.04, False), (0.04, 0.08, False)],
)
def test_it_counts_in_the_port_and_with_the_hand_open(env, out: float, width: float, solved: bool):
    task: Any = env.task
    x, y, z = task.config.target
    xpos = jnp.zeros((env.scene.model.nbody, 3))
    xpos = xpos.at[env.scene.objects["plug"].body_id].set(jnp.array([x, y + out, z]))
    qpos = jnp.zeros(env.scene.model.nq).at[env.scene.arm.finger_qpos_ids].set(width / 2)
    assert bool(task.success(SimpleNamespace(xpos=xpos, qpos=qpos), None)) is solved
