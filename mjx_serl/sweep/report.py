"""What a sweep came to: a page, the same as JSON, and a picture, from the runs' own files alone."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mjx_serl.run.console import duration
from mjx_serl.run.curve import SPENT, Band, Row, draw_bands, spent_on
from mjx_serl.run.run_table import columns
from mjx_serl.run.statistics import SAMPLES, interquartile_mean, iqm_interval
from mjx_serl.sweep.folder import State, Sweep, SweepRun
from scenes.contract.files import write_atomically

GOOD = 0.9  # success rate that is aimed at
_POINTS = 200  # of a curve
_CURVE_SAMPLES = 1000  # of the bootstrap at each of them
_ABOUT = f"""\
Success is that of the final evaluation of each finished run. Of several seeds it is the
interquartile mean: a quarter of the runs, rounded down, is cut at each end and the rest averaged
(as rliable does, arXiv 2108.13264), so that of fewer than four runs it is the mean. The interval
is the 95 % one of a stratified bootstrap with {SAMPLES:,} samples, tasks being the strata; of few
seeds it is too narrow, of one there is none. Steps are those up to the first evaluation of at
least {GOOD:.0%}, of the runs that had one. Steps and times are interquartile means as well; a time
is that of the run's own clock, beside whatever ran at the same time.
"""
_CURVES = """\
Each curve is the interquartile mean of the latest evaluations of a variant's finished runs, in
brackets how many, with the bootstrap's interval. A run that ended early keeps its last rate.

![success over wall time and steps](curves.png)
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run came to; its figures are None before its end.

    Attributes:
        run: its name.
        variant: of which it is a seed.
        seed: its seed.
        state: how far it is.
        success: rate of the final evaluation.
        steps: what it took.
        steps_to_good: up to the first evaluation that reached `GOOD`, None where none did.
        wall_seconds: by its own clock [s].
        failure: why it failed.
    """

    run: str
    variant: str
    seed: int
    state: State
    success: float | None = None
    steps: int | None = None
    steps_to_good: int | None = None
    wall_seconds: float | None = None
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What finished runs came to together; figures are None where no run has any.

    Attributes:
        name: of the variant, or of variants that differ by their task.
        runs: how many.
        success: interquartile mean.
        success_ci95: its interval, None of a single run.
        steps_to_good: interquartile mean, of the runs that got there.
        got_there: how many did.
        wall_seconds: interquartile mean [s].
    """

    name: str
    runs: int
    success: float | None
    success_ci95: tuple[float, float] | None
    steps_to_good: float | None
    got_there: int
    wall_seconds: float | None

    @classmethod
    def of(cls, name: str, tasks: Iterable[Sequence[Outcome]]) -> "Figures":
        """Put runs together, given by task."""
        ended = [[run for run in runs if run.state == "finished"] for runs in tasks]
        ended = [runs for runs in ended if runs]
        every = [run for runs in ended for run in runs]
        strata = [np.array([run.success for run in runs], float) for runs in ended]
        there = [run.steps_to_good for run in every if run.steps_to_good is not None]
        return cls(
            name=name,
            runs=len(every),
            success=_mean([run.success for run in every]),
            success_ci95=iqm_interval(strata) if len(every) > 1 else None,
            steps_to_good=_mean(there),
            got_there=len(there),
            wall_seconds=_mean([run.wall_seconds for run in every]),
        )


