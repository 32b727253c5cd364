"""Time, by injection: the machine's monotonic clock, or one that a test turns by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the loops ask for the time."""

    def now(self) -> float:
        """Monotonic time [s]; a change of the wall clock does not touch it."""
        ...

    def wall(self) -> float:
        """Time since the epoch [s], for records only."""
        ...

    def sleep_until(self, deadline: float) -> None:
        """Return at `deadline` [s], at once where it has passed."""
        ...


class MonotonicClock:
    """The machine's."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def sleep_until(self, deadline: float) -> None:
        """Sleep until `deadline` [s]."""
        time.sleep(max(0.0, deadline - time.monotonic()))


class ManualClock:
    """Stands still until it is told to go on: lock-step runs and tests."""

    def __init__(self, start: float = 1000.0) -> None:
        self.time = start

    def now(self) -> float:
        """The time set [s]."""
        return self.time

    def wall(self) -> float:
        """The time set [s]."""
        return self.time

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.time += seconds

    def sleep_until(self, deadline: float) -> None:
        """Jump to `deadline` [s]."""
        self.time = max(self.time, deadline)
