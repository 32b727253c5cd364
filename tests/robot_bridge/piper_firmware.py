"""A Piper that is not there: its firmware's side of the CAN bus.

Written from the CAN map (reference robot_bridge.md section 1) and from what is known of the real
arm's manners (section 6): it goes on to its last target when commands stop, the first enable is
lost, an emergency stop sags, reset and motor-off drop the arm. What happens to it is kept as facts
that a test can assert never happened. How the real arm ramps, clears faults and answers while
stopped is documented nowhere: here a fault of a target clears with the next good one.

In process on python-can's virtual bus, or as a program that speaks slcan on a pseudo terminal:

    python piper_firmware.py       # prints the terminal's name, takes JSON commands on stdin
"""

import contextlib
import json
import math
import os
import select
import struct
import subprocess
import sys
import threading
import time
import tty
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

HOME = (0.0, 1.6342, -0.9824, 0.0, 1.0062, 0.0)  # scenes.robots.piper
LOW = (-150.0, 0.0, -170.0, -100.0, -70.0, -120.0)  # [deg]
HIGH = (150.0, 180.0, 0.0, 100.0, 70.0, 120.0)
TOP_SPEED, ACCELERATION = 3.0, 5.0  # [rad/s], [rad/s^2]
GAIN = 20.0  # [1/s] of the last bit of the way
SAG_SPEED = 0.2  # [rad/s] of a stopped arm under its weight; made up
FEEDBACK = (*range(0x2A1, 0x2A9), *range(0x251, 0x257))
SLOW_EVERY = 5  # feedback periods per slow frame
JOINT_FRAMES = (0x2A5, 0x2A6, 0x2A7)
STANDBY, CAN, TEACH = 0x00, 0x01, 0x02

Frame = tuple[int, bytes]


@dataclass
class Faults:
    """What a test breaks. Frames are named by identifier.

    drop: never sent. silent: nothing is sent. deaf: nothing is received. arm_status, err_code:
    of 0x2A1. motor_status: extra bits of 0x261-0x266 byte 5 for motor 1..6. disabled: motors that
    switched themselves off. ctrl_mode: set by the teach button. late: seconds by which feedback
    is delayed.
    """

    drop: frozenset[int] = frozenset()
    silent: bool = False
    deaf: bool = False
    arm_status: int = 0
    err_code: int = 0
    motor_status: dict[int, int] = field(default_factory=dict)
    disabled: frozenset[int] = frozenset()
    ctrl_mode: int | None = None
    late: float = 0.0


@dataclass(frozen=True)
class Fact:
    """Something that happened to the arm: at which time of its own [s], what."""

    t: float
    what: str


