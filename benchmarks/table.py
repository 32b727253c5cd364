"""`RESULTS.md`, written from the JSON lines and from nothing else."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.results import RESULTS, Result, save

TABLE = RESULTS.with_name("RESULTS.md")

_HEAD = """# Benchmark results

Written by `python -m benchmarks.harness` from `results.jsonl`; do not edit. Rates are medians of
interleaved rounds, compiling apart. Ratio: this row divided by the named baseline in the same
rounds, median (lowest to highest). Load: cores that other work kept busy while ours waited.
"""
_COLUMNS = ("what", "value", "unit", "ratio", "to", "goal", "load", "details")
# Parameters worth a reader's time in the table; the JSON line has them all.
_SHOWN = (
    "task",
    "physics",
    "num_envs",
    "splats_drawn",
    "ms_per_frame",
    "cpu_ms_per_frame",
    "bytes_per_world",
    "threads",
    "sim_seconds_per_second",
    "compile_seconds",
    "cpu_ms_per_update",
    "microseconds_per_env_step",
    "state_bytes_per_world",
    "xla_peak_bytes_per_world",
    "warp_bytes_per_world",
    "layer_norm",
    "activation",
    "updates_per_call",
    "worst",
    "starts",
    "robot",
    "episodes",
    "simulator",
    "lifted",
    "fault_ticks",
    "held_ticks",
    "ticks",
    "missed_deadlines",
    "command_ms",
    "command_p99_ms",
    "lateness_mean_ms",
    "lateness_p99_ms",
    "lateness_worst_ms",
    "error_mean_mm",
    "error_p99_mm",
    "error_worst_mm",
    "growth_mb",
    "clients",
    "median_ms",
    "lowest_p99_ms",
    "highest_p99_ms",
    "mean_batch",
    "requests_per_second",
    "mean",
    "p99",
    "p99_us",
    "note",
    "reason",
)


def finish(results: Iterable[Result], path: Path = RESULTS) -> None:
    """File results and rewrite the table."""
    path.with_name(TABLE.name).write_text(render(save(results, path)))


def render(results: Iterable[Result]) -> str:
    """Return the whole file: one section per question, its machines and commands above the rows."""
    by_question: dict[str, list[Result]] = {}
    for result in results:
        by_question.setdefault(result.question, []).append(result)
    sections = [_section(question, rows) for question, rows in by_question.items()]
    return "\n".join([_HEAD, *sections])


def _section(question: str, rows: list[Result]) -> str:
    lines = [f"## {question}", ""]
    for command in dict.fromkeys(r.command for r in rows):
        lines.append(f"- command: `{command}`")
    for machine in dict.fromkeys(_pairs(r.machine) for r in rows):
        lines.append(f"- machine: {machine}")
    for versions in dict.fromkeys(_pairs(r.versions) for r in rows):
        lines.append(f"- versions: {versions}")
    dates = sorted(r.date for r in rows)
    lines += [f"- measured: {dates[0]} to {dates[-1]}", ""]
    lines += [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [_line(_cells(row)) for row in rows]
    return "\n".join([*lines, ""])


def _cells(row: Result) -> list[str]:
    ratio = row.ratio
    shown = {k: row.params[k] for k in _SHOWN if row.params.get(k) not in (None, "", [])}
    return [
        row.name,
        "not measured" if row.value is None else number(row.value),
        row.unit,
        "" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
        "" if ratio is None else ratio.to,
        _goal(row),
        f"{row.load.get('busy_cores', 0.0):.1f}",
        _pairs(shown),
    ]


def _goal(row: Result) -> str:
    if row.ratio is None or row.ratio.goal is None:
        return ""
    met = "met" if row.ratio.value >= row.ratio.goal else "missed"
    return f"{row.ratio.goal:g} {met}"


def number(value: float) -> str:
    """Return three significant digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _pairs(values: dict) -> str:
    shown = (f"{k} {number(v) if isinstance(v, float) else v}" for k, v in values.items())
    return ", ".join(shown)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
