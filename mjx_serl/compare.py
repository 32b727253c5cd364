"""Runs side by side: python -m mjx_serl.compare runs/*

Prints a table and draws their evaluations into one picture. What is compared is what the runs
printed: the final evaluation where there is one, else the last check.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from mjx_serl.run.curve import Row, draw_comparison
from mjx_serl.run.folder import RunFolder
from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError

_HEAD = ("run", "task", "agent", "seed", "success", "95% interval", "env steps", "time", "to 95%")
_GOOD = 0.95


def main(runs: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = Path("compare.png")) -> int:
    """Compare runs by their success on held-out episodes.

    Args:
        runs: run folders; other folders among them are left out.
        out: the picture to write.
    """
    folders = [RunFolder(path) for path in runs if (path / "config.json").is_file()]
    if not folders:
        raise InputError("No run folder among what was named; runs are kept in runs/")
    rows = {folder.path.name: folder.read_metrics() for folder in folders}
    if len(rows) < len(folders):
        rows = {str(folder.path): folder.read_metrics() for folder in folders}
    table = [_line(name, folder, rows[name]) for name, folder in zip(rows, folders, strict=True)]
    sys.stdout.write(_columns([_HEAD, *table]))
    draw_comparison(rows, out)
    sys.stdout.write(f"{out}\n")
    return 0


def _line(name: str, folder: RunFolder, rows: Sequence[Row]) -> tuple[str, ...]:
    config = folder.read_json()
    method = config.get("method", config)
    agent = method.get("agent", {}).get("type", "sac")
    fixed = (name, str(config.get("task", "?")), str(agent), str(config.get("seed", "?")))
    evals = [row for row in rows if row["kind"] in ("eval", "final")]
    if not evals:
        return (*fixed, "-", "-", *_spent(rows[-1] if rows else None), "-")
    last = evals[-1]
    low, high = last["success_ci95"]
    good = next((row for row in evals if row["success_rate"] >= _GOOD), None)
    return (
        *fixed,
        f"{last['success_rate']:.0%} of {last['episodes']}",
        f"{low:.0%} to {high:.0%}",
        *_spent(last),
        "-" if good is None else _time(good["elapsed_s"]),
    )


def _spent(row: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("-", "-") if row is None else (f"{row['env_steps']:,}", _time(row["elapsed_s"]))


def _time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(padded) + "\n"


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.compare"))
