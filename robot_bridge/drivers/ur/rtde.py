"""Universal Robots' Real-Time Data Exchange: states in, registers out, on one TCP connection.

Protocol version 2, as the guide of Universal Robots has it: packages of a size [2 bytes], a type
[1 byte] and a payload, big-endian. Spoken by ourselves because ur-rtde waits for minutes where a
controller does not answer, and runs a program on it that no test of ours could run.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from robot_bridge.driver import DriverError, Vector

PORT = 30004
RATE = 125.0  # [Hz] of states; a divisor of the controller's own 500
_CONNECT, _RECEIVE = 2.0, 0.1  # [s]; the second is 12 states
_CODES: Mapping[str, str] = MappingProxyType(
    {"DOUBLE": "d", "VECTOR6D": "6d", "INT32": "i", "UINT32": "I"}
)
_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "timestamp": "DOUBLE",
        "actual_q": "VECTOR6D",
        "actual_qd": "VECTOR6D",
        "actual_TCP_pose": "VECTOR6D",
        "actual_TCP_speed": "VECTOR6D",
        "joint_temperatures": "VECTOR6D",
        "actual_current": "VECTOR6D",
        "robot_mode": "INT32",
        "robot_status_bits": "UINT32",
        "safety_status_bits": "UINT32",
        "output_int_register_24": "INT32",
    }
)
# From 24 on the registers are those of RTDE clients; fieldbuses have the ones below.
_INPUTS: Mapping[str, str] = MappingProxyType(
    {"input_int_register_24": "INT32", "input_int_register_25": "INT32"}
    | {f"input_double_register_{i}": "DOUBLE" for i in range(24, 30)}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RtdeState:
    """One state of the controller; in its names where they are none of ours.

    Attributes:
        timestamp: since it was started [s].
        actual_q: joint positions [rad].
        actual_qd: joint velocities [rad/s].
        tcp_pose: position [m] and rotation vector [rad] of the tool in the frame Base.
        tcp_speed: linear [m/s] over angular [rad/s].
        joint_temperatures: of the joints [°C].
        actual_current: of the joints [A].
        robot_mode: 7 is running.
        robot_status_bits: power, program, freedrive button, power button.
        safety_status_bits: 0 is normal; see `health`.
        register: what our program has written last.
    """

    timestamp: float
    actual_q: Vector
    actual_qd: Vector
    tcp_pose: Vector
    tcp_speed: Vector
    joint_temperatures: Vector
    actual_current: Vector
    robot_mode: int
    robot_status_bits: int
    safety_status_bits: int
    register: int


class Rtde:
    """A connection to a controller.

    Args:
        host: of the controller.
    """

    def __init__(self, host: str) -> None:
        self._socket = connect(host, PORT, "RTDE")
        self._buffer = bytearray()
        self._recipe = 0
        try:
            self.version = self._set_up()
            self._socket.settimeout(_RECEIVE)
        except BaseException:
            self.close()
            raise

    def receive(self) -> RtdeState:
        """Wait for a state, at most 0.1 s, and return the newest; DriverError."""
        newest = None
        while newest is None:
            self._fill()
            for kind, payload in self._packages():
                newest = payload if kind == b"U" else newest
        rows = struct.unpack(">x" + _codes(_OUTPUTS), newest)
        q, qd, pose, speed, temperatures, current = vectors = np.array(rows[1:37]).reshape(6, 6)
        if not np.isfinite(vectors[:4]).all():
            raise DriverError("The controller sends joints or a pose that are not finite")
        mode, status, safety, register = rows[37:]
        return RtdeState(
            timestamp=rows[0],
            actual_q=q,
            actual_qd=qd,
            tcp_pose=pose,
            tcp_speed=speed,
            joint_temperatures=temperatures,
            actual_current=current,
            robot_mode=mode,
            robot_status_bits=status,
            safety_status_bits=safety,
            register=register,
        )

    def send(self, beat: int, order: int, q: Vector) -> None:
        """Write our registers: a number that changes, what the program shall do, joints [rad]."""
        self._send(b"U", struct.pack(">B" + _codes(_INPUTS), self._recipe, beat, order, *q))

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    # -- inside ----------------------------------------------------------------------------------

    def _set_up(self) -> tuple[int, ...]:
        """Agree on what is exchanged and begin; returns the controller's version."""
        if self._ask(b"V", struct.pack(">H", 2)) != b"\x01":
            raise DriverError("The controller does not speak RTDE 2; update PolyScope")
        version = struct.unpack(">4I", self._ask(b"v"))
        self._recipe = self._agree(b"I", b"", _INPUTS)
        self._agree(b"O", struct.pack(">d", RATE), _OUTPUTS)
        if self._ask(b"S") != b"\x01":
            raise DriverError("The controller does not start to send states; restart it")
        return version

    def _agree(self, kind: bytes, head: bytes, fields: Mapping[str, str]) -> int:
        answer = self._ask(kind, head + ",".join(fields).encode())
        types = answer[1:].decode("ascii", "replace").split(",")
        for (name, wanted), got in zip(fields.items(), types, strict=False):
            if got == "IN_USE":
                raise DriverError(f"Another client of the controller writes {name}; close that one")
            if got != wanted:
                raise DriverError(f"The controller says {got} of {name}; update PolyScope")
        return answer[0]

    def _ask(self, kind: bytes, payload: bytes = b"") -> bytes:
        self._send(kind, payload)
        while True:
            self._fill()
            for answered, answer in self._packages():
                if answered == kind:
                    return answer

    def _send(self, kind: bytes, payload: bytes) -> None:
        try:
            self._socket.sendall(struct.pack(">Hc", 3 + len(payload), kind) + payload)
        except OSError as error:
            raise DriverError(f"The controller takes nothing any more: {error}") from None

    def _fill(self) -> None:
        try:
            received = self._socket.recv(65536)
        except OSError as error:
            raise DriverError(f"The controller sends nothing any more: {error}") from None
        if not received:
            raise DriverError("The controller has closed the connection")
        self._buffer += received

    def _packages(self) -> Iterator[tuple[bytes, bytes]]:
        """Type and payload of what has come whole."""
        while len(self._buffer) >= 3:
            size, kind = struct.unpack(">Hc", self._buffer[:3])
            if size < 3:
                raise DriverError("This is no controller: its packages have no size")
            if len(self._buffer) < size:
                return
            payload = bytes(self._buffer[3:size])
            del self._buffer[:size]
            yield kind, payload


def connect(host: str, port: int, what: str) -> socket.socket:
    """Connect to a service of the controller; DriverError says what a person can do."""
    try:
        opened = socket.create_connection((host, port), timeout=_CONNECT)
    except OSError as error:
        raise DriverError(
            f"Cannot reach {what} at {host}:{port} ({error}); is the controller on and in this "
            "network, and the service enabled under Settings, Security, Services?"
        ) from None
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def _codes(fields: Mapping[str, str]) -> str:
    """Of struct; in a data package the number of the recipe comes first."""
    return "".join(_CODES[kind] for kind in fields.values())
