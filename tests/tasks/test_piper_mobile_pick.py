"""The mobile Piper: the ancestor's numbers, its reward by stages, its ends, an expert."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.piper_mobile_pick import SPARSE, MobilePick, MobileState
from mjx_serl.training.collect import demonstrate

TABLE = 0.74115  # [m] over the floor, where serl_family.md 2.1 counts from


def test_numbers_are_the_ancestors(mobile: Env, mobile_start: EnvState):
    """serl_family.md 2.1, column VEC PiperMobileRobot-v0, and the line "Piper" below it."""
    robot, spec = mobile.scene.spec.robot, mobile.scene.spec
    assert mobile.ctrl_dt == pytest.approx(0.03) and mobile.task.episode_steps == 80
    assert robot.home == (0.0, 1.1, -0.95, 0.0, 0.976, 0.0)
    assert robot.q_min == (-2.618, 0.0, -2.697, -1.832, -1.22, -3.14)
    assert robot.q_max == (2.618, 3.14, 0.0, 1.832, 1.22, 3.14)
    assert robot.gripper_range == (0.0, 0.035)
    assert (spec.table.center, spec.table.half_size) == ((0.7, 0.0), (0.3, 0.6))
    assert spec.camera("3rd").fovy == 65
    assert SPARSE.height + TABLE == pytest.approx(0.84115)
    assert TABLE - SPARSE.below == pytest.approx(0.69115)
    # mobile_ai.xml: the base at (0.15, 0, -0.133) carries the arm at (0.0666, 0.2584, 0.879).
    base = mobile_start.sim.xpos[mobile.scene.model.body("link0").id]
    np.testing.assert_allclose(base, (0.2166, 0.2584, 0.746 - TABLE), atol=1e-6)


def test_it_starts_all_over_a_disc(mobile: Env):
    qpos, _ = jax.vmap(mobile.task.sample)(jax.random.split(jax.random.key(0), 2000))
    xy = np.asarray(qpos[:, mobile.scene.object("banana").qpos_adr :][:, :2]) - (0.7, 0.15)
    away = np.linalg.norm(xy, axis=1)
    assert 0.099 < away.max() <= 0.1 + 1e-6
    assert np.mean(away**2) == pytest.approx(0.1**2 / 2, rel=0.05), "evenly over its area"
    np.testing.assert_allclose(xy.mean(0), 0.0, atol=0.005)


def placed(mobile: Env, mobile_start: EnvState, **what: Any) -> Any:
    """The start with the tool, the thing [m], both touches [N] and the opening [m] as told."""
    sim, arm = mobile_start.sim, mobile.scene.arm
    thing = jnp.asarray(what.get("thing", (0.7, 0.1, 0.05)))
    tool = thing + jnp.array([0.0, 0.0, what.get("above", 0.0)])
    touch = jnp.zeros_like(jnp.asarray(sim.sensordata))
    for name, force in zip(("left_touch", "right_touch"), what.get("touch", (0, 0)), strict=True):
        touch = touch.at[mobile.scene.sensor(name)].set(force)
    fingers = jnp.asarray(sim.qpos).at[arm.finger_qpos_ids].set(what.get("width", 0.07) / 2)
    return sim.replace(
        xpos=jnp.asarray(sim.xpos).at[mobile.scene.object("banana").body_id].set(thing),
        site_xpos=jnp.asarray(sim.site_xpos).at[arm.ee_site_id].set(tool),
        sensordata=touch,
        qpos=fingers,
    )


REACHED = 1.0 - np.tanh(5 * 0.02)


@pytest.mark.parametrize(
    ("what", "streak", "reward"),
    [
        ({"above": 0.2}, 0, 1.0 - np.tanh(1.0)),
        ({"above": 0.2, "touch": (1, 1), "width": 0.0}, 0, 1.0 - np.tanh(1.0)),
        ({"above": 0.02}, 0, REACHED + 1.0),
        ({"above": 0.02, "width": 0.035}, 0, REACHED + 1.25),
        ({"above": 0.02, "width": 0.035, "touch": (1, 0)}, 0, REACHED + 1.25),
        ({"above": 0.02, "width": 0.035, "touch": (1, 1)}, 0, REACHED + 2.25 + 0.5),
        (
            {"above": 0.02, "width": 0.035, "touch": (1, 1), "thing": (0.7, 0.1, 0.11)},
            0,
            REACHED + 2.25 + 1.0 + 10.0,
        ),
        ({"above": 0.2, "thing": (0.7, 0.61, 0.02)}, 0, 1.0 - np.tanh(1.0) - 5.0),
        ({"above": 0.2, "thing": (0.7, 0.1, -0.06)}, 0, 1.0 - np.tanh(1.0) - 5.0),
        ({"above": 0.2}, 1, 1.0 - np.tanh(1.0) - 5.0),
        ({"above": 0.2}, 30, 1.0 - np.tanh(1.0) - 5.0),
        ({"above": 0.2}, 31, 1.0 - np.tanh(1.0) - 15.0),
    ],
)
def test_the_reward_by_hand(mobile: Env, mobile_start: EnvState, what, streak: int, reward: float):
    """serl_family.md 2.1, "Piper reward", with the gripper's own opening in its term."""
    sim, state = placed(mobile, mobile_start, **what), MobileState(streak=jnp.int32(streak))
    task: Any = mobile.task
    dense = dataclasses.replace(task, config=dataclasses.replace(SPARSE, reward="dense"))
    assert task.sparse and not dense.sparse
    got, _ = dense.reward(sim, mobile_start.command, state)
    assert float(got) == pytest.approx(reward, abs=2e-4)
    assert float(task.reward(sim, mobile_start.command, state)[0]) == float(reward > 10.0)
    ended = bool(reward > 10.0) or "thing" in what or streak > 30
    assert bool(mobile.task.terminated(sim, state)) is ended


