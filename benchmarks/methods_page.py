"""docs/results.md: what each method reached on each task, and every preset, from results.jsonl.

python -m benchmarks.methods_page
"""

import dataclasses
import inspect
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks import (
    agentlace,
    arm_sessions,
    arms,
    bundles,
    extremes,
    interventions,
    tasks,
    traffic,
)
from benchmarks.methods import DEPLOYED, ENCODERS, METHODS, PACED, PICTURED, QUESTION, TASKS, Method
from benchmarks.process import ROOT
from benchmarks.results import Result, load
from benchmarks.training_run import drawn_curve
from benchmarks.workers.platform import prepare
from scenes.contract.success_rate import wilson_interval

PAGE = ROOT / "docs" / "results.md"
GOAL = 0.9  # success rate whose first check counts as solved
_SOURCES = (QUESTION, tasks.QUESTION)  # questions whose rows are training runs

_HEAD = """# Results of methods

Written by `python -m benchmarks.methods_page`; do not edit. Runs: `python -m benchmarks.methods`,
each ten minutes of two cores at most, compiling included, and over as soon as two checks in a row
reach 97 %. Success is of 100 held-out episodes after training, with the 95 % interval of all seeds'
episodes together; minutes are processor time over two cores.
"""
_STEPS = """Median over seeds of the env steps (control steps of all worlds) before the first check
of a run that reaches 90 %; "never" where it never did in its time:
"""
_PICTURES = """## From pictures: who reads them

Two 64 px cameras, no privileged numbers. The minutes of `ours` are without those of its training on
the simulator (`python -m mjx_serl.pretraining`).
"""
_BUNDLES = f"""## Bundles on a simulated arm

Episodes of `{PACED}` that a run of seed 0 solves in the simulator, and its bundle
on the simulated arm under the bridge's governor, from the same starts (`python -m
benchmarks.bundles`).
"""
_EXTREMES = """## On the grid of extremes

Success of policies for franka/pick_cube, trained without and with randomisation (seed 0), in worlds
at the extremes: friction, mass, delay of the action, and from pictures other cameras or another
light (`python -m benchmarks.extremes`).
"""
_INTERVENTIONS = f"""## A person who takes over

Env steps until a policy from pictures holds 90 %: the first of two checks in a row, in which it is
alone. Without anybody, and with a simulated person who watches every episode at first and half as
many every {interventions.HALF_LIFE:,} env steps
([human_in_the_loop.md](human_in_the_loop.md)). `alone` and `person` learn to see end to end, by the
preset as it ships. `..._weighted` reads pictures by a frozen encoder that the simulator has
trained, lets the average of the actor act, and imitates what experts did twenty times as much.
20 scripted demonstrations and 1,000 random steps come before, and are not counted
(`python -m benchmarks.interventions`).
"""
_ARMS = """## Learning on the arm

On the simulated arm under the bridge's governor, learner and actor in processes of their own
([real_robot.md](real_robot.md)): success on 100 held-out episodes at the end, the arm's time, that
time over the clock's (of a machine that did other things too), updates per step of the arm, and the
bundle's 100 episodes on the arm after it (`python -m benchmarks.arms`).
"""
_LINK = """What the arms' own simulators, kills and a broken network came to (`python -m
benchmarks.arm_sessions`, `benchmarks.traffic`, `benchmarks.arms --kills 5`,
`benchmarks.agentlace`):
"""
_PRESETS = """## Presets

Runs of `benchmarks.methods`, `tasks` and `extremes` by their preset, further options of some of
them included: task, success of the final episodes of all seeds, median minutes of two cores.
"""


def page(results: Sequence[Result]) -> str:
    """Return the whole page."""
    rows = [row for row in results if row.question == QUESTION]
    return "\n".join(
        [
            _HEAD,
            *_matrix(rows, TASKS, METHODS),
            _PICTURES,
            *_matrix(rows, PICTURED, ENCODERS),
            _BUNDLES,
            *_bundles(results),
            "",
            _EXTREMES,
            *_extremes(results),
            "",
            _INTERVENTIONS,
            *_interventions(results),
            "",
            _ARMS,
            *_arms(results),
            "",
            _LINK,
            *_link(results),
            "",
            "## Curves",
            "",
            *_curves(rows),
            "",
            _PRESETS,
            *_presets([*_trained(results)]),
            "",
        ]
    )


def _matrix(
    rows: Sequence[Result], of_tasks: Sequence[str], columns: Mapping[str, Method]
) -> Iterator[str]:
    yield from _table(rows, of_tasks, columns, _success)
    yield ""
    for name, method in columns.items():
        yield f"- `{name}`: {method.about}: `{_command(method)}`"
    yield ""
    yield _STEPS
    yield from _table(rows, of_tasks, columns, _solved)
    yield ""


