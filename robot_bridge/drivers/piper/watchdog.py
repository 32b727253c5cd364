"""A second process that makes a Piper stand still when the one that drives it dies or freezes.

The Piper has no watchdog of its own and goes on to its last target (robot_bridge.md section 3,
layer 16). The driver beats with every state it reads and passes on the joints it measured; the
guard has a bus of its own. When the pipe breaks, or no beat comes for `timeout`, and the arm was
armed, it sends the measured joints as the new target. It never enables, disables or resets.
Beats are 25 bytes: one for what they say and six joints [0.001 deg].
"""

import contextlib
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from robot_bridge.driver import DriverError
from robot_bridge.drivers.piper.can_frames import JOINTS, check_outgoing, hold_frames
from scenes.contract.extras import require

TIMEOUT = 0.1  # [s] robot_bridge.md section 3, layer 16
_START_SECONDS = 10.0  # python-can waits 2 s after opening a serial port
_REPEATS, _PERIOD = 5, 0.01  # a lost frame must not matter
_LISTEN = 0.02  # [s] for joints measured after the loss: four periods of 200 Hz
_BEAT = struct.Struct(">B6i")
_IDLE, _ARMED, _BYE = range(3)
_READY = b"ready\n"
_HELD = 3  # exit status of a guard that outlived its driver

Send = Callable[[int, bytes], None]


class PiperGuard:
    """The driver's side: starts the guard, beats, dismisses it.

    Args:
        channel, interface: of the bus, as python-can names them.
        speed: at which the arm is held [%].
        timeout: silence that counts as frozen [s].
    """

    def __init__(
        self, channel: str, *, interface: str, speed: int, timeout: float = TIMEOUT
    ) -> None:
        self._arguments = (channel, interface, str(speed), str(timeout))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until its bus is open; DriverError where it does not."""
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_bridge.drivers.piper.watchdog", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C at the driver's terminal must not end it
        )
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        answered, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        if not answered or process.stdout.readline() != _READY:
            self.dismiss()
            raise DriverError(
                f"The guard process could not open {self._arguments[1]} '{self._arguments[0]}'; "
                "without it a dead driver would not stop the arm"
            )

    def beat(self, raw: Sequence[int], *, armed: bool) -> None:
        """Say that the driver lives and where the joints are [0.001 deg]; never blocks."""
        self._write(_BEAT.pack(_ARMED if armed else _IDLE, *raw))

    def dismiss(self) -> None:
        """End the guard, which then leaves the arm alone."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(DriverError):
            self._write(_BEAT.pack(_BYE, *[0] * 6))
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write(self, beat: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            os.write(process.stdin.fileno(), beat)
        except BlockingIOError:
            pass  # the guard is behind by a whole pipe of beats; it needs no more of them
        except BrokenPipeError as error:
            raise DriverError("The Piper's guard process has died; connect again") from error


class Watch:
    """The guard's side, without its process: takes bytes, holds when they stop.

    Args:
        hold: makes the arm stand, given the joints of the last beat [0.001 deg].
        timeout: silence that counts as frozen [s].
    """

    def __init__(self, hold: Callable[[Sequence[int]], None], *, timeout: float) -> None:
        self._hold, self._timeout = hold, timeout
        self._buffer = b""
        self._said = _IDLE
        self._joints: tuple[int, ...] = ()
        self.holds = 0

    def run(self, pipe: int) -> bool:
        """Watch until dismissed or orphaned; return whether the arm had to be held at the end."""
        while self._said != _BYE:
            silent = not select.select([pipe], [], [], self._timeout)[0]
            if silent:
                self._hold_once()
                select.select([pipe], [], [])
                continue
            data = os.read(pipe, 65536)
            if not data:
                return self._hold_once()
            self._take(data)
        return False

    def _take(self, data: bytes) -> None:
        """Keep the newest whole beat."""
        data = self._buffer + data
        whole = len(data) // _BEAT.size * _BEAT.size
        self._buffer = data[whole:]
        if whole:
            self._said, *joints = _BEAT.unpack(data[whole - _BEAT.size : whole])
            self._joints = tuple(joints)

    def _hold_once(self) -> bool:
        if self._said != _ARMED:
            return False
        self.holds += 1
        self._hold(self._joints)
        return True


class Holder:
    """Sends a standstill on a bus of its own.

    Args:
        bus: python-can's.
        speed: [%]. listens: it can also hear the joints, fresher than the last beat. On "slcan"
            it must not: two readers of one serial port would take each other's bytes.
    """

    def __init__(self, bus: Any, *, speed: int, listens: bool) -> None:
        self._bus, self._speed, self._listens = bus, speed, listens

    def __call__(self, raw: Sequence[int]) -> None:
        """Make the joints measured now the target, or those of the last beat [0.001 deg]."""
        frames = hold_frames(self._measured() or raw, speed=self._speed)
        for _ in range(_REPEATS):
            for identifier, data in frames:
                check_outgoing(identifier, data, max_speed=self._speed)
                self._send(identifier, data)
            time.sleep(_PERIOD)

    def _measured(self) -> tuple[int, ...]:
        """Joints heard from now on [0.001 deg]; empty where they are not all heard in time."""
        if not self._listens:
            return ()
        while self._bus.recv(timeout=0) is not None:
            pass  # what waited in the queue is old
        heard: dict[int, bytes] = {}
        deadline = time.monotonic() + _LISTEN
        while len(heard) < len(JOINTS) and time.monotonic() < deadline:
            message = self._bus.recv(timeout=_LISTEN / 4)
            if message is not None and message.arbitration_id in JOINTS:
                heard[message.arbitration_id] = bytes(message.data)
        if len(heard) < len(JOINTS):
            return ()
        return tuple(v for i in JOINTS for v in struct.unpack(">ii", heard[i]))

    def _send(self, identifier: int, data: bytes) -> None:
        can = require("can", "piper")
        message = can.Message(arbitration_id=identifier, data=data, is_extended_id=False)
        # Whatever one frame meets (a full queue, an unplugged adapter), the next is still tried.
        with contextlib.suppress(can.CanError, OSError):
            self._bus.send(message, timeout=_PERIOD)


def main() -> NoReturn:
    """Run as `python -m robot_bridge.drivers.piper.watchdog CHANNEL INTERFACE SPEED TIMEOUT`."""
    can = require("can", "piper")
    channel, interface, speed, timeout = sys.argv[1:]
    filters = [{"can_id": i, "can_mask": 0x7FF} for i in JOINTS]
    bus = can.Bus(channel=channel, interface=interface, bitrate=1_000_000, can_filters=filters)
    holder = Holder(bus, speed=int(speed), listens=interface != "slcan")
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    held = Watch(holder, timeout=float(timeout)).run(sys.stdin.fileno())
    # Not return: python-can would shut the bus down on the way, and a serial adapter that is
    # told to close may do so before the last frame is out, or under a driver that still uses it.
    os._exit(_HELD if held else 0)


if __name__ == "__main__":
    main()
