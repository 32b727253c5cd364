"""A whole run of train.py that has so much processor time, read from what it leaves behind.

It is stopped, and then evaluated, once it has used twice as many minutes of processor time as it
has of two cores, however busy the machine is.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT, cpu_seconds
from benchmarks.results import Recorder, measure_load, say
from benchmarks.train import last_line, read_curve, read_run

_CORES = 2  # that the minutes of a run are counted for
_POLL = 1.0  # [s]
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What to run.

    Attributes:
        command: train.py and its options, without where the run is kept.
        folder: of the run; one that is there begins anew.
        minutes: of two cores, compiling included [min].
        python: interpreter that trains.
    """

    command: list[str]
    folder: Path
    minutes: float
    python: Path = Path(sys.executable)

    def measure(self, recorder: Recorder, name: str, params: dict[str, Any]) -> None:
        """Train in a process of its own and file its final success rate, or what went wrong.

        Args:
            recorder: takes the row.
            name: of the row.
            params: of the row, beside what was found: env steps, seconds, curve.
        """
        done = self.train(recorder, name, params)
        if done is not None:
            found, params, load = done
            recorder.add(name, found["success_rate"], "rate", params, load=load)

    def train(
        self, recorder: Recorder, name: str, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]] | None:
        """Train, and return what `read_run` found, the row's params and the load before.

        None where it went wrong, which is filed.
        """
        folder = self.folder.absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        log.write_text("")
        say(f"{recorder.question}: what it says is in {log}")
        load, begun = measure_load(), time.monotonic()
        used, problem = self._train(folder, log)
        params = params | {"train": " ".join(["python", *self.command])}
        if problem is not None:
            recorder.missing(name, problem, params)
            return None
        found = read_run(folder)
        params |= {
            "episodes": found["episodes"],
            "ci95": found["success_ci95"],
            "env_steps": found["env_steps"],
            "wall_seconds": time.monotonic() - begun,
            "cpu_seconds": used,
            "out_of_time": used >= self._budget,
            "curve": read_curve(folder),
        }
        return found, params, load

    @property
    def _budget(self) -> float:
        """Processor time [s]."""
        return self.minutes * 60 * _CORES

    def _train(self, folder: Path, log: Path) -> tuple[float, str | None]:
        """Return the processor time that was used [s], and what went wrong, None if nothing."""
        python = str(self.python)
        kept = [f"--run.folder={folder.parent}", f"--run.name={folder.name}"]
        used, problem = _run([python, *self.command, *kept], log, self._budget)
        if problem is None and used >= self._budget:
            # The final evaluation, on episodes of its own, is what a run makes that is over.
            over = ["train.py", f"--resume={folder}", f"--total-env-steps={_env_steps(folder)}"]
            _, problem = _run([python, *over], log, float("inf"))
        return used, problem


def drawn_curve(curve: Sequence[tuple[int, float, float]]) -> str:
    """Return the success rates of a run's checks as bars of a line's height."""
    return "".join(_BARS[min(int(share * len(_BARS)), len(_BARS) - 1)] for _, _, share in curve)


def _env_steps(folder: Path) -> int:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["env_steps"]


def _run(command: list[str], log: Path, budget: float) -> tuple[float, str | None]:
    """Run a command, stopped as by Ctrl-C where it has used its budget of processor time [s].

    Returns what it has used [s], and one line on what went wrong, None if nothing.
    """
    with log.open("a") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        used, asked = 0.0, False
        while process.poll() is None:
            used = max(used, cpu_seconds(process.pid))
            if used >= budget and not asked:
                process.send_signal(signal.SIGINT)
                asked = True
            time.sleep(_POLL)
    if asked or process.returncode == 0:
        return used, None
    return used, f"exit {process.returncode}: {last_line(log.read_text())}"
