"""Runs side by side: a table of what they printed, and their evaluations in one picture.

What is compared is what the runs printed: the final evaluation where there is one, else the last
check.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mjx_serl.run.curve import Row, draw_comparison
from mjx_serl.run.folder import RunFolder

_HEAD = ("run", "task", "agent", "seed", "success", "95% interval", "env steps", "time", "to 95%")
_GOOD = 0.95


def compare_runs(folders: Sequence[RunFolder], out: Path) -> str:
    """The table with a line for each run, and the name of the picture, which is drawn."""
    rows = {folder.path.name: folder.read_metrics() for folder in folders}
    if len(rows) < len(folders):
        rows = {str(folder.path): folder.read_metrics() for folder in folders}
    table = [_line(name, folder, rows[name]) for name, folder in zip(rows, folders, strict=True)]
    draw_comparison(rows, out)
    return f"{columns([_HEAD, *table])}{out}\n"


def _line(name: str, folder: RunFolder, rows: Sequence[Row]) -> tuple[str, ...]:
    config = folder.read_json()
    fixed = (name, str(config.get("task", "?")), _agent(folder), str(config.get("seed", "?")))
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


def _agent(folder: RunFolder) -> str:
    """What the run calls its agent; "?" where its plug-ins are not there or its config is not ours.

    A run that has ended wrote the name down.
    """
    summary = folder.read_summary()
    if summary is not None:
        return summary.agent
    # Imported here: a table of runs that have ended needs no JAX.
    from mjx_serl.config import TrainConfig

    try:
        return folder.read_config(TrainConfig, allow_missing=True).agent_name
    except (ValueError, LookupError, ImportError):
        return "?"


def _spent(row: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("-", "-") if row is None else (f"{row['env_steps']:,}", _time(row["elapsed_s"]))


def _time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(padded) + "\n"
