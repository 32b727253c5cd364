"""The hand goes where it is told, no further than its box, and the gripper obeys its sign."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.control.operational_space import OperationalSpace
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.physics.mjx import MjxPhysics
from mjx_serl.envs.physics.protocol import Physics, SimState
from mjx_serl.tasks.pick_cube import OSC, SPARSE
from scenes.build import Scene, build_scene

# The two laws settle within this of a commanded point in free space [m].
SETTLED = {"dls": 1e-3, "osc": 2e-3}


def drive(env: Env, goal: np.ndarray, *, steps: int, cap: float) -> list[EnvState]:
    """Step the target towards `goal` [m], at most `cap` [m] per step, gripper open."""

    reset, step, _ = programs(env)
    states = [reset(jax.random.key(0))]
    for _ in range(steps):
        states.append(step(states[-1], goal, cap))
    return jax.device_get(states)


@functools.cache
def programs(env: Env) -> tuple[Callable, Callable, Callable]:
    """Of an environment: its reset, a step towards a goal, its step."""

    @jax.jit
    def step(state: EnvState, goal: jax.Array, cap: float) -> EnvState:
        lead = goal - state.command.target
        lead = lead * jnp.minimum(1.0, cap / (jnp.linalg.norm(lead) + 1e-9))
        return env.step(state, jnp.append(lead / env.task.control.scale, -1.0))

    return jax.jit(env.reset), step, jax.jit(env.step)


def tool(env: Env, state: EnvState) -> np.ndarray:
    """Position of the end effector [m]."""
    return np.asarray(state.sim.site_xpos[env.scene.arm.ee_site_id])


@pytest.mark.parametrize("goal", [(0.35, 0.2, 0.3), (0.55, -0.2, 0.1), (0.45, 0.0, 0.45)])
def test_reaches_commanded_points_with_the_hand_down(sparse: Env, goal: tuple[float, ...]):
    last = drive(sparse, np.array(goal), steps=40, cap=0.025)[-1]
    assert np.linalg.norm(tool(sparse, last) - goal) < SETTLED["dls"]
    down = last.sim.site_xmat[sparse.scene.arm.ee_site_id].reshape(3, 3)
    np.testing.assert_allclose(down, np.diag([1.0, -1.0, -1.0]), atol=5e-3)
    assert np.abs(last.sim.qvel[sparse.scene.arm.dof_ids]).max() < 0.01


def test_one_full_action_is_one_scale(sparse: Env):
    reset, _, step = programs(sparse)
    state = reset(jax.random.key(0))
    after = step(state, np.float32([0.0, 1.0, 0.0, 0.0]))
    moved = after.command.target - state.command.target
    np.testing.assert_allclose(moved, [0.0, 0.025, 0.0], atol=1e-6)


def test_actions_beyond_one_are_clipped(sparse: Env):
    reset, _, step = programs(sparse)
    state = reset(jax.random.key(0))
    wild, full = (step(state, np.float32([s, 0, 0, 0])) for s in (7.0, 1.0))
    np.testing.assert_array_equal(wild.command.target, full.command.target)


def test_the_target_stays_in_the_workspace(sparse: Env):
    robot, (reset, _, step) = sparse.scene.spec.robot, programs(sparse)
    for sign in (1.0, -1.0):
        state = reset(jax.random.key(0))
        for _ in range(30):
            state = step(state, np.float32([sign, sign, sign, 0.0]))
        edge = robot.workspace_high if sign > 0 else robot.workspace_low
        np.testing.assert_allclose(state.command.target, edge, atol=1e-6)


@pytest.mark.parametrize("base", ["target", "measured"])
def test_base_of_a_step(panda_scene: Scene, sparse: Env, base: str):
    """After a step the arm lags; a zero action keeps the target, or drops it to where it is."""
    control = ControlConfig(base=base)
    controller = build_controller(control, panda_scene)
    state = programs(sparse)[0](jax.random.key(0))
    last = controller.start(state.sim).replace(target=np.float32([0.5, 0.1, 0.2]))
    got = jax.jit(controller.command)(last, state.sim, np.zeros(4, np.float32)).target
    expected = last.target if base == "target" else tool(sparse, state)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert control.action_spec().base == base


def test_plus_closes_the_gripper(sparse: Env):
    arm, (reset, _, step) = sparse.scene.arm, programs(sparse)
    state = reset(jax.random.key(0))
    widths = []
    for gripper in (0.0, 1.0, 0.0, -1.0):
        for _ in range(4):
            state = step(state, np.float32([0.0, 0.0, 0.0, gripper]))
        widths.append(float(np.asarray(state.sim.qpos)[arm.finger_qpos_ids].sum()))
    assert widths[0] == pytest.approx(0.08, abs=1e-3)
    assert widths[1:3] == pytest.approx([0.0, 0.0], abs=1e-3)
    assert widths[3] == pytest.approx(0.08, abs=1e-3)


def test_controls_stay_in_the_actuators_ranges(sparse: Env):
    limits, (reset, _, step) = sparse.scene.model.actuator_ctrlrange, programs(sparse)
    state = reset(jax.random.key(0))
    for action in np.random.default_rng(1).uniform(-1.0, 1.0, (30, 4)).round():
        state = step(state, action.astype(np.float32))
        ctrl = np.asarray(state.sim.ctrl)
        assert (ctrl >= limits[:, 0].astype(np.float32)).all()
        assert (ctrl <= limits[:, 1].astype(np.float32)).all()


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"rate": 10.0, "inner_rate": 45.0}, "inner_rate 45 Hz is no multiple of 10 Hz"),
        ({"rate": 10.0, "inner_rate": 30.0}, "simulation rate 200 Hz is no multiple of 30 Hz"),
        ({"rate": 50.0, "inner_rate": 500.0}, "simulation rate 200 Hz is no multiple of 500 Hz"),
    ],
)
def test_rates_that_do_not_divide_raise(panda_scene: Scene, rates: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_controller(ControlConfig(**rates), panda_scene)


@pytest.fixture(scope="module")
def osc(make_native: Callable[[str], Env]) -> Env:
    return make_native("franka/pick_cube_dense_osc")


@dataclasses.dataclass(frozen=True, eq=False)
class _OnlySteps:
    """A physics that leaves the law to the controller."""

    physics: Physics

    def __getattr__(self, name: str):
        if name == "follow":
            raise AttributeError(name)
        return getattr(self.physics, name)


class TestOperationalSpace:
    """Torque control as SERL's, an option of the dense task."""

    def test_mass_matrix_is_mujocos(self, osc: Env):
        """Arm block of mj_fullM with the fingers open, within 2e-4 kg m^2 (largest entry 1.7)."""
        model, arm = osc.scene.model, osc.scene.arm
        assert isinstance(osc.controller, OperationalSpace)
        mass_matrix = osc.controller.mass_matrix
        at = jax.jit(lambda qpos: mass_matrix(osc.physics.reset(qpos, jnp.zeros(model.nv))[1]))
        data, rng = mujoco.MjData(model), np.random.default_rng(0)
        for _ in range(20):
            data.qpos[:] = model.key_qpos[0]
            data.qpos[arm.qpos_ids] += rng.normal(0, 0.5, 7)
            mujoco.mj_forward(model, data)
            full = np.zeros((model.nv, model.nv))
            mujoco.mj_fullM(model, data, full)
            expected = full[np.ix_(arm.dof_ids, arm.dof_ids)]
            np.testing.assert_allclose(at(np.float32(data.qpos)), expected, atol=2e-4)

    def test_tracks_a_target(self, osc: Env):
        env = osc
        goal = np.array([0.42, 0.1, 0.3])
        states = drive(env, goal, steps=70, cap=0.01)
        lag = [np.linalg.norm(s.obs["ee_lag"]) for s in states]
        # A critically damped pole of sqrt(200) rad/s follows 0.5 m/s with 2 / sqrt(200) s of lag.
        assert max(lag) < 0.5 * 2 / np.sqrt(200) * 1.1
        assert np.linalg.norm(tool(env, states[-1]) - goal) < SETTLED["osc"]

    def test_torques_do_not_depend_on_the_physics(self, osc: Env):
        """MJX shows the controller the state that native shows it: the same torques follow."""
        model, arm = osc.scene.model, osc.scene.arm
        rng = np.random.default_rng(0)
        qpos, qvel = model.key_qpos[0].astype(np.float32), np.zeros(model.nv, np.float32)
        qpos[arm.qpos_ids] += rng.normal(0, 0.3, 7).astype(np.float32)
        qvel[arm.dof_ids] = rng.normal(0, 0.5, 7)

        def torques(physics: Physics) -> jax.Array:
            @jax.jit
            def compute(qpos: jax.Array, qvel: jax.Array) -> jax.Array:
                _, sim = physics.reset(qpos, qvel)
                command = osc.controller.start(sim)
                action = jnp.array([1.0, -0.5, 0.3, 1.0])
                return osc.controller.ctrl(osc.controller.command(command, sim, action), sim)

            return compute(qpos, qvel)

        native, mjx = torques(osc.physics), torques(MjxPhysics(model))
        assert np.abs(native[arm.ctrl_ids]).max() > 1.0
        np.testing.assert_allclose(mjx, native, rtol=1e-3, atol=1e-3)

    def test_the_threads_that_step_the_worlds_follow_the_same_law(self, osc: Env):
        """Controls after each update are those of the law in JAX, before joints reach a limit."""
        model, arm, worlds = osc.scene.model, osc.scene.arm, 6
        assert osc.physics.follow is not None
        slow = dataclasses.replace(osc, physics=_OnlySteps(osc.physics))
        rng = np.random.default_rng(0)
        qpos = np.tile(model.key_qpos[0], (worlds, 1)).astype(np.float32)
        qvel = np.zeros((worlds, model.nv), np.float32)
        qpos[:, arm.qpos_ids] += rng.normal(0, 0.3, (worlds, 7))
        qvel[:, arm.dof_ids] = rng.normal(0, 0.3, (worlds, 7))
        actions = rng.uniform(-1.0, 1.0, (worlds, osc.action_dim)).astype(np.float32)

        def held(env: Env) -> SimState:
            def one(qpos: jax.Array, qvel: jax.Array, action: jax.Array) -> SimState:
                carry, sim = env.physics.reset(qpos, qvel)
                command = env.controller.command(env.controller.start(sim), sim, action)
                return env.hold(carry, sim, command)[1]

            return jax.jit(jax.vmap(one))(qpos, qvel, actions)

        fast, slow = held(osc), held(slow)
        assert np.abs(fast.ctrl[:, arm.ctrl_ids]).mean() > 1.0
        np.testing.assert_allclose(fast.ctrl, slow.ctrl, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(fast.qpos, slow.qpos, atol=1e-6)

    def test_the_scene_is_actuated_by_torques(self):
        model = build_scene(OSC.scene()).model
        assert (model.actuator_biasprm[:7] == 0).all()
        assert (build_scene(SPARSE.scene()).model.actuator_biasprm[:7] != 0).any()