class Firmware:
    """The arm's main controller; `receive` takes a frame, `step` lets time pass.

    Args:
        version: firmware string of 0x4AF. q: joints at power-on [rad]. enables_ignored: how many
            enable frames get lost. ranges: whether it answers 0x472.
    """

    def __init__(
        self,
        *,
        version: str = "S-V1.8-2",
        q: tuple[float, ...] = HOME,
        enables_ignored: int = 1,
        ranges: bool = True,
    ) -> None:
        self.version, self.ranges = version, ranges
        self.t = 0.0
        self.q, self.dq = np.array(q, float), np.zeros(6)
        self.target: np.ndarray | None = None
        self.gripper, self.gripper_target, self.gripper_effort = 0.03, 0.03, 0
        self.enabled = [False] * 6
        self.ctrl_mode, self.move_mode, self.speed, self.arm_status = STANDBY, 0, 0, 0
        self.crash_levels = [0] * 6
        self.faults = Faults()
        self.facts: list[Fact] = []
        self.received: list[Frame] = []
        self._half: dict[int, tuple[int, int]] = {}
        self._enables_left = enables_ignored
        self._answers: list[Frame] = []
        self._steps = 0

    # -- what comes in ---------------------------------------------------------------------------

    def receive(self, identifier: int, data: bytes) -> None:
        """Take a frame from the bus."""
        if self.faults.deaf:
            return
        self.received.append((identifier, data))
        handler = self._HANDLERS.get(identifier)
        if handler is not None:
            handler(self, identifier, data)
        elif 0x15A <= identifier <= 0x15F:
            self._note("mit")

    def _note(self, what: str) -> None:
        self.facts.append(Fact(self.t, what))

    def _stop(self, _: int, data: bytes) -> None:
        if data[0] == 1:
            self.arm_status = 0x01
            self._note("sag")
        elif data[0] == 2:
            self.enabled, self.arm_status, self.ctrl_mode = [False] * 6, 0, STANDBY
            self._note("reset")
            self._note("drop")

    def _mode(self, _: int, data: bytes) -> None:
        if data[3] == 0xAD:
            self._note("mit")
        if self.ctrl_mode != TEACH:
            self.ctrl_mode, self.move_mode, self.speed = data[0], data[1], min(data[2], 100)

    def _joints(self, identifier: int, data: bytes) -> None:
        """Three frames make a target; a single one goes to the joints it names."""
        self._half[identifier] = struct.unpack(">ii", data)
        if len(self._half) < 3 or not self.ready:
            return
        raw = [v for i in sorted(self._half) for v in self._half[i]]
        degrees = np.array(raw) / 1000
        if (degrees < LOW).any() or (degrees > HIGH).any():
            self.arm_status = 0x04
            self._note("target refused")
        elif self.arm_status in (0x00, 0x02, 0x03, 0x04):
            self.arm_status, self.target = 0x00, np.radians(degrees)

    @property
    def ready(self) -> bool:
        """Whether joint targets are followed."""
        can = self.ctrl_mode == CAN and self.move_mode == 1
        return can and self.arm_status != 0x01

    def _grip(self, _: int, data: bytes) -> None:
        angle, effort, code, zero = struct.unpack(">ihBB", data)
        if zero == 0xAE:
            self._note("gripper zeroed")
        if code in (0, 2):
            self._note("gripper off")
        else:
            self.gripper_target, self.gripper_effort = min(max(angle / 1e6, 0.0), 0.07), effort

    def _enable(self, _: int, data: bytes) -> None:
        motors = range(6) if data[0] in (7, 0xFF) else [data[0] - 1]
        if data[1] == 1:
            self._note("disable")
            self._note("drop")
            for i in motors:
                self.enabled[i] = False
        elif self._enables_left > 0:
            self._enables_left -= 1
        elif not all(self.enabled):
            for i in motors:
                self.enabled[i] = True
            self._note("enabled")

    def _query(self, _: int, data: bytes) -> None:
        motor = data[0] - 1
        if not self.ranges or not 0 <= motor < 6:
            return
        if data[1] == 1:
            row = (data[0], round(HIGH[motor] * 10), round(LOW[motor] * 10), 3000, 0)
            self._answers.append((0x473, struct.pack(">BhhHB", *row)))
        else:
            self._answers.append((0x47C, struct.pack(">BH5x", data[0], 500)))

    def _parameters(self, _: int, data: bytes) -> None:
        if data[0] == 2:
            self._answers.append((0x47B, bytes((*self.crash_levels, 0, 0))))

    def _crash(self, _: int, data: bytes) -> None:
        self.crash_levels = list(data[:6])
        self._answers.append((0x476, bytes((0x7A, 0, 0, 0, 0, 0, 0, 0))))

    def _firmware(self, _: int, data: bytes) -> None:
        text = f"H-V1.2-1{self.version}".encode().ljust(24, b"\0")
        self._answers += [(0x4AF, text[i : i + 8]) for i in range(0, 24, 8)]

    _HANDLERS: ClassVar = {
        0x150: _stop,
        0x151: _mode,
        **dict.fromkeys((0x155, 0x156, 0x157), _joints),
        0x159: _grip,
        0x471: _enable,
        0x472: _query,
        0x477: _parameters,
        0x47A: _crash,
        0x4AF: _firmware,
    }

    # -- what it does ----------------------------------------------------------------------------

    def step(self, dt: float) -> list[Frame]:
        """Let `dt` [s] pass and return the frames that it sends."""
        self.t += dt
        self._steps += 1
        if self.faults.ctrl_mode is not None:
            self.ctrl_mode = self.faults.ctrl_mode
        for motor in self.faults.disabled:
            self.enabled[motor - 1] = False
        self._move(dt)
        self.gripper += float(np.clip(self.gripper_target - self.gripper, -0.1 * dt, 0.1 * dt))
        frames = self._answers + [(i, self._feedback(i)) for i in FEEDBACK]
        if self._steps % SLOW_EVERY == 0:
            frames += [(0x261 + i, self._slow(i)) for i in range(6)]
        self._answers = []
        if self.faults.silent:
            return []
        return [frame for frame in frames if frame[0] not in self.faults.drop]

    def _move(self, dt: float) -> None:
        """Speed up, cruise and slow down towards the target, or sag."""
        if self.arm_status == 0x01:
            self.dq = np.array([0, SAG_SPEED, -SAG_SPEED, 0, 0, 0]) * (self.q[1] < math.pi - 0.3)
        elif self.target is None or not all(self.enabled):
            self.dq = np.zeros(6)
        else:
            gap = self.target - self.q
            most = np.minimum(TOP_SPEED * self.speed / 100, GAIN * abs(gap))
            most = np.minimum(most, 0.9 * np.sqrt(2 * ACCELERATION * abs(gap)))
            change = np.clip(np.sign(gap) * most - self.dq, -ACCELERATION * dt, ACCELERATION * dt)
            self.dq = self.dq + change
        self.q = self.q + self.dq * dt

    @property
    def moving(self) -> bool:
        """Whether it is further than 0.05 deg from its target."""
        return self.target is not None and bool((abs(self.target - self.q) > 1e-3).any())

    def _feedback(self, identifier: int) -> bytes:
        if identifier == 0x2A1:
            status = self.faults.arm_status or self.arm_status
            row = (self.ctrl_mode, status, self.move_mode, 0, int(self.moving), 0)
            return struct.pack(">6BH", *row, self.faults.err_code)
        if identifier in JOINT_FRAMES:
            i = 2 * (identifier - 0x2A5)
            return struct.pack(">ii", *(round(math.degrees(v) * 1000) for v in self.q[i : i + 2]))
        if identifier == 0x2A8:
            return struct.pack(">ihBx", round(self.gripper * 1e6), self.gripper_effort, 0x40)
        if identifier < 0x2A0:
            i = identifier - 0x251
            return struct.pack(">hhi", round(self.dq[i] * 1000), 200, round(self.q[i] * 1000))
        return bytes(8)  # 0x2A2-0x2A4: the pose, which nobody here reads

    def _slow(self, motor: int) -> bytes:
        bits = self.enabled[motor] << 6 | self.faults.motor_status.get(motor + 1, 0)
        return struct.pack(">HhbBH", 240, 35, 33, bits, 0)


