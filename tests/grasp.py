"""A contact-rich rollout that any physics can play: close on the cube and lift it."""

import mujoco
import numpy as np
from jaxtyping import Float

from scenes.build import Scene


def solve_pose(
    scene: Scene, tool: Float[np.ndarray, "3"], home: Float[np.ndarray, "J"]
) -> Float[np.ndarray, "J"]:
    """Joint positions with the hand straight down at `tool` [m], by Newton steps from `home`."""
    model, arm, robot = scene.model, scene.arm, scene.spec.robot
    data, q, error = mujoco.MjData(model), np.array(home, float), np.full(6, np.inf)
    jac, down = np.zeros((6, model.nv)), np.diag([1.0, -1.0, -1.0])
    for _ in range(100):
        data.qpos[arm.qpos_ids] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jac[:3], jac[3:], arm.ee_site_id)
        rotation = data.site_xmat[arm.ee_site_id].reshape(3, 3)
        tilt = 0.5 * np.cross(rotation.T, down.T).sum(0)
        error = np.concatenate([tool - data.site_xpos[arm.ee_site_id], tilt])
        j = jac[:, arm.dof_ids]
        q = np.clip(
            q + j.T @ np.linalg.solve(j @ j.T + 1e-5 * np.eye(6), error), robot.q_min, robot.q_max
        )
    assert np.abs(error).max() < 1e-4
    return q


def grasp_and_lift(
    scene: Scene, *, steps: int, seed: int = 0
) -> tuple[Float[np.ndarray, "nq"], Float[np.ndarray, "T nu"]]:
    """A start with the cube between open fingers, and controls that close and lift it.

    Contact-rich: cube on table, two pads on the cube, all the way. The cube starts up to 5 mm
    off the middle, so that the fingers push it. No knife's edges, on which float32 and float64
    part at once: the cube rests 0.05 mm deep instead of just touching, and the fingers close over
    half the time instead of hitting it at 1 m/s. Returns float32 values, so that all physics see
    the same numbers.
    """
    rng, arm = np.random.default_rng(seed), scene.arm
    spot = np.array([0.45, 0.05, 0.02])
    home = scene.model.key_qpos[0][arm.qpos_ids]
    low = solve_pose(scene, spot, home)
    high = solve_pose(scene, spot + np.array([0, 0, 0.12]), low)
    qpos = scene.model.key_qpos[0].copy()
    qpos[arm.qpos_ids], qpos[arm.finger_qpos_ids] = low, 0.04
    cube = scene.object("cube").qpos_adr
    qpos[cube : cube + 2] = spot[:2] + rng.uniform(-0.005, 0.005, 2)
    qpos[cube + 2] -= 5e-5
    time = (np.arange(steps)[:, None] + 1) / steps
    share = np.clip((time - 0.55) / 0.4, 0.0, 1.0)
    ctrl = np.zeros((steps, scene.model.nu))
    ctrl[:, arm.ctrl_ids] = low + share * (high - low)
    ctrl[:, arm.gripper_ctrl_id] = 0.04 * np.clip(1 - 2 * time[:, 0], 0.0, 1.0)
    return qpos.astype(np.float32), ctrl.astype(np.float32)
