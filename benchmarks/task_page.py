"""docs/tasks.md: every registered task at a glance, from the registry, results.jsonl and pictures.

The README's table of other projects' environments is written too.

python play.py --gallery --out docs/pictures/tasks && python -m benchmarks.task_page
"""

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import ROOT
from benchmarks.results import Result, load
from benchmarks.training_run import drawn_curve
from benchmarks.workers.platform import prepare
from scenes.contract.specs import FORCES, GRIPPER, STEPS, TORQUES, TURNS, ActionSpec, ObsSpec

if TYPE_CHECKING:
    from mjx_serl.envs.task import Task
    from scenes.build import Scene

PAGE = ROOT / "docs" / "tasks.md"
README = ROOT / "README.md"
PICTURES = Path("pictures") / "tasks"  # from the page
QUESTION = "tasks"  # of benchmarks.tasks
MEASURED = ("expert", "learned")  # first words of lines that come from results.jsonl

_HEAD = """# Tasks

Written by `python -m benchmarks.task_page`; do not edit. Pictures: `python play.py --gallery --out
docs/pictures/tasks`. Rates, with 95 % intervals: `python -m benchmarks.tasks` (the expert plays
undisturbed, what is learned had twelve minutes of two cores, from pixels forty-five); curves show
the success rate at each check of a run. Views are from the side and of the task's own cameras.
"""


def page(results: Sequence[Result]) -> str:
    """Return the whole page."""
    from mjx_serl.envs.task import TASKS

    rows = [row for row in results if row.question == QUESTION]
    return "\n".join([_HEAD, *(_section(name, rows) for name in TASKS)])


def _section(name: str, rows: Sequence[Result]) -> str:
    from mjx_serl.envs.task import TASKS
    from scenes.build import build_scene

    factory = TASKS[name]
    scene = build_scene(factory.scene())
    task = factory.build(scene)
    lines = [*_facts(scene, task), *_measured(name, rows)]
    table = [f"| {key} | {value} |" for key, value in lines]
    about = (inspect.getdoc(inspect.getmodule(type(task))) or "").split("\n")[0]
    head = [f"## {name}", "", about, "", *_pictures(name), ""]
    return "\n".join([*head, "| | |", "|---|---|", *table, ""])


def picture_files(name: str) -> dict[str, str]:
    """Return the names of a task's pictures by what they show."""
    stem = name.replace("/", "-")
    ends = {"views": "views.jpg", "starts": "worlds.jpg", "expert": "expert.jpg"}
    return {shown: f"{stem}-{end}" for shown, end in ends.items()} | {"video": f"{stem}-expert.mp4"}


def _pictures(name: str) -> Iterator[str]:
    files = picture_files(name)
    yield f"![what the cameras of {name} see]({PICTURES / files['views']})"
    if not (PAGE.parent / PICTURES / files["expert"]).exists():
        yield f"[nine starts]({PICTURES / files['starts']})"
        return
    yield f"![the expert]({PICTURES / files['expert']})"
    yield ""
    yield f"[nine starts]({PICTURES / files['starts']}), [video]({PICTURES / files['video']})"


def _facts(scene: "Scene", task: "Task") -> Iterator[tuple[str, str]]:
    spec, limit = scene.spec, task.episode_steps
    action = task.control.action_spec()
    own, known = (
        dataclasses.replace(
            task.obs_spec, fields=tuple(f for f in task.obs_spec.fields if f.privileged is told)
        )
        for told in (False, True)
    )
    yield "robot", ", ".join(arm.robot.name for arm in spec.arms)
    yield "action", _action(action)
    yield "observation", _observation(own)
    yield "without cameras also", _observation(known) or "nothing"
    told = getattr(task, "instructions", None)
    if told is not None:
        yield "told", "; ".join(told.train)
        yield "told in evaluations", "; ".join(told.held_out) or "the same"
    yield "cameras", ", ".join(camera.name for camera in spec.cameras) or "none"
    yield "reward", _said(task, "reward")
    yield "success", _said(task, "success")
    yield "ends", f"{_said(task, 'terminated')} Or {limit} steps ({limit / action.rate:g} s)."


def _said(task: "Task", method: str) -> str:
    """What a method says of itself, in one line."""
    text = inspect.getdoc(getattr(type(task), method)) or ""
    return " ".join(text.split("\n\nArgs:")[0].split())


def _action(spec: ActionSpec) -> str:
    """Entries of one scale and unit together: "x y z ± 0.025 m"."""
    groups: dict[str, list[str]] = {}
    for name, scale in zip(spec.names, spec.scale, strict=True):
        groups.setdefault(f"{scale:g}{_unit(name, spec)}", []).append(name)
    parts = (f"{' '.join(names)} ± {most}" for most, names in groups.items())
    return f"{spec.rate:g} Hz: {', '.join(parts)}"


def _unit(name: str, spec: ActionSpec) -> str:
    """Unit of an entry, which may be of one of several arms ("left/x")."""
    entry = name.rsplit("/", 1)[-1]
    units = ((STEPS, " m"), (TURNS, " rad"), (FORCES, " N"), (TORQUES, " N m"))
    known = {name: unit for names, unit in units for name in names}
    joint = " rad" if spec.mode == "joint_delta" and entry != GRIPPER else ""
    return known.get(entry, joint)


def _observation(spec: ObsSpec) -> str:
    return ", ".join(f"{f.name} {'x'.join(map(str, f.shape))}" for f in spec.fields)


def _measured(name: str, rows: Sequence[Result]) -> Iterator[tuple[str, str]]:
    found = [row for row in rows if row.params.get("task") == name]
    if not found:
        yield "expert", "not measured yet"
    for row in found:
        seed = row.params.get("seed")
        how = "learned from pixels" if row.params.get("pixels") else "learned"
        what = "expert" if seed is None else f"{how}, seed {seed}"
        yield what, _rate(row)


def _rate(row: Result) -> str:
    params: dict[str, Any] = row.params
    if row.value is None:
        return f"not measured: {params.get('reason', '')}"
    low, high = (100 * bound for bound in params["ci95"])
    text = f"{100 * row.value:.0f} % [{low:.0f}, {high:.0f}] of {params['episodes']} episodes"
    if "seed" not in params:
        return text
    minutes = params["cpu_seconds"] / 120
    curve = drawn_curve(params["curve"])
    spent = f"{params['env_steps']:,} steps, {minutes:.1f} min of two cores"
    return f"{text}, {spent}, `{params['train']}`, {curve}"


def with_ancestors(readme: str) -> str:
    """Return the README with today's table of other projects' environments."""
    from mjx_serl.adapters.ancestors import ancestors_table

    table = ancestors_table().split("\n")
    lines = readme.split("\n")
    first = last = lines.index(table[0])
    while lines[last].startswith("|"):
        last += 1
    return "\n".join([*lines[:first], *table, *lines[last:]])


def main() -> None:
    """Write the page, and the table in the README."""
    prepare()
    PAGE.write_text(page(load()))
    README.write_text(with_ancestors(README.read_text()))


if __name__ == "__main__":
    main()
