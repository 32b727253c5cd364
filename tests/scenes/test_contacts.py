"""What may touch does, and the robot reaches the whole of its workspace."""

import dataclasses
import itertools

import mujoco
import mujoco.batch
import numpy as np
import pytest

from scenes.build import Scene, build_scene
from scenes.contract.policy_contract import FINGERS_DOWN
from scenes.contract.rotations import quat_to_matrix
from scenes.layouts import pick_cube
from scenes.objects import cube
from scenes.robots.piper import LEANING


def _at_home(scene: Scene) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_forward(scene.model, data)
    return data


def test_a_dropped_cube_comes_to_rest_on_the_table(panda_scene: Scene) -> None:
    data = _at_home(panda_scene)
    at = panda_scene.object("cube").qpos_adr
    data.qpos[at : at + 3] = 0.4, 0.25, 0.1
    mujoco.mj_step(panda_scene.model, data, 300)
    np.testing.assert_allclose(data.qpos[at : at + 3], (0.4, 0.25, 0.02), atol=1e-3)
    assert np.abs(data.qvel[panda_scene.object("cube").dof_adr :][:6]).max() < 1e-3


def test_cubes_stack() -> None:
    """Objects meet each other, so that a scene with several works without more ado."""
    spec = pick_cube()
    upper = dataclasses.replace(cube("upper"), pos=(0.5, 0.25, 0.06))
    scene = build_scene(dataclasses.replace(spec, objects=(cube("lower", xy=(0.5, 0.25)), upper)))
    data = _at_home(scene)
    mujoco.mj_step(scene.model, data, 200)
    top = scene.object("upper").qpos_adr
    np.testing.assert_allclose(data.qpos[top : top + 3], (0.5, 0.25, 0.06), atol=2e-3)


@pytest.mark.parametrize("push", [0.5, 1.0])
def test_the_table_stops_the_arm(scene: Scene, push: float) -> None:
    """The shoulder pushes down by [rad]: nothing that collides sinks in by a centimetre."""
    model, arm = scene.model, scene.arm
    data = _at_home(scene)
    data.qpos[scene.object("cube").qpos_adr + 1] = 1.0
    data.ctrl[arm.ctrl_ids[1]] += push
    lowest = 0.0
    for _ in range(200):
        mujoco.mj_step(model, data)
        lowest = min([lowest, *data.contact.dist])
    assert data.ncon > 4
    assert lowest > -0.01


def test_a_pushed_cube_moves(panda_scene: Scene) -> None:
    """The closed fingers sweep sideways into the cube."""
    model, arm = panda_scene.model, panda_scene.arm
    data = _at_home(panda_scene)
    tool = data.site_xpos[arm.ee_site_id]
    at = panda_scene.object("cube").qpos_adr
    data.qpos[at : at + 3] = tool[0], tool[1] + 0.06, tool[2]
    data.ctrl[arm.gripper_ctrl_id] = 0.0
    data.qpos[arm.finger_qpos_ids] = 0.0
    model_gravity = model.opt.gravity.copy()
    try:
        model.opt.gravity[:] = 0.0
        data.ctrl[arm.ctrl_ids[0]] += 0.2
        mujoco.mj_step(model, data, 60)
    finally:
        model.opt.gravity[:] = model_gravity
    assert data.qpos[at + 1] > tool[1] + 0.02
    assert data.qpos[at + 1] > 0.08


def test_the_workspace_is_reachable_with_the_hand_as_at_home(scene: Scene) -> None:
    """Inverse kinematics from home finds every corner of the box inside the joint limits."""
    robot = scene.spec.robot
    corners = itertools.product(*zip(robot.workspace_low, robot.workspace_high, strict=True))
    for corner in corners:
        data = _at_home(scene)
        for _ in range(200):
            _newton_step(scene, data, np.array(corner))
        miss = np.linalg.norm(data.site_xpos[scene.arm.ee_site_id] - corner)
        assert miss < 1e-3, corner
        robot.check_pose(list(data.qpos[scene.arm.qpos_ids]), what=f"corner {corner}")


def _newton_step(scene: Scene, data: mujoco.MjData, goal: np.ndarray) -> None:
    arm, robot = scene.arm, scene.spec.robot
    jac = np.zeros((6, scene.model.nv))
    mujoco.mj_jacSite(scene.model, data, jac[:3], jac[3:], arm.ee_site_id)
    jac = jac[:, arm.dof_ids]
    rotation = data.site_xmat[arm.ee_site_id].reshape(3, 3)
    # The fingers down; the Piper's lean.
    hand = quat_to_matrix(LEANING if robot.name == "piper" else FINGERS_DOWN)
    tilt = 0.5 * sum(np.cross(rotation[:, k], hand[:, k]) for k in range(3))
    error = np.concatenate([goal - data.site_xpos[arm.ee_site_id], tilt])
    step = jac.T @ np.linalg.solve(jac @ jac.T + 1e-4 * np.eye(6), error)
    q = data.qpos[arm.qpos_ids] + 0.5 * step
    data.qpos[arm.qpos_ids] = np.clip(q, robot.q_min, robot.q_max)
    mujoco.mj_forward(scene.model, data)


def test_batch_and_single_world_agree(panda_scene: Scene) -> None:
    """The thread pool steps the same model to the same bits as one mj_step at a time."""
    data = _at_home(panda_scene)
    batch = mujoco.batch.Batch(panda_scene.model, nsim=3, nthread=2)
    batch.bind("qpos")[:] = data.qpos
    batch.bind("ctrl")[:] = data.ctrl + 0.05
    batch.step(nstep=40)
    data = _at_home(panda_scene)
    data.qacc_warmstart[:] = 0.0
    data.ctrl += 0.05
    mujoco.mj_step(panda_scene.model, data, 40)
    np.testing.assert_allclose(batch.bind("qpos"), np.tile(data.qpos, (3, 1)), atol=1e-12)
