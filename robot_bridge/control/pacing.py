"""Turning a loop at a fixed rate, and how well that went."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from robot_bridge.clock import Clock


@dataclass
class Timing:
    """Lateness of a loop against its absolute deadlines.

    Attributes:
        ticks: turns so far.
        overruns: turns that were late by more than a period.
        worst: the largest lateness [s].
        total: the sum of all latenesses [s].
    """

    ticks: int = 0
    overruns: int = 0
    worst: float = 0.0
    total: float = 0.0

    def note(self, lateness: float, period: float) -> None:
        """Count a tick that began `lateness` after its deadline."""
        self.ticks += 1
        self.total += lateness
        self.worst = max(self.worst, lateness)
        self.overruns += lateness > period

    @property
    def mean(self) -> float:
        """Mean lateness [s]."""
        return self.total / max(1, self.ticks)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.ticks} ticks, late by {self.mean * 1e3:.2f} ms on average and "
            f"{self.worst * 1e3:.1f} ms at worst, {self.overruns} by more than a period"
        )


class Pacer:
    """Calls a loop's tick at a fixed rate on absolute deadlines until it is stopped.

    A tick that comes later than one period is not made up for: the schedule moves on to the next
    deadline ahead, and the loop's own count says so.
    """

    def __init__(self, tick: Callable[[float], object], *, period: float, clock: Clock) -> None:
        self._tick, self._period, self._clock = tick, period, clock
        self._stopped = threading.Event()
        self.timing = Timing()

    def run(self) -> None:
        """Go on until `stop`."""
        deadline = self._clock.now()
        while not self._stopped.is_set():
            self._clock.sleep_until(deadline)
            late = self._clock.now() - deadline
            self.timing.note(late, self._period)
            self._tick(deadline)
            deadline += self._period * max(1, int(late / self._period) + 1)

    def start(self, name: str) -> threading.Thread:
        """Run in a thread of its own."""
        thread = threading.Thread(target=self.run, name=name, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Make `run` return after its tick."""
        self._stopped.set()
