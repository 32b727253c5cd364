"""The Franka Hand behind either library: opens, closes, grasps, and never keeps anyone waiting."""

from typing import Protocol

from robot_bridge.drivers.franka.config import FrankaConfig
from robot_bridge.drivers.polling import Poller, Worker

# The hand sends 60 states a second; a width that is 30 ms old is fresh.
_PERIOD = 0.02
_FIRST = 3.0
# A refused stop or a missed state is no lost hand.
_PATIENCE = 1.0


class HandClient(Protocol):
    """What franky's and franka-rs's `Gripper` have in common; every call waits for the hand."""

    def move(self, width: float, speed: float) -> bool:
        """Move the fingers to `width` [m] at `speed` [m/s]."""
        ...

    def grasp(
        self,
        width: float,
        speed: float,
        force: float,
        epsilon_inner: float,
        epsilon_outer: float,
    ) -> bool:
        """Close until something is held with `force` [N]; whether its width was as expected."""
        ...

    def stop(self) -> bool:
        """End the motion under way."""
        ...

    def read_width(self) -> float:
        """Wait for the hand's next state and return its opening [m]."""
        ...


class FrankaHand:
    """Widths in, widths out; the latest wins.

    A width in the last part of the way closes with force on whatever is there, as a grasp. Any
    other is a plain move, which the hand gives up where something is in the way.

    Args:
        client: of the hand.
        config: speed of the fingers, and which widths are grasps.
        opened: the widest opening [m].
    """

    def __init__(self, client: HandClient, config: FrankaConfig, *, opened: float) -> None:
        self._client: HandClient | None = client
        self._config, self._opened = config, opened
        self._worker = Worker()
        self._widths = Poller(self._read, period=_PERIOD, patience=_PATIENCE)

    @property
    def width(self) -> float:
        """Opening between the fingers [m]; DriverError where the hand does not answer."""
        return self._widths.newest().value

    def wait(self) -> None:
        """Wait for the first state; DriverError where none comes."""
        self._widths.first(_FIRST)

    def go(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most `force` [N]; returns at once."""
        width = min(max(width, 0.0), self._opened)
        self._worker.put(lambda: self._do(width, force))

    def close(self) -> None:
        """Let go of the hand; it stays as it is."""
        self._worker.close()
        self._widths.close()
        # The hand takes one client: the connection must end now, not when a cycle is collected.
        self._client = None

    def _do(self, width: float, force: float) -> None:
        client, speed = self._client, self._config.gripper_speed
        if client is None:
            return
        if width < self._config.grasp_below:
            # Any object will do: the inner and outer tolerance span the whole way.
            client.grasp(width, speed, force, self._opened, self._opened)
        else:
            client.move(width, speed)

    def _read(self) -> float | None:
        client = self._client
        if client is None:
            return None
        if self._worker.overtaken:
            client.stop()
        return client.read_width()
