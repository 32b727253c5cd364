"""A bar that lies turned: the hand must turn to pick it, and the expert does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.envs.env import Env, make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.pick_turned_bar import TURNED
from mjx_serl.training.collect import demonstrate
from scenes.contract.policy_contract import FINGERS_DOWN
from scenes.contract.rotations import quat_to_matrix

EPISODES = 100


@pytest.fixture(scope="module")
def turned() -> Env:
    return make_env("franka/pick_turned_bar", physics="native")


def test_numbers(turned: Env):
    spec, model = turned.action_spec, turned.scene.model
    assert spec.names == ("x", "y", "z", "rx", "ry", "rz", "gripper")
    assert spec.scale == (0.025,) * 3 + (0.1,) * 3 + (1.0,) and spec.frame == "world"
    bar = turned.scene.object("bar")
    opened = turned.scene.spec.robot.gripper.width_range[1]
    # Longer than the fingers open, narrower than they do.
    length, width = 2 * model.geom_size[bar.geom_id, :2]
    assert length > opened + 0.01 and width < 0.5 * opened
    assert Observer(turned).contract.orientation == FINGERS_DOWN


def test_bars_start_turned_any_way(turned: Env):
    qpos, _ = jax.vmap(turned.task.sample)(jax.random.split(jax.random.key(0), 2000))
    start = turned.scene.object("bar").qpos_adr
    w, x, y, z = np.asarray(qpos[:, start + 3 : start + 7]).T
    yaw = 2.0 * np.arctan2(z, w)
    assert (x == 0).all() and (y == 0).all()
    assert np.abs(yaw).max() <= TURNED.yaw and yaw.std() > 0.5 * TURNED.yaw
    assert abs(np.corrcoef(yaw, qpos[:, start])[0, 1]) < 0.1


def test_orientations_are_observed_by_hand(turned: Env):
    state, step = jax.jit(turned.reset)(jax.random.key(4)), jax.jit(turned.step)
    for _ in range(4):
        state = step(state, jnp.array([0.2, 0.1, -0.3, 0.5, -0.4, 1.0, 0.0]))
    obs, sim = state.obs, state.sim
    tool = np.asarray(sim.site_xmat[turned.scene.arm.ee_site_id]).reshape(3, 3)
    np.testing.assert_allclose(obs["ee_rotation6d"], tool[:, :2].T.ravel(), atol=2e-6)
    bar = quat_to_matrix(np.asarray(sim.xquat[turned.scene.object("bar").body_id]).tolist())
    np.testing.assert_allclose(obs["bar_rotation6d"], bar[:, :2].T.ravel(), atol=2e-6)
    target = quat_to_matrix(np.asarray(state.command.target_quat).tolist())
    away = target @ tool.T
    sine = 0.5 * np.array(
        [away[2, 1] - away[1, 2], away[0, 2] - away[2, 0], away[1, 0] - away[0, 1]]
    )
    np.testing.assert_allclose(obs["ee_rotation_lag"], sine, atol=1e-3)
    np.testing.assert_array_equal(obs["joint_position"], sim.qpos[turned.scene.arm.qpos_ids])


@pytest.mark.parametrize("law", ["dls", "paced"])
def test_the_hand_goes_to_the_commanded_orientation(turned: Env, law: str):
    env = turned if law == "dls" else make_env("franka/pick_turned_bar_paced", physics="native")
    state, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    for number in range(30):
        turn = [0.6, -0.4, 1.0] if number < 5 else [0.0] * 3
        state = step(state, jnp.array([0.0, 0.0, 0.0, *turn, -1.0]))
    wanted = quat_to_matrix(np.asarray(state.command.target_quat).tolist())
    assert np.arccos(0.5 * (np.trace(wanted @ quat_to_matrix(FINGERS_DOWN).T) - 1)) > 0.5
    tool = np.asarray(state.sim.site_xmat[env.scene.arm.ee_site_id]).reshape(3, 3)
    np.testing.assert_allclose(tool, wanted, atol=5e-3)


def test_a_pace_bounds_how_fast_the_orientation_is_followed():
    env = make_env("franka/pick_turned_bar_paced", physics="native")
    pace = env.task.control.pace
    assert pace is not None
    state, controller = jax.jit(env.reset)(jax.random.key(0)), env.controller
    update = jax.jit(
        lambda command, carry, sim: (
            (paced := controller.pace(command, sim)),
            env.physics.step(carry, controller.ctrl(paced, sim), controller.n_substeps),
        )
    )
    far = state.command.replace(target_quat=jnp.array([0.0, 0.9, 0.435889894, 0.0]))
    command, carry, sim, speeds = far, state.carry, state.sim, []
    for _ in range(80):
        command, (carry, sim) = update(command, carry, sim)
        speeds.append(np.asarray(command.turning))
    speeds = np.array(speeds)
    dt = 1.0 / env.task.control.inner_rate
    assert np.linalg.norm(speeds, axis=1).max() <= pace.turn_speed * 1.02
    assert np.linalg.norm(speeds, axis=1).max() > 0.7 * pace.turn_speed
    changes = np.linalg.norm(np.diff(speeds, axis=0), axis=1) / dt
    assert changes[:10].max() <= pace.turn_acceleration * 1.05
    np.testing.assert_allclose(np.abs(command.quat @ far.target_quat), 1.0, atol=1e-4)


@pytest.mark.parametrize("name", ["franka/pick_turned_bar", "franka/pick_turned_bar_paced"])
def test_the_expert_solves_90_percent_of_100_episodes(name: str):
    """Without noise nearly all, with that of demonstrations still nine in ten."""
    env = make_env(name, physics="native")
    play = jax.jit(
        lambda key, noise: demonstrate(Observer(env), key, episodes=EPISODES, noise=noise)
    )
    rows, solved = play(jax.random.key(1), 0.0)
    assert float(solved.mean()) >= 0.98
    assert (np.abs(rows.action) <= 1.0).all()
    _, solved = play(jax.random.key(0), 0.0075)
    assert float(solved.mean()) >= 0.9


def test_without_turning_a_bar_across_the_hand_cannot_be_picked(turned: Env):
    """What makes it a task of turning: the expert without its turns fails where they are needed."""
    step, reset = jax.jit(jax.vmap(turned.step)), jax.jit(jax.vmap(turned.reset))

    @jax.jit
    @jax.vmap
    def expert(state):
        # It believes to be turned as it should be.
        bar = turned.scene.object("bar").body_id
        square = state.sim.xquat.at[bar].set(jnp.array([1.0, 0.0, 0.0, 0.0]))
        sim = state.sim.replace(xquat=square)
        return turned.task.demonstrate(sim, state.command, state.task_state)

    state = reset(jax.random.split(jax.random.key(2), EPISODES))
    yaw = 2.0 * np.arctan2(
        *np.asarray(state.sim.xquat[:, turned.scene.object("bar").body_id, 3::-3]).T
    )
    picked = np.zeros(EPISODES, bool)
    for _ in range(60):
        state = step(state, expert(state))
        picked |= np.asarray(state.success)
    assert picked[np.abs(yaw) > 1.2].mean() < 0.2 < 0.9 < picked[np.abs(yaw) < 0.4].mean()
