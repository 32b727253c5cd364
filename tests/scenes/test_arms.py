"""Several arms by role, bases that move, and grippers of other kinds."""

import dataclasses

import mujoco
import numpy as np
import pytest

from scenes.bases import Fixed, Floating, Planar
from scenes.build import Scene, build_scene
from scenes.contract.robot import RobotSpec
from scenes.contract.serialize import digest, from_json, to_json
from scenes.layouts import pick_cube, two_arms
from scenes.objects import cube
from scenes.robots import robot_named
from scenes.robots.panda import panda
from scenes.robots.robotiq import SPEED, panda_2f85
from scenes.specs import MountedArm, SceneSpec
from splat_render.assets.bake import scene_splats
from splat_render.assets.robot_surfaces import load_surface


def at_home(scene: Scene) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_forward(scene.model, data)
    return data


def bare(robot: RobotSpec) -> RobotSpec:
    geoms = tuple(geom for geom in robot.geoms if geom.body not in ("hand", "finger"))
    return dataclasses.replace(robot, gripper=None, geoms=geoms)


@pytest.fixture(scope="module")
def pair() -> Scene:
    return build_scene(two_arms())


def test_two_arms_are_each_other_turned_by_half_a_turn(pair: Scene) -> None:
    data = at_home(pair)
    left, right = (data.site_xpos[pair.arms[role].ee_site_id] for role in ("left", "right"))
    np.testing.assert_allclose(right, [1.1 - left[0], -left[1], left[2]], atol=1e-12)
    assert set(pair.cameras) == {"front", "left/wrist", "right/wrist"}
    assert not set(pair.arms["left"].qpos_ids) & set(pair.arms["right"].qpos_ids)
    assert not set(pair.arms["left"].ctrl_ids) & set(pair.arms["right"].ctrl_ids)


def test_each_arm_follows_its_own_controls(pair: Scene) -> None:
    data = at_home(pair)
    data.ctrl[pair.arms["left"].ctrl_ids[0]] += 0.3
    data.ctrl[pair.arms["right"].gripper_ctrl_id] = 0.0
    mujoco.mj_step(pair.model, data, 200)
    home = pair.model.key_qpos[0]
    moved = {role: data.qpos[arm.qpos_ids] - home[arm.qpos_ids] for role, arm in pair.arms.items()}
    np.testing.assert_allclose(moved["left"][0], 0.3, atol=1e-2)
    np.testing.assert_allclose(moved["right"], 0.0, atol=1e-3)
    np.testing.assert_allclose(data.qpos[pair.arms["right"].finger_qpos_ids], 0.0, atol=1e-3)
    np.testing.assert_allclose(data.qpos[pair.arms["left"].finger_qpos_ids], 0.04, atol=1e-3)


def test_the_only_arm_of_several_is_refused_with_the_roles(pair: Scene) -> None:
    with pytest.raises(KeyError, match=r"has 2 arms: left, right. Use scene.arms\[role\]"):
        _ = pair.arm
    with pytest.raises(KeyError, match="has 2 arms: left, right"):
        _ = pair.spec.robot
    with pytest.raises(KeyError, match="Unknown arm 'lift'. Did you mean 'left'"):
        pair.spec.arm_of("lift")
    with pytest.raises(ValueError, match="home is for one arm"):
        dataclasses.replace(pair.spec, home=panda().home)
    with pytest.raises(ValueError, match="arm names must be unique, got twice: left"):
        dataclasses.replace(pair.spec, arms=(pair.spec.arms[0],) * 2)
    with pytest.raises(ValueError, match="arms is empty"):
        SceneSpec(name="nobody", arms=())


def test_the_workspace_is_told_in_the_world(pair: Scene) -> None:
    low, high = pair.spec.arm_of("right").workspace
    np.testing.assert_allclose(low, (0.5, -0.3, 0.0), atol=1e-12)
    np.testing.assert_allclose(high, (0.9, 0.3, 0.5), atol=1e-12)
    robot = panda()
    assert MountedArm(robot=robot).workspace == (robot.workspace_low, robot.workspace_high)


