"""How fast, how far and how long: the limits every layer keeps, and the rule that nobody loosens.

The numbers are those of robot_bridge.md section 3 ("the table"); where it is silent the entry says
"ours". `default_limits` makes a robot's, `tighten` takes a user's, `intersect` the arm's.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_bridge.driver import ArmInfo, Vector
from scenes.contract.errors import InputError
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import require_number
from scenes.contract.registry import Registry
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Vec3
from scenes.contract.serialize import digest


@dataclass(frozen=True, kw_only=True)
class KeepOut:
    """A box that the tool centre must not enter: corners in the base frame [m]."""

    low: Vec3
    high: Vec3

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise InputError(f"KeepOut: low must lie below high, got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True)
class BrakingCurve:
    """Robot-enforced joint speed near a joint limit, as the FR3 has it (section 6).

    A joint may move towards its limit, `x` [rad] away, with at most
    max(0, -offset + sqrt(2 deceleration x)) [rad/s]. offset [rad/s], deceleration [rad/s^2].
    """

    offset: tuple[float, ...]
    deceleration: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Everything the bridge keeps an arm to; Franka's number first, then Piper's where it differs.

    Joints (one entry each):
        q_min, q_max: the robot's range [rad]; RobotSpec.
        joint_margin: kept from both ends [rad]; table row 7: 0.05.
        joint_speed: [rad/s]; row 8: half of the robot's limit, Piper 1.0.
        joint_acceleration: [rad/s^2]; row 9: 5, Piper 3.
        joint_jerk: [rad/s^3]; row 9: 500, Piper 20.
        braking_curve: what the FR3 allows near a joint limit; section 6. None: nothing more.
        torque_max: [N m]; row 10: 60 % of the robot's. None: the arm does not say (Piper).
    Tool centre:
        tcp_speed: [m/s]; row 4: 0.25, Piper 0.20.
        tcp_acceleration: [m/s^2]; row 4: 1.0, Piper 0.8.
        tcp_jerk: [m/s^3]; row 4: 20, Piper 16 (ours, in the ratio of Franka's).
        turn_speed: [rad/s]; row 4: 1.0.
        turn_acceleration: [rad/s^2]; ours: 4, reached as fast as the tool's speed is.
        turn_jerk: [rad/s^3]; ours: 80, in the same ratio.
        step_position: of one action, per axis [m]; row 3 has 0.020 and 0.015, ours is 0.025: one
            full action of our contract, and tcp_speed bounds the motion anyway.
        step_rotation: of one action, about each axis [rad]; row 3: 0.1.
        leash_position, leash_rotation, leash_joint: target ahead of the arm [m], [rad], [rad];
            row 5: 0.025 (Piper 0.030), 0.15, 0.15.
        workspace_low, workspace_high: box for the tool centre [m]; row 6: RobotSpec's, Piper's
            inside 0.65, 0.65, 0.02..0.75.
        keep_outs: boxes it must not enter; row 6.
        orientation_cone: between the tool's axis and straight down [rad]; row 6 names it, ours is
            30 degrees.
        clearance: of the tool centre over the table [m]; row 6: 0.010.
        separation: of the arm from itself and from the table [m]; row 12: 0.020.
        gripper_force: [N]; ours: 40, and at most the gripper's.
    The arm's own word:
        kinematics_position, kinematics_rotation: between its pose and the one of its joints [m],
            [rad]; ours: 0.005, 0.03. A Franka's agree within 0.1 mm, a hand that is missing in
            Desk is 0.1 m.
    Times and counts:
        command_max_age, command_fault_age: decelerate, then fault [s]; row 13: 0.25, 2.0.
        state_max_age: hold [s]; row 14: 0.010, Piper 0.050.
        link_quality_min: hold below [1]; row 14: 0.95.
        following_max_age: fault when an arm whose target is a leash away has stood still for so
            long [s]; ours: 2.0, as for commands.
        observation_max_age, observation_fault_age: hold, fault [s]; row 15: 0.1, 0.5.
        watchdog: lateness of a tick that holds [s]; row 16: 0.1.
        episode_seconds: [s]; row 21: 60. path_length: of the tool centre in an episode [m]; row 21
            names it, ours is tcp_speed for a whole episode.
        session_seconds: after which no further episode begins [s]; row 21 names it, ours is 4 h.
        rejects_to_hold: refused commands in a row; row 1: 3.
        recoveries: allowed within recovery_window [s]; row 17: 3 in 600.
        ramp_scale, ramp_episodes: speed of a new bundle's first episodes; row 20: 0.2 for 3.
    """

    q_min: tuple[float, ...]
    q_max: tuple[float, ...]
    joint_margin: float = 0.05
    joint_speed: tuple[float, ...]
    joint_acceleration: tuple[float, ...]
    joint_jerk: tuple[float, ...]
    braking_curve: BrakingCurve | None = None
    torque_max: tuple[float, ...] | None = None

    tcp_speed: float = 0.25
    tcp_acceleration: float = 1.0
    tcp_jerk: float = 20.0
    turn_speed: float = 1.0
    turn_acceleration: float = 4.0
    turn_jerk: float = 80.0
    step_position: float = 0.025
    step_rotation: float = 0.1
    leash_position: float = 0.025
    leash_rotation: float = 0.15
    leash_joint: float = 0.15
    workspace_low: Vec3
    workspace_high: Vec3
    keep_outs: tuple[KeepOut, ...] = ()
    orientation_cone: float = math.pi / 6
    clearance: float = 0.01
    separation: float = 0.02
    gripper_force: float = 40.0
    kinematics_position: float = 0.005
    kinematics_rotation: float = 0.03

    command_max_age: float = 0.25
    command_fault_age: float = 2.0
    state_max_age: float = 0.01
    link_quality_min: float = 0.95
    following_max_age: float = 2.0
    observation_max_age: float = 0.1
    observation_fault_age: float = 0.5
    watchdog: float = 0.1
    episode_seconds: float = 60.0
    session_seconds: float = 14400.0
    path_length: float = 15.0
    rejects_to_hold: int = 3
    recoveries: int = 3
    recovery_window: float = 600.0
    ramp_scale: float = 0.2
    ramp_episodes: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            for value in _numbers(getattr(self, field.name)):
                _require_sensible(field.name, value)
        for name in ("q_min", "q_max"):
            if len(getattr(self, name)) != len(self.joint_speed):
                raise InputError(f"Limits: {name} must have {len(self.joint_speed)} entries")
        for low, high in ((self.q_low, self.q_high), (self.workspace_low, self.workspace_high)):
            if not np.all(np.less(low, high)):
                raise InputError(f"Limits: nothing is left between {low} and {high}")

    @property
    def q_low(self) -> Vector:
        """Lowest joint positions that may be commanded [rad]."""
        return np.asarray(self.q_min) + self.joint_margin

    @property
    def q_high(self) -> Vector:
        """Highest joint positions that may be commanded [rad]."""
        return np.asarray(self.q_max) - self.joint_margin

    @property
    def digest(self) -> str:
        """Sha256 that goes into records and the audit log."""
        return digest(self)

    def speed_range(self, q: Vector) -> tuple[Vector, Vector]:
        """Lowest (negative) and highest joint speed [rad/s] at joint positions [..., J] [rad]."""
        most = np.asarray(self.joint_speed)
        if self.braking_curve is None:
            return np.broadcast_to(-most, np.shape(q)), np.broadcast_to(most, np.shape(q))
        curve, low, high = self.braking_curve, np.asarray(self.q_min), np.asarray(self.q_max)
        return -_curve_speed(curve, q - low, most), _curve_speed(curve, high - q, most)


