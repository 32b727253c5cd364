"""A Robotiq gripper at the arm's tool connector, by the server that Robotiq's URCap opens."""

import contextlib
import math
import re

from robot_bridge.driver import DriverError
from robot_bridge.drivers.polling import Poller
from robot_bridge.drivers.ur.rtde import connect
from scenes.contract.robot import GripperSpec

PORT = 63352
_ACTIVE = 3  # STA
_LONGEST = 1024  # bytes of an answer
_PERIOD, _PATIENCE, _FIRST, _TIMEOUT = 0.02, 1.0, 2.0, 0.25  # [s]
_FORCES = (20.0, 235.0)  # [N] of FOR 0 and 255, and of the manual's grip force


class RobotiqGripper:
    """Widths in, widths out; the latest wins. One thread asks and tells, and nobody waits for it.

    Args:
        host: of the arm's controller.
        gripper: what it is.
        readings: POS when closed and when open.
    """

    def __init__(self, host: str, gripper: GripperSpec, readings: tuple[float, float]) -> None:
        self._spec, self._readings = gripper, readings
        self._wish = self._told = ""
        self._socket = connect(host, PORT, "Robotiq's URCap")
        self._positions = Poller(self._exchange, period=_PERIOD, patience=_PATIENCE)

    @property
    def width(self) -> float:
        """Opening between the pads [m]; DriverError where the gripper does not answer."""
        position, (closed, opened) = self._positions.newest().value[0], self._readings
        low, high = self._spec.width_range
        return low + (high - low) * (position - closed) / (opened - closed)

    def wait(self) -> None:
        """Wait for the first answer; DriverError where none comes."""
        self._positions.first(_FIRST)

    def require_active(self) -> None:
        """Raise DriverError unless it takes commands: activating it opens and closes it."""
        if self._positions.newest().value[1] != _ACTIVE:
            raise DriverError("The gripper is not active; activate it in its tab of the pendant")

    def go(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most `force` [N], at the gripper's full speed."""
        if not (math.isfinite(width) and math.isfinite(force)):
            raise DriverError("A width and a force must be finite")
        (low, high), (closed, opened) = self._spec.width_range, self._readings
        share = (min(max(width, low), high) - low) / (high - low)
        position = min(max(round(closed + share * (opened - closed)), 0), 255)
        grip = min(max((force - _FORCES[0]) / (_FORCES[1] - _FORCES[0]), 0.0), 1.0)
        self._wish = f"SET GTO 1 POS {position} SPE 255 FOR {int(255 * grip)}"

    def close(self) -> None:
        """Let go of the gripper; it stays as it is."""
        self._positions.close()
        self._socket.close()

    # -- inside ----------------------------------------------------------------------------------

    def _exchange(self) -> tuple[int, int]:
        wish = self._wish
        if wish != self._told:
            self._ask(wish, "(ack)")
            self._told = wish
        return self._number("POS"), self._number("STA")

    def _number(self, name: str) -> int:
        return int(self._ask(f"GET {name}", rf"{name} (\d{{1,3}})"))

    def _ask(self, line: str, pattern: str) -> str:
        """What the answer says; it has no end of line, and a late one is to an earlier question."""
        with contextlib.suppress(BlockingIOError):
            self._socket.setblocking(False)
            self._socket.recv(_LONGEST)
        self._socket.settimeout(_TIMEOUT)
        self._socket.sendall(line.encode() + b"\n")
        said = ""
        while not (found := re.findall(pattern, said)):
            received = self._socket.recv(_LONGEST)
            if not received or len(said) > _LONGEST:
                raise DriverError(f"Robotiq's URCap says '{said[:40]}' to {line}; is it enabled?")
            said += received.decode("ascii", "replace")
        return found[-1]
