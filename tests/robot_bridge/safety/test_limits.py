"""Limits: the table's numbers, tightened and never loosened."""

import math
from dataclasses import replace

import numpy as np
import pytest

from robot_bridge.driver import ArmInfo
from robot_bridge.safety.limits import KeepOut, Limits, default_limits, intersect, tighten
from scenes.contract.serialize import from_json, to_json
from scenes.robots import ROBOTS, robot_named


@pytest.fixture
def fr3() -> Limits:
    return default_limits(robot_named("fr3"))


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_every_robot_has_limits_inside_its_own(name: str):
    robot, limits = robot_named(name), default_limits(robot_named(name))
    assert np.all(np.less_equal(limits.joint_speed, robot.dq_max))
    assert np.all(np.less_equal(limits.joint_acceleration, robot.ddq_max))
    assert np.all(np.less_equal(limits.joint_jerk, robot.jerk_max))
    assert np.all(limits.q_low > robot.q_min) and np.all(limits.q_high < robot.q_max)
    assert np.all(np.greater_equal(limits.workspace_low, robot.workspace_low))
    assert np.all(limits.q_low <= robot.home) and np.all(robot.home <= limits.q_high)


def test_the_tables_columns(fr3: Limits):
    """robot_bridge.md section 3, rows 4, 7-10, 13-17."""
    piper = default_limits(robot_named("piper"))
    assert (fr3.tcp_speed, fr3.tcp_acceleration, fr3.tcp_jerk, fr3.turn_speed) == (0.25, 1, 20, 1)
    assert (piper.tcp_speed, piper.tcp_acceleration) == (0.20, 0.8)
    assert fr3.joint_speed[:5] == (1.31, 1.31, 1.31, 1.31, 2.63)
    assert set(fr3.joint_acceleration) == {5.0} and set(fr3.joint_jerk) == {500.0}
    assert set(piper.joint_speed) == {1.0}
    assert set(piper.joint_acceleration) == {3.0} and set(piper.joint_jerk) == {20.0}
    np.testing.assert_allclose(fr3.torque_max, [52.2] * 4 + [7.2] * 3)
    assert piper.torque_max is None
    assert (fr3.leash_position, piper.leash_position) == (0.025, 0.030)
    assert (fr3.command_max_age, fr3.command_fault_age, fr3.watchdog) == (0.25, 2.0, 0.1)
    assert (fr3.recoveries, fr3.recovery_window, fr3.rejects_to_hold) == (3, 600.0, 3)


def test_unknown_robots_have_none():
    robot = replace(robot_named("fr3"), name="fr4")
    with pytest.raises(KeyError, match="fr4.*Allowed: fr3, fr3_2f85, panda, panda_2f85, piper"):
        default_limits(robot)


def test_speed_near_a_limit_of_the_fr3(fr3: Limits):
    """Hand-computed from section 6: joint 2, 0.1 rad from its upper end at 1.7837."""
    q = np.zeros(7)
    q[1], q[3], q[5] = 1.7837 - 0.1, -1.5, 1.5
    low, high = fr3.speed_range(q)
    assert high[1] == pytest.approx(-0.20 + math.sqrt(2 * 2.585 * 0.1))
    assert low[1] == -1.31
    assert fr3.speed_range(-q)[0][1] == pytest.approx(-high[1])
    q[1] = 1.7837 - 0.005  # closer than 0.2^2 / (2 2.585) nothing is left
    assert fr3.speed_range(q)[1][1] == 0.0


def test_other_robots_have_no_braking_curve():
    limits = default_limits(robot_named("panda"))
    low, high = limits.speed_range(np.asarray(limits.q_max))
    np.testing.assert_array_equal(high, limits.joint_speed)
    np.testing.assert_array_equal(low, -high)


