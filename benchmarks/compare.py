"""Fair comparisons: workers take turns (A B A B ...), ratios are medians over the rounds."""

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process import Deadline, WorkerError, WorkerProcess
from benchmarks.results import Ratio, Recorder, measure_load

START_TIMEOUT = 300.0
REPEAT_TIMEOUT = 120.0


@dataclass
class Samples:
    """What was measured side by side.

    Attributes:
        rates: of each worker, one entry per round [1/s].
        load: other work on the machine, before and after.
    """

    rates: dict[str, list[float]]
    load: dict[str, float]

    def __contains__(self, name: str) -> bool:
        return name in self.rates

    def median(self, name: str) -> float:
        """Return the median rate of one worker."""
        return statistics.median(self.rates[name])

    def ratio(
        self, name: str, to: str, *, goal: float | None = None, scale: float = 1.0
    ) -> Ratio | None:
        """Return how many times faster `name` is than `to`; None where one of them is missing.

        Args:
            name: a worker.
            to: the baseline.
            goal: the ratio wanted.
            scale: work of one unit of `name` in units of `to`.
        """
        if name not in self or to not in self:
            return None
        rounds = [scale * a / b for a, b in zip(self.rates[name], self.rates[to], strict=True)]
        return Ratio(
            to=to,
            value=statistics.median(rounds),
            low=min(rounds),
            high=max(rounds),
            rounds=len(rounds),
            goal=goal,
        )


@dataclass
class Group:
    """Workers measured side by side.

    Attributes:
        workers: running, by name.
        failures: why a worker was left out, by name.
    """

    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def start(
        self,
        name: str,
        module: str,
        params: Mapping[str, Any],
        *,
        python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start a worker; see `WorkerProcess`."""
        self.workers[name] = WorkerProcess(module, params, python=python, env=env)

    def facts(self, name: str) -> dict[str, Any]:
        """Return what a worker said about itself: its parameters, facts, and set-up time [s]."""
        ready = self.workers[name].ready
        setup = {"setup_seconds": round(ready["setup_seconds"], 2)}
        return self.workers[name].params | ready["facts"] | setup

    def record(
        self,
        recorder: Recorder,
        samples: Samples,
        name: str,
        unit: str,
        *,
        params: Mapping[str, Any] | None = None,
        label: str | None = None,
        ratio: Ratio | None = None,
    ) -> None:
        """File a worker's median rate with the load and its versions.

        Args:
            recorder: where.
            samples: from `measure`.
            name: a worker that was measured.
            unit: of its rate.
            params: in place of `facts`.
            label: in place of `name`.
            ratio: to a baseline.
        """
        recorder.add(
            label or name,
            samples.median(name),
            unit,
            self.facts(name) if params is None else dict(params),
            load=samples.load,
            versions=self.versions(name),
            ratio=ratio,
        )

    def record_failures(self, recorder: Recorder, *, label: Callable[[str], str] = str) -> None:
        """File what could not be measured, with the reason; `label` makes a row's name."""
        for name, reason in self.failures.items():
            recorder.missing(label(name), reason)

    def versions(self, name: str) -> dict[str, str]:
        """Return versions inside a worker's interpreter."""
        return self.workers[name].ready["versions"]

    def measure(
        self,
        repeats: int,
        *,
        deadline: Deadline | None = None,
        repeat_timeout: float = REPEAT_TIMEOUT,
    ) -> Samples:
        """Wait for all, let each run once to warm up, then take `repeats` rounds in turns."""
        limit = deadline or Deadline(float("inf"))
        for name in list(self.workers):
            self._try(name, lambda w: w.wait_ready(limit.left(START_TIMEOUT)))
        for name in list(self.workers):
            self._try(name, lambda w: w.measure(limit.left(repeat_timeout)))
        rates: dict[str, list[float]] = {name: [] for name in self.workers}
        before = measure_load()
        for _ in range(repeats):
            for name in list(self.workers):
                value = self._try(name, lambda w: w.measure(limit.left(repeat_timeout)))
                if value is not None:
                    rates[name].append(value)
        after = measure_load()
        load = {k: max(before[k], after[k]) for k in before}
        return Samples({k: v for k, v in rates.items() if k in self.workers}, load)

    def _try(self, name: str, action: Any) -> Any:
        try:
            return action(self.workers[name])
        except WorkerError as error:
            self.failures[name] = str(error)
            self.workers.pop(name).close(0.0)
            return None
