"""Workers of a benchmark inside the test's process: the same calls, without a start-up each.

A process of its own costs three to ten seconds of imports and keeps no compiled program. That
workers can be processes is shown by test_workers.py and by drawing on two cores.
"""

import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.worker import resident_bytes, versions


class InProcess:
    """What `WorkerProcess` is to a `Group`, with the worker's `start` called directly."""

    def __init__(self, module: str, params: Mapping[str, Any]) -> None:
        self.params = dict(params)
        self.ready: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._start = importlib.import_module(module).start

    def wait_ready(self, timeout: float) -> None:
        """Set up; what goes wrong is a WorkerError, as from a process."""
        begun = time.perf_counter()
        try:
            self._job = self._start(self.params)
        except Exception as error:
            raise WorkerError(f"{type(error).__name__}: {error}"[:200]) from error
        setup = time.perf_counter() - begun
        self.ready = {"facts": self._job.facts, "versions": versions(), "setup_seconds": setup}

    def measure(self, timeout: float) -> float:
        """One timed repetition."""
        value = float(self._job.measure())
        self.last = {"value": value, "rss_bytes": resident_bytes(), "busy_cores": 1.0}
        return value

    def close(self, timeout: float = 30.0) -> bool:
        """Let go of what was set up."""
        self.__dict__.pop("_job", None)
        return True


def start_worker(
    module: str,
    params: Mapping[str, Any],
    *,
    python: Path | str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> InProcess | WorkerProcess:
    """Start a worker here; in a process where it asks for an interpreter, variables or cores.

    One that asks for a single core is started here too, on all of them.
    """
    if python != sys.executable or env or len(params.get("cpus") or ()) > 1:
        return WorkerProcess(module, params, python=python, env=env)
    return InProcess(module, params)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `Group` of the test start its workers in this process."""
    monkeypatch.setattr(compare, "WorkerProcess", start_worker)
