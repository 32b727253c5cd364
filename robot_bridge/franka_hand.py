"""The Franka Hand behind either library: opens, closes, grasps, and never keeps anyone waiting."""

from collections.abc import Callable
from typing import Protocol

from robot_bridge.polling import Poller, Worker

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


class FrankaHand:
    """Widths in, widths out; the latest wins.

    A width in the last part of the way closes with force on whatever is there, as a grasp. Any
    other is a plain move, which the hand gives up where something is in the way.

    Args:
        client: of the hand.
        width: waits for the hand's next state and returns the opening [m].
        speed: of the fingers [m/s].
        grasp_below: widths below it are grasps [m].
        opened: the widest opening [m].
    """

    def __init__(
        self,
        client: HandClient,
        width: Callable[[], float],
        *,
        speed: float,
        grasp_below: float,
        opened: float,
    ) -> None:
        self._client, self._read_width = client, width
        self._speed, self._grasp_below, self._opened = speed, grasp_below, opened
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
        del self._client, self._read_width

    def _do(self, width: float, force: float) -> None:
        if width < self._grasp_below:
            # Any object will do: the inner and outer tolerance span the whole way.
            self._client.grasp(width, self._speed, force, self._opened, self._opened)
        else:
            self._client.move(width, self._speed)

    def _read(self) -> float:
        if self._worker.overtaken:
            self._client.stop()
        return self._read_width()
