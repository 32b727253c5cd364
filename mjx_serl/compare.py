"""Runs side by side: python -m mjx_serl.compare runs/*

Prints a table and draws their evaluations into one picture.
"""

import sys
from pathlib import Path

import tyro

from mjx_serl.run.folder import RunFolder, runs_in
from mjx_serl.run.run_table import compare_runs
from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError


def main(runs: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = Path("compare.png")) -> int:
    """Compare runs by their success on held-out episodes.

    Args:
        runs: run folders, folders of several seeds, or sweeps; other folders are left out.
        out: the picture to write.
    """
    found = (RunFolder(path) for named in runs for path in runs_in(named))
    folders = [folder for folder in found if folder.has_begun]
    if not folders:
        raise InputError("No run folder among what was named; runs are kept in runs/")
    sys.stdout.write(compare_runs(folders, out))
    return 0


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.compare"))
