"""Plays a test again that failed while the machine kept its clocks waiting.

Control loops, watchdogs and simulated firmware run by the wall clock, with time limits of 20 to
200 ms; beside two other workers on two cores the operating system at times gives a thread no turn
for longer. A failure counts only where that did not happen, or happened every time.
"""

import threading
import time

import pytest
from _pytest.runner import runtestprotocol

STALL = 0.025  # longer without a turn than any loop of the bridge allows for [s]
_NAP = 0.002
TRIES = 5


class Stalls:
    """While it is entered, a thread that wakes every 2 ms and keeps the longest delay [s]."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> "Stalls":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_NAP):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - _NAP)
            before = now


def play(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test until it passes, or fails without a stall, five times at most; report the last."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    said: list[str] = []
    reports: list[pytest.TestReport] = []
    for _ in range(TRIES):
        with Stalls() as stalls:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if stalls.longest < STALL or not any(report.failed for report in reports):
            break
        said.append(f"failed while no turn came for {1e3 * stalls.longest:.0f} ms")
    for report in reports:
        if said:
            report.sections.append(("earlier tries", "\n".join(said)))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
