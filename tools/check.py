"""Run the project's checks one after the other, each named and timed.

    python tools/check.py all    static checks, then the whole test suite (what CI runs)
    python tools/check.py fast   static checks left out, tests marked slow left out
    python tools/check.py lint   static checks alone
    ... -- ARGS                  handed on to pytest

Every stage runs even when an earlier one failed; pytest is last, so its summary closes the output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
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
# Two workers: tests spend their time compiling, which is single-threaded. A file stays on one
# worker, so that what its fixtures compile is compiled once.
PYTEST = [PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--durations", "10"]


def run_stage(name: str, command: list[str]) -> bool:
    """Run one stage with its output shown and its time printed; returns whether it passed."""
    print(f"--- {name}", flush=True)
    started = time.monotonic()
    passed = subprocess.call(command, cwd=ROOT) == 0
    verdict = "passed" if passed else "FAILED"
    print(f"--- {name} {verdict} in {time.monotonic() - started:.1f} s", flush=True)
    return passed


def run_pytest(arguments: list[str]) -> bool:
    """Run pytest with nothing printed after its own summary when it passes."""
    print(f"--- tests (pytest {' '.join(arguments)})", flush=True)
    return subprocess.call([*PYTEST, *arguments], cwd=ROOT) == 0


def main() -> int:
    """Run the chosen set; returns 1 when a stage failed, with their names on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("which", choices=["all", "fast", "lint"])
    parser.add_argument("pytest_args", nargs="*")
    options = parser.parse_args()
    failed = []
    if options.which != "fast":
        failed = [name for name, command in STATIC.items() if not run_stage(name, command)]
    if options.which != "lint":
        marks = ["-m", "not slow" if options.which == "fast" else ""]
        failed += [] if run_pytest([*marks, *options.pytest_args]) else ["tests"]
    if failed:
        print(f"check: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
