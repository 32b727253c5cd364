"""The compiled model is what the spec says."""

import mujoco
import mujoco.mjx as mjx
import numpy as np
import pytest

from scenes.build import Scene, build_scene, warp_model
from scenes.layouts import PICK_HOME, pick_cube
from scenes.robots import ROBOTS, robot_named


def test_joint_limits_gains_and_torques_are_the_specs(scene: Scene) -> None:
    model, arm, robot = scene.model, scene.arm, scene.spec.robot
    np.testing.assert_allclose(model.jnt_range[arm.joint_ids].T, [robot.q_min, robot.q_max])
    np.testing.assert_allclose(model.actuator_gainprm[arm.ctrl_ids, 0], robot.kp)
    np.testing.assert_allclose(-model.actuator_biasprm[arm.ctrl_ids, 1], robot.kp)
    np.testing.assert_allclose(-model.actuator_biasprm[arm.ctrl_ids, 2], robot.kd)
    np.testing.assert_allclose(model.jnt_actfrcrange[arm.joint_ids, 1], robot.tau_max)
    np.testing.assert_allclose(model.actuator_ctrlrange[arm.ctrl_ids].T, [robot.q_min, robot.q_max])
    np.testing.assert_allclose(model.dof_armature[arm.dof_ids], robot.armature)
    np.testing.assert_allclose(model.dof_damping[arm.dof_ids], robot.damping)
    assert model.jnt_limited[arm.joint_ids].all()
    assert model.jnt_actfrclimited[arm.joint_ids].all()


def test_masses_are_the_specs(scene: Scene) -> None:
    masses = [link.mass for link in scene.spec.robot.links[1:]]
    np.testing.assert_allclose(scene.model.body_mass[scene.arm.body_ids], masses)
    assert (scene.model.body_gravcomp[scene.arm.body_ids] == 1).all()


def test_home_keyframe_is_at_rest_and_open(scene: Scene) -> None:
    model, arm, home = scene.model, scene.arm, scene.spec.home_q
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    np.testing.assert_allclose(data.qpos[arm.qpos_ids], home)
    np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], scene.spec.robot.gripper_range[1])
    mujoco.mj_step(model, data, 200)
    np.testing.assert_allclose(data.qpos[arm.qpos_ids], home, atol=1e-6)
    at = data.qpos[scene.object("cube").qpos_adr :][:3]
    np.testing.assert_allclose(at, scene.spec.object("cube").pos, atol=5e-4)


def test_the_frankas_start_where_gym_hil_does(panda_scene: Scene) -> None:
    for spec in (panda_scene.spec, pick_cube(robot_named("fr3"))):
        assert spec.home_q == PICK_HOME
        assert spec.object("cube").pos == (0.5, 0.0, 0.02)


def test_options_are_those_every_backend_shares(scene: Scene) -> None:
    option = scene.model.opt
    assert option.timestep == scene.spec.sim_dt == 0.005
    assert option.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    assert option.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert option.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    assert option.noslip_iterations == 0
    assert option.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET


def test_tool_centre_lies_between_the_pads(scene: Scene) -> None:
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_forward(scene.model, data)
    middle = data.geom_xpos[scene.arm.pad_geom_ids].mean(axis=0)
    np.testing.assert_allclose(data.site_xpos[scene.arm.ee_site_id], middle, atol=1e-3)
    # Hand frame to tool centre along the hand's z: 0.1034 m as the Franka Hand's own tool frame,
    # 0.1358 m to the Piper's finger frames, 0.1415 m to the middle of the 2F-85's pads.
    arm = scene.spec.robot.name.removesuffix("_2f85")
    reach = {"panda": 0.1034, "fr3": 0.1034, "piper": 0.1358}.get(arm)
    reach = 0.14147 if scene.spec.robot.name.endswith("_2f85") else reach
    offset = data.site_xpos[scene.arm.ee_site_id] - data.xpos[scene.arm.hand_body_id]
    np.testing.assert_allclose(np.linalg.norm(offset), reach, atol=1e-9)
    np.testing.assert_allclose(scene.spec.robot.T_flange_ee[:3, 3], (0, 0, reach))


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_torque_actuation_drives_motors(name: str) -> None:
    scene = build_scene(pick_cube(robot_named(name), actuation="torque"))
    model, arm = scene.model, scene.arm
    np.testing.assert_allclose(model.actuator_ctrlrange[arm.ctrl_ids, 1], scene.spec.robot.tau_max)
    assert (model.actuator_biasprm[arm.ctrl_ids] == 0).all()
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    data.ctrl[arm.ctrl_ids[0]] = 5.0
    mujoco.mj_step(model, data, 20)
    assert data.qvel[arm.dof_ids[0]] > 0.1
    turned = np.abs(data.qvel[arm.dof_ids[:2]])
    # A UR's light first joint spins faster, and turns the second through the masses.
    assert turned[1] < (0.25 * turned[0] if name.startswith("ur") else 0.1)


