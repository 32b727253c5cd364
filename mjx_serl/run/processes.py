"""Training as a process of its own: how it is started, and why one ended."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRAIN = (sys.executable, "-m", "mjx_serl.cli", "train")
_TAIL = 1 << 14  # of a log, in which the line that says why is looked for [bytes]
_WHY = re.compile(r"error: |[\w.]+(Error|Exception|Interrupt|Exit)\b")


def why_of(log: Path, begin: int = 0) -> str:
    """The last line of a log that names an error, else its last one."""
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(begin, size - _TAIL))
        said = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    said = [line for line in said if line] or ["without a word"]
    # JAX prints a remark after the exception.
    return next((line for line in reversed(said) if _WHY.match(line)), said[-1])[:300]


def how_ended(status: int) -> str:
    """An exit status in words, of a process or of a shell."""
    if status < 0 or status > 128:
        return f"signal {-status if status < 0 else status - 128}"
    return f"exit {status}"


@contextmanager
def only_on(cpus: frozenset[int]) -> Iterator[None]:
    """Keep this thread to some CPUs, all where none is named.

    What it starts meanwhile has them from its first instruction on: told them afterwards, a
    process may have counted its processors already.
    """
    if not cpus:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