def _command(method: Method) -> str:
    begin = [f"--init RUN of {method.over}"] if method.over else []
    return " ".join(["python train.py", *method.args, "--task TASK", *begin])


def _table(
    rows: Sequence[Result],
    of_tasks: Sequence[str],
    columns: Mapping[str, Method],
    cell: Callable[[Sequence[Result]], str],
) -> Iterator[str]:
    yield f"| task | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for task in of_tasks:
        cells = (
            [row for row in rows if (row.params["task"], row.params["method"]) == (task, name)]
            for name in columns
        )
        yield f"| {task} | {' | '.join(map(cell, cells))} |"


def _success(runs: Sequence[Result]) -> str:
    if not runs:
        return "not measured"
    finished = [run for run in runs if run.value is not None]
    if not finished:
        return runs[0].params["reason"]
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    return f"{_rate(finished)}, {_minutes(finished)} min, {seeds}"


def _rate(finished: Sequence[Result]) -> str:
    episodes = sum(run.params["episodes"] for run in finished)
    solved = sum(round(run.value * run.params["episodes"]) for run in finished if run.value)
    low, high = (100 * bound for bound in wilson_interval(solved, episodes))
    return f"{100 * solved / episodes:.0f} % [{low:.0f}, {high:.0f}]"


def _minutes(finished: Sequence[Result]) -> str:
    return f"{statistics.median(run.params['cpu_seconds'] for run in finished) / 120:.1f}"


def steps_to_goal(run: Result) -> float:
    """Env steps before the first check that reaches the goal; infinite where none did."""
    curve = run.params.get("curve", [])
    return next((steps for steps, _, share in curve if share >= GOAL), float("inf"))


def _solved(runs: Sequence[Result]) -> str:
    if not runs:
        return "not measured"
    steps = statistics.median(steps_to_goal(run) for run in runs)
    return "never" if steps == float("inf") else f"{steps:,.0f}"


def _curves(rows: Sequence[Result]) -> Iterator[str]:
    yield "Success rate at each check of a run, from its first to its last."
    yield ""
    for row in rows:
        if row.value is not None:
            steps = f"{row.params['env_steps']:,} env steps"
            yield f"- {row.name}: {drawn_curve(row.params['curve'])} {steps}"


def _bundles(results: Sequence[Result]) -> Iterator[str]:
    rows = [row for row in results if row.question == bundles.QUESTION]
    trained = [row for row in results if row.question == QUESTION and row.params["task"] == PACED]
    yield "| method | what it is | simulator | arm | trained for |"
    yield "|---|---|---|---|---|"
    for name, method in DEPLOYED.items():
        tried = [_tried(row) for row in rows if row.params["method"] == name]
        runs = [row for row in trained if row.params["method"] == name and row.value is not None]
        took = f"{_minutes(runs)} min" if runs else ""
        yield f"| `{name}` | {method.about} | {tried[0] if tried else 'not measured | '} | {took} |"


def _tried(row: Result) -> str:
    if row.value is None:
        return f"{row.params['reason']} | "
    episodes = row.params["episodes"]
    return f"{row.params['simulator']} of {episodes} | {row.value:.0f} of {episodes}"


def _extremes(results: Sequence[Result]) -> Iterator[str]:
    rows = {
        row.params["case"]: row
        for row in results
        if row.question == extremes.QUESTION and row.value is not None
    }
    cells = dict.fromkeys(cell for row in rows.values() for cell in row.params["cells"])
    yield f"| | {' | '.join(f'`{case}`' for case in extremes.CASES)} |"
    yield "|---" * (len(extremes.CASES) + 1) + "|"
    found = [rows.get(case) for case in extremes.CASES]
    for cell in cells:
        yield f"| {cell} | {' | '.join(_percent(row, cell) for row in found)} |"
    for title, tell in (
        ("as trained", lambda row: f"{100 * row.params['success_rate']:.0f} %"),
        ("env steps", lambda row: f"{row.params['env_steps']:,}"),
        ("minutes", lambda row: _minutes([row])),
    ):
        yield f"| {title} | {' | '.join(tell(row) if row else '' for row in found)} |"
    yield ""
    for case, args in extremes.CASES.items():
        yield f"- `{case}`: `python train.py {' '.join(args)} --eval.grid=100`"


def _percent(row: Result | None, cell: str) -> str:
    share = None if row is None else row.params["cells"].get(cell)
    return "" if share is None else f"{100 * share:.0f} %"


def _arms(results: Sequence[Result]) -> Iterator[str]:
    rows = [row for row in results if row.question == arms.QUESTION and "case" in row.params]
    columns = ("case, seed", "success", "steps", "the arm's minutes", "over the clock's")
    columns += ("updates per step", "on the arm")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in sorted(rows, key=lambda row: row.name):
        if row.value is None:
            yield f"| {row.name} | {row.params['reason']} | | | | | |"
            continue
        p = row.params
        low, high = (100 * share for share in p["success_ci95"])
        yield (
            f"| {row.name} | {100 * row.value:.0f} % [{low:.0f}, {high:.0f}] | "
            f"{p['env_steps']:,} | {p['arm_minutes']:.1f} | {p['real_time_factor']:.2f} | "
            f"{p['updates_per_step']:.2f} | {p['deployed'].removeprefix('success ')} |"
        )


