"""A robot file that is not ours becomes a scene with the interface of ours."""

import dataclasses
import importlib.util
from pathlib import Path

import mujoco
import mujoco.mjx as mjx
import numpy as np
import pytest
from foreign_arms import HOME, JOINTS, mjcf, six, six_urdf

from robot_bridge.safety.kinematics import Chain
from scenes.build import Scene, build_scene
from scenes.contract.robot import RobotSpec
from scenes.contract.serialize import from_json, to_json
from scenes.imported import ImportedScene
from scenes.objects import cube
from scenes.roles import ArmRoles, GripperRole, JointLimits, ToolFrame
from scenes.specs import TouchSpec

SOURCES = {"mjcf": six, "torque": lambda: six("torque"), "urdf": six_urdf}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def foreign(request: pytest.FixtureRequest) -> Scene:
    return build_scene(SOURCES[request.param]())


def test_the_bridges_kinematics_are_the_models(foreign: Scene) -> None:
    """The derived chain puts the tool where the file's model does, in position and orientation."""
    model, arm, robot = foreign.model, foreign.arm, foreign.spec.robot
    chain, data, rng = Chain(robot), mujoco.MjData(foreign.model), np.random.default_rng(0)
    for _ in range(20):
        q = rng.uniform(robot.q_min, robot.q_max)
        data.qpos[arm.qpos_ids] = q
        mujoco.mj_kinematics(model, data)
        position, quat = chain.forward(q)
        wanted = np.empty(4)
        mujoco.mju_mat2Quat(wanted, data.site_xmat[arm.ee_site_id])
        world = position + robot.base_pos
        np.testing.assert_allclose(world, data.site_xpos[arm.ee_site_id], atol=1e-12)
        np.testing.assert_allclose(abs(quat @ wanted), 1.0, atol=1e-12)


def test_masses_and_inertias_of_the_chain_are_the_models(foreign: Scene) -> None:
    """Total mass, and the inertia that the first joint feels, from the links alone."""
    model, robot = foreign.model, foreign.spec.robot
    gripper = robot.parallel_gripper
    parts = sum(link.mass for link in robot.links) + gripper.hand.mass + 2 * gripper.finger.mass
    free = foreign.object("cube").body_id
    assert parts == pytest.approx(model.body_mass.sum() - model.body_mass[free])
    last = robot.links[-1]
    np.testing.assert_allclose(last.com, (0.0, 0.0, 0.01), atol=1e-12)
    np.testing.assert_allclose(last.inertia, (5e-4, 5e-4, 5e-4, 0, 0, 0), atol=1e-12)


def test_it_starts_at_home_open_and_holds(foreign: Scene) -> None:
    model, arm = foreign.model, foreign.arm
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    assert model.key("home").id == 0
    np.testing.assert_allclose(data.qpos[arm.qpos_ids], HOME)
    np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], 0.04)
    mujoco.mj_step(model, data, 200)
    np.testing.assert_allclose(data.qpos[arm.qpos_ids], HOME, atol=1e-3)
    np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], 0.04, atol=1e-3)
    at = foreign.object("cube").qpos_adr
    np.testing.assert_allclose(data.qpos[at : at + 3], (0.35, 0.0, 0.02), atol=1e-3)


def test_the_gripper_closes_with_both_fingers(foreign: Scene) -> None:
    model, arm = foreign.model, foreign.arm
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    data.ctrl[arm.gripper_ctrl_id] = arm.gripper_closed
    mujoco.mj_step(model, data, 200)
    np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], 0.0, atol=2e-3)


def test_options_that_not_every_physics_shares_are_set_and_noted(foreign: Scene) -> None:
    option = foreign.model.opt
    assert option.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    assert option.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    assert option.noslip_iterations == 0
    assert option.timestep == foreign.spec.sim_dt == 0.005
    text = "\n".join(foreign.notes)
    assert "option timestep set to 0.005, was 0.002 (keep: sim_dt)" in text
    assert "gravity compensation" in text
    assert "limits.jerk_max is not given: 100 rad/s^3" in text
    assert mjx.put_model(foreign.model).nv == foreign.model.nv


def test_what_is_kept_stays(tmp_path: Path) -> None:
    file = tmp_path / "six.xml"
    file.write_text(mjcf())
    keep = ("cone", "noslip", "integrator", "sim_dt", "gravcomp")
    scene = build_scene(dataclasses.replace(six(), text=None, path=file, keep=keep))
    option = scene.model.opt
    assert option.cone == mujoco.mjtCone.mjCONE_ELLIPTIC
    assert (option.noslip_iterations, option.timestep) == (3, 0.002)
    assert option.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert (scene.model.body_gravcomp == 0).all()


def test_limits_and_gains_are_the_files(foreign: Scene) -> None:
    robot = foreign.spec.robot
    assert robot.q_max == (2.6,) * 6
    assert robot.gripper_range == (0.0, 0.04)
    if foreign.spec.name == "six_urdf":
        assert robot.tau_max == (60.0,) * 6
        assert robot.dq_max == (1.0,) * 6
    else:
        driven = foreign.spec.actuation == "position"
        assert robot.tau_max == (
            (150.0,) * 3 + (28.0,) * 3 if driven else (120.0,) * 3 + (15.0,) * 3
        )
        assert robot.dq_max == (2.0,) * 6
        assert foreign.spec.camera("front").fovy == 45
        assert foreign.camera_id("front") == 0
    assert from_json(RobotSpec, to_json(robot)) == robot