class VirtualPiper:
    """The firmware on a python-can virtual bus, in a thread of its own.

    Args:
        channel: of the virtual bus. rate: of the feedback [Hz].
        firmware: the arm; a fresh one by default.
    """

    def __init__(
        self, channel: str, *, rate: float = 200.0, firmware: Firmware | None = None
    ) -> None:
        self.channel = channel
        self.firmware = Firmware() if firmware is None else firmware
        self._period = 1 / rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"firmware {channel}", daemon=True)

    def __enter__(self) -> "VirtualPiper":
        import can

        self._bus = can.Bus(interface="virtual", channel=self.channel)
        self._message = can.Message
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self._bus.shutdown()

    def breaks(self, **changes: object) -> None:
        """Break something; see `Faults`."""
        self.firmware.faults = replace(self.firmware.faults, **changes)

    def _run(self) -> None:
        waiting: list[tuple[float, list[Frame]]] = []
        deadline = time.monotonic()
        while not self._stopping.is_set():
            deadline = max(deadline + self._period, time.monotonic() - self._period)
            while (message := self._bus.recv(timeout=_left(deadline))) or _left(deadline):
                if message is not None:
                    self.firmware.receive(message.arbitration_id, bytes(message.data))
            frames = self.firmware.step(self._period)
            waiting.append((time.monotonic() + self.firmware.faults.late, frames))
            while waiting and waiting[0][0] <= time.monotonic():
                for identifier, data in waiting.pop(0)[1]:
                    self._bus.send(
                        self._message(arbitration_id=identifier, data=data, is_extended_id=False)
                    )