def test_the_arm_touches_the_table_where_mujoco_has_a_contact(mobile: Env, mobile_start: EnvState):
    task, model, arm = mobile.task, mobile.scene.model, mobile.scene.arm
    assert isinstance(task, MobilePick)
    data, table, found = mujoco.MjData(model), model.geom("table").id, []
    robot, rng = mobile.scene.spec.robot, np.random.default_rng(0)
    for _ in range(60):
        mujoco.mj_resetDataKeyframe(model, data, 0)
        data.qpos[arm.qpos_ids] = rng.uniform(robot.q_min, robot.q_max)
        mujoco.mj_forward(model, data)
        with_table = (data.contact.geom == table).any(axis=1)
        links = np.isin(model.geom_bodyid[data.contact.geom], task.links.bodies).any(axis=1)
        sim = mobile_start.sim.replace(xpos=np.float32(data.xpos), xquat=np.float32(data.xquat))
        assert bool(task.links.lowest(sim) < 0.0) is bool((with_table & links).any())
        found.append((with_table & links).any())
    assert 10 < np.sum(found) < 50


def test_an_arm_that_presses_on_the_table_is_stopped(mobile: Env, mobile_start: EnvState):
    step, state, streaks = jax.jit(mobile.step), mobile_start, []
    while not (state.terminated or state.truncated):
        state = step(state, np.float32([0, 1, 0, 0, -0.5, 0, -1]))
        streaks.append(int(state.task_state.streak))
    landed = streaks.index(1)
    assert streaks == [0] * landed + list(range(1, 32))
    assert state.terminated and not state.success
    assert float(state.metrics["touches"]) == float(state.metrics["presses"]) == 1.0


def test_the_expert_lifts_it_in_90_percent_of_noisy_episodes(mobile: Env):
    play = jax.jit(partial(demonstrate, Observer(mobile), episodes=40))
    rows, solved = play(jax.random.key(5))
    assert np.mean(solved) >= 0.9
    paid = np.where(np.asarray(rows.valid), rows.reward, 0.0).sum(axis=0)
    assert (paid == np.asarray(solved)).all(), "once, at the end"
    assert TASKS["piper/mobile_pick_dense"].reward == "dense"  # type: ignore[attr-defined]
