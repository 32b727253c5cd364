"""Forward kinematics and Jacobian against MuJoCo, least squares against itself."""

import mujoco
import numpy as np
import pytest

from robot_bridge.safety.kinematics import Chain, matrix_to_quat, rotation_vector
from scenes.build import build_scene
from scenes.contract.rotations import quat_to_matrix
from scenes.robots import ROBOTS, robot_named
from scenes.specs import MountedArm, SceneSpec


@pytest.fixture(params=sorted(ROBOTS))
def robot(request):
    return robot_named(request.param)


def test_poses_and_jacobians_are_mujocos(robot):
    scene, chain = build_scene(SceneSpec(name="arm", arms=(MountedArm(robot=robot),))), Chain(robot)
    model, data, arm = scene.model, mujoco.MjData(scene.model), scene.arm
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform(robot.q_min, robot.q_max)
        data.qpos[arm.qpos_ids] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        jac = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jac[:3], jac[3:], arm.ee_site_id)
        position, quat = chain.forward(q)
        np.testing.assert_allclose(position, data.site_xpos[arm.ee_site_id], atol=1e-9)
        rotation = data.site_xmat[arm.ee_site_id].reshape(3, 3)
        np.testing.assert_allclose(quat_to_matrix(quat), rotation, atol=1e-9)
        np.testing.assert_allclose(chain.jacobian(q), jac[:, arm.dof_ids], atol=1e-9)


def test_frames_end_where_poses_do(robot):
    chain = Chain(robot)
    q = np.random.default_rng(1).uniform(robot.q_min, robot.q_max, (5, robot.num_joints))
    hands, poses = chain.frames(q)[:, -1], chain.poses(q)
    tips = (hands @ np.append(robot.ee_pos, 1.0))[:, :3]
    np.testing.assert_allclose(tips, poses[:, :, 3], atol=1e-12)
    np.testing.assert_allclose(hands[:, :3, :3], poses[:, :, :3], atol=1e-12)


def test_least_squares_finds_reachable_poses(robot):
    chain, rng, found = Chain(robot), np.random.default_rng(2), 0
    for _ in range(50):
        q = rng.uniform(chain.low + 0.3, chain.high - 0.3)
        position, quat = chain.forward(q)
        start = np.clip(q + rng.uniform(-0.3, 0.3, len(q)), chain.low, chain.high)
        solution = chain.solve(position, quat, start=start)
        assert (solution.q >= chain.low).all() and (solution.q <= chain.high).all()
        exact = solution.position_error < 1e-7 and solution.rotation_error < 1e-7
        if exact:
            np.testing.assert_allclose(chain.forward(solution.q)[0], position, atol=1e-7)
        found += exact
    assert found >= 47  # the rest are stopped by a joint limit on the way


def test_least_squares_owns_up_to_what_it_cannot_reach(robot):
    solution = Chain(robot).solve(np.array([3.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert solution.position_error > 1.0


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, -0.8, 0), (-1, 0, 0)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 1.0, 3.0, np.pi - 1e-9])
def test_rotation_vectors_and_quaternions(axis, angle: float):
    vector = angle * np.asarray(axis, np.float64)
    quat = np.array([np.cos(angle / 2), *(np.sin(angle / 2) * np.asarray(axis))])
    matrix = quat_to_matrix(quat)
    np.testing.assert_allclose(rotation_vector(matrix), vector, atol=1e-8)
    assert matrix_to_quat(matrix) @ quat == pytest.approx(1.0, abs=1e-12)