def test_a_role_names_everything_of_its_arm() -> None:
    one = build_scene(pick_cube())
    arm = dataclasses.replace(one.spec.arms[0], role="a", home=one.spec.home)
    cameras = (dataclasses.replace(one.spec.camera("wrist"), body="a/hand"),)
    named = dataclasses.replace(one.spec, arms=(arm,), home=None, cameras=cameras)
    scene = build_scene(named)
    for kind, count in (("joint", "njnt"), ("actuator", "nu"), ("site", "nsite")):
        plain = [getattr(one.model, kind)(i).name for i in range(getattr(one.model, count))]
        given = [getattr(scene.model, kind)(i).name for i in range(getattr(scene.model, count))]
        assert given == [name if name == "cube_free" else f"a/{name}" for name in plain]
    np.testing.assert_array_equal(scene.arm.qpos_ids, one.arm.qpos_ids)
    mujoco.mj_step(scene.model, moved := at_home(scene), 50)
    mujoco.mj_step(one.model, same := at_home(one), 50)
    np.testing.assert_array_equal(moved.qpos, same.qpos)


def test_a_planar_base_drives_its_arm_to_a_place_or_at_a_speed() -> None:
    for drive, controls, wanted in (
        ("position", (0.3, -0.2, 0.4), (0.3, -0.2, 0.4)),
        ("velocity", (0.2, 0.1, 0.3), (0.4, 0.2, 0.6)),
    ):
        arm = MountedArm(robot=panda(), base=Planar(drive=drive))
        scene = build_scene(SceneSpec(name="mobile", arms=(arm,), objects=(cube(xy=(0.9, 0.5)),)))
        data = at_home(scene)
        home = data.qpos[scene.arm.qpos_ids].copy()
        data.ctrl[scene.arm.base_ctrl_ids] = controls
        mujoco.mj_step(scene.model, data, 400)
        np.testing.assert_allclose(data.qpos[scene.arm.base_qpos_ids], wanted, atol=0.01)
        np.testing.assert_allclose(data.qpos[scene.arm.qpos_ids], home, atol=0.01)
        assert scene.model.key_ctrl[0][scene.arm.base_ctrl_ids].tolist() == [0.0] * 3


def test_a_floating_base_starts_where_it_is_told_and_reacts_to_its_arm() -> None:
    arm = MountedArm(robot=panda(), base=Floating(pos=(0.0, 0.0, 0.5)))
    scene = build_scene(SceneSpec(name="floating", arms=(arm,)))
    data = at_home(scene)
    start = data.qpos[scene.arm.base_qpos_ids].copy()
    np.testing.assert_allclose(start, (0, 0, 0.5, 1, 0, 0, 0))
    assert (len(scene.arm.base_dof_ids), len(scene.arm.base_ctrl_ids)) == (6, 0)
    mujoco.mj_step(scene.model, data, 100)
    np.testing.assert_allclose(data.qpos[scene.arm.base_qpos_ids], start, atol=1e-6)
    data.ctrl[scene.arm.ctrl_ids[0]] += 0.5
    mujoco.mj_step(scene.model, data, 100)
    assert abs(data.qpos[scene.arm.base_qpos_ids[6]]) > 0.01


def test_impossible_bases_are_refused() -> None:
    with pytest.raises(ValueError, match="drive must be 'velocity' or 'position', got 'torque'"):
        Planar(drive="torque")
    with pytest.raises(ValueError, match="low..high must hold zero"):
        Planar(low=(1.0, -1.0, -1.0))
    assert MountedArm(robot=panda(), base=Fixed(pos=(1.0, 0.0, 0.0))).base_pos == (1.0, 0.0, 0.0)