def _link(results: Sequence[Result]) -> Iterator[str]:
    """One line for each row; what it says is in its figures."""
    for row in results:
        p = row.params
        if row.value is None:
            continue
        if row.question == arm_sessions.QUESTION:
            yield (
                f"- {row.name}: {row.value:.1f} minutes, {p['episodes']} episodes, {p['faults']} "
                f"faults, {p['lifted']} imagined cubes lifted, {p['steps']:,} steps, parameters up "
                f"to version {p['version']}"
            )
        elif row.question == traffic.QUESTION:
            full = "the disk" if row.name == traffic.FULL_DISK else "the spool"
            yield (
                f"- traffic: {p['handed']:,} steps handed over, {row.value:.0f} missing, "
                f"{p['twice']} stored twice, {p['counted_lost']:,} counted as lost while {full} "
                f"was full; {p['learner killed']} kills of the learner, {p['actor killed']} of the "
                f"actor, {p['cut']} cuts; the longest hand-over took {p['worst_put_ms']:.1f} ms"
            )
        elif row.question == arms.QUESTION and "epochs_at_kill" in p:
            yield (
                f"- a learner {row.name} and resumed: {row.value:.0f} of {p['arrays']} arrays of "
                "its last checkpoint differ from one that was not"
            )
        elif row.question == agentlace.QUESTION:
            killed = " and ".join(
                f"{times} kills of the {who}" for who, times in p["killed"].items()
            )
            yield (
                f"- agentlace's own client ({row.name}): {100 * row.value:.0f} % after "
                f"{p['env_steps']:,} steps; of {p['sent']:,} rows of the actor {p['missing']} "
                f"missing, {p['twice']} stored twice, {p['unsent']} not sent when it was killed; "
                f"{killed}; {p['versions_taken']} versions of parameters taken"
            )


def _interventions(results: Sequence[Result]) -> Iterator[str]:
    rows = [row for row in results if row.question == interventions.QUESTION]
    yield "| task | who helps | env steps, by seed | median | drives at the end | minutes |"
    yield "|---|---|---|---|---|---|"
    for task in interventions.TASKS:
        for who in interventions.HELPERS:
            runs = [r for r in rows if (r.params["task"], r.params["helper"]) == (task, who)]
            runs.sort(key=lambda run: run.params["seed"])
            yield f"| {task} | `{who}` | {_helped(runs)} |"
    yield ""
    for who, options in interventions.HELPERS.items():
        yield f"- `{who}`: `{' '.join(options)}`"


def _helped(runs: Sequence[Result]) -> str:
    if not runs:
        return "not measured | | | "
    never = float("inf")
    steps = [never if run.value is None else run.value for run in runs]
    told = [f"{run.value:,.0f}" if run.value is not None else run.params["reason"] for run in runs]
    middle = statistics.median(steps)
    ended = [run for run in runs if "driven" in run.params]
    drives = [f"{100 * run.params['driven'][-1][1]:.0f} %" for run in ended]
    return (
        f"{', '.join(told)} | {'never' if middle == never else f'{middle:,.0f}'} | "
        f"{', '.join(drives)} | {_minutes(ended) if ended else ''}"
    )


def _trained(results: Sequence[Result]) -> Iterator[Result]:
    """Rows of training runs whose figure is the success of their final episodes."""
    for row in results:
        if row.question in _SOURCES:
            yield row
        elif row.question == extremes.QUESTION and row.value is not None:
            yield dataclasses.replace(row, value=row.params["success_rate"])


def _presets(rows: Sequence[Result]) -> Iterator[str]:
    from mjx_serl.experiments import PRESETS

    yield "| preset | what it is | reached |"
    yield "|---|---|---|"
    for name in PRESETS:
        about = (inspect.getdoc(PRESETS[name]) or "").split("\n")[0]
        yield f"| `{name}` | {about} | {'; '.join(_reached(name, rows)) or 'not measured'} |"


def _reached(preset: str, rows: Sequence[Result]) -> Iterator[str]:
    runs = [
        row
        for row in rows
        if row.value is not None and f"--preset={preset}" in row.params.get("train", "").split()
    ]
    for task in dict.fromkeys(run.params["task"] for run in runs):
        of_task = [run for run in runs if run.params["task"] == task]
        yield f"{task} {_rate(of_task)}, {_minutes(of_task)} min"


def main() -> None:
    """Write the page."""
    prepare()
    PAGE.write_text(page(load()))


if __name__ == "__main__":
    main()
