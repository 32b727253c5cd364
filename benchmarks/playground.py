"""Does an environment of MuJoCo Playground train through our door, and how fast?

    python -m benchmarks.playground --save

A whole `train.py` run on MJX in a virtual environment of its own, with Playground 0.2.0 and the
robots that it would else download. What is filed is the mean return of the last check's episodes;
the row has the first check's, the curve, and the seconds of compiling, which are few where
JAX_COMPILATION_CACHE_DIR has the programs already.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import ROOT
from benchmarks.results import Recorder
from benchmarks.resumable import measure_to_save
from benchmarks.training_run import TrainingRun
from scenes.contract.ranges import MOST_SEED, ranged

QUESTION = "playground"
# An update for every two env steps, and checks on few episodes: MJX is slow on a CPU.
SMALL = (
    "--num-envs=32",
    "--loop.updates-per-step=16",
    "--total-env-steps=40000",
    "--eval.every-epochs=5",
    "--eval.check-episodes=16",
    "--eval.episodes=32",
)


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig:
    """What to train on.

    Attributes:
        env: a manipulation environment by Playground's name.
        preset: of `mjx_serl/experiments.py`, one without demonstrations.
        seed: of the run.
        args: further options of train.py.
        minutes: of two cores, compiling included [min].
        folder: where the run is kept.
        save: file the result and rewrite RESULTS.md.
    """

    env: str = "PandaPickCube"
    preset: str = "sac"
    seed: int = ranged(0, least=0, most=MOST_SEED)
    args: tuple[str, ...] = SMALL
    minutes: float = ranged(40.0, above=0)
    folder: Path = Path("runs/playground")
    save: bool = False


def run(cfg: PlaygroundConfig, recorder: Recorder) -> None:
    """Train, and file what it led to."""
    name = f"{cfg.env}: return, seed {cfg.seed}"
    try:
        python = peer_python("playground")
    except PeerError as error:
        recorder.missing(name, str(error))
        return
    folder = cfg.folder / f"{cfg.env}-s{cfg.seed}"
    params = {"env": cfg.env, "preset": cfg.preset, "seed": cfg.seed}
    trial = TrainingRun(
        command=train_command(cfg), folder=folder, minutes=cfg.minutes, python=python
    )
    done = trial.train(recorder, name, params)
    if done is None:
        return
    found, params, load = done
    curve = read_returns(folder)
    kept = ("success_rate", "compile_seconds", "env_steps_per_second")
    params |= {key: found[key] for key in kept if key in found}
    params |= {"curve": curve, "first": curve[0][2]}
    recorder.add(name, curve[-1][2], "return", params, load=load, versions=_versions(python))


def train_command(cfg: PlaygroundConfig) -> list[str]:
    """The training run, without where it is kept."""
    return [
        "train.py",
        "--plugin=mjx_serl.adapters.playground",
        f"--preset={cfg.preset}",
        f"--task=playground/{cfg.env}",
        "--physics=mjx",
        f"--seed={cfg.seed}",
        "--run.no-bundle",
        *cfg.args,
    ]


def read_returns(folder: Path) -> list[tuple[int, float, float]]:
    """Return env steps, seconds and mean return of every check of a run."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    checks = [row for row in rows if row["kind"] == "eval"]
    return [(row["env_steps"], row["elapsed_s"], row["eval/return"]) for row in checks]


def _versions(python: Path) -> dict[str, str]:
    """Of the interpreter that trained."""
    ask = "import json; from benchmarks.worker import versions; print(json.dumps(versions()))"
    said = subprocess.run([python, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


if __name__ == "__main__":
    measure_to_save(PlaygroundConfig, __doc__, QUESTION, run)
