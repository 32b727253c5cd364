"""The summary record of a run: what it reached, in what time, with which versions."""

import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_Z95 = 1.959963984540054  # standard normal quantile of 0.975
_VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "mujoco-mjx", "orbax-checkpoint")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `summary.json` holds; times in seconds.

    `success_rate` is that of the last evaluation over `episodes` held-out episodes,
    `success_ci95` its Wilson interval; both None before any evaluation. `install_seconds` is
    None where the environment was not set up by `make`, `commit` None outside a checkout.
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


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a success probability (Wilson 1927), (0, 1) for n = 0.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n={n}], got {successes}")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = successes / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends the bound is exact in theory; rounding must not push it past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


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
