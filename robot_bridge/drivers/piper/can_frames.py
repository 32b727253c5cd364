"""The Piper's CAN frames: what the arm says, unclamped and each with its own age; what may be sent.

Frames are 8 bytes, big-endian, 11-bit identifiers, 1 Mbit/s (reference robot_bridge.md section 1,
from piper_sdk 0.6.2 `piper_msgs/msg_v2`). Two traps of the SDK are the reason that feedback is
decoded here: with its joint limits on it clamps what it *reports* as well, and it keeps returning
the last value of a message that no longer comes.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from robot_bridge.driver import DriverError, JointReadings, Vector

STOP, MODE, GRIPPER, ENABLE, FIRMWARE = 0x150, 0x151, 0x159, 0x471, 0x4AF
JOINT_TARGETS = (0x155, 0x156, 0x157)  # two joints each
STATUS, GRIPPER_STATE = 0x2A1, 0x2A8
JOINTS = (0x2A5, 0x2A6, 0x2A7)
FAST = tuple(range(0x251, 0x257))  # speed of each motor
SLOW = tuple(range(0x261, 0x267))  # temperatures, driver status of each motor
QUERY, LIMITS, PARAMETERS, CRASH_SET, CRASH_LEVELS = 0x472, 0x473, 0x477, 0x47A, 0x47B

# Oldest age of each message that is still a live arm [s]: joints 50 ms, status 200 ms
# (robot_bridge.md section 3, layer 14); the slow frames have no documented rate.
MAX_AGE = {
    **dict.fromkeys((*JOINTS, *FAST), 0.05),
    **dict.fromkeys((STATUS, GRIPPER_STATE), 0.2),
    **dict.fromkeys(SLOW, 1.0),
}
MOVE_J = 0x01
CAN_CONTROL, TEACHING = 0x01, (0x02, 0x06)  # ctrl_mode of 0x2A1
# arm_status of 0x2A1; 0 is normal.
EMERGENCY_STOP = "emergency_stop"
ARM_FAULTS = {
    0x01: EMERGENCY_STOP,
    0x02: "no_solution",
    0x03: "singularity",
    0x04: "target_exceeds_limit",
    0x05: "joint_communication",
    0x06: "brake_not_released",
    0x07: "collision",
    0x08: "overspeed_while_guided",
    0x09: "joint_state",
    0x0A: "other_error",
    0x0B: "teaching_record",
    0x0C: "teaching_execution",
    0x0D: "teaching_pause",
    0x0E: "controller_too_hot",
    0x0F: "resistor_too_hot",
}
# Status bits of each motor's driver, 0x261-0x266 byte 5; bit 6 says that it is enabled.
MOTOR_FAULTS = {
    0: "voltage_low",
    1: "motor_too_hot",
    2: "overcurrent",
    3: "driver_too_hot",
    4: "collision",
    5: "driver_error",
    7: "stall",
}
_ENABLED_BIT = 6
_RAW_PER_RADIAN = math.degrees(1.0) * 1000  # the arm counts in 0.001 deg
_NAN_HINT = "the governor never sends such a target"


@dataclass(frozen=True, slots=True)
class Status:
    """One 0x2A1 frame.

    Attributes:
        control: control mode.
        arm: fault code.
        move: kind of move.
        moving: still moving.
        errors: error bits.
    """

    control: int
    arm: int
    move: int
    moving: bool
    errors: int

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of what is wrong; byte 6 holds angle limits, byte 7 lost joints."""
        names = [ARM_FAULTS.get(self.arm, f"unknown_status_{self.arm:#04x}")] if self.arm else []
        for joint in range(6):
            if self.errors >> (8 + joint) & 1:
                names.append(f"joint{joint + 1}_angle_limit")
            if self.errors >> joint & 1:
                names.append(f"joint{joint + 1}_communication")
        return tuple(names)


