"""SpaceMouse and gamepad as an operator's devices, read from the kernel's own files."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scenes.contract.operator import (
    HOLD_SECONDS,
    Axes,
    OperatorError,
    OperatorEvent,
    OperatorInput,
    said,
    without_deadband,
)


class SpaceMouseOperator:
    """A 3Dconnexion SpaceMouse through hidraw.

    Reports (id, then little-endian int16): 1 = x right, y towards the person, z down, each +-350
    at full deflection; newer models add the rotations to it; 3 = buttons. They come about 60 times
    per second while the cap is pushed, so silence for `HOLD_SECONDS` counts as let go.
    Pushing the cap or pressing a button is also hold-to-run. Left button closes, right opens.

    Args:
        axes: makes actions.
        path: "/dev/hidrawN", None to look for one.
        deadband: share of the full deflection that counts as nothing, per axis.
    """

    FULL = 350.0
    help_text = "SpaceMouse: push to move (and to run), left button close, right button open"

    def __init__(self, axes: Axes, *, path: Path | None = None, deadband: float = 0.08) -> None:
        self._axes, self._path, self._deadband = axes, path, deadband
        self._device: _DeviceFile | None = None
        self._cap = (0.0, 0.0, 0.0)
        self._buttons = 0
        self._heard = -np.inf

    @property
    def lost(self) -> str | None:
        """Why nothing comes any more."""
        return None if self._device is None else self._device.lost

    def open(self) -> None:
        """Find and open the device; OperatorError where there is none or it may not be read."""
        path = self._path or find_space_mouse()
        hint = 'allow it with the udev rule KERNEL=="hidraw*", ATTRS{idVendor}=="256f", MODE="0666"'
        self._device = _DeviceFile(path, None, what="SpaceMouse", hint=hint)
        self._device.open()

    def poll(self, now: float) -> OperatorInput | None:
        """Return what the cap and buttons want at `now` [s]."""
        device = self._device
        if device is None:
            return None
        for report in device.records():
            self._hear(report, now)
        silent = now - self._heard > HOLD_SECONDS
        if silent or device.lost is not None:
            self._cap = (0.0, 0.0, 0.0)
        if device.lost is not None:
            self._buttons = 0
        x, y, z = (without_deadband(value / self.FULL, self._deadband) for value in self._cap)
        gripper = float(self._buttons & 1) - float(self._buttons >> 1 & 1)
        # The device's y points at the person and its z down; forward, left and up are ours.
        pushed = {"x": -y, "y": -x, "z": -z, "gripper": gripper}
        action = self._axes.action(pushed)
        return said(action, enabled=action is not None or self._buttons != 0)

    def close(self) -> None:
        """Let go of the device."""
        if self._device is not None:
            self._device.close()

    def _hear(self, report: bytes, now: float) -> None:
        if report[0] == 1 and len(report) >= 7:
            self._cap, self._heard = struct.unpack_from("<hhh", report, 1), now
        elif report[0] == 3 and len(report) >= 2:
            self._buttons = report[1]


class GamepadOperator:
    """A gamepad through the kernel's joystick interface, in the layout of its Xbox driver.

    Events (Documentation/input/joydev/joystick-api.rst): time u32 [ms], value s16, type u8 (1
    button, 2 axis, 0x80 the state at opening), number u8. Left stick x and y, right stick z;
    A closes, B opens, LB is hold-to-run, BACK stops, START success, X failure, Y start again.

    Args:
        axes: makes actions.
        path: of the device.
        deadband: share of a stick's way that counts as nothing.
    """

    EVENT = struct.Struct("<IhBB")
    CLOSE, OPEN, RUN = 0, 1, 4
    EVENTS: Mapping[int, OperatorEvent] = {6: "stop", 7: "success", 2: "failure", 3: "cut"}
    help_text = (
        "Gamepad: left stick forward/back/left/right, right stick up/down, A close, B open\n"
        "LB hold to run   BACK STOP   START success   X failure   Y start again"
    )

    def __init__(
        self, axes: Axes, *, path: Path = Path("/dev/input/js0"), deadband: float = 0.15
    ) -> None:
        self._axes, self._deadband = axes, deadband
        hint = "is it plugged in? join the group 'input'"
        self._device = _DeviceFile(path, self.EVENT.size, what="Gamepad", hint=hint)
        self._sticks: dict[int, float] = {}
        self._down: set[int] = set()

    @property
    def lost(self) -> str | None:
        """Why nothing comes any more."""
        return self._device.lost

    def open(self) -> None:
        """Open the device; OperatorError where it is not there or may not be read."""
        self._sticks, self._down = {}, set()
        self._device.open()

    def poll(self, now: float) -> OperatorInput | None:
        """Return what sticks and buttons want."""
        event: OperatorEvent | None = None
        for record in self._device.records():
            heard = self._hear(record)
            event = event if event == "stop" or heard is None else heard
        if self._device.lost is not None:
            self._sticks, self._down = {}, set()
        # A stick's value grows to the right and towards the person.
        pushed = {"x": -self._stick(1), "y": -self._stick(0), "z": -self._stick(4)}
        pushed["gripper"] = float(self.CLOSE in self._down) - float(self.OPEN in self._down)
        enabled = self.RUN in self._down
        return said(self._axes.action(pushed), enabled=enabled, event=event)

    def close(self) -> None:
        """Let go of the device."""
        self._device.close()

    def _stick(self, number: int) -> float:
        return without_deadband(self._sticks.get(number, 0.0), self._deadband)

    def _hear(self, record: bytes) -> OperatorEvent | None:
        _, value, kind, number = self.EVENT.unpack(record)
        if kind & 0x7F == 2:
            self._sticks[number] = value / 32767
        elif kind & 0x7F == 1 and value:
            self._down.add(number)
            # A button that was down before the device was opened is no event of now.
            return None if kind & 0x80 else self.EVENTS.get(number)
        elif kind & 0x7F == 1:
            self._down.discard(number)
        return None


def find_space_mouse(devices: Path = Path("/sys/class/hidraw")) -> Path:
    """Path of the first SpaceMouse's hidraw device; OperatorError where there is none.

    3Dconnexion's vendor number is 256F; its older mice carry Logitech's 046D with products C6xx.
    """
    for entry in sorted(devices.glob("hidraw*")):
        lines = _lines(entry / "device" / "uevent")
        ids = next((line.split("=")[1] for line in lines if line.startswith("HID_ID=")), "0:0:0")
        _, vendor, product = (int(part, 16) for part in ids.split(":"))
        if vendor == 0x256F or (vendor == 0x046D and product >> 8 == 0xC6):
            return Path("/dev") / entry.name
    raise OperatorError("No SpaceMouse is plugged in (no 3Dconnexion device among /dev/hidraw*)")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


class _DeviceFile:
    """Records of a device file, without waiting.

    Args:
        path: of the file.
        size: of a record [bytes], None where each read gives one.
        what: names the device in messages.
        hint: what to do where it cannot be opened.
    """

    def __init__(self, path: Path, size: int | None, *, what: str, hint: str) -> None:
        self.lost: str | None = None
        self._path, self._size, self._what, self._hint = path, size, what, hint
        self._file: int | None = None
        self._rest = b""

    def open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise OperatorError(
                f"{self._what} at {self._path} cannot be opened: {error.strerror}; {self._hint}"
            ) from error
        self.lost, self._rest = None, b""

    def records(self) -> list[bytes]:
        """What has come since the last call; one per read where records have no fixed size."""
        found = []
        while (data := self._read()) is not None:
            if self._size is None:
                found.append(data)
                continue
            data = self._rest + data
            whole = len(data) - len(data) % self._size
            found += [data[i : i + self._size] for i in range(0, whole, self._size)]
            self._rest = data[whole:]
        return found

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _read(self) -> bytes | None:
        if self._file is None or self.lost is not None:
            return None
        try:
            data = os.read(self._file, 4096 if self._size else 64)
        except BlockingIOError:
            return None
        except OSError as error:
            self.lost = f"{self._what} is gone: {error.strerror}"
            return None
        if not data:
            self.lost = f"{self._what} is gone"
        return data or None
