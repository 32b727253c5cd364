"""Virtual environments of other projects, made on first use; standard library only."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600.0  # of a step [s]


class InstallError(RuntimeError):
    """An environment cannot be made; the message is one line and says why."""


def environment(
    folder: Path,
    pins: Sequence[str],
    bare: Sequence[str] = (),
    *,
    starts: Callable[[], object] = lambda: None,
) -> Path:
    """Return the interpreter of an environment, which is made where it is not there as wanted.

    Args:
        folder: of the environment.
        pins: requirements, installed with all they ask for.
        bare: requirements, installed alone.
        starts: is called before anything is installed.

    Raises:
        InstallError: neither uv nor pip could.
    """
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    wanted = "\n".join((*pins, "--no-deps", *bare))
    with _locked(folder.with_suffix(".lock")):
        if not (stamp.exists() and stamp.read_text() == wanted):
            starts()
            _make(folder, python, pins, bare)
            stamp.write_text(wanted)
    return python


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two workers of one suite, or two suites, wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path, python: Path, pins: Sequence[str], bare: Sequence[str]) -> None:
    """Fill the folder, with uv where it is, else with pip."""
    said = ""
    for create, install in _installers(python):
        shutil.rmtree(folder, ignore_errors=True)
        steps = [[*create, folder]]
        steps += [[*install, *pins]] if pins else []
        steps += [[*install, "--no-deps", *bare]] if bare else []
        said = next(filter(None, map(_run, steps)), "")
        if not said:
            return
    raise InstallError(said)


def _installers(python: Path) -> list[tuple[list, list]]:
    """Commands that make an environment and install into it, the fastest first.

    uv, the user's or the one that `make setup` keeps, takes a tenth of pip's time.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "bin")
    by_uv = [uv, "venv", "-q", "--python", sys.executable], [uv, "pip", "install", "-q", "--python"]
    # pip would compile every module, imported or not.
    pip = [python, "-m", "pip", "install", "-q", "--no-compile"]
    ways = [([sys.executable, "-m", "venv"], pip)]
    return [(by_uv[0], [*by_uv[1], python]), *ways] if uv else ways


def _run(command: list) -> str:
    """Run a command; returns why it failed, empty where it did not."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["without a word"]
        return said[-1].strip()[:200]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""
