"""The Piper against its makers: piper_sdk's own forward kinematics, and AgileX's URDF."""

import math
import warnings
from collections.abc import Callable, Sequence

import mujoco
import numpy as np
import pytest

from scenes.build import Scene, build_scene
from scenes.layouts import pick_cube
from scenes.robots.piper import piper

# AgileX piper_no_gripper_description.urdf (MIT): origin of each joint in its parent, joint 1..6.
URDF_ORIGINS = (  # xyz [m], roll pitch yaw [rad]
    ((0.0, 0.0, 0.123), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (1.5708, -0.1359, -3.1416)),
    ((0.28503, 0.0, 0.0), (0.0, 0.0, -1.7939)),
    ((-0.021984, -0.25075, 0.0), (1.5708, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (-1.5708, 0.0, 0.0)),
    ((8.8259e-05, -0.091, 0.0), (1.5708, 0.0, 0.0)),
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The Piper at its table."""
    return build_scene(pick_cube(piper()))


Forward = Callable[[Sequence[float]], Sequence[float]]


def vendor_forward(*, dh_is_offset: int) -> Forward:
    """piper_sdk's flange pose: x y z [mm], roll pitch yaw [deg] of joint angles [rad]."""
    with warnings.catch_warnings():
        # Compiled for the first time, the SDK warns about escapes in its docstrings.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # what Python 3.11 calls it
        from piper_sdk import C_PiperForwardKinematics
    kinematics = C_PiperForwardKinematics(dh_is_offset)
    return lambda q: kinematics.CalFK(list(q))[-1]


def flange_poses(scene: Scene, count: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random q inside the limits [rad] with position [m] and rotation of the flange."""
    robot, arm = scene.spec.robot, scene.arm
    q = np.random.default_rng(20261121).uniform(robot.q_min, robot.q_max, (count, 6))
    data = mujoco.MjData(scene.model)
    positions, rotations = np.empty((count, 3)), np.empty((count, 3, 3))
    for i, row in enumerate(q):
        data.qpos[arm.qpos_ids] = row
        mujoco.mj_kinematics(scene.model, data)
        positions[i] = data.xpos[arm.body_ids[-1]]
        rotations[i] = data.xmat[arm.body_ids[-1]].reshape(3, 3)
    return q, positions, rotations


def from_rpy(rpy: tuple[float, float, float]) -> np.ndarray:
    """Rotation of URDF's roll, pitch, yaw [rad]: about the fixed x, y and z in turn."""
    (sr, cr), (sp, cp), (sy, cy) = ((math.sin(a), math.cos(a)) for a in rpy)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    return np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ about_y @ about_x


def test_the_flange_is_where_the_vendors_sdk_says(scene: Scene) -> None:
    """Position to 0.2 mm is asked for; with the same rows it is rounding."""
    q, positions, rotations = flange_poses(scene)
    sdk = vendor_forward(dh_is_offset=1)
    for row, position, rotation in zip(q, positions, rotations, strict=True):
        *xyz, roll, pitch, yaw = sdk(row)  # [mm], [deg]
        np.testing.assert_allclose(position, np.array(xyz) / 1000, atol=1e-9)
        angles = tuple(math.radians(a) for a in (roll, pitch, yaw))
        np.testing.assert_allclose(rotation, from_rpy(angles), atol=1e-6)


def test_old_firmware_would_be_a_centimetre_off(scene: Scene) -> None:
    """The comparison has teeth: the rows from before S-V1.6-3 lie 10 mm away."""
    q, positions, _ = flange_poses(scene, 200)
    old = vendor_forward(dh_is_offset=0)
    away = [
        np.linalg.norm(p - np.array(old(row)[:3]) / 1000)
        for row, p in zip(q, positions, strict=True)
    ]
    assert 0.009 < np.mean(away) < 0.011


def test_the_urdf_agrees_to_its_rounding(scene: Scene) -> None:
    """So the link frames are the same and the URDF's inertias hold in ours."""
    q, positions, _ = flange_poses(scene, 200)
    for row, position in zip(q, positions, strict=True):
        pose = np.eye(4)
        for angle, (xyz, rpy) in zip(row, URDF_ORIGINS, strict=True):
            joint = np.eye(4)
            joint[:3, :3] = from_rpy(rpy) @ from_rpy((0.0, 0.0, angle))
            joint[:3, 3] = xyz
            pose = pose @ joint
        assert np.linalg.norm(pose[:3, 3] - position) < 2e-4


def test_the_arm_weighs_what_the_urdf_says() -> None:
    """4.17 kg with its base; AgileX's data sheet says 4.2 kg (robot_bridge.md, unverified)."""
    assert sum(link.mass for link in piper().links) == pytest.approx(4.17, abs=1e-3)


def test_the_gripper_opens_to_seventy_millimetres() -> None:
    assert piper().gripper.width_range == pytest.approx((0.0, 0.07))
