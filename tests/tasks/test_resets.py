"""Joint poses of starts: the end effector is where it was asked to be."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_serl.tasks.resets import arm_pose
from scenes.build import build_scene
from scenes.contract.rotations import quat_to_matrix
from scenes.layouts import pick_cube
from scenes.robots.registry import ROBOTS


@pytest.mark.parametrize("name", ["panda", "fr3", "piper", "ur5e_2f85"])
def test_the_end_effector_is_where_it_was_asked_to_be(name: str):
    scene = build_scene(pick_cube(ROBOTS[name]()))
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_kinematics(scene.model, data)
    site = scene.arm.ee_site_id
    home, start = data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()
    low, high = np.array(scene.spec.arm.workspace)
    rng = np.random.default_rng(0)
    solve = jax.jit(lambda p, r: arm_pose(scene, p, r))
    for _ in range(20):
        position = np.clip(home + rng.uniform(-0.1, 0.1, 3), low, high)
        half = 0.5 * rng.uniform(-0.5, 0.5)
        turned = np.array(quat_to_matrix((np.cos(half), 0.0, 0.0, np.sin(half)))) @ start
        q = solve(jnp.asarray(position, jnp.float32), jnp.asarray(turned, jnp.float32))
        data.qpos[scene.arm.qpos_ids] = q
        mujoco.mj_kinematics(scene.model, data)
        assert np.abs(data.site_xpos[site] - position).max() < 1e-4
        assert np.abs(data.site_xmat[site].reshape(3, 3) - turned).max() < 1e-3
        assert (q >= scene.model.jnt_range[scene.arm.joint_ids, 0]).all()
        assert (q <= scene.model.jnt_range[scene.arm.joint_ids, 1]).all()
