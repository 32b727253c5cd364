"""Runs as processes side by side, each on its own share of the processors.

Who fails is noted and does not stop the others. The first Ctrl-C or SIGTERM is passed on, so that
every run saves; the second ends all at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mjx_serl.run.console import duration
from mjx_serl.run.processes import TRAIN, how_ended, only_on, why_of
from mjx_serl.run.signals import StopSignal, note_stop
from mjx_serl.sweep.folder import SweepJob

_POLL = 0.1  # [s]
_EVERY = 60.0  # between two lines while nothing begins or ends [s]
_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """What the processes of one place take turns with.

    Attributes:
        cpus: that its process may use; empty where that cannot be said to the system.
        device: the accelerator of several that are named in the environment, "" for all.
    """

    cpus: frozenset[int]
    device: str = ""

    def start(self, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start train.py; what it prints goes to the end of a log."""
        own = {_DEVICES: self.device} if self.device else {}
        with log.open("ab") as out, only_on(self.cpus):
            return subprocess.Popen(
                [*TRAIN, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | own,
                # A terminal's Ctrl-C is for us alone: from a second one a run would not be saved.
                start_new_session=True,
            )


def slots(jobs: int) -> list[Slot]:
    """Divide the CPUs that we may use, and the accelerators that are named, between processes."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    named = [device for device in os.environ.get(_DEVICES, "").split(",") if device]
    found = []
    for place in range(jobs):
        own = cpus[len(cpus) * place // jobs : len(cpus) * (place + 1) // jobs]
        own = own or [cpus[place % len(cpus)]] if cpus else []
        device = named[place % len(named)] if len(named) > 1 else ""
        found.append(Slot(frozenset(own), device))
    return found


@dataclass
class _Job:
    run: SweepJob
    slot: Slot
    process: subprocess.Popen[bytes]
    log_begin: int  # where this attempt begins in the log [bytes]
    begun: float = field(default_factory=time.monotonic)


class Jobs:
    """Runs that are to be trained.

    Args:
        runs: in the order in which they begin; a process each.
        jobs: how many at once.
        total: processes of the sweep.
        done: of which so many were finished before.
    """

    def __init__(self, runs: Sequence[SweepJob], *, jobs: int, total: int, done: int) -> None:
        self._waiting = deque(runs)
        self._free = slots(max(1, min(jobs, len(runs))))
        self._places = len(self._free)
        self._total, self._done, self._failed = total, done, 0
        self._running: list[_Job] = []
        self._took: list[float] = []  # by runs that are over [s]
        self._said = time.monotonic()

    def work(self, go_on: str) -> bool:
        """Train all; returns whether a signal ended it before.

        Args:
            go_on: the command that goes on with what a signal ended.
        """
        told = partial(note_stop, go_on)
        with StopSignal(on_first=told, on_second=self._kill) as stop:
            try:
                while (self._running or self._waiting) and not stop.requested:
                    while self._waiting and self._free:
                        self._begin(self._waiting.popleft())
                    self._see()
                    time.sleep(_POLL)
            finally:
                self._interrupt()
                self._wait()
            return stop.requested

    def _begin(self, run: SweepJob) -> None:
        run.clear()
        goes_on, words = run.has_begun, run.words()
        begin = run.log.stat().st_size if run.log.exists() else 0
        slot = self._free.pop(0)
        self._running.append(_Job(run, slot, slot.start(words, run.log), begin))
        self._say(run, "goes on" if goes_on else "begins")

    def _see(self) -> None:
        """Take note of those that have ended."""
        for job in [job for job in self._running if job.process.poll() is not None]:
            self._end(job, stopped=False)
        if time.monotonic() - self._said > _EVERY and self._running:
            self._say(None, f"in training: {', '.join(job.run.name for job in self._running)}")

    def _wait(self) -> None:
        """Wait until those that were told to stop have ended."""
        while self._running:
            self._running[0].process.wait()
            self._end(self._running[0], stopped=True)

    def _end(self, job: _Job, *, stopped: bool) -> None:
        self._running.remove(job)
        self._free.append(job.slot)
        run, status = job.run, job.process.returncode
        if status == 0 and run.is_finished:
            self._done += 1
            self._took.append(time.monotonic() - job.begun)
            self._say(run, f"finished after {duration(self._took[-1])}")
        elif status == 0 or stopped:
            # Somebody else may have stopped it: a person at the dashboard.
            self._say(run, "saved" if run.has_begun else "ended before its first epoch")
        else:
            self._failed += 1
            why = f"{how_ended(status)}: {why_of(run.log, job.log_begin)}"
            run.mark_failed(why)
            self._say(run, f"FAILED, {why}")

    def _interrupt(self) -> None:
        for job in self._running:
            job.process.send_signal(signal.SIGINT)

    def _kill(self) -> None:
        for job in list(self._running):
            job.process.kill()

    def _say(self, run: SweepJob | None, what: str) -> None:
        self._said = time.monotonic()
        counts = f"{self._done} of {self._total} finished, {len(self._running)} in training"
        failed = f", {self._failed} failed" if self._failed else ""
        about = what if run is None else f"{run.name} {what}"
        sys.stdout.write(f"[{counts}{failed}{self._left()}] {about}\n")
        sys.stdout.flush()

    def _left(self) -> str:
        """How long it still takes, by what a run took, once one is over."""
        open_runs = len(self._waiting) + len(self._running)
        if not self._took or not open_runs:
            return ""
        mean, now = sum(self._took) / len(self._took), time.monotonic()
        spent = sum(min(mean, now - job.begun) for job in self._running)
        seconds = (mean * open_runs - spent) / min(self._places, open_runs)
        return f", about {duration(seconds)} left"
