"""The link to a Piper: piper_sdk's port and commands, unmodified, with a checked way out.

The SDK (0.6.2) opens the bus, encodes commands and collects the firmware string. Four things
are ours, hung on the port object that it hands out: every outgoing frame must be on the list of
`can_frames.check_outgoing`, a frame that could not be sent raises instead of being logged, one that
a serial port took late was sent all the same, and one thread reads (the SDK's own would spin on an
unplugged adapter and never end).
"""

import contextlib
import functools
import os
import select
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

from robot_bridge.clock import Clock
from robot_bridge.driver import DriverError
from robot_bridge.drivers.piper.can_frames import (
    CAN_CONTROL,
    FIRMWARE,
    MOVE_J,
    Feedback,
    check_outgoing,
)
from scenes.contract.extras import require

_BITRATE = 1_000_000
_SEND_TIMEOUT = 0.05  # [s] a full queue must not hold a tick up for long
_LOST_AFTER = 0.1  # [s] of failing reads
_RETRY = 0.01  # [s] between failing reads
_OPENING = threading.Lock()


class PiperLink:
    """An open bus with a Piper on it.

    Args:
        channel: name of the CAN interface, or of the serial port for "slcan".
        interface: python-can's, e.g. "socketcan", "slcan", "virtual".
        max_speed: largest speed that may leave [%].
        clock: stamps what is received.
    """

    def __init__(self, channel: str, interface: str, *, max_speed: int, clock: Clock) -> None:
        self.channel, self.interface = channel, interface
        self.feedback = Feedback()
        self.sdk: Any = None
        self._max_speed, self._clock = max_speed, clock
        self._port: Any = None
        self._send: Any = None
        self._stopping = threading.Event()
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._read, name=f"piper {channel}", daemon=True)

    def open(self) -> None:
        """Open the bus and start to listen; sends nothing. DriverError says what is wrong."""
        module = _import_sdk()
        kind = module.C_PiperInterface_V2
        with _OPENING:
            # The SDK would silently hand out the same object, with the first one's settings.
            if self.channel in kind._instances:
                raise DriverError(
                    f"Another piper_sdk object of this process already uses '{self.channel}'; "
                    "close that one first, two commanders on one arm are not safe"
                )
            self.sdk = kind(
                self.channel,
                judge_flag=False,
                can_auto_init=False,
                dh_is_offset=1,
                start_sdk_joint_limit=True,
                start_sdk_gripper_limit=True,
                logger_level=module.LogLevel.CRITICAL,
            )
        try:
            self._open_port()
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def _open_port(self) -> None:
        with warnings.catch_warnings():
            # The SDK passes python-can 4 the keyword `bustype` that 5 will drop.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self.sdk.CreateCanBus(self.channel, self.interface, _BITRATE, False)
            except Exception as error:
                raise DriverError(self._closed()) from error
        port = self.sdk.GetCanBus()
        if port.recv_bus is None or port.send_bus is None:
            raise DriverError(self._closed())
        self._port, self._send = port, port.SendCanMessage
        if self.interface == "virtual":
            # It would keep every frame for the bus that only sends, and nobody reads that one.
            port.send_bus.shutdown()
            port.send_bus = port.recv_bus
        port.callback_function = self._received
        port.SendCanMessage = self._checked_send
        port.send_bus.send = functools.partial(port.send_bus.send, timeout=_SEND_TIMEOUT)
        if self.interface == "slcan":
            serial = port.send_bus.serialPortOrig
            serial.write = functools.partial(write_serial, serial)
            serial.flush = lambda: None  # waits for the wire, for ever where that is stuck
        self.sdk.ConnectPort(piper_init=False, start_thread=False)

    def _closed(self) -> str:
        return (
            f"Cannot open {self.interface} '{self.channel}'; is the adapter plugged in, and for "
            f"socketcan: ip link set {self.channel} up type can bitrate {_BITRATE}"
        )

    @property
    def lost(self) -> bool:
        """Whether the port itself cannot be read any more (adapter unplugged, interface down)."""
        since = self._failing_since
        return since is not None and self._clock.now() - since > _LOST_AFTER

    def now(self) -> float:
        """Time on the clock that stamps what is received [s]."""
        return self._clock.now()

    def command(self, raw: Sequence[int], *, speed: int) -> None:
        """Go to joints [0.001 deg] at `speed` [%]; the SDK clips them to its limits."""
        self.sdk.MotionCtrl_2(CAN_CONTROL, MOVE_J, speed, 0x00)
        self.sdk.JointCtrl(*raw)

    def close(self) -> None:
        """Stop listening and let go of bus and SDK object."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)  # the SDK's reads wait for up to 1 s
        if self.sdk is not None:
            buses = () if self._port is None else (self._port.recv_bus, self._port.send_bus)
            self.sdk.DisconnectPort()
            # An unplugged serial adapter makes the SDK give up half way.
            for bus in filter(None, buses):
                with contextlib.suppress(Exception):
                    bus.shutdown()
            type(self.sdk)._instances.pop(self.channel, None)
            self.sdk = None

    def _received(self, message: Any) -> None:
        self.feedback.take(message.arbitration_id, bytes(message.data), self._clock.now())
        if message.arbitration_id == FIRMWARE:
            self.sdk.ParseCANFrame(message)

    def _checked_send(self, identifier: int, data: Any, *rest: Any) -> Any:
        check_outgoing(identifier, data, max_speed=self._max_speed)
        status = self._send(identifier, data, *rest)
        if status is not self._port.CAN_STATUS.SEND_MESSAGE_SUCCESS:
            raise DriverError(
                f"'{self.channel}' did not take frame {identifier:#05x} ({status}); its queue is "
                "full or the bus is off: check cable, power and termination"
            )
        return status

    def _read(self) -> None:
        states = self._port.CAN_STATUS
        fine = (states.READ_CAN_MSG_OK, states.READ_CAN_MSG_TIMEOUT)
        while not self._stopping.is_set():
            if self._port.ReadCanMessage() in fine:
                self._failing_since = None
                continue
            if self._failing_since is None:
                self._failing_since = self._clock.now()
            self._stopping.wait(_RETRY)


def _import_sdk() -> Any:
    with warnings.catch_warnings():
        # Compiled for the first time, it warns about escapes in its docstrings.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return require("piper_sdk", "piper")


def write_serial(port: Any, data: bytes) -> int:
    """Write all of `data` to a serial port; TimeoutError where it has no room for too long.

    pyserial asks for room once more behind the last byte, and so takes a write for timed out that
    went through while its thread had lost its turn on a busy machine.
    """
    deadline = time.monotonic() + _SEND_TIMEOUT
    left = data
    while left:
        _, room, _ = select.select([], [port], [], max(0.0, deadline - time.monotonic()))
        if not room:
            raise TimeoutError(f"{port.name} had no room for {_SEND_TIMEOUT} s")
        left = left[os.write(port.fileno(), left) :]
    return len(data)
