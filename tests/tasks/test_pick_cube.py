"""Both pick tasks have the numbers of their originals, and an expert that solves them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mjx_serl.envs.env import Env, EnvState, build_env
from mjx_serl.envs.observation import Observer
from mjx_serl.tasks.pick_cube import DENSE, OSC, SIM, SPARSE, PickCube, PickCubeConfig
from mjx_serl.training.collect import demonstrate

SIM_STEP = 0.005  # [s], ours; both originals step 2 ms


def test_sparse_numbers_are_gym_hils(sparse: Env):
    """serl_family.md 2.1, column GYMHIL PandaPickCube."""
    control = sparse.task.control
    assert (control.rate, control.scale, sparse.action_dim) == (10.0, 0.025, 4)
    assert sparse.ctrl_dt == 0.1
    assert sparse.task.episode_steps == 100
    assert (SPARSE.spawn_low, SPARSE.spawn_high) == ((0.3, -0.15), (0.5, 0.15))
    assert (SPARSE.leave_margin, SPARSE.lift_height) == (0.05, 0.1)
    assert SPARSE.home == (0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785)


def test_dense_numbers_are_serls(dense: Env):
    """serl_family.md 2.1, column SERL PandaPickCube-v0."""
    control = dense.task.control
    assert (control.rate, control.scale, dense.action_dim) == (50.0, 0.1, 4)
    assert dense.ctrl_dt == 0.02
    assert dense.task.episode_steps == 100
    assert (DENSE.spawn_low, DENSE.spawn_high) == ((0.25, -0.25), (0.55, 0.25))
    assert DENSE.leave_margin is None
    assert DENSE.home == (0.0, -0.785, 0.0, -2.35, 0.0, 1.57, 0.785)
    assert OSC.control.law == "osc" and OSC.control.inner_rate == 1 / SIM_STEP


def test_sim_numbers_are_hil_serl_sims():
    """serl_family.md 2.1, column SIM pick_cube_sim: done at half of (z0 + 0.2), after 500 steps."""
    assert SIM.lift_height + 0.02 == pytest.approx(0.5 * (0.02 + 0.2))
    assert (SIM.reward, SIM.episode_steps, SIM.control.rate) == ("sparse", 500, 50.0)
    assert (SIM.spawn_low, SIM.spawn_high, SIM.home) == (
        DENSE.spawn_low,
        DENSE.spawn_high,
        DENSE.home,
    )


def test_scene_numbers(sparse: Env):
    model, robot = sparse.scene.model, sparse.scene.spec.robot
    cube = sparse.scene.object("cube")
    np.testing.assert_allclose(model.geom_size[cube.geom_id], 0.02)
    assert model.body_mass[cube.body_id] == pytest.approx(0.1)
    assert (robot.workspace_low, robot.workspace_high) == ((0.2, -0.3, 0.0), (0.6, 0.3, 0.5))
    assert model.opt.timestep == SIM_STEP


@pytest.mark.parametrize(("config", "name"), [(SPARSE, "sparse"), (DENSE, "dense")])
def test_cubes_start_all_over_the_spawn_box(config, name: str, request):
    env: Env = request.getfixturevalue(name)
    qpos, _ = jax.vmap(env.task.sample)(jax.random.split(jax.random.key(0), 4000))
    xy = np.asarray(qpos[:, env.scene.object("cube").qpos_adr :][:, :2])
    low, high = np.array(config.spawn_low), np.array(config.spawn_high)
    assert (xy >= low - 1e-6).all() and (xy <= high + 1e-6).all()
    np.testing.assert_allclose(xy.min(0), low, atol=0.005)
    np.testing.assert_allclose(xy.max(0), high, atol=0.005)
    np.testing.assert_allclose(xy.mean(0), (low + high) / 2, atol=0.01)
    np.testing.assert_allclose(qpos[:, :7], np.tile(np.float32(config.home), (4000, 1)))


@functools.cache
def fresh(env: Env) -> EnvState:
    """A world at its start, as numpy."""
    return jax.device_get(jax.jit(env.reset)(jax.random.key(0)))


def placed(env: Env, cube: tuple[float, float, float]) -> tuple[EnvState, PickCube]:
    """A fresh world with the cube carried to `cube` [m]."""
    state = fresh(env)
    xpos = state.sim.xpos.copy()
    xpos[env.scene.object("cube").body_id] = cube
    return state.replace(sim=state.sim.replace(xpos=xpos)), env.task


@pytest.mark.parametrize(
    ("lift", "distance"), [(0.0, 0.0), (0.05, 0.1), (0.1, 0.02), (0.2, 0.0), (0.5, 0.3)]
)
def test_dense_reward_by_hand(dense: Env, lift: float, distance: float):
    """0.3 exp(-20 d) + 0.7 clip(h / 0.2, 0, 1), the block starting at 2 cm."""
    state, task = placed(dense, (0.4, 0.1, 0.02 + lift))
    sites = state.sim.site_xpos.copy()
    sites[dense.scene.arm.ee_site_id] = [0.4, 0.1 + distance, 0.02 + lift]
    reward, terms = task.reward(state.sim.replace(site_xpos=sites), state.command, state.task_state)
    expected = 0.3 * np.exp(-20 * distance) + 0.7 * min(max(lift / 0.2, 0.0), 1.0)
    assert float(reward) == pytest.approx(expected, abs=5e-5)
    assert float(terms["reach"]) == pytest.approx(np.exp(-20 * distance), abs=5e-5)
    assert float(terms["lift"]) == pytest.approx(min(lift / 0.2, 1.0), abs=1e-5)


def test_a_cube_below_the_table_earns_no_lift(dense: Env):
    state, task = placed(dense, (0.4, 0.1, -0.1))
    assert float(task.reward(state.sim, state.command, state.task_state)[1]["lift"]) == 0.0


@pytest.mark.parametrize(("lift", "picked"), [(0.0, False), (0.0999, False), (0.1001, True)])
def test_success_is_a_lift_of_ten_centimetres(sparse: Env, lift: float, picked: bool):
    state, task = placed(sparse, (0.4, 0.0, 0.02 + lift))
    assert bool(task.success(state.sim, state.task_state)) is picked
    assert bool(task.terminated(state.sim, state.task_state)) is picked
    assert float(task.reward(state.sim, state.command, state.task_state)[0]) == float(picked)


@pytest.mark.parametrize(
    ("xy", "over"),
    [
        ((0.26, 0.0), False), ((0.24, 0.0), True), ((0.54, 0.0), False), ((0.56, 0.0), True),
        ((0.4, 0.19), False), ((0.4, 0.21), True), ((0.4, -0.19), False), ((0.4, -0.21), True),
    ],
)  # fmt: skip
def test_a_cube_that_leaves_its_box_ends_the_episode(sparse: Env, xy, over: bool):
    """5 cm outside the spawn box; nothing is earned by it."""
    state, task = placed(sparse, (*xy, 0.02))
    assert bool(task.terminated(state.sim, state.task_state)) is over
    assert float(task.reward(state.sim, state.command, state.task_state)[0]) == 0.0


@pytest.mark.parametrize(
    ("lift", "above", "width", "stages", "plausible"),
    [
        (0.0, 0.0, 0.04, (True, False), False),  # closed around it where it lies
        (0.11, 0.0, 0.04, (True, True), True),
        (0.0, 0.11, 0.0, (False, False), False),  # the hand rises empty
        (0.0, 0.11, 0.04, (False, False), True),  # with something else as wide
        (0.11, 0.0, 0.08, (True, True), False),  # thrown, or on the open hand
    ],
)
def test_stages_and_what_the_arm_can_measure(
    sparse: Env, lift: float, above: float, width: float, stages: tuple, plausible: bool
):
    state, task = placed(sparse, (0.4, 0.0, 0.02 + lift))
    arm, sites, qpos = sparse.scene.arm, state.sim.site_xpos.copy(), state.sim.qpos.copy()
    sites[arm.ee_site_id] = [0.4, 0.0, 0.02 + lift + above]
    qpos[np.asarray(arm.finger_qpos_ids)] = width / 2
    closed = state.command.replace(gripper=np.float32(0.9))
    seen = (state.sim.replace(site_xpos=sites, qpos=qpos), closed, state.task_state)
    assert tuple(np.asarray(task.stages(*seen)).tolist()) == stages
    assert bool(task.plausible(*seen)) is plausible
    assert len(task.stage_names) == len(stages)


def test_dense_never_terminates(dense: Env):
    for cube in ((0.4, 0.0, 0.5), (0.9, 0.9, 0.02)):
        state, task = placed(dense, cube)
        assert not task.terminated(state.sim, state.task_state)


def test_observation_by_hand(sparse: Env):
    state, step = jax.jit(sparse.reset)(jax.random.key(4)), jax.jit(sparse.step)
    for _ in range(3):
        state = step(state, np.array([1.0, -1.0, 0.5, 0.3], np.float32))
    state = jax.device_get(state)
    obs, sim, arm = state.obs, state.sim, sparse.scene.arm
    cube = sim.xpos[sparse.scene.object("cube").body_id]
    tool = sim.site_xpos[arm.ee_site_id]
    np.testing.assert_array_equal(obs["cube_position"], cube)
    np.testing.assert_array_equal(obs["ee_position"], tool)
    np.testing.assert_allclose(obs["cube_from_ee"], cube - tool, atol=1e-6)
    np.testing.assert_array_equal(obs["ee_target"], state.command.target)
    np.testing.assert_allclose(obs["ee_lag"], state.command.target - tool, atol=1e-6)
    np.testing.assert_allclose(obs["gripper_command"], [0.9], atol=1e-6)
    np.testing.assert_allclose(obs["gripper_width"], [sim.qpos[arm.finger_qpos_ids].sum()])
    np.testing.assert_array_equal(obs["joint_velocity"], sim.qvel[arm.dof_ids])


# The sparse expert needs no more of the 100 control steps, and each costs as much.
@pytest.mark.parametrize(("config", "steps"), [(SPARSE, 60), (DENSE, 100)])
def test_the_expert_solves_95_percent_of_200_noisy_episodes(config: PickCubeConfig, steps: int):
    """At the default noise of the demonstrations, 7.5 mm on every step; nearly all without."""
    factory = dataclasses.replace(config, episode_steps=steps)
    env = build_env(factory, name="within", physics="native")
    play = jax.jit(lambda key, noise: demonstrate(Observer(env), key, episodes=100, noise=noise))
    halves = [play(jax.random.key(seed), 0.0075) for seed in (0, 2)]
    assert np.mean([solved for _, solved in halves]) >= 0.95
    assert all((np.abs(rows.action) <= 1.0).all() for rows, _ in halves)
    _, solved = play(jax.random.key(1), 0.0)
    assert float(solved.mean()) >= 0.99
