"""Learning curves as a PNG: success over wall time and over env steps, of one run or several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenes.contract.extras import require
from scenes.contract.files import new_file

_INK, _MUTED, _GRID = "#22272e", "#6b7280", "#e5e7eb"
_EVAL, _TRAIN = "#2563eb", "#9db8ee"

_LEGEND_COLUMNS = 4
SPENT = {"env_steps": "environment steps", "grad_steps": "updates"}

Row = dict[str, Any]
"""One line of `metrics.jsonl`."""


def draw_curve(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw the rows of `metrics.jsonl` and replace `path` atomically.

    Without rows nothing is drawn. Raises ModuleNotFoundError with a hint where matplotlib is
    missing.
    """
    if not rows:
        return
    figure, left, right, scale = _panels(rows)
    _draw_panel(left, rows, "elapsed_s", scale)
    _draw_panel(right, rows, spent_on(rows), 1.0)
    _draw_legend(figure, left, right)
    figure.suptitle(headline(rows, title), x=0.01, ha="left", color=_INK, fontsize=11)
    with new_file(path) as part:
        figure.savefig(part, format="png", facecolor="white")


def draw_comparison(runs: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw the evaluations of several runs, by name, and replace `path` atomically."""
    every = [row for rows in runs.values() for row in rows]
    figure, left, right, scale = _panels(every)
    for name, rows in runs.items():
        evals = [row for row in rows if row["kind"] in ("eval", "final")]
        for axes, x_name, x_scale in ((left, "elapsed_s", scale), (right, spent_on(every), 1.0)):
            xs = [row[x_name] * x_scale for row in evals]
            (line,) = axes.plot(xs, [row["success_rate"] for row in evals], "o-", ms=3, label=name)
            low, high = ([row["success_ci95"][i] for row in evals] for i in (0, 1))
            axes.fill_between(xs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    _finish(figure, left, right, path)


@dataclass(frozen=True)
class Band:
    """A curve of several runs together, with its interval.

    Attributes:
        x: seconds or steps.
        y: success rate there.
        low, high: ends of its interval, None where there is none.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None


def draw_bands(bands: Mapping[str, tuple[Band, Band]], rows: Sequence[Row], path: Path) -> None:
    """Draw curves over wall time and over steps, by name, and replace `path` atomically.

    Args:
        bands: each over seconds and over what `spent_on` says of the rows.
        rows: of all runs that they are of.
        path: of the PNG.
    """
    figure, left, right, scale = _panels(rows)
    for name, pair in bands.items():
        for axes, band, x_scale in zip((left, right), pair, (scale, 1.0), strict=True):
            xs = [x * x_scale for x in band.x]
            (line,) = axes.plot(xs, band.y, "o-", ms=3, label=name)
            if band.low is not None and band.high is not None:
                color = line.get_color()
                axes.fill_between(xs, band.low, band.high, color=color, alpha=0.12, linewidth=0)
    _finish(figure, left, right, path)


def _finish(figure: Any, left: Any, right: Any, path: Path) -> None:
    """Style both panels and write the picture."""
    for axes in (left, right):
        _style(axes)
    _draw_legend(figure, left, right)
    with new_file(path) as part:
        figure.savefig(part, format="png", facecolor="white")


def _panels(rows: Sequence[Row]) -> tuple[Any, Any, Any, float]:
    """Figure, panel over wall time, panel over env steps, and what seconds are multiplied by."""
    # Without pyplot: no global figure list, no display, safe beside a user's own plots.
    figure = _require("matplotlib.figure").Figure(figsize=(9.6, 3.9), dpi=120, layout="constrained")
    _require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    scale, unit = _time_unit(rows)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set(xlabel=f"wall time [{unit}]", ylabel="success rate")
    right.set(xlabel=SPENT[spent_on(rows)])
    right.xaxis.set_major_formatter(_require("matplotlib.ticker").EngFormatter(sep=""))
    return figure, left, right, 1 / scale


def spent_on(rows: Sequence[Row]) -> str:
    """What is counted: env steps, or updates where none of the runs takes any."""
    stepped = any(row.get("env_steps") for row in rows)
    return (
        "env_steps" if stepped or not any(row.get("grad_steps") for row in rows) else "grad_steps"
    )


def _draw_panel(axes: Any, rows: Sequence[Row], x_name: str, x_scale: float) -> None:
    train = _points(rows, "epoch", x_name, "train/success_rate", x_scale)
    axes.plot(*train, color=_TRAIN, linewidth=1.4, label="training episodes")
    evals = [row for row in rows if row["kind"] == "eval"]
    xs = [row[x_name] * x_scale for row in evals]
    low, high = ([row["success_ci95"][i] for row in evals] for i in (0, 1))
    axes.fill_between(xs, low, high, color=_EVAL, alpha=0.16, linewidth=0)
    rates = [row["success_rate"] for row in evals]
    label = "evaluation, 95% interval"
    if len(rates) == 1:  # one point has no band to see
        axes.vlines(xs, low, high, color=_EVAL, linewidth=5, alpha=0.16)
    axes.plot(xs, rates, "o-", color=_EVAL, linewidth=1.8, markersize=4, label=label)
    _draw_final(axes, rows, x_name, x_scale)
    _style(axes)


def _draw_final(axes: Any, rows: Sequence[Row], x_name: str, x_scale: float) -> None:
    for row in rows:
        if row["kind"] == "final":
            x = row[x_name] * x_scale
            axes.vlines(x, *row["success_ci95"], color=_INK, linewidth=1.2)
            axes.plot(x, row["success_rate"], "D", color=_INK, ms=5, label="final evaluation")


def _style(axes: Any) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.margins(x=0.02)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _draw_legend(figure: Any, *panels: Any) -> None:
    found = {}
    for axes in figure.axes:
        found |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if found:
        figure.legend(
            found.values(),
            found.keys(),
            loc="outside lower center",
            ncols=min(len(found), _LEGEND_COLUMNS),
            frameon=False,
            labelcolor=_MUTED,
            fontsize=9,
        )


def headline(rows: Sequence[Row], title: str) -> str:
    """Title and success rate: that of the final evaluation, before it the last check's."""
    evals = [row for row in rows if row["kind"] in ("eval", "final")]
    if not evals:
        return title
    last = evals[-1]
    low, high = last["success_ci95"]
    figures = f"{last['success_rate']:.0%} of {last['episodes']} episodes"
    which = "" if last["kind"] == "final" else " in the last check"
    return f"{title}    {figures}{which}  (95% interval {low:.0%} to {high:.0%})"


def _points(
    rows: Sequence[Row], kind: str, x_name: str, y_name: str, x_scale: float
) -> tuple[list[float], list[float]]:
    # A metric that is not known yet (no episode ended) is null in the file.
    found = [row for row in rows if row["kind"] == kind and _is_number(row.get(y_name))]
    return [row[x_name] * x_scale for row in found], [row[y_name] for row in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _time_unit(rows: Sequence[Row]) -> tuple[float, str]:
    longest = max((row["elapsed_s"] for row in rows), default=0.0)
    if longest > 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if longest > 300 else (1.0, "s")


def _require(name: str) -> Any:
    return require(name, package="matplotlib", purpose="The learning curve")