class Feedback:
    """The newest frame of each identifier with the time it came; written by one thread.

    A frame is stored as one object, so a reader sees it whole.
    """

    def __init__(self) -> None:
        self._frames: dict[int, tuple[float, bytes]] = {}
        self._counts = dict.fromkeys(JOINTS, 0)
        self._limits: dict[int, tuple[int, int, int]] = {}

    def take(self, identifier: int, data: bytes, now: float) -> None:
        """Store a frame received at `now` [s, monotonic]."""
        if len(data) != 8:
            return
        self._frames[identifier] = (now, data)
        if identifier in self._counts:
            self._counts[identifier] += 1
        elif identifier == LIMITS:
            motor, high, low, speed = struct.unpack_from(">BhhH", data)
            self._limits[motor] = (low, high, speed)

    def received(self, identifier: int) -> float:
        """When a message came last [s, monotonic]; -inf for never."""
        return self._frames.get(identifier, (-math.inf, b""))[0]

    def fresh(self, identifiers: Iterable[int], now: float) -> bool:
        """Whether each of the messages is young enough."""
        return all(now - self.received(i) <= MAX_AGE[i] for i in identifiers)

    def quality(self, now: float) -> float:
        """Share of the periodic messages that are young enough [1]."""
        return sum(now - self.received(i) <= age for i, age in MAX_AGE.items()) / len(MAX_AGE)

    def data(self, identifier: int) -> bytes:
        """Newest data of a message; DriverError where it never came."""
        if identifier not in self._frames:
            raise DriverError(f"The Piper has not sent {identifier:#05x}; is it connected?")
        return self._frames[identifier][1]

    @property
    def readings(self) -> int:
        """Complete joint readings so far; stands still when any joint message does."""
        return min(self._counts.values())

    @property
    def raw_joints(self) -> tuple[int, ...]:
        """Measured joints [0.001 deg], as the arm says them."""
        return tuple(v for i in JOINTS for v in struct.unpack(">ii", self.data(i)))

    @property
    def q(self) -> Vector:
        """Measured joints [rad]."""
        return np.array(self.raw_joints) / _RAW_PER_RADIAN

    @property
    def dq(self) -> Vector:
        """Joint speeds [rad/s]; zero for motors that have not been heard."""
        frames = [self._frames.get(i, (0.0, bytes(8)))[1] for i in FAST]
        return np.array([struct.unpack_from(">h", frame)[0] for frame in frames]) / 1000

    @property
    def gripper_width(self) -> float:
        """Opening [m]."""
        return struct.unpack_from(">i", self.data(GRIPPER_STATE))[0] / 1e6

    @property
    def status(self) -> Status:
        """The arm's own view of itself."""
        control, arm, move, _teach, motion, _point, errors = struct.unpack(
            ">6BH", self.data(STATUS)
        )
        return Status(control=control, arm=arm, move=move, moving=motion == 1, errors=errors)

    @property
    def enabled(self) -> tuple[bool, ...]:
        """Whether each motor is powered; False for one that has not been heard."""
        frames = [self._frames.get(i, (0.0, bytes(8)))[1] for i in SLOW]
        return tuple(bool(frame[5] >> _ENABLED_BIT & 1) for frame in frames)

    @property
    def motor_faults(self) -> tuple[str, ...]:
        """Names of what is wrong with single motors."""
        frames = [self._frames.get(i, (0.0, bytes(8)))[1] for i in SLOW]
        return tuple(
            f"joint{joint}_{name}"
            for joint, frame in enumerate(frames, 1)
            for bit, name in MOTOR_FAULTS.items()
            if frame[5] >> bit & 1
        )

    @property
    def slow(self) -> JointReadings:
        """Supply, temperatures and current of each motor; NaN for one that has not been heard.

        The smaller motors measure no current and say 0.
        """
        heard = [self._frames.get(i) for i in SLOW]
        rows = [(math.nan,) * 4 if f is None else struct.unpack(">HhbxH", f[1]) for f in heard]
        table = np.array(rows, np.float64) * (0.1, 1.0, 1.0, 0.001)
        names = ("voltage", "driver_temperature", "motor_temperature", "current")
        return dict(zip(names, table.T, strict=True))

    @property
    def limits(self) -> tuple[tuple[float, float, float], ...] | None:
        """Low and high [rad] and top speed [rad/s] of each joint; None until all six came."""
        if not all(motor in self._limits for motor in range(1, 7)):
            return None
        rows = [self._limits[motor] for motor in range(1, 7)]
        return tuple((math.radians(a / 10), math.radians(b / 10), v / 1000) for a, b, v in rows)


def raw_joints(q: Sequence[float] | Vector) -> tuple[int, ...]:
    """Joint positions [rad] as the arm counts them [0.001 deg]; DriverError unless six finite."""
    values = np.asarray(q, np.float64)
    if values.shape != (6,) or not np.isfinite(values).all():
        raise DriverError(f"Joint target {values.tolist()} must be 6 finite numbers; {_NAN_HINT}")
    return tuple(int(v) for v in np.rint(values * _RAW_PER_RADIAN))


def hold_frames(raw: Sequence[int], *, speed: int) -> tuple[tuple[int, bytes], ...]:
    """The four frames (id, data) that send the arm to `raw` [0.001 deg] at `speed` [%]."""
    pairs = zip(JOINT_TARGETS, zip(raw[::2], raw[1::2], strict=True), strict=True)
    joints = tuple((i, struct.pack(">ii", *pair)) for i, pair in pairs)
    return ((MODE, bytes((CAN_CONTROL, MOVE_J, speed, 0, 0, 0, 0, 0))), *joints)


def check_outgoing(identifier: int, data: Sequence[int], *, max_speed: int) -> None:
    """Raise DriverError unless a frame is one that this bridge sends.

    Not on the list, whoever asks: reset (0x150 byte 0 = 2) and motor off (0x471), which drop the
    arm; MIT torque control (0x15A-0x15F, 0x151 byte 3); zeroing; switching collision detection
    off; speeds above `max_speed` [%].
    """
    d = tuple(data)
    allowed = len(d) == 8 and {
        STOP: d == (1, 0, 0, 0, 0, 0, 0, 0),
        MODE: d[:2] == (CAN_CONTROL, MOVE_J) and d[2] <= max_speed and not any(d[3:]),
        **dict.fromkeys(JOINT_TARGETS, True),
        GRIPPER: d[6] in (1, 3) and d[7] == 0,
        ENABLE: d[1] == 2,
        QUERY: True,
        PARAMETERS: not any(d[1:4]),
        CRASH_SET: all(1 <= level <= 8 for level in d[:6]),
        FIRMWARE: True,
    }.get(identifier, False)
    if not allowed:
        raise DriverError(f"CAN frame {identifier:#05x} {bytes(d).hex()} is never sent to a Piper")