def test_gripper_opens_and_closes_with_its_command(scene: Scene) -> None:
    model, arm = scene.model, scene.arm
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    for command in (0.0, 0.03):
        data.ctrl[arm.gripper_ctrl_id] = command
        mujoco.mj_step(model, data, 100)
        np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], command, atol=1e-3)


def test_only_the_intended_pairs_touch(panda_scene: Scene) -> None:
    """Fingers and hand meet cube and table, the arm meets the table only, nothing meets itself."""
    model = panda_scene.model
    names = {"table": [], "cube": [], "pad": [], "hand": [], "arm": []}
    for i in range(model.ngeom):
        if not (model.geom_contype[i] or model.geom_conaffinity[i]):
            continue
        body, name = model.body(model.geom_bodyid[i]).name, model.geom(i).name
        kind = name if name in names else "pad" if name.endswith("_pad") else body
        names[kind if kind in names else "arm"].append(i)
    assert [len(names[k]) for k in ("table", "cube", "pad", "hand", "arm")] == [1, 1, 2, 1, 2]

    def touch(a: int, b: int) -> bool:
        forward = model.geom_contype[a] & model.geom_conaffinity[b]
        return bool(forward | (model.geom_contype[b] & model.geom_conaffinity[a]))

    allowed = {("table", k) for k in ("cube", "pad", "hand", "arm")}
    allowed |= {("cube", "pad"), ("cube", "hand")}
    for a in names:
        for b in names:
            if a == b:
                continue
            want = (a, b) in allowed or (b, a) in allowed
            assert touch(names[a][0], names[b][0]) == want, (a, b)
    assert not touch(*names["pad"])
    assert not touch(*names["arm"])


@pytest.mark.parametrize("actuation", ["position", "torque"])
def test_mjx_accepts_the_model(actuation: str) -> None:
    model = build_scene(pick_cube(actuation=actuation)).model
    assert mjx.put_model(model).nv == model.nv == 15


def test_warp_gets_a_copy_without_the_flag_it_refuses(panda_scene: Scene) -> None:
    flag = mujoco.mjtDisableBit.mjDSBL_AUTORESET
    copied = warp_model(panda_scene.model)
    assert not copied.opt.disableflags & flag
    assert panda_scene.model.opt.disableflags & flag
    np.testing.assert_array_equal(copied.body_mass, panda_scene.model.body_mass)


def test_mjx_warp_accepts_the_copy(panda_scene: Scene) -> None:
    pytest.importorskip("warp")
    model = mjx.put_model(warp_model(panda_scene.model), impl="warp")
    assert model.nv == 15


def test_cameras_see_the_cube(panda_scene: Scene) -> None:
    """At home the cube's centre falls inside each image, in front of the camera."""
    data = mujoco.MjData(panda_scene.model)
    mujoco.mj_resetDataKeyframe(panda_scene.model, data, 0)
    mujoco.mj_forward(panda_scene.model, data)
    pads = data.geom_xpos[panda_scene.arm.pad_geom_ids]
    for camera, points in (("front", []), ("wrist", list(pads))):
        i = panda_scene.camera_id(camera)
        half = np.tan(np.radians(panda_scene.model.cam_fovy[i]) / 2)
        for point in [data.xpos[panda_scene.object("cube").body_id], *points]:
            seen = data.cam_xmat[i].reshape(3, 3).T @ (point - data.cam_xpos[i])
            assert seen[2] < 0
            assert np.abs(seen[:2] / -seen[2]).max() < half


def test_a_broken_world_stays_broken(panda_scene: Scene) -> None:
    """C MuJoCo would reset a non-finite world by itself; ours must be seen and counted."""
    data = mujoco.MjData(panda_scene.model)
    mujoco.mj_resetDataKeyframe(panda_scene.model, data, 0)
    data.qvel[0] = np.nan
    mujoco.mj_step(panda_scene.model, data)
    assert not np.isfinite(data.qpos).all()
