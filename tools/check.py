"""Run the project's checks, each named and timed; the test suite runs beside the static checks.

    python tools/check.py all    static checks and the whole test suite (what CI runs)
    python tools/check.py fast   static checks left out, tests marked slow left out
    python tools/check.py lint   static checks alone
    ... -- ARGS                  handed on to pytest

Every stage runs even when another failed. The static checks are shown as they run; what pytest
says meanwhile is held back until they are done, so that its summary closes the output.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["mjx_serl", "scenes", "splat_render", "robot_bridge"]
PYTHON = sys.executable
# Programs are started as modules: a console script's first line breaks in a path with spaces.
STATIC: dict[str, list[str]] = {
    "lint": [PYTHON, "-m", "ruff", "check", "."],
    "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "types": [PYTHON, "-m", "pyright", "--pythonpath", PYTHON, "--level", "error"],
    "imports": [PYTHON, "-c", "from importlinter import cli; cli.lint_imports_command()"],
    "style": [PYTHON, "tools/style_metrics.py", *PACKAGES, "--tests", "tests", "--check"],
}
# Three workers on two cores: most tests compile, which is single-threaded, and some wait, for the
# servers of others or for time to pass. A file stays on one worker, so that what its fixtures
# compile is compiled once; tests/conftest.py says which file comes first, and xdist is not to sort
# them anew.
PYTEST = [
    *(PYTHON, "-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"),
    *("--durations", "10"),
]
# Static checks give way to the tests, some of which keep time.
NICENESS = 5


def run_stage(name: str, command: list[str]) -> bool:
    """Run one stage with its output shown and its time printed; returns whether it passed."""
    print(f"--- {name}", flush=True)
    started = time.monotonic()
    passed = subprocess.call(command, cwd=ROOT) == 0
    verdict = "passed" if passed else "FAILED"
    print(f"--- {name} {verdict} in {time.monotonic() - started:.1f} s", flush=True)
    return passed


def run_static(*, niceness: int = 0) -> list[str]:
    """Run the static checks one after the other; returns the names of those that failed."""
    gentle = ["nice", "-n", str(niceness)] if niceness and shutil.which("nice") else []
    return [name for name, command in STATIC.items() if not run_stage(name, [*gentle, *command])]


def follow(process: subprocess.Popen[bytes], output: Path) -> None:
    """Show what a process has written to a file and what it still writes, until it ends."""
    with output.open("rb") as lines:
        ended = False
        while not ended:
            ended = process.poll() is not None
            sys.stdout.buffer.write(lines.read())
            sys.stdout.buffer.flush()
            if not ended:
                time.sleep(0.2)


def run_tests(arguments: list[str], *, static: bool) -> list[str]:
    """Run pytest, where asked beside the static checks; returns the names of what failed."""
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pytest.log"
        with output.open("wb") as log:
            command = [*PYTEST, *colour, *arguments]
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            failed = run_static(niceness=NICENESS) if static else []
            print(f"--- tests (pytest {' '.join(arguments)})", flush=True)
            follow(process, output)
        finally:
            process.terminate()
            process.wait()
    return failed + (["tests"] if process.returncode else [])


def main() -> int:
    """Run the chosen set; returns 1 when a stage failed, with their names on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("which", choices=["all", "fast", "lint"])
    parser.add_argument("pytest_args", nargs="*")
    options = parser.parse_args()
    if options.which == "lint":
        failed = run_static()
    else:
        marks = ["-m", "not slow" if options.which == "fast" else ""]
        failed = run_tests([*marks, *options.pytest_args], static=options.which == "all")
    if failed:
        print(f"check: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
