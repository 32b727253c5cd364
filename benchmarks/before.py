"""Is training as fast as it was? Epochs of train.py of an older commit beside the checkout's.

python -m benchmarks.before HEAD~20 --args=--preset=pixels_frozen

Both train on one core, taking turns of a second and a half, so that what else the machine does
slows both. What is compared is the time on the core per epoch: it does not count the waits.
Fresh processes of one commit differ by up to 2 %, so start several rounds before a difference of
that size is believed.
"""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.process import ROOT
from benchmarks.results import say
from mjx_serl.run.processes import only_on
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged

SLICE_S = 1.5  # of a turn
POLL_S = 0.004
WARM_EPOCHS = 3  # compiled and past the first ones
# No checks, no bundle, no end.
QUIET = ("--total-env-steps=100000000", "--eval.every-epochs=1000000", "--run.no-bundle")


@dataclass(frozen=True, kw_only=True)
class BeforeConfig:
    """What is compared.

    Attributes:
        rounds: fresh pairs of processes.
        epochs: of each process in a round.
        core: the core that all of them run on.
        args: further options of train.py, as `--args=--num-envs=4`; both must know them.
    """

    rounds: int = ranged(3, least=1)
    epochs: int = ranged(12, least=1)
    core: int = ranged(0, least=0)
    args: tuple[str, ...] = ()


class Trained:
    """One train.py, stopped except in its turns."""

    def __init__(self, checkout: Path, folder: Path, cfg: BeforeConfig) -> None:
        self._metrics = folder / "run" / "metrics.jsonl"
        self._log = folder / "log"
        where = (f"--run.folder={folder}", "--run.name=run")
        command = [sys.executable, str(checkout / "train.py"), *QUIET, *where, *cfg.args]
        with self._log.open("wb") as log, only_on(frozenset({cfg.core})):
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": str(checkout)},
                stdout=log,
                stderr=log,
            )
        self.marks: list[tuple[int, float]] = []  # epochs done, CPU time [s]
        self._seen = 0

    def turn(self, *, until_epoch: int | None = None) -> None:
        """Run for a turn, or to an epoch."""
        self._process.send_signal(signal.SIGCONT)
        end = time.monotonic() + SLICE_S
        while self._seen < until_epoch if until_epoch else time.monotonic() < end:
            time.sleep(POLL_S)
            if self._process.poll() is not None:
                raise RuntimeError(f"train.py ended: {self._log.read_text()[-500:]}")
            done = self._epochs()
            if done > self._seen:
                self._seen = done
                self.marks.append((done, self._cpu_seconds()))
        self._process.send_signal(signal.SIGSTOP)

    def seconds_per_epoch(self) -> float:
        """Time on the core, from the first to the last epoch that ended in a turn of its own."""
        (first, begun), (last, ended) = self.marks[WARM_EPOCHS], self.marks[-1]
        return (ended - begun) / (last - first)

    def end(self) -> None:
        """End the process, stopped or not."""
        self._process.kill()
        self._process.wait()

    def _epochs(self) -> int:
        try:
            return self._metrics.read_text().count('"kind": "epoch"')
        except FileNotFoundError:
            return 0

    def _cpu_seconds(self) -> float:
        seconds = 0.0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread may end meanwhile
                seconds += int((task / "schedstat").read_text().split()[0]) * 1e-9
        return seconds


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the source of a commit; a folder is taken as it is."""
    if (Path(commit) / "train.py").is_file():
        yield Path(commit).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        worktree = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run(
            [*worktree, "add", "--detach", folder, commit], capture_output=True, text=True
        )
        if added.returncode:
            raise InputError(f"'{commit}' is no folder with train.py and no commit: {added.stderr}")
        try:
            yield Path(folder)
        finally:
            subprocess.run([*worktree, "remove", "--force", folder], check=False)


def one_round(checkouts: dict[str, Path], folder: Path, cfg: BeforeConfig) -> dict[str, float]:
    """CPU seconds per epoch by name."""
    runs: dict[str, Trained] = {}
    try:
        for name, checkout in checkouts.items():
            (folder / name).mkdir()
            runs[name] = Trained(checkout, folder / name, cfg)
            # One compiles after the other.
            runs[name].turn(until_epoch=WARM_EPOCHS)
        while any(len(run.marks) < WARM_EPOCHS + cfg.epochs for run in runs.values()):
            for run in runs.values():
                run.turn()
        return {name: run.seconds_per_epoch() for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.end()


def main(before: tyro.conf.Positional[str], cfg: tyro.conf.OmitArgPrefixes[BeforeConfig]) -> int:
    """Print the time of an epoch now, before, and their ratio.

    Args:
        before: a commit, or a folder with its checkout.
        cfg: what is compared.
    """
    check_ranges(cfg)
    if not shutil.which("git") or not Path("/proc/self/schedstat").exists():
        raise InputError("This needs git and Linux")
    ratios = []
    with checked_out(before) as old, tempfile.TemporaryDirectory() as folder:
        for i in range(cfg.rounds):
            pair = {"now": ROOT, "before": old}
            # Who goes first changes with the round.
            order = dict(list(pair.items())[:: (-1) ** i])
            place = Path(folder) / str(i)
            place.mkdir()
            seconds = one_round(order, place, cfg)
            ratios.append(seconds["now"] / seconds["before"])
            say(
                f"round {i + 1}: {seconds['now']:.4f} s an epoch, before {seconds['before']:.4f} s,"
                f" ratio {ratios[-1]:.3f}"
            )
    say(f"ratio {statistics.geometric_mean(ratios):.3f} (geometric mean of {cfg.rounds})")
    return 0


if __name__ == "__main__":
    from scenes.contract.command_line import guarded

    sys.exit(guarded(lambda: tyro.cli(main, prog="python -m benchmarks.before")))
