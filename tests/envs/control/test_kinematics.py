"""Small matrices against MuJoCo and numpy, over random poses."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.envs.control.kinematics import hinge_jacobian, quat_to_mat, rotation_error, solve_spd
from scenes.build import Scene

NUM_POSES = 200


@pytest.fixture(scope="module")
def quats() -> np.ndarray:
    q = np.random.default_rng(0).normal(size=(NUM_POSES, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_hinge_jacobian_is_mujocos(panda_scene: Scene):
    model, arm, robot = panda_scene.model, panda_scene.arm, panda_scene.spec.robot
    data, rng = mujoco.MjData(model), np.random.default_rng(1)
    axes = jnp.asarray(model.jnt_axis[arm.joint_ids], jnp.float32)
    poses, expected = [], []
    for _ in range(NUM_POSES):
        data.qpos[arm.qpos_ids] = rng.uniform(robot.q_min, robot.q_max)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        jac = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jac[:3], jac[3:], arm.ee_site_id)
        expected.append(jac[:, arm.dof_ids])
        bodies = arm.body_ids
        pose = data.xpos[bodies], data.xquat[bodies], data.site_xpos[arm.ee_site_id]
        poses.append([x.astype(np.float32) for x in pose])
    xpos, xquat, point = (jnp.stack(x) for x in zip(*poses, strict=True))
    got = jax.jit(jax.vmap(hinge_jacobian, (0, 0, None, 0)))(xpos, xquat, axes, point)
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_solve_spd_is_numpys(n: int):
    rng = np.random.default_rng(n)
    root = rng.normal(size=(NUM_POSES, n, n))
    a = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(n)
    b = rng.normal(size=(NUM_POSES, n))
    got = jax.jit(jax.vmap(solve_spd))(*(jnp.asarray(x, jnp.float32) for x in (a, b)))
    expected = np.linalg.solve(a, b[..., None])[..., 0]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_solve_spd_at_the_damping_of_the_controller():
    """A singular arm: rank 5 of 6, so that damping alone keeps the last direction finite."""
    rng = np.random.default_rng(0)
    jac = rng.normal(size=(6, 7))
    jac[5] = jac[4]
    a = jac @ jac.T + 1e-3 * np.eye(6)
    b = rng.normal(size=6)
    got = solve_spd(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    step, expected = jac.T @ np.asarray(got), jac.T @ np.linalg.solve(a, b)
    np.testing.assert_allclose(step, expected, atol=5e-3)


def test_quat_to_mat_is_mujocos(quats: np.ndarray):
    expected = np.zeros((NUM_POSES, 9))
    for row, quat in zip(expected, quats, strict=True):
        mujoco.mju_quat2Mat(row, quat)
    got = quat_to_mat(jnp.asarray(quats, jnp.float32))
    np.testing.assert_allclose(got.reshape(-1, 9), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(got), 1.0, atol=1e-5)


def test_rotation_error_points_from_current_to_target(quats: np.ndarray):
    """A turn by w in the world's frame shows as sin|w| along w."""
    turns = np.random.default_rng(2).normal(size=(NUM_POSES, 3))
    turns *= np.linspace(0.01, 1.5, NUM_POSES)[:, None] / np.linalg.norm(
        turns, axis=1, keepdims=True
    )
    target = np.zeros((NUM_POSES, 4))
    for row, turn, quat in zip(target, turns, quats, strict=True):
        angle = float(np.linalg.norm(turn))
        twist = np.zeros(4)
        mujoco.mju_axisAngle2Quat(twist, turn / angle, angle)
        mujoco.mju_mulQuat(row, twist, quat)
    got = rotation_error(*(quat_to_mat(jnp.asarray(q, jnp.float32)) for q in (target, quats)))
    angle = np.linalg.norm(turns, axis=1, keepdims=True)
    np.testing.assert_allclose(got, turns / angle * np.sin(angle), atol=2e-6)
