"""Insertions: the expert seats what it holds, and only what is in the hole counts."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.training.collect import demonstrate

NAMES = ["franka/peg_insertion", "franka/pcb_insertion", "franka/ram_insertion"]
# The expert needs no more of the 100 control steps, and each costs as much.
EPISODES, STEPS = 40, 70


@pytest.fixture(params=NAMES)
def env(request: pytest.FixtureRequest, make_native: Callable[[str], Env]) -> Env:
    """Each insertion on native physics."""
    return make_native(request.param)


def test_the_expert_seats_it_in_90_percent_of_noisy_episodes(env: Env):
    short = dataclasses.replace(TASKS[env.name], episode_steps=STEPS)
    short = build_env(short, name=env.name, physics="native")
    play = jax.jit(partial(demonstrate, Observer(short), episodes=EPISODES))
    rows, solved = play(jax.random.key(11))
    assert np.mean(solved) >= 0.9
    paid = np.where(rows.valid, rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"


def test_episodes_begin_above_the_hole_in_the_box_and_turned(env: Env):
    keys = jax.random.split(jax.random.key(0), 32)
    state = jax.jit(jax.vmap(env.reset))(keys)
    cfg: Any = env.task.config  # type: ignore[attr-defined]
    site = env.scene.arm.ee_site_id
    away = np.asarray(state.sim.site_xpos[:, site]) - np.asarray(cfg.target)
    assert (np.abs(away[:, :2]) <= np.asarray(cfg.spread) + 1e-4).all()
    assert np.abs(away[:, :2]).max() > 0.8 * min(cfg.spread)
    np.testing.assert_allclose(away[:, 2], cfg.above, atol=1e-3)
    x_axis = np.asarray(state.sim.site_xmat[:, site]).reshape(-1, 3, 3)[:, :2, 0]
    yaw = np.arctan2(x_axis[:, 1], x_axis[:, 0])
    assert 0.7 * cfg.yaw < np.abs(yaw).max() <= cfg.yaw + 1e-3


@pytest.mark.parametrize(
    ("aside", "height", "inside", "plausible"),
    [
        (0.0, 0.002, True, True),
        (0.0, 0.02, True, False),
        (0.0, 0.05, False, False),
        (0.02, 0.002, False, True),  # beside it, for all that its height says
    ],
)
def test_stages_and_what_the_arm_can_measure(
    make_native: Callable[[str], Env], aside: float, height: float, inside: bool, plausible: bool
):
    """The peg's hole is 3 cm deep."""
    env = make_native(NAMES[0])
    task: Any = env.task
    state = jax.device_get(jax.jit(env.reset)(jax.random.key(0)))
    sites = state.sim.site_xpos.copy()
    sites[env.scene.arm.ee_site_id] = np.add(task.config.target, (aside, 0.0, height))
    seen = (state.sim.replace(site_xpos=sites), state.command, state.task_state)
    stages = task.stages(*seen)
    assert bool(stages[0]) is inside and bool(stages[1]) is bool(task.success(*seen[::2]))
    assert bool(task.plausible(*seen)) is plausible


def pushed(env: Env, aside: float) -> tuple[float, float]:
    """Height above the seat, and the deepest contact, after pressing down beside the hole [m]."""
    model, data = env.scene.model, mujoco.MjData(env.scene.model)
    cfg: Any = env.task.config  # type: ignore[attr-defined]
    state = jax.jit(env.reset)(jax.random.key(1))
    step = jax.jit(env.step)
    goal = np.add(cfg.target, (0.0, aside, 0.0))
    turned = jax.jit(env.task.demonstrate)
    for _ in range(60):
        action = np.array(turned(state.sim, state.command, state.task_state))
        way = goal - np.asarray(state.command.target)
        level = abs(way[1]) < 1e-3 and abs(way[0]) < 1e-3
        way[2] = way[2] - 0.02 if level else 0.0
        action[:3] = np.clip(way / cfg.control.scale, -1.0, 1.0)
        state = step(state, jnp.asarray(action, jnp.float32))
    data.qpos[:] = np.asarray(state.sim.qpos)
    mujoco.mj_forward(model, data)
    deepest = min((contact.dist for contact in data.contact), default=0.0)
    site = env.scene.arm.ee_site_id
    return float(np.asarray(state.sim.site_xpos)[site, 2] - cfg.target[2]), float(-deepest)


def test_beside_its_hole_it_stands_on_the_rim_and_does_not_sink_in(env: Env):
    """Pressed down with the force that the leash allows."""
    cfg: Any = env.task.config  # type: ignore[attr-defined]
    height, depth = pushed(env, aside=2 * cfg.held[1] + 3 * cfg.clearance[1])
    assert height == pytest.approx(cfg.depth, abs=1.5e-3)
    assert depth < 5e-4