@pytest.mark.parametrize(
    "changes",
    [
        {"tcp_speed": 0.1},
        {"joint_margin": 0.1},
        {"clearance": 0.05},
        {"joint_speed": (1.0,) * 7},
        {"workspace_low": (0.3, -0.2, 0.1)},
        {"keep_outs": (KeepOut(low=(0, 0, 0), high=(1, 1, 1)),)},
        {"recoveries": 0},
        {"ramp_episodes": 10},
        {"link_quality_min": 0.99},
    ],
)
def test_stricter_is_allowed(fr3: Limits, changes):
    tighter = tighten(fr3, **changes)
    assert {name: getattr(tighter, name) for name in changes} == changes
    assert tighter.digest != fr3.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"tcp_speed": 0.26},
        {"tcp_speed": math.nan},
        {"joint_margin": 0.01},
        {"clearance": 0.0},
        {"joint_speed": (1.0,) * 6 + (9.0,)},
        {"joint_speed": (1.0,) * 6},
        {"workspace_low": (0.1, -0.3, 0.0)},
        {"workspace_high": (0.6, 0.3, 0.6)},
        {"torque_max": None},
        {"braking_curve": None},
        {"ramp_episodes": 0},
        {"command_max_age": 1.0},
        {"recovery_window": 1.0},
    ],
)
def test_looser_is_refused(fr3: Limits, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"'{name}' may only be tightened: got .*, allowed at"):
        tighten(fr3, **changes)


def test_keep_outs_cannot_be_taken_away(fr3: Limits):
    box = KeepOut(low=(0, 0, 0), high=(1, 1, 1))
    with pytest.raises(ValueError, match="keep_outs"):
        tighten(tighten(fr3, keep_outs=(box,)), keep_outs=())


def test_a_misspelt_limit_is_named(fr3: Limits):
    with pytest.raises(ValueError, match="Did you mean 'tcp_speed'"):
        tighten(fr3, tcp_sped=0.1)


def test_limits_of_the_arm_only_tighten(fr3: Limits):
    info = ArmInfo(
        robot="fr3", serial="1", firmware="5.9", takes="pose",
        q_min=(-9.0,) * 6 + (-1.0,), q_max=(9.0,) * 7, dq_max=(0.5,) + (9.0,) * 6,
    )  # fmt: skip
    both = intersect(fr3, info)
    assert both.q_min == (*fr3.q_min[:6], -1.0) and both.q_max == fr3.q_max
    assert both.joint_speed == (0.5, *fr3.joint_speed[1:])
    silent = replace(info, q_min=None, q_max=None, dq_max=None)
    assert intersect(fr3, silent) == fr3
    with pytest.raises(ValueError, match="6 joints, the robot has 7"):
        intersect(fr3, replace(info, q_min=(0.0,) * 6))


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_they_survive_a_file(name: str):
    limits = tighten(
        default_limits(robot_named(name)), keep_outs=(KeepOut(low=(0, 0, 0), high=(1, 1, 1)),)
    )
    again = from_json(Limits, to_json(limits))
    assert again == limits and again.digest == limits.digest


def test_nothing_left_is_said(fr3: Limits):
    with pytest.raises(ValueError, match="nothing is left"):
        tighten(fr3, workspace_low=(0.7, 0.0, 0.0))
    with pytest.raises(ValueError, match="low must lie below high"):
        KeepOut(low=(0, 0, 0), high=(0, 1, 1))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("tcp_speed", -1.0, "above 0"),
        ("tcp_speed", 0.0, "above 0"),
        ("tcp_jerk", float("nan"), "at most 20.0"),
        ("leash_position", -0.01, "above 0"),
        ("episode_seconds", -5.0, "above 0"),
        ("ramp_scale", -0.2, "above 0"),
        ("recoveries", -1.0, "at least 0"),
    ],
)
def test_a_negative_limit_is_no_limit(fr3: Limits, name: str, value: float, allowed: str):
    with pytest.raises(ValueError, match=rf"Limit '{name}'.* {value}, allowed:? {allowed}"):
        tighten(fr3, **{name: value})
    assert tighten(fr3, recoveries=0, joint_margin=0.1).recoveries == 0
