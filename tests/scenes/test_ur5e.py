"""The UR5e against Universal Robots' Denavit-Hartenberg parameters."""

import math

import numpy as np

from robot_bridge.safety.kinematics import Chain
from scenes.robots.ur5e import ur5e_2f85

# theta is the joint; d [m], a [m], alpha [rad] of joint 1..6 as Universal Robots publishes them.
DH = (
    (0.1625, 0.0, math.pi / 2),
    (0.0, -0.425, 0.0),
    (0.0, -0.3922, 0.0),
    (0.1333, 0.0, math.pi / 2),
    (0.0997, 0.0, -math.pi / 2),
    (0.0996, 0.0, 0.0),
)


def flange(q: np.ndarray) -> np.ndarray:
    """Pose [4, 4] of the flange in the frame Base, row by row of the table."""
    pose = np.eye(4)
    for theta, (d, a, alpha) in zip(q, DH, strict=True):
        (st, ct), (sa, ca) = (
            (math.sin(theta), math.cos(theta)),
            (math.sin(alpha), math.cos(alpha)),
        )
        pose = pose @ np.array(
            [
                [ct, -st * ca, st * sa, a * ct],
                [st, ct * ca, -ct * sa, a * st],
                [0, sa, ca, d],
                [0, 0, 0, 1],
            ]
        )
    return pose


def test_the_tool_is_where_the_makers_parameters_put_it():
    robot = ur5e_2f85()
    chain, tool = Chain(robot), robot.T_flange_ee
    q = np.random.default_rng(20261130).uniform(robot.q_min, robot.q_max, (500, 6))
    for row, pose in zip(q, chain.poses(q), strict=True):
        np.testing.assert_allclose(pose, (flange(row) @ tool)[:3], atol=1e-12)


def test_at_zero_the_flange_is_where_the_pendant_shows_it():
    """By hand: x a2 + a3, y -(d4 + d6), z d1 - d5, and the tool along -y."""
    chain = Chain(ur5e_2f85())
    position, _ = chain.forward(np.zeros(6))
    reach = 0.14147
    np.testing.assert_allclose(position, (-0.8172, -0.2329 - reach, 0.0628), atol=1e-9)


def test_at_home_it_is_above_the_table_with_its_fingers_down():
    robot = ur5e_2f85()
    pose = Chain(robot).poses(np.array([robot.home]))[0]
    np.testing.assert_allclose(pose[:, 3], (0.4, 0.0, 0.2), atol=1e-6)
    np.testing.assert_allclose(pose[:, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-5)
