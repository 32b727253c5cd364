"""Watches the processes of a run and starts all of them again where one fails.

Nobody can train without the others: where one ends with a failure the rest are ended too, and all
go on from the last checkpoint. A process that is told to save, by a machine that is taken away or
by a person, tells the others through the training itself, and all end well.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mjx_serl.launch.launched_run import LaunchedRun
from mjx_serl.launch.places import Place, tell
from mjx_serl.ranks import Ranks
from mjx_serl.run.processes import how_ended, why_of
from mjx_serl.run.signals import StopSignal, note_stop
from scenes.contract.command_line import BAD_INPUT, FAILED, INTERRUPTED

_POLL_S = 0.1
_SETTLE_S = 3.0  # that others have to say why they fail too, once one has [s]
_SAVE_S = 120.0  # that all have to end once one ended well before its run was finished [s]
_LONGEST_WAIT_S = 60.0  # before all are started again [s]

Outcome = Literal["finished", "stopped", "refused", "failed"]
# Given how often all were started before: where rank 0 is asked, and where it listens.
Coordinator = Callable[[int], tuple[str, str]]


@dataclass
class _Running:
    rank: int
    place: Place
    process: subprocess.Popen[bytes]
    log_begin: int  # where this attempt begins in the log [bytes]


@dataclass(frozen=True)
class Supervisor:
    """Starts, watches and restarts.

    Attributes:
        run: what is trained.
        places: one for each rank.
        coordinator: says where the processes meet.
        go_on: the command that goes on with a run that was ended.
        restarts: how often all are started again without a newer checkpoint in between.
        first_wait_s: before the first restart, doubled with each that follows [s].
        join_s: that all processes have to find each other [s].
    """

    run: LaunchedRun
    places: Sequence[Place]
    coordinator: Coordinator
    go_on: str
    restarts: int = 5
    first_wait_s: float = 1.0
    join_s: int = 300

    def train(self) -> int:
        """Train to the end, a signal, or more failures than allowed; returns the exit status."""
        starts, tries = 0, 0
        told = partial(note_stop, self.go_on)
        running: list[_Running] = []

        def kill() -> None:
            for each in running:
                tell(each.process, kill=True)

        with StopSignal(on_first=told, on_second=kill) as stop:
            while True:
                saved = self.run.last_saved()
                running[:] = self._start(starts)
                starts += 1
                try:
                    outcome = self._watch(running, stop)
                finally:
                    _end(running)
                if outcome != "failed" or stop.requested:
                    return self._over(outcome)
                tries = 1 if self.run.last_saved() > saved else tries + 1
                if tries > self.restarts:
                    _say(f"given up after {self.restarts} restarts without a newer checkpoint")
                    return self._over(outcome)
                wait = min(_LONGEST_WAIT_S, self.first_wait_s * 2 ** (tries - 1))
                again = f"all start again in {wait:g} s ({tries} of {self.restarts})"
                _say(f"{again} from {self._from()}")
                _sleep(wait, stop)
                if stop.requested:
                    return self._over("stopped")

    def _start(self, starts: int) -> list[_Running]:
        words = self.run.words()
        address, bind = self.coordinator(starts)
        count = len(self.places)
        running = []
        for rank, place in enumerate(self.places):
            log = self.run.log(rank)
            begin = log.stat().st_size if log.exists() else 0
            ranks = Ranks(rank, count, address, bind if rank == 0 else "", self.join_s)
            running.append(_Running(rank, place, place.start(ranks, words, log), begin))
        where = ", ".join(place.name for place in dict.fromkeys(self.places))
        _say(f"{count} processes on {where}, which meet at {address}: train.py {' '.join(words)}")
        return running

    def _watch(self, running: Sequence[_Running], stop: StopSignal) -> Outcome:
        """Wait until all have ended, or one has failed."""
        shown, told = running[0].log_begin, False
        deadline = float("inf")
        while True:
            # Before the log is read, so that its end is.
            status = [each.process.poll() for each in running]
            shown = _show(self.run.log(0), shown)
            for each in running[1:]:
                self.run.log(each.rank)  # moves it once the run's folder stays
            if stop.requested and not told:
                told, deadline = True, time.monotonic() + _SAVE_S
                for each in running:
                    tell(each.process)
            failed = [each for each, code in zip(running, status, strict=True) if code]
            if failed:
                return self._failed(failed[0], running, stop)
            if None not in status:
                return "finished" if self.run.folder.is_finished else "stopped"
            if any(code == 0 for code in status) and not self.run.folder.is_finished:
                deadline = min(deadline, time.monotonic() + _SAVE_S)
            if time.monotonic() > deadline:
                _say(f"not all have ended within {_SAVE_S:g} s: they are killed")
                return "failed"
            time.sleep(_POLL_S)

    def _failed(self, first: _Running, running: Sequence[_Running], stop: StopSignal) -> Outcome:
        """Say who failed and why; the others have a moment to say it too."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until and any(each.process.poll() is None for each in running):
            time.sleep(_POLL_S)
        for each in running:
            code, log = each.process.poll(), self.run.log(each.rank)
            if code is None:
                tell(each.process, kill=True)
            elif code:
                why = why_of(log, each.log_begin)
                _say(f"rank {each.rank} on {each.place.name}: {how_ended(code)}: {why} ({log})")
        codes = [each.process.poll() for each in running]
        refused = first.process.returncode == BAD_INPUT or BAD_INPUT in codes
        return "refused" if refused and not stop.requested else "failed"

    def _over(self, outcome: Outcome) -> int:
        if outcome == "finished":
            return 0
        if outcome == "refused":
            return BAD_INPUT
        if self.run.folder.has_begun:
            _say(f"it goes on from {self._from()} with: {self.go_on}")
        return INTERRUPTED if outcome == "stopped" else FAILED

    def _from(self) -> str:
        saved = self.run.last_saved()
        return "the beginning" if saved < 0 else f"the checkpoint of epoch {saved}"


def _end(running: Sequence[_Running]) -> None:
    """End what still runs, and wait for it."""
    for each in running:
        if each.process.poll() is None:
            tell(each.process, kill=True)
        if each.process.stdin is not None:
            each.process.stdin.close()
    for each in running:
        each.process.wait()


def _show(log: Path, begin: int) -> int:
    """Print what a log has more than so many bytes; returns how many it has."""
    with log.open("rb") as file:
        file.seek(begin)
        new = file.read()
    if new:
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
    return begin + len(new)


def _sleep(seconds: float, stop: StopSignal) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.requested:
        time.sleep(_POLL_S)


def _say(line: str) -> None:
    sys.stdout.write(f"launch: {line}\n")
    sys.stdout.flush()
