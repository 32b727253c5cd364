"""What does PPO add to a flow policy that imitates, and does an arm do the same?

    python -m benchmarks.flow_ppo --cases 50_demonstrations --seeds 0 1

Runs of the preset flow_ppo, or flow_ppo_pixels: imitation of some demonstrations, evaluated without
noise, then PPO; a row's figure is the final success on 256 held-out starts, its parameters say what
imitation alone had reached on 256 others, and how many episodes of the last rollouts were solved,
under noise. A run has so many minutes of two cores, counted in processor time. With `--arm` its
bundle then moves the simulated arm under the bridge's governor, from the starts that the
simulator's evaluation has too. Each row is filed once it is there, so that a stopped run goes on
where it was; `--again` measures anew.
"""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT
from benchmarks.results import Recorder, Result, say
from benchmarks.resumable import go_on, is_wanted, require_known
from benchmarks.training_run import TrainingRun
from scenes.contract.ranges import MOST_EPISODES, MOST_SEED, ranged

QUESTION = "flow_ppo"
EPISODES = 256
CHECKS = 40  # epochs between two: each plays as many steps as four of them
ROLLOUTS = 10  # the last ones, of which success under noise is said
GOAL = 3  # episodes of 100 by which an arm may do worse, as in benchmarks.bundles
STATE, PIXELS = "--preset=flow_ppo", "--preset=flow_ppo_pixels"
# Of 50 demonstrations imitation alone solves nearly all: little is left to PPO, who has to keep it.
CASES: dict[str, tuple[str, ...]] = {
    "50_demonstrations": (STATE, "--total-env-steps=64000"),
    "5_demonstrations": (STATE, "--demos.count=5", "--total-env-steps=384000"),
    "5_demonstrations_flow_noise": (
        STATE,
        "--demos.count=5",
        "--total-env-steps=384000",
        "--agent.noise=flow_noise",
    ),
    "pick_cube_paced": (
        STATE,
        "--task=franka/pick_cube_paced",
        "--demos.count=20",
        "--total-env-steps=64000",
    ),
    "put_cube_on_plate_paced": (
        STATE,
        "--task=franka/put_cube_on_plate_paced",
        "--total-env-steps=64000",
    ),
    "pixels": (PIXELS,),  # give it `--minutes 60`
    "pixels_taught_to_see": (PIXELS,),
}
# Cases that begin with a net that was taught to see, and how, in the looks of the run.
SEEING = ("pixels_taught_to_see",)
TAUGHT = (
    "-m",
    "mjx_serl.pretraining",
    "--vla",
    "--task=franka/put_cube_on_plate_instructed",
    "--pixels.cameras=third",
    "--pixels.look.variants=1",
    *(f"--pixels.look.{name}=0" for name in ("background", "color", "light")),
    *(f"--pixels.look.camera-{name}=0" for name in ("position", "angle")),
    "--tokenizer.name=words",
    "--tokenizer.slots=12",
    "--train.rounds=4",
    "--train.every=4",
    "--train.updates=2500",
    "--train.batch-size=64",
)


@dataclass(frozen=True, kw_only=True)
class FlowPpoConfig:
    """Which runs.

    Attributes:
        cases: names of cases; all by default.
        seeds: a run each.
        minutes: of two cores for one run, compiling and evaluations included [min].
        arm: let the bundles move the simulated arm.
        episodes: on the arm.
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    cases: tuple[str, ...] = field(default_factory=lambda: tuple(CASES))
    seeds: tuple[int, ...] = ranged((0, 1), least=0, most=MOST_SEED, filled=True)
    minutes: float = ranged(10.0, above=0)
    arm: bool = False
    episodes: int = ranged(100, least=1, most=MOST_EPISODES)
    again: bool = False
    folder: Path = Path("runs/flow_ppo")


def run(cfg: FlowPpoConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    require_known("case", cfg.cases, CASES)
    for case in cfg.cases:
        for seed in cfg.seeds:
            name, folder = f"{case}, seed {seed}", cfg.folder / f"{case}-s{seed}"
            if is_wanted(recorder, name, again=cfg.again):
                _train(cfg, case, seed, folder, name, recorder)
            arm = f"{name}: on the arm"
            if cfg.arm and is_wanted(recorder, arm, again=cfg.again):
                _deploy(cfg, folder, arm, recorder)


def _train(
    cfg: FlowPpoConfig, case: str, seed: int, folder: Path, name: str, recorder: Recorder
) -> None:
    command = [
        "train.py",
        *CASES[case],
        f"--seed={seed}",
        f"--eval.check-episodes={EPISODES}",
        f"--eval.every-epochs={CHECKS}",
        f"--eval.episodes={EPISODES}",
    ]
    if case in SEEING:
        command.append(f"--init={_eyes(cfg.folder)}")
    trained = Recorder(QUESTION)
    params = {"case": case, "seed": seed}
    TrainingRun(command=command, folder=folder, minutes=cfg.minutes).measure(trained, name, params)
    (row,) = trained.results
    if row.value is None:
        recorder.missing(name, row.params["reason"], params)
        return
    more = _said(folder, row)
    recorder.add(name, row.value, "rate", row.params | more, load=row.load)


def _eyes(folder: Path) -> Path:
    """The net that sees, which all seeds share; it is taught where it is not there.

    Its processor time is not in that of the runs; it is printed.
    """
    eyes = folder / "eyes"
    if not eyes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, *TAUGHT, str(eyes.absolute())], cwd=ROOT, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        say(f"{QUESTION}: {eyes} took {used.ru_utime + used.ru_stime:.0f} CPU s")
    return eyes.absolute()


def _said(folder: Path, row: Result) -> dict[str, Any]:
    """What a run's rows say of imitation and of rollouts."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(x for x in lines if x["kind"] == "eval" and x["epoch"] == 0)
    rollouts = [x for x in lines if x["kind"] == "epoch"][-ROLLOUTS:]
    solved = sum(x["episode/solved_once"] for x in rollouts)
    episodes = sum(x["episode/count"] for x in rollouts)
    taught = [x["elapsed_s"] for x in lines if x["kind"] == "imitation"]
    assert row.value is not None
    return {
        "imitation": first["success_rate"],
        "imitation_ci95": first["success_ci95"],
        "gain": row.value - first["success_rate"],
        "under_noise": solved / max(episodes, 1.0),
        "imitation_ended_s": taught[-1] if taught else None,
    }


def _deploy(cfg: FlowPpoConfig, folder: Path, name: str, recorder: Recorder) -> None:
    from benchmarks.bridge import solved_by
    from robot_bridge.policy.bundle import find_bundle, load_bundle

    params = {"episodes": cfg.episodes, "allowed_episodes": GOAL}
    if not (folder / "summary.json").exists():
        recorder.missing(name, f"no finished run in {folder}", params)
        return
    own, solved = solved_by(folder, load_bundle(find_bundle(folder)), episodes=cfg.episodes)
    recorder.add(name, float(solved), "episodes", params | {"simulator": own})


if __name__ == "__main__":
    go_on(FlowPpoConfig, __doc__, QUESTION, run)
