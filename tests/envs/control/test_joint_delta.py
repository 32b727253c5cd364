"""Steps of joints: one action is one step from where the arm is, inside its limits."""

import dataclasses

import jax
import numpy as np
import pytest

from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.control.joint_delta import JointDelta
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.env import Env, EnvState
from scenes.build import Scene

SCALE = (0.05, 0.03, 0.03, 0.03, 0.03, 0.05)  # serl_family.md 2.1 [rad]
ACTION = np.float32([1.0, -1.0, 0.5, 9.0, 0.0, -0.5, 1.0])


def joints_of(mobile: Env, sim) -> np.ndarray:
    return np.asarray(sim.qpos)[mobile.scene.arm.qpos_ids]


def test_an_action_names_the_joints_and_the_gripper(mobile: Env):
    spec = mobile.action_spec
    assert spec.mode == "joint_delta"
    assert spec.names == (*mobile.scene.spec.robot.joint_names, "gripper")
    np.testing.assert_allclose(spec.scale, (*SCALE, 0.005 / 0.035))


def test_a_full_action_is_one_step_from_the_measured_joints(mobile: Env, mobile_start: EnvState):
    step = np.multiply(SCALE, ACTION[:6].clip(-1, 1))
    command = mobile.controller.command(mobile_start.command, mobile_start.sim, ACTION)
    np.testing.assert_allclose(
        command.joints, joints_of(mobile, mobile_start.sim) + step, atol=1e-6
    )
    # 5 mm of 35 closer; the other sign finds the gripper open already.
    assert float(command.gripper) == pytest.approx(1 / 7, abs=1e-4)
    assert (
        float(mobile.controller.command(mobile_start.command, mobile_start.sim, -ACTION).gripper)
        == 0.0
    )


@pytest.mark.parametrize("base", ["target", "measured"])
def test_what_a_step_is_added_to(mobile: Env, mobile_start: EnvState, base: str):
    control = dataclasses.replace(mobile.task.control, base=base)
    controller = build_controller(control, mobile.scene)
    last = controller.start(mobile_start.sim)
    assert isinstance(controller, JointDelta)
    moved = last.replace(joints=last.joints + 0.1, gripper=np.float32(0.5))
    got = controller.command(moved, mobile_start.sim, np.zeros(7, np.float32))
    kept = moved if base == "target" else last
    np.testing.assert_allclose(got.joints, kept.joints, atol=1e-6)
    np.testing.assert_allclose(got.gripper, kept.gripper, atol=1e-4)


def test_steps_end_at_the_limits(mobile: Env, mobile_start: EnvState):
    robot = mobile.scene.spec.robot
    edge = np.array(mobile_start.sim.qpos)
    edge[mobile.scene.arm.qpos_ids] = np.subtract(robot.q_max, 0.01)
    sim = mobile_start.sim.replace(qpos=edge.astype(np.float32))
    command = mobile.controller.command(mobile_start.command, sim, np.ones(7, np.float32))
    np.testing.assert_allclose(command.joints, robot.q_max, atol=1e-6)


def test_the_arm_follows_and_its_base_stands(mobile: Env, mobile_start: EnvState):
    step, state = jax.jit(mobile.step), mobile_start
    for _ in range(10):
        state = step(state, np.float32([1, 0.5, 0, 0, 0, -1, 0]))
    moved = joints_of(mobile, state.sim) - joints_of(mobile, mobile_start.sim)
    # Each step is from where the arm is, of which its drives do more than half in time.
    assert (moved[[0, 1, 5]] / (10 * np.array([0.05, 0.015, -0.05])) > 0.5).all()
    assert np.abs(moved[2:5]).max() < 0.02
    assert np.abs(np.asarray(state.sim.qpos)[mobile.scene.arm.base_qpos_ids]).max() < 2e-3


def test_joints_of_another_arm_are_refused(panda_scene: Scene, mobile: Env):
    with pytest.raises(ValueError, match=r"'joint_delta': joints .*allowed: .*of the panda"):
        build_controller(mobile.task.control, panda_scene)
    with pytest.raises(ValueError, match="'joint_delta' commands positions.*take torques"):
        torque = dataclasses.replace(panda_scene.spec, actuation="torque")
        build_controller(
            ControlConfig(law="joint_delta"), dataclasses.replace(panda_scene, spec=torque)
        )
