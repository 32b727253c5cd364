"""Runs side by side: python -m mjx_serl.compare runs/*

Prints a table and draws their evaluations into one picture.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import tyro

from mjx_serl.run.folder import SEEDS, RunFolder
from mjx_serl.run.run_table import compare_runs
from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError


def main(runs: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = Path("compare.png")) -> int:
    """Compare runs by their success on held-out episodes.

    Args:
        runs: run folders, or folders of several seeds; other folders among them are left out.
        out: the picture to write.
    """
    folders = [RunFolder(path) for path in _runs_in(runs)]
    if not folders:
        raise InputError("No run folder among what was named; runs are kept in runs/")
    sys.stdout.write(compare_runs(folders, out))
    return 0


def _runs_in(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = sorted(path.glob("seed-*")) if (path / SEEDS).is_file() else [path]
        found += [one for one in inside if (one / "config.json").is_file()]
    return found


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.compare"))