class Report:
    """The outcome of a sweep, as its runs' files have it now."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._rows = {run.name: _evaluations(run) for run in sweep.runs}
        self.steps = spent_on(self._every_row)
        self.outcomes = [self._outcome(run) for run in sweep.runs]

    @property
    def _every_row(self) -> list[Row]:
        return [row for rows in self._rows.values() for row in rows]

    @cached_property
    def variants(self) -> list[Figures]:
        """The figures of each variant."""
        return [Figures.of(v.name, [self._of(v.name)]) for v in self.sweep.spec.variants]

    @cached_property
    def over_tasks(self) -> list[Figures]:
        """Those of variants that differ by their task alone, together; [] without several."""
        together: dict[str, list[str]] = {}
        for variant in self.sweep.spec.variants:
            together.setdefault(variant.over_tasks, []).append(variant.name)
        several = {name: inside for name, inside in together.items() if len(inside) > 1}
        return [Figures.of(name, map(self._of, inside)) for name, inside in several.items()]

    def write(self) -> str:
        """Write report.md, report.json and curves.png; returns the tables."""
        bands = {f"{one.name} ({one.runs})": self._bands(one) for one in self.variants if one.runs}
        if bands:
            draw_bands(bands, self._every_row, self.sweep.path / "curves.png")
        write_atomically(self.sweep.path / "report.json", json.dumps(self._json(), indent=2) + "\n")
        parts = [f"# {self.sweep.title}", self._text(_markdown), _ABOUT, _CURVES if bands else ""]
        runs = _markdown([self._run_head, *map(_run_line, self.outcomes)])
        page = "\n".join([*filter(None, parts), "## Runs\n", runs])
        write_atomically(self.sweep.path / "report.md", page)
        return self._text(columns)

    @property
    def _head(self) -> tuple[str, ...]:
        steps = f"{SPENT[self.steps]} to {GOOD:.0%}"
        return ("variant", "runs", "success (IQM)", "95% interval", steps, "of runs", "time")

    @property
    def _run_head(self) -> tuple[str, ...]:
        return ("run", "state", "success", SPENT[self.steps], f"to {GOOD:.0%}", "time", "why")

    def _text(self, table: Any) -> str:
        lines = table([self._head, *map(_line, self.variants)])
        if self.over_tasks:
            lines += "\n" + table([("over tasks", *self._head[1:]), *map(_line, self.over_tasks)])
        return lines

    def _json(self) -> dict[str, Any]:
        options = [{"options": dict(v.options)} for v in self.sweep.spec.variants]
        described = zip(map(dataclasses.asdict, self.variants), options, strict=True)
        return {
            "sweep": self.sweep.title,
            "good": GOOD,
            "steps": self.steps,
            "variants": [figures | more for figures, more in described],
            "over_tasks": list(map(dataclasses.asdict, self.over_tasks)),
            "runs": list(map(dataclasses.asdict, self.outcomes)),
        }

    def _of(self, variant: str) -> list[Outcome]:
        return [run for run in self.outcomes if run.variant == variant]

    def _outcome(self, run: SweepRun) -> Outcome:
        state, rows, figures = run.state(), self._rows[run.name], {}
        if state == "finished":
            good = [row[self.steps] for row in rows if row["success_rate"] >= GOOD]
            figures = {
                "success": rows[-1]["success_rate"],
                "steps": rows[-1][self.steps],
                "steps_to_good": good[0] if good else None,
                "wall_seconds": rows[-1]["elapsed_s"],
            }
        return Outcome(
            run=run.name,
            variant=run.variant.name,
            seed=run.seed,
            state=state,
            failure=run.failure(),
            **figures,
        )

    def _bands(self, variant: Figures) -> tuple[Band, Band]:
        runs = [self._rows[run.run] for run in self._of(variant.name) if run.state == "finished"]
        return _band(runs, "elapsed_s"), _band(runs, self.steps)


def _band(runs: Sequence[Sequence[Row]], x_name: str) -> Band:
    """The runs' latest evaluations at each moment from which on all have one."""
    curves = [([row[x_name] for row in run], [row["success_rate"] for row in run]) for run in runs]
    begin = max(xs[0] for xs, _ in curves)
    moments = np.unique([x for xs, _ in curves for x in xs if x >= begin])
    if len(moments) > _POINTS:
        moments = moments[np.linspace(0, len(moments) - 1, _POINTS).astype(int)]
    latest = [np.asarray(ys)[np.searchsorted(xs, moments, "right") - 1] for xs, ys in curves]
    rates = np.stack(latest, axis=1)
    ends = [iqm_interval([at], samples=_CURVE_SAMPLES) for at in rates] if len(runs) > 1 else None
    low, high = (None, None) if ends is None else zip(*ends, strict=True)
    return Band(moments.tolist(), interquartile_mean(rates).tolist(), low, high)


def _evaluations(run: SweepRun) -> list[Row]:
    rows = run.folder.read_metrics()
    return [row for row in rows if row.get("kind") in ("eval", "final")]


def _mean(values: Sequence[float | None]) -> float | None:
    return float(interquartile_mean(np.array(values, float))) if values else None


def _line(one: Figures) -> tuple[str, ...]:
    steps = "-" if one.steps_to_good is None else f"{one.steps_to_good:,.0f}"
    return (
        one.name,
        str(one.runs),
        _percent(one.success),
        "-" if one.success_ci95 is None else " to ".join(map(_percent, one.success_ci95)),
        steps,
        f"{one.got_there} of {one.runs}",
        duration(one.wall_seconds),
    )


def _run_line(one: Outcome) -> tuple[str, ...]:
    steps = ("-" if n is None else f"{n:,}" for n in (one.steps, one.steps_to_good))
    time, why = duration(one.wall_seconds), one.failure
    return (one.run, one.state, _percent(one.success), *steps, time, why)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; what a log says stays in its cell."""
    rows = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
