"""Five boxes: each has its own mark, and the expert brings them there one after the other."""

import dataclasses
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
from mjx_serl.tasks.arrange_boxes import ARRANGE, ArrangeBoxes
from mjx_serl.training.collect import demonstrate

NAMES = [f"box{i}" for i in range(1, 6)]


@pytest.fixture
def env(make_native: Callable[[str], Env]) -> Env:
    """The sparse variant on native physics."""
    return make_native("franka/arrange_boxes")


def test_numbers_are_gym_hils(env: Env):
    """serl_family.md 2.1 and arrange_boxes_scene.xml, see the module."""
    assert ARRANGE.home == (0.0, -0.785, 0.0, -2.35, 0.0, 1.57, 0.785)
    np.testing.assert_allclose(ARRANGE.ys, [-0.3, -0.15, 0.0, 0.15, 0.3], atol=1e-9)
    marks = [env.scene.spec.object(f"{name}_mark").pos for name in NAMES]
    np.testing.assert_allclose(marks, [(0.5, y, 0.0) for y in ARRANGE.ys], atol=1e-9)
    assert env.scene.spec.arm.workspace == ((0.2, -0.5, 0.0), (0.6, 0.5, 0.5))


def test_every_start_is_a_shuffle_of_the_places(env: Env):
    qpos, _ = jax.vmap(env.task.sample)(jax.random.split(jax.random.key(0), 200))
    starts = np.array([env.scene.objects[name].qpos_adr for name in NAMES])
    ys = np.asarray(qpos)[:, starts + 1]
    np.testing.assert_allclose(np.sort(ys, axis=1), [ARRANGE.ys] * 200, atol=1e-6)
    np.testing.assert_allclose(np.asarray(qpos)[:, starts], 0.3, atol=1e-6)
    assert len({tuple(row.round(2)) for row in ys}) > 60, "of 120 orders"


def placed(env: Env, **elsewhere: tuple[float, float, float]) -> Any:
    """A state with every box on its mark but for those said to be elsewhere [m]."""
    xpos = np.zeros((env.scene.model.nbody, 3), np.float32)
    for name, y in zip(NAMES, ARRANGE.ys, strict=True):
        xpos[env.scene.objects[name].body_id] = elsewhere.get(name, (0.5, y, 0.02))
    return SimpleNamespace(xpos=jnp.asarray(xpos))


def test_all_must_be_within_3_cm_each_of_its_own_mark(env: Env):
    task: Any = env.task
    dense: Any = dataclasses.replace(task, config=dataclasses.replace(ARRANGE, reward="dense"))
    right = placed(env)
    assert bool(task.success(right, None)) and bool(task.terminated(right, None))
    assert float(task.reward(right, None, None)[0]) == 1.0
    np.testing.assert_allclose(dense.reward(right, None, None)[0], 5 * np.exp(-0.4), rtol=1e-4)
    # Two centimetres above the mark already, sqrt(5) cm are left along the table.
    assert bool(task.success(placed(env, box2=(0.522, -0.15, 0.02)), None))
    for wrong in (
        placed(env, box2=(0.523, -0.15, 0.02)),
        placed(env, box1=(0.5, -0.15, 0.02), box2=(0.5, -0.3, 0.02)),
    ):
        assert not bool(task.success(wrong, None)) and not bool(task.terminated(wrong, None))
    assert bool(task.terminated(placed(env, box5=(0.5, 0.51, 0.02)), None)), "out of reach"


def test_the_expert_places_all_five_in_noisy_episodes(env: Env):
    assert isinstance(env.task, ArrangeBoxes)
    rows, solved = jax.jit(partial(demonstrate, Observer(env), episodes=6))(jax.random.key(3))
    assert np.mean(solved) >= 5 / 6
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"