_ANY_NUMBER = ("q_min", "q_max", "workspace_low", "workspace_high", "keep_outs")
_NOT_NEGATIVE = (
    *("joint_margin", "clearance", "separation", "braking_curve"),
    *("link_quality_min", "rejects_to_hold", "recoveries", "ramp_episodes"),
)


def _require_sensible(name: str, value: float) -> None:
    """Refuse what is not finite, and a speed or time below zero: it would be no limit at all."""
    if name in _ANY_NUMBER:
        require_number(f"Limit '{name}'", value)
    elif name in _NOT_NEGATIVE:
        require_number(f"Limit '{name}'", value, least=0)
    else:
        require_number(f"Limit '{name}'", value, above=0)


def _curve_speed(curve: BrakingCurve, distance: Vector, most: Vector) -> Vector:
    slope = 2.0 * np.asarray(curve.deceleration) * np.maximum(distance, 0.0)
    return np.clip(np.sqrt(slope) - np.asarray(curve.offset), 0.0, most)


# Each robot's own are in its folder of robot_bridge/drivers, or in a user's package. They are found
# by the name of that room, so that this one imports no robot.
LIMITS: Registry[Callable[[RobotSpec], Limits]] = Registry(
    "robot with limits", found_in="robot_bridge.drivers"
)
register_limits = LIMITS.register


