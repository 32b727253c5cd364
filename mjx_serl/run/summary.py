"""The summary record of a run: what it reached, in what time, with which versions."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scenes.contract.serialize import later_field
from scenes.contract.success_rate import wilson_interval as wilson_interval

_VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "mujoco-mjx", "orbax-checkpoint")


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """Success in some episodes of an evaluation.

    `name` says which: a cell of the grid of extremes (`mjx_serl.training.robustness`), or a part of
    a task by turns; `ci95` is the Wilson interval of the success rate.
    """

    name: str
    successes: int
    episodes: int
    ci95: tuple[float, float]

    @classmethod
    def of(cls, name: str, success: Sequence[bool] | NDArray[Any]) -> "GridCell":
        """Count episodes, given whether each was solved."""
        solved, total = sum(map(bool, success)), len(success)
        low, high = wilson_interval(solved, total)
        return cls(name=name, successes=solved, episodes=total, ci95=(low, high))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `summary.json` holds; times in seconds.

    `success_rate` is that of the last evaluation over `episodes` held-out episodes,
    `success_ci95` its Wilson interval; both None before any evaluation. `install_seconds` is
    None where the environment was not set up by `make`, `commit` None outside a checkout. `grid`
    is empty unless it was asked for, with `--eval.grid` or evaluate.py's `--grid`. `parts` are the
    same episodes by the parts of a task by turns. Where a classifier judged
    (`mjx_serl.envs.judge`) `success_rate` is still the truth; `judged_success_rate` is what the
    classifier said, and `false_positive_rate` the share of episodes that it alone called solved.
    """

    task: str
    agent: str
    seed: int
    success_rate: float | None
    success_ci95: tuple[float, float] | None
    episodes: int
    wall_seconds: float
    compile_seconds: float
    env_steps: int
    updates: int
    device: str
    install_seconds: float | None = field(default_factory=lambda: install_seconds())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    commit: str | None = field(default_factory=lambda: commit())
    grid: tuple[GridCell, ...] = later_field(())
    parts: tuple[GridCell, ...] = later_field(())
    judged_success_rate: float | None = later_field(None)
    false_positive_rate: float | None = later_field(None)


def install_seconds(prefix: Path | None = None) -> float | None:
    """Set-up time [s] that `make` left in `install.json` of the environment, None if absent."""
    path = (prefix or Path(sys.prefix)) / "install.json"
    try:
        record = json.loads(path.read_text())
        return float(record.get("install_seconds", record.get("seconds")))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose change can change a result."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path | None = None) -> str | None:
    """Commit of the checkout that holds this package, `-dirty` if changed, None outside one."""
    here = folder or Path(__file__).parent
    try:
        # An installed copy may lie inside somebody else's repository: ask for this very file.
        _git(here, "ls-files", "--error-unmatch", "summary.py")
        return _git(here, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