class SlcanPort:
    """A serial CAN adapter: the text protocol of slcan (LAWICEL) on a pseudo terminal.

    Opened (O) it passes frames on; a full terminal loses whole frames, as a bus would.
    """

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.name = os.ttyname(self._slave)
        self._line = b""
        self._rest = b""

    @property
    def fileno(self) -> int:
        """What to wait for."""
        return self._master

    def read(self) -> list[Frame]:
        """Frames that came in."""
        try:
            *lines, self._line = (self._line + os.read(self._master, 65536)).split(b"\r")
        except BlockingIOError:
            return []
        return [frame for line in lines if (frame := _parse(line)) is not None]

    def write(self, frames: list[Frame]) -> None:
        """Send frames, as far as there is room."""
        for identifier, data in frames:
            if self._rest:
                self._flush()
            if not self._rest:
                self._rest = f"t{identifier:03X}{len(data)}{data.hex().upper()}\r".encode()
                self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._rest = self._rest[os.write(self._master, self._rest) :]

    def close(self) -> None:
        """Pull the adapter out."""
        os.close(self._master)
        os.close(self._slave)


def _left(deadline: float) -> float:
    """Time left [s]; behind time frames are still read, as an arm's own controller would."""
    return max(0.0, deadline - time.monotonic())


def _parse(line: bytes) -> Frame | None:
    """A standard data frame `tIIILDD..`; None for commands to the adapter (S, O, C, V)."""
    if not line.startswith(b"t"):
        return None
    length = int(line[4:5])
    return int(line[1:4], 16), bytes.fromhex(line[5 : 5 + 2 * length].decode())


def serve(*, rate: float = 50.0) -> None:
    """Be a Piper on a pseudo terminal until stdin ends; commands and answers are JSON lines.

    {"faults": {...}} breaks something, {"report": true} asks for facts, joints and frames,
    {"unplug": true} ends it.
    """
    firmware, port, period = Firmware(), SlcanPort(), 1 / rate
    _say({"port": port.name})
    deadline = time.monotonic()
    while True:
        deadline = max(deadline + period, time.monotonic() - period)
        while (
            ready := select.select([port.fileno, sys.stdin], [], [], _left(deadline))[0]
        ) or _left(deadline):
            if port.fileno in ready:
                for identifier, data in port.read():
                    firmware.receive(identifier, data)
            if sys.stdin in ready and not _obey(firmware, sys.stdin.readline()):
                port.close()
                return
        port.write(firmware.step(period))


def _obey(firmware: Firmware, line: str) -> bool:
    """Carry out one command; False for the last."""
    command: dict = json.loads(line) if line else {"unplug": True}
    if "faults" in command:
        changes = command["faults"]
        if "drop" in changes:
            changes["drop"] = frozenset(changes["drop"])
        firmware.faults = replace(firmware.faults, **changes)
    if "report" in command:
        _say(
            {
                "t": firmware.t,
                "facts": [fact.what for fact in firmware.facts],
                "q": firmware.q.tolist(),
                "dq": firmware.dq.tolist(),
                "target": None if firmware.target is None else firmware.target.tolist(),
                "enabled": firmware.enabled,
                "received": [(i, data.hex()) for i, data in firmware.received],
            }
        )
    return "unplug" not in command


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class SlcanPiper:
    """Starts `serve` as a program and talks to it."""

    def __enter__(self) -> "SlcanPiper":
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port: str = self._answer()["port"]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(timeout=5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def breaks(self, **changes: object) -> None:
        """Break something; see `Faults`. Sets are given as lists."""
        self._tell({"faults": changes})

    def report(self) -> dict:
        """Facts, joints and received frames so far."""
        self._tell({"report": True})
        return self._answer()

    def unplug(self) -> None:
        """Take the adapter away."""
        self._tell({"unplug": True})
        self._process.wait(timeout=5.0)

    def _tell(self, command: dict) -> None:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict:
        return json.loads(self._process.stdout.readline())


if __name__ == "__main__":
    serve()