def default_limits(robot: RobotSpec) -> Limits:
    """The table's limits for a robot; KeyError names the robots that have some."""
    return LIMITS[robot.name](robot)


# Of these a larger number is the stricter one; of all others a smaller one is.
_MORE_IS_TIGHTER = (
    *("q_min", "joint_margin", "workspace_low", "clearance", "separation", "link_quality_min"),
    *("recovery_window", "ramp_episodes"),
)


def tighten(limits: Limits, **changes: Any) -> Limits:
    """Return the limits with stricter ones; ValueError names a field that would become looser."""
    names = {field.name for field in dataclasses.fields(Limits)}
    for name, value in changes.items():
        if name not in names:
            raise InputError(unknown_name("limit", name, names))
        _require_tighter(name, value, getattr(limits, name))
    return dataclasses.replace(limits, **changes)


def _require_tighter(name: str, got: Any, allowed: Any) -> None:
    if name == "keep_outs":
        tighter = set(allowed) <= set(got)
    elif name == "braking_curve":
        tighter = allowed is None or got == allowed
    else:
        tighter = _tighter(name, _numbers(got), _numbers(allowed))
    if not tighter:
        bound = "at least" if name in _MORE_IS_TIGHTER else "at most"
        raise InputError(
            f"Limit '{name}' may only be tightened: got {got}, allowed {bound} {allowed}"
        )


def _tighter(name: str, got: Sequence[float], allowed: Sequence[float]) -> bool:
    if not allowed:  # there was none
        return True
    sign = 1.0 if name in _MORE_IS_TIGHTER else -1.0
    # NaN compares false, so it is refused here.
    pairs = zip(got, allowed, strict=False)
    return len(got) == len(allowed) and all(sign * g >= sign * a for g, a in pairs)


def _numbers(value: Any) -> tuple[float, ...]:
    """All numbers of a field, none for None."""
    if value is None:
        return ()
    if isinstance(value, (KeepOut, BrakingCurve)):
        return _numbers(dataclasses.astuple(value))
    if isinstance(value, (tuple, list)):
        return tuple(number for item in value for number in _numbers(item))
    return (float(value),)


def intersect(limits: Limits, info: ArmInfo) -> Limits:
    """The limits inside what the connected arm reports of itself; ValueError where none is left."""
    changes: dict[str, Any] = {}
    if info.q_min is not None:
        changes["q_min"] = _joined(limits.q_min, info.q_min, max)
    if info.q_max is not None:
        changes["q_max"] = _joined(limits.q_max, info.q_max, min)
    if info.dq_max is not None:
        changes["joint_speed"] = _joined(limits.joint_speed, info.dq_max, min)
    return tighten(limits, **changes)


def trained_within(limits: Limits, contract: Contract) -> Limits:
    """The limits, no joint further ahead of the arm than in the training of a policy."""
    lead = min(limits.leash_joint, contract.ik.max_joint_step)
    return tighten(limits, leash_joint=lead)


def _joined(ours: Sequence[float], theirs: Sequence[float], pick: Any) -> tuple[float, ...]:
    if len(ours) != len(theirs):
        raise InputError(f"The arm reports {len(theirs)} joints, the robot has {len(ours)}")
    return tuple(pick(a, b) for a, b in zip(ours, theirs, strict=True))
