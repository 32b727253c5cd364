"""A task that speaks of roles runs on a robot file that is not ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_arms import six, six_urdf

from mjx_serl.envs.env import Env, build_env
from mjx_serl.envs.task import TASKS, TaskIn
from mjx_serl.tasks import pick_cube as pick_cube


@pytest.fixture(scope="module", params=["mjcf", "urdf"])
def env(request: pytest.FixtureRequest) -> Env:
    """franka/pick_cube on the six-joint arm."""
    world = {"mjcf": six, "urdf": six_urdf}[request.param]()
    return build_env(TaskIn(TASKS["franka/pick_cube"], world), name="six/pick", physics="native")


def test_the_observation_is_of_this_arm(env: Env) -> None:
    state = jax.jit(env.reset)(jax.random.key(0))
    assert {name: x.shape for name, x in state.obs.items()} == {
        field.name: field.shape for field in env.obs_spec.fields
    }
    assert env.obs_spec["joint_velocity"].shape == (6,)
    ee = state.sim.site_xpos[env.scene.arm.ee_site_id]
    np.testing.assert_allclose(state.obs["ee_position"], ee)
    np.testing.assert_allclose(state.obs["gripper_width"], 0.08, atol=1e-6)


def test_the_scripted_expert_picks_the_cube(env: Env) -> None:
    """Observation, control, gripper, expert and success together, from several starts."""

    @jax.jit
    def episode(key: jax.Array) -> jax.Array:
        def step(state, _):
            action = env.task.demonstrate(state.sim, state.command, state.task_state)
            state = env.step(state, action)
            return state, (state.success, state.valid)

        _, (success, valid) = jax.lax.scan(step, env.reset(key), None, length=60)
        return jnp.array([success.any(), valid.all()])

    got = jnp.stack([episode(jax.random.key(seed)) for seed in range(4)])
    assert got[:, 1].all()
    assert got[:, 0].all()


def test_a_law_that_the_actuators_do_not_take_is_refused() -> None:
    world = six("torque")
    with pytest.raises(ValueError, match="'dls' commands positions; the actuators .* take torques"):
        build_env(TaskIn(TASKS["franka/pick_cube"], world), name="six", physics="native")


def test_torques_hold_and_move_the_arm() -> None:
    """The operational-space law on the file's motors reaches a target."""
    task = TaskIn(TASKS["franka/pick_cube_dense_osc"], six("torque"))
    env = build_env(task, name="six/osc", physics="native")
    step, state = jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))
    for _ in range(40):
        state = step(state, jnp.array([0.02, 0.0, 0.01, -1.0]))
    ee = state.sim.site_xpos[env.scene.arm.ee_site_id]
    np.testing.assert_allclose(ee, state.command.target, atol=0.02)
