"""How much sooner does a policy from pictures learn with a person who takes over?

    python -m benchmarks.interventions --tasks franka/pick_cube --seeds 0

The same runs without anybody and with a simulated person (`mjx_serl.training.takeover`), who
watches every episode at first and half as many every `HALF_LIFE` env steps. A row's figure is the
env steps until a policy holds 90 %: the first of two checks in a row that reach it. The policy is
alone in the checks. Each row is filed once it is there, so that a stopped run goes on where it was;
`--again` measures anew.
"""

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.methods import reader_of
from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, require_known
from benchmarks.training_run import TrainingRun
from scenes.contract.ranges import MOST_SEED, ranged

QUESTION = "interventions"
GOAL = 0.9  # success rate
HALF_LIFE = 500  # env steps after which the person watches half as many episodes
_COMMON = (
    *("--eval.every-epochs=1", "--eval.check-episodes=100", f"--eval.stop-at={GOAL}"),
    *("--run.video=off", "--run.no-bundle"),
)
_END_TO_END = ("--preset=pixels",)  # as it ships, checked more often
# Features of pictures by an encoder that the simulator has trained, and an actor that is averaged:
# the newest one's success on a peg comes and goes, which hides all else.
_FROZEN = (
    *("--preset=pixels_frozen", "--loop.steps-per-epoch=13", "--agent.actor-average=0.995"),
    *("--agent.bc-weight=2", "--total-env-steps=20000"),  # 0.1 is the preset's
)
_PERSON = (
    *("--takeover.attend=1", f"--takeover.half-life={HALF_LIFE}"),
    *("--takeover.far=0.5", "--takeover.patience=0.4"),
    # It goes on for five half-lives, to see how often the person still drives.
    "--eval.stop-checks=12",
)
TASKS = ("franka/pick_cube", "franka/peg_insertion")
HELPERS: dict[str, tuple[str, ...]] = {
    "alone": _END_TO_END,
    # Six half-lives at the latest, where one check of the twelve is below the goal.
    "person": (*_END_TO_END, *_PERSON, f"--total-env-steps={6 * HALF_LIFE}"),
    "alone_weighted": _FROZEN,
    "person_weighted": (*_FROZEN, *_PERSON),
}


@dataclass(frozen=True, kw_only=True)
class InterventionsConfig:
    """Which runs.

    Attributes:
        tasks: names of tasks; all by default.
        helpers: who helps: "alone" nobody, "person" a simulated person, both with an encoder that
            is learned end to end; "..._weighted" with a frozen one, and an actor that imitates
            experts' steps twenty times as much; all by default.
        seeds: of the training runs.
        minutes: of two cores for one run, compiling included [min].
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    tasks: tuple[str, ...] = TASKS
    helpers: tuple[str, ...] = field(default_factory=lambda: tuple(HELPERS))
    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float = ranged(20.0, above=0)
    again: bool = False
    folder: Path = Path("runs/interventions")


def run(cfg: InterventionsConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    require_known("task", cfg.tasks, TASKS)
    require_known("helper", cfg.helpers, HELPERS)
    for seed in cfg.seeds:
        if not 0 <= seed <= MOST_SEED:
            raise ValueError(f"seed {seed}, allowed: 0 to {MOST_SEED}")
        for task in cfg.tasks:
            for who in cfg.helpers:
                name = f"{task}, {who}, seed {seed}"
                if is_wanted(recorder, name, again=cfg.again):
                    _measure(cfg, task, who, seed, name, recorder)


def _measure(
    cfg: InterventionsConfig, task: str, who: str, seed: int, name: str, recorder: Recorder
) -> None:
    folder = cfg.folder / f"{task.replace('/', '-')}-{who}-s{seed}"
    options = [*_COMMON, *HELPERS[who]]
    if "--preset=pixels_frozen" in options:
        options += reader_of(cfg.folder, task)
    command = ["train.py", *options, f"--task={task}", f"--seed={seed}"]
    trained = Recorder(QUESTION)
    params = {"task": task, "helper": who, "seed": seed}
    TrainingRun(command=command, folder=folder, minutes=cfg.minutes).measure(trained, name, params)
    (row,) = trained.results
    if row.value is None:
        recorder.missing(name, row.params["reason"], params)
        return
    more = {"success_rate": row.value, "driven": driven(folder / "metrics.jsonl")}
    held = steps_held(row.params["curve"])
    params = {**row.params, **more}
    if held is None:
        late = params["out_of_time"]
        spent = f"{cfg.minutes:g} minutes" if late else f"{params['env_steps']:,.0f} env steps"
        recorder.missing(name, f"not within {spent}", params)
    else:
        recorder.add(name, held, "env steps", params)


def steps_held(curve: Sequence[Sequence[float]]) -> float | None:
    """Env steps of the first of two checks in a row that reach the goal; None without."""
    pairs = itertools.pairwise(curve)
    return next((a[0] for a, b in pairs if min(a[2], b[2]) >= GOAL), None)


def driven(metrics: Path) -> list[tuple[float, float]]:
    """Env steps and the share of the steps before, since the last, that a person drove."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    # Of about ten at a time: an epoch is two dozen steps.
    parts = [epochs[i : i + 10] for i in range(0, len(epochs), 10)]
    share = [statistics.mean(e.get("takeover/share", 0.0) for e in part) for part in parts]
    return [
        (part[-1]["env_steps"], round(rate, 4)) for part, rate in zip(parts, share, strict=True)
    ]


if __name__ == "__main__":
    go_on(InterventionsConfig, __doc__, QUESTION, run)
