"""Does what is learned survive other friction, mass, delay, cameras and light?

    python -m benchmarks.extremes --cases state_randomized

Policies trained without and with randomisation, from state and from pictures, on the same grid of
extremes (`mjx_serl.training.robustness`). Each row is filed once it is there, so that a stopped run
goes on where it was; `--again` measures anew. A row's figure is the success rate in its worst cell.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, require_known
from benchmarks.training_run import TrainingRun
from scenes.contract.ranges import MOST_EPISODES, MOST_SEED, ranged

QUESTION = "extremes"
_PIXELS = ("--preset=pixels_frozen", "--task=franka/pick_cube")
# state_randomized goes on to the end: its checks are of what training draws, and the corners of the
# grid need more.
CASES: dict[str, tuple[str, ...]] = {
    "state_plain": ("--preset=laptop", "--task=franka/pick_cube"),
    # By the same rule of when to stop: what randomisation costs.
    "state_randomized_short": ("--preset=laptop", "--task=franka/pick_cube_randomized"),
    "state_randomized": (
        "--preset=laptop",
        "--task=franka/pick_cube_randomized",
        "--total-env-steps=40000",
        "--eval.stop-at=1.1",
    ),
    "pixels_plain": _PIXELS,
    # As much imitation as pixels_varied, so that the two differ in what varies alone.
    "pixels_plain_imitating": (*_PIXELS, "--demos.count=400", "--agent.bc-weight=20"),
    "pixels_varied": ("--preset=pixels_varied",),
}


@dataclass(frozen=True, kw_only=True)
class ExtremesConfig:
    """Which policies, how many episodes.

    Attributes:
        cases: names of policies; all by default.
        seed: of the training runs.
        episodes: in each cell of the grid.
        minutes: of two cores for one run, compiling and the grid included [min].
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    cases: tuple[str, ...] = field(default_factory=lambda: tuple(CASES))
    seed: int = ranged(0, least=0, most=MOST_SEED)
    episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    minutes: float = ranged(45.0, above=0)
    again: bool = False
    folder: Path = Path("runs/extremes")


def run(cfg: ExtremesConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    require_known("case", cfg.cases, CASES)
    for case in cfg.cases:
        name = f"{case}, seed {cfg.seed}"
        if is_wanted(recorder, name, again=cfg.again):
            _measure(cfg, case, name, recorder)


def _measure(cfg: ExtremesConfig, case: str, name: str, recorder: Recorder) -> None:
    folder = cfg.folder / f"{case}-s{cfg.seed}"
    command = ["train.py", *CASES[case], f"--seed={cfg.seed}", f"--eval.grid={cfg.episodes}"]
    trained = Recorder(QUESTION)
    params = {"case": case, "seed": cfg.seed}
    TrainingRun(command=command, folder=folder, minutes=cfg.minutes).measure(trained, name, params)
    (row,) = trained.results
    if row.value is None:
        recorder.missing(name, row.params["reason"], params)
        return
    summary = json.loads((folder / "summary.json").read_text())
    cells = {cell["name"]: cell["successes"] / cell["episodes"] for cell in summary["grid"]}
    more = {"cells": cells, "success_rate": row.value, "task": summary["task"]}
    recorder.add(name, min(cells.values()), "rate", {**row.params, **more})


if __name__ == "__main__":
    go_on(ExtremesConfig, __doc__, QUESTION, run)