def test_an_arm_without_a_gripper_has_its_tool_where_the_other_has_it() -> None:
    robot = bare(panda())
    scene = build_scene(SceneSpec(name="bare", arms=(MountedArm(robot=robot),)))
    whole = build_scene(SceneSpec(name="whole", arms=(MountedArm(robot=panda()),)))
    site, other = scene.arm.ee_site_id, whole.arm.ee_site_id
    data, with_hand = at_home(scene), at_home(whole)
    np.testing.assert_allclose(data.site_xpos[site], with_hand.site_xpos[other], atol=1e-12)
    np.testing.assert_allclose(data.site_xmat[site], with_hand.site_xmat[other], atol=1e-12)
    assert scene.arm.gripper_ctrl_id is None
    assert scene.model.nu == 7
    with pytest.raises(ValueError, match="panda: it has no parallel gripper"):
        _ = robot.gripper_range
    assert from_json(RobotSpec, to_json(robot)) == robot


def test_robots_that_have_a_gripper_are_written_as_before() -> None:
    """A gripper that may be missing and its speed change no digest of a stored contract."""
    written = to_json(panda())
    assert "type" not in written["gripper"]
    assert "speed_max" not in written["gripper"]
    assert digest(from_json(RobotSpec, written)) == digest(panda())
    assert to_json(panda_2f85())["gripper"]["speed_max"] == SPEED


@pytest.fixture(scope="module", params=["panda", "fr3"])
def robotiq(request: pytest.FixtureRequest) -> Scene:
    return build_scene(pick_cube(robot_named(f"{request.param}_2f85")))


def test_the_2f85_opens_85_mm_between_its_pads(robotiq: Scene) -> None:
    data = at_home(robotiq)
    pads = robotiq.arm.pad_geom_ids
    apart = np.linalg.norm(np.diff(data.geom_xpos[pads], axis=0)) - 2 * 0.004
    np.testing.assert_allclose(apart, 0.085, atol=1e-6)
    middle = data.geom_xpos[pads].mean(axis=0)
    np.testing.assert_allclose(data.site_xpos[robotiq.arm.ee_site_id], middle, atol=1e-9)


def test_the_2f85_closes_with_both_fingers_and_holds_a_cube(robotiq: Scene) -> None:
    data, arm = at_home(robotiq), robotiq.arm
    robotiq_cube = robotiq.object("cube").qpos_adr
    data.qpos[robotiq_cube : robotiq_cube + 3] = data.site_xpos[arm.ee_site_id]
    data.ctrl[arm.gripper_ctrl_id] = 0.0
    mujoco.mj_step(robotiq.model, data, 200)
    np.testing.assert_allclose(data.qpos[arm.finger_qpos_ids], 0.02, atol=1e-3)
    np.testing.assert_allclose(
        data.qpos[robotiq_cube + 2], data.site_xpos[arm.ee_site_id][2], atol=0.01
    )


@pytest.mark.parametrize("arm", ["panda", "fr3"])
def test_a_franka_with_the_2f85_is_that_franka_up_to_the_flange(arm: str) -> None:
    robot, plain = robot_named(f"{arm}_2f85"), robot_named(arm)
    for name in (*RobotSpec.JOINT_FIELDS, "links", "flange_pos", "ee_quat"):
        assert getattr(robot, name) == getattr(plain, name), name
    assert {f for f, _ in robot.sources} == {f for f, _ in plain.sources}
    assert "235 N" in dict(robot.sources)["gripper"]


def test_the_2f85_is_drawn_with_its_own_shape_not_with_the_franka_hands_surface(
    robotiq: Scene,
) -> None:
    assert not load_surface("panda").fits(robotiq.model)
    splats = scene_splats(robotiq.model, budget=400)
    hand = [robotiq.arm.hand_body_id, *robotiq.arm.finger_body_ids]
    assert all((np.asarray(splats.body_id) == body).any() for body in hand)