ARM = six().arms[0]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"joints": ("pan", "lift", "elbo", *JOINTS[3:])},
            r"the arm: joints: Unknown joint 'elbo'.*'elbow'",
        ),
        ({"tool": "pinchh"}, r"tool: Unknown site 'pinchh'. Did you mean 'pinch'.*ToolFrame"),
        ({"tool": ToolFrame(body="plam")}, r"tool.body: Unknown body 'plam'. Did you mean 'palm'"),
        (
            {"gripper": GripperRole(actuator="sqeeze")},
            r"gripper.actuator: Unknown actuator 'sqeeze'. Did you mean 'squeeze'. Allowed: m0",
        ),
        ({"gripper": GripperRole(fingers=("thumb",))}, r"Unknown joint 'thumb'.*'thumb_slide'"),
        ({"role": "left", "actuators": ("m0",) * 5 + ("m9",)}, r"arm 'left': actuators: .*'m9'"),
    ],
)
def test_names_that_the_file_lacks_are_told_with_those_it_has(roles: dict, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        build_scene(six(arms=(dataclasses.replace(ARM, **roles),)))


def test_objects_and_cameras_are_looked_up_in_the_file() -> None:
    with pytest.raises(KeyError, match=r"'cube': Unknown body 'brik'. Did you mean 'brick'"):
        build_scene(six(objects={"cube": "brik"}))
    with pytest.raises(KeyError, match=r"'front': Unknown camera 'top'. Allowed: overview"):
        build_scene(six(cameras={"front": "top"}))
    with pytest.raises(FileNotFoundError, match="nowhere.xml is not there"):
        build_scene(ImportedScene(path="/nowhere.xml", arms=(ARM,)))
    with pytest.raises(ValueError, match="give either path or text"):
        build_scene(ImportedScene(arms=(ARM,)))


def test_arms_that_our_controllers_cannot_drive_are_refused() -> None:
    def built(text: str, **roles: object) -> Scene:
        return build_scene(six(text=text, arms=(dataclasses.replace(ARM, **roles),)))

    plain = {"limits": JointLimits(), "home": None}
    with pytest.raises(ValueError, match="'thumb_slide' does not turn"):
        built(mjcf(), joints=(*JOINTS, "thumb_slide"), **plain)
    with pytest.raises(ValueError, match="'pan' is not below the one named before it"):
        built(mjcf(), joints=("lift", "pan"), **plain)
    moved = mjcf().replace('name="elbow"', 'name="elbow" pos="0 0 0.01"')
    with pytest.raises(ValueError, match=r"'elbow': body 'fore' must have this one joint"):
        built(moved)
    velocity = mjcf().replace(
        '<position name="m0" joint="pan" kp="2000" kv="120" inheritrange="1"/>',
        '<velocity name="m0" joint="pan" kv="120" ctrlrange="-1 1"/>',
    )
    with pytest.raises(ValueError, match="'m0' takes neither a joint position nor a torque"):
        built(velocity)
    urdf = six_urdf()
    undriven = dataclasses.replace(urdf.arms[0], drive=None)
    with pytest.raises(ValueError, match=r"no actuator for pan, lift.*drive=PositionDrive"):
        build_scene(dataclasses.replace(urdf, arms=(undriven,)))


def test_roles_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="home has 2 entries, allowed 6"):
        dataclasses.replace(ARM, home=(0.0, 1.0))
    with pytest.raises(ValueError, match="joints is empty"):
        ArmRoles(joints=(), tool="pinch")


def test_what_the_file_lacks_is_added() -> None:
    scene = build_scene(
        six(add=(cube("second", xy=(0.3, 0.2)),), touch=(TouchSpec(name="press", geom="second"),))
    )
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_step(scene.model, data, 200)
    at = scene.object("second").qpos_adr
    np.testing.assert_allclose(data.qpos[at : at + 3], (0.3, 0.2, 0.02), atol=1e-3)
    weight = data.sensordata[scene.sensor("press")]
    np.testing.assert_allclose(weight, 0.1 * 9.81, rtol=0.02)


GYM_HIL = importlib.util.find_spec("gym_hil")


@pytest.mark.skipif(GYM_HIL is None, reason="gym-hil is not installed (extra bench)")
def test_the_panda_of_gym_hil() -> None:
    """Its scene.xml: Panda with a Robotiq gripper whose control runs from 0 to 255."""
    assert GYM_HIL is not None
    (folder,) = GYM_HIL.submodule_search_locations or ()
    path = Path(folder) / "assets" / "scene.xml"
    names = [joint.name for joint in mujoco.MjSpec.from_file(str(path)).joints]
    roles = ArmRoles(
        joints=tuple(name for name in names if name.startswith("joint"))[:7],
        tool="pinch",
        gripper=GripperRole(actuator="fingers_actuator", opened=0.0, closed=255.0),
        home=(0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785),
    )
    scene = build_scene(ImportedScene(path=path, arms=(roles,), objects={"cube": "block"}))
    assert scene.spec.robot.num_joints == 7
    chain, data = Chain(scene.spec.robot), mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_kinematics(scene.model, data)
    position, _ = chain.forward(roles.home)
    world = position + np.asarray(scene.spec.robot.base_pos)
    np.testing.assert_allclose(world, data.site_xpos[scene.arm.ee_site_id], atol=1e-9)
