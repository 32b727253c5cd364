"""The link to a controller: its newest state, and after each what our program shall do."""

import numpy as np

from robot_bridge.driver import DriverError
from robot_bridge.drivers.polling import Poller, Reading, wait_for
from robot_bridge.drivers.ur.program import Order
from robot_bridge.drivers.ur.rtde import Rtde, RtdeState

# [s] A state that is late is stale at once; the link is lost when none comes for so long.
_PATIENCE, _FIRST, _SENT = 1.0, 2.0, 1.0


class UrLink:
    """Reads and answers on a thread of its own, 125 times a second; nobody else sends.

    order: what the program shall do. target: the joints that it follows [rad]. Whoever sets them
    does not wait; the latest wins.

    Args:
        host: of the controller.
    """

    def __init__(self, host: str) -> None:
        self.order, self.target = Order.END, np.zeros(6)
        self._beat = 0
        self._rtde = Rtde(host)
        self.version = self._rtde.version
        if not (5, 6) <= self.version[:2] < (6, 0):
            self._rtde.close()
            raise DriverError(
                f"The controller runs PolyScope {self.version[0]}.{self.version[1]}, "
                "allowed: 5.6 or newer, below 6"
            )
        # A controller's own time tells a new state from one that is sent again.
        self._states = Poller(
            self._exchange, key=lambda s: s.timestamp, period=0.0, patience=_PATIENCE
        )

    def first(self) -> None:
        """Wait for the first state; DriverError where none comes."""
        self._states.first(_FIRST)

    def newest(self) -> Reading[RtdeState]:
        """The newest state; DriverError where the link is lost."""
        return self._states.newest()

    def wait_sent(self) -> None:
        """Wait until what was set has gone out; DriverError where the link is lost."""
        beat = self._beat  # counted before order and target are read
        wait_for(
            lambda: self._beat >= beat + 2 and bool(self.newest()),
            _SENT,
            complaint="The controller is not heard any more; check the cable",
        )

    def close(self) -> None:
        """Let go of the controller; a program that still follows ends 0.1 s later."""
        self._states.close()
        self._rtde.close()

    def _exchange(self) -> RtdeState:
        state = self._rtde.receive()
        self._beat = (self._beat + 1) % 2**31
        self._rtde.send(self._beat, self.order, self.target)
        return state
