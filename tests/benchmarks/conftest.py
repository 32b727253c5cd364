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

from benchmarks import compare, training_run
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


# Stands for train.py: one check, then work until it is stopped; a resumed run is over at once.
TRAIN = """
import json, pathlib, signal, sys
options = dict(word.split("=", 1) for word in sys.argv[1:])
resumed = "--resume" in options
place = [options["--resume"]] if resumed else [options["--run.folder"], options["--run.name"]]
folder = pathlib.Path(*place)
if resumed:
    found = {"success_rate": 0.4, "success_ci95": [0.3, 0.5], "episodes": 100, "task": "t",
             "wall_seconds": 1.0, "compile_seconds": 0.5, "updates": 7, "device": "cpu",
             "env_steps": int(options["--total-env-steps"])}
    (folder / "summary.json").write_text(json.dumps(found))
    sys.exit()
folder.mkdir()
check = {"kind": "eval", "elapsed_s": 2.0, "success_rate": 0.25, "env_steps": 800}
last = {"kind": "epoch", "elapsed_s": 3.0, "env_steps": 1200, "grad_steps": 1200}
(folder / "metrics.jsonl").write_text(json.dumps(check) + "\\n" + json.dumps(last) + "\\n")
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
while True:
    pass
"""


@pytest.fixture
def pretended_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let benchmarks find a train.py that works until it is stopped; returns its folder."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(training_run, "ROOT", tmp_path)
    monkeypatch.setattr(training_run, "_POLL", 0.02)
    return tmp_path
