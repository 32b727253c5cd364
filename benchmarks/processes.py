"""Does a run of several processes end as it would have, whatever happens to one of them?

    python -m benchmarks.processes

Two processes on this machine train `pick_cube` through `mjx_serl.launch`: undisturbed; with one of
them killed at a random moment, after which all start again; and with one told to stop (SIGTERM),
after which both have saved, and are started again by hand. A row's figure is how many arrays of the
last checkpoint differ from those of the undisturbed run. All processes compare their parameters at
every save, and a run in which they differ fails.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.arms import epochs_of, last_arrays, wait_for
from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import drop, go_on, is_wanted
from scenes.contract.command_line import INTERRUPTED
from scenes.contract.ranges import ranged

QUESTION = "processes"
WHOLE, KILLED, STOPPED = "undisturbed", "kill -9 of one", "SIGTERM of one"


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """What to measure.

    Attributes:
        processes: of the run.
        steps: control steps of the run.
        seed: of the moments.
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    processes: int = ranged(2, least=2)
    steps: int = ranged(6000, least=1600)
    seed: int = 0
    again: bool = False
    folder: Path = Path("runs/processes")


def run(cfg: ProcessesConfig, recorder: Recorder) -> None:
    """Measure and file each row."""
    names = (WHOLE, KILLED, STOPPED)
    if not any(is_wanted(recorder, name, again=cfg.again) for name in names):
        return
    shutil.rmtree(cfg.folder, ignore_errors=True)
    draw, ends = random.Random(cfg.seed), {}
    for name in names:
        say(f"{QUESTION}: {name}")
        drop(recorder, name)
        began = time.monotonic()
        folder = cfg.folder.absolute() / name.replace(" ", "-")
        params = _train(cfg, folder, name, draw)
        ends[name] = last_arrays(folder)
        differ = [
            key for key in ends[WHOLE] if not np.array_equal(ends[WHOLE][key], ends[name][key])
        ]
        params |= {"arrays": len(ends[name]), "differ": differ, "epochs": len(epochs_of(folder))}
        params |= {"seconds": round(time.monotonic() - began)}
        recorder.add(name, len(differ), "arrays that differ", params)


def _train(cfg: ProcessesConfig, folder: Path, name: str, draw: random.Random) -> dict[str, object]:
    """Train to the end through what happens; returns what did."""
    begins = [
        *("--preset", "laptop", "--total-env-steps", str(cfg.steps), "--eval.stop-at", "1.1"),
        *("--eval.every-epochs", "1000", "--eval.episodes", "20", "--run.no-bundle"),
        *("--run.video", "off", "--run.no-tensorboard", "--run.checkpoint-seconds", "3"),
        *("--run.folder", str(folder.parent), "--run.name", folder.name),
    ]
    launched = _launch(cfg, begins)
    if name == WHOLE:
        _end(launched, 0)
        return {}
    # Somewhere in the middle: after the first checkpoint, before the end.
    moment = draw.randint(3, cfg.steps // 400 - 5)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(epochs_of(folder)) >= moment, 1800)
    rank = draw.randrange(cfg.processes)
    number = signal.SIGKILL if name == KILLED else signal.SIGTERM
    os.kill(_process(rank), number)
    say(f"{QUESTION}: {number.name} to rank {rank} after epoch {moment}")
    if name == STOPPED:
        _end(launched, INTERRUPTED)
        launched = _launch(cfg, ["--resume", str(folder)])
    _end(launched, 0)
    logs = "".join(path.read_text() for path in folder.glob("rank-*.log"))
    return {"rank": rank, "after_epoch": moment, "starts": logs.count("waiting for ")}


def _launch(cfg: ProcessesConfig, words: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mjx_serl.launch", "--local", str(cfg.processes), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)


def _end(launched: subprocess.Popen[bytes], status: int) -> None:
    if launched.wait() != status:
        raise RuntimeError(f"launch ended with {launched.returncode}, not {status}")


def _process(rank: int) -> int:
    """Process id of a rank."""
    wanted = f"MJX_SERL_RANK={rank}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (folder / "cmdline").read_bytes().split(b"\0")
            if b"mjx_serl.cli" in said and wanted in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise RuntimeError(f"rank {rank} does not run")


if __name__ == "__main__":
    go_on(ProcessesConfig, __doc__, QUESTION, run)
