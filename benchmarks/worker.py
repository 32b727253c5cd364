"""The worker's side of a measurement: one process holds one thing ready to be timed.

Standard library only, because peers run it inside virtual environments of their own. A worker
gets its parameters as JSON in argv, sets up, prints one line of facts, then answers every line
on stdin with one timed repetition. So things from different environments can take turns.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

Params = dict[str, Any]

_NAMED = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "mujoco",
    "mujoco-mjx",
    "mujoco-warp",
    "warp-lang",
    "splax",
    "gsplat",
    "gym-hil",
    "gymnasium",
    "envpool",
    "sbx-rl",
    "stable-baselines3",
    "torch",
    "brax",
    "playground",
)


@dataclass(frozen=True)
class Job:
    """What a worker measures.

    Attributes:
        measure: makes one timed repetition and returns its rate [1/s].
        facts: what the reader of the number should know.
    """

    measure: Callable[[], float]
    facts: Params = field(default_factory=dict)


def serve(start: Callable[[Params], Job]) -> None:
    """Set up with `start`, then measure once per line of stdin until it closes."""
    params = json.loads(sys.argv[1])
    _pin(params.get("cpus"))
    answers = _private_stdout()
    begun = time.perf_counter()
    job = start(params)
    setup = time.perf_counter() - begun
    _answer(answers, facts=job.facts, versions=versions(), setup_seconds=setup)
    for _ in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        value = job.measure()
        busy = (time.process_time() - used) / (time.perf_counter() - begun)
        _answer(answers, value=value, rss_bytes=resident_bytes(), busy_cores=busy)


def rate(call: Callable[[], object], amount: float, seconds: float) -> float:
    """Repeat `call`, which does `amount` of work, for `seconds`; returns amount per second."""
    begun, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - begun
        if elapsed >= seconds:
            return amount * calls / elapsed


def versions() -> dict[str, str]:
    """Return versions in this interpreter of what can change a result."""
    found = {"python": platform.python_version()}
    for name in _NAMED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def resident_bytes() -> int:
    """Return the resident memory of this process [bytes]; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pin(cpus: list[int] | None) -> None:
    # Before anything starts threads: they inherit it, and XLA sizes its pool by it.
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _private_stdout() -> TextIO:
    """Keep stdout for answers; what libraries print goes to stderr."""
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def _answer(stream: TextIO, **message: object) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()
