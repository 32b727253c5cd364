"""Results as JSON lines: a number never travels without its machine, versions, load and date."""

import dataclasses
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.worker import versions as interpreter_versions
from scenes.contract.files import write_atomically

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Value / baseline over interleaved rounds.

    Attributes:
        to: the baseline's name in the same comparison.
        value: median.
        low: least.
        high: greatest.
        rounds: number of them.
        goal: the ratio wanted, None where the issue sets none.
    """

    to: str
    value: float
    low: float
    high: float
    rounds: int
    goal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of `results.jsonl`.

    Attributes:
        question: the benchmark.
        name: of what was measured.
        value: None where it could not be measured; `params["reason"]` then says why.
        unit: of the value.
        params: what was measured, exactly.
        machine: that measured.
        versions: of the packages.
        load: other work on the machine while idle between rounds: `busy_cores`, `loadavg`.
        date: of the measurement.
        command: prints this result again.
        ratio: to the baseline, where there is one.
    """

    question: str
    name: str
    value: float | None
    unit: str
    params: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    load: dict[str, float]
    date: str
    command: str
    ratio: Ratio | None = None

    def to_json(self) -> str:
        """Return one line, numbers rounded to five digits."""
        return json.dumps(_rounded(dataclasses.asdict(self)), sort_keys=False)

    @classmethod
    def from_json(cls, line: str) -> "Result":
        """Return the result of a line; raises TypeError or ValueError where it is none of ours."""
        fields = json.loads(line)
        ratio = fields.pop("ratio", None)
        return cls(**fields, ratio=Ratio(**ratio) if ratio else None)


class Recorder:
    """Prints every result of a question at once and keeps it.

    Args:
        question: for example "physics".
        command: what was typed; by default this process's command line.
        keep: called with all results after each one, so that a stopped run loses none.
    """

    def __init__(
        self,
        question: str,
        *,
        command: str | None = None,
        keep: Callable[[list["Result"]], None] | None = None,
    ) -> None:
        self.question = question
        self.command = command or _command()
        self.results: list[Result] = []
        self._keep = keep

    def add(
        self,
        name: str,
        value: float | None,
        unit: str,
        params: dict[str, Any],
        *,
        load: dict[str, float] | None = None,
        versions: dict[str, str] | None = None,
        ratio: Ratio | None = None,
    ) -> Result:
        """Print and keep one result."""
        result = Result(
            question=self.question,
            name=name,
            value=value,
            unit=unit,
            params=params,
            machine=machine(),
            versions=versions or interpreter_versions(),
            load=load or measure_load(),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=self.command,
            ratio=ratio,
        )
        self.results.append(result)
        print(result.to_json(), flush=True)
        if self._keep is not None:
            self._keep(self.results)
        return result

    def missing(self, name: str, reason: str, params: dict[str, Any] | None = None) -> None:
        """Record that something could not be measured, and why."""
        self.add(name, None, "", {**(params or {}), "reason": reason})


def say(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def save(results: Iterable[Result], path: Path = RESULTS) -> list[Result]:
    """Merge results into the file and return all of it: a question's old lines are replaced."""
    fresh = list(results)
    questions = {r.question for r in fresh}
    kept = [r for r in load(path) if r.question not in questions]
    merged = kept + fresh
    write_atomically(path, "".join(r.to_json() + "\n" for r in merged))
    return merged


def load(path: Path = RESULTS) -> list[Result]:
    """Return all results of the file; none where there is no file."""
    if not path.exists():
        return []
    return [Result.from_json(line) for line in path.read_text().splitlines() if line.strip()]


def measure_load(seconds: float = 0.3) -> dict[str, float]:
    """Return cores that others keep busy right now, and the load average of the last minute.

    Called while our own workers wait, so what is busy is not ours.
    """
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy, total = _cpu_ticks()
    time.sleep(seconds)
    busy_now, total_now = _cpu_ticks()
    share = (busy_now - busy) / max(1, total_now - total)
    return {"busy_cores": share * (os.cpu_count() or 1), "loadavg": average}


@cache
def machine() -> dict[str, Any]:
    """Return what computes: processor, usable cores, memory, GPU, operating system, our commit."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "gpu": gpu_name(),
        "os": f"{platform.system()} {platform.machine()}",
        "commit": _answer_of(["git", "-C", str(HERE), "describe", "--always", "--dirty"]),
    }
    return {k: v for k, v in facts.items() if v}


def usable_cores() -> int:
    """Return cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_name() -> str:
    """Return the name and driver of the first NVIDIA GPU, empty without one."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return _answer_of(query).split("\n")[0]


def _cpu_ticks() -> tuple[int, int]:
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return 0, 0
    ticks = [int(x) for x in first.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # all but idle and iowait


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_bytes() -> int:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _answer_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"-m {spec.name}" if spec else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
