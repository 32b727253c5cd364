"""How soon does a policy learn on an arm, and does a killed learner end where it would have?

    python -m benchmarks.arms --cases state --seeds 0 1
    python -m benchmarks.arms --kills 5

A learner and an actor in processes of their own: `learn.py`, and `deploy.py` with the simulated arm
under the governor. A row's figure is the success rate on 100 held-out episodes at the end, with the
arm's time, the ratio of that time to the clock's, and the updates per step; then the bundle that
the run leaves plays 100 episodes on the arm. With `--kills` the learner is killed at random moments
and resumed, and compared, bit for bit, with one that is not. Each row is filed once it is there.
"""

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import go_on, is_wanted, require_known
from benchmarks.train import read_curve, read_run
from scenes.contract.ranges import ranged

QUESTION = "arms"
RATE = 10.0  # of the tasks' actions [Hz]
MINUTES = 15.0  # of the arm's time, issue 14
_STEPS = round(MINUTES * 60 * RATE)
_LEARN = (
    *("--loop.updates-per-step=4", "--loop.warmup-steps=300", f"--total-env-steps={_STEPS}"),
    *("--eval.every-epochs=20", "--eval.stop-at=0.98", "--eval.stop-checks=3", "--run.video=off"),
)
CASES: dict[str, tuple[str, ...]] = {
    "state": ("--preset=robot", *_LEARN),
    "pixels": ("--preset=pixels_frozen", "--task=franka/pick_cube_paced", *_LEARN),
    "peg": ("--preset=robot", "--task=franka/peg_insertion", "--agent.bc-weight=2", *_LEARN),
}
CASES["peg, person"] = CASES["peg"]
CASES["state, to the end"] = (*CASES["state"], "--eval.stop-at=1.1")
HELPED = {"peg, person": ("--operator=expert",)}  # options of the actor
START_S = 240.0  # until a learner has written what actors start with [s]


@dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """What is measured.

    Attributes:
        cases: what is learned, from what, with whom; all by default.
        seeds: of the runs.
        kills: times that a learner is killed, in a comparison of its own; 0 compares none.
        again: measure once more what is filed already.
        folder: where the runs are kept.
    """

    cases: tuple[str, ...] = field(default_factory=lambda: tuple(CASES))
    seeds: tuple[int, ...] = (0, 1)
    kills: int = ranged(0, least=0)
    again: bool = False
    folder: Path = Path("runs/arms")


def run(cfg: ArmsConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    require_known("case", cfg.cases, CASES)
    if cfg.kills:
        name = f"killed {cfg.kills} times"
        if is_wanted(recorder, name, again=cfg.again):
            _compare_killed(cfg, name, recorder)
        return
    for seed in cfg.seeds:
        for case in cfg.cases:
            name = f"{case}, seed {seed}"
            if is_wanted(recorder, name, again=cfg.again):
                _measure(cfg, case, seed, name, recorder)


@dataclass(frozen=True)
class Arms:
    """A learner and its actor in a folder of their own."""

    folder: Path
    options: tuple[str, ...]
    actor: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The learner's run folder."""
        return self.folder / "run"

    def learn(self, *, sync: bool = True) -> subprocess.Popen[bytes]:
        """Start the learner, or go on with it."""
        where = ["--listen", str(self.folder), *(["--sync"] if sync else [])]
        where += [f"--run.folder={self.folder}", "--run.name=run"]
        begun = (self.run / "config.json").is_file()
        options = [f"--resume={self.run}"] if begun else [*self.options, *where]
        return self.start(["learn.py", *options], "learn.log")

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """An actor that plays until the learner has gone."""
        wait_for(lambda: (self.run / "actor").is_dir(), START_S)
        actor = ["--learner", str(self.folder), "--spool", str(self.folder / "spool")]
        command = ["deploy.py", str(self.run / "actor"), "--robot=sim", *actor]
        command += ["--episodes=100000", "--grace=60", "--noise-seed=0", *self.actor]
        process = self.start(command, "actor.log")
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)

    def deploy(self) -> str:
        """What 100 episodes of the run's bundle on the arm came to, in words."""
        command = [sys.executable, "deploy.py", str(self.run), "--robot=sim", "--episodes=100"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        found = re.search(r"success (\d+)/(\d+)", told)
        return found[0] if found else "none"

    def start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        """Start Python with a command; what it says goes to the end of a log in the folder."""
        with (self.folder / log).open("ab") as said:
            return subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=said, stderr=said)


def _measure(cfg: ArmsConfig, case: str, seed: int, name: str, recorder: Recorder) -> None:
    arms = fresh_arms(cfg.folder, name, (*CASES[case], f"--seed={seed}"))
    arms = replace(arms, actor=HELPED.get(case, ()))
    learner = arms.learn()
    with arms.acting():
        status = learner.wait()
    if status != 0:
        recorder.missing(name, f"the learner ended with {status}: {arms.folder}", {"case": case})
        return
    found = read_run(arms.run)
    minutes = found["env_steps"] / RATE / 60
    last = epochs_of(arms.run)[-1]
    params = found | {
        "case": case,
        "seed": seed,
        "options": " ".join(arms.options),
        "arm_minutes": round(minutes, 2),
        "real_time_factor": round(60 * minutes / found["wall_seconds"], 3),
        "updates_per_step": round(last["actors/updates_per_row"], 3),
        "idle_share": round(last["actors/idle_share"], 3),
        "driven": [round(e["people/share"], 3) for e in epochs_of(arms.run) if "people/share" in e],
        "curve": read_curve(arms.run),
        "deployed": arms.deploy(),
    }
    recorder.add(name, found["success_rate"], "rate", params)


def _compare_killed(cfg: ArmsConfig, name: str, recorder: Recorder) -> None:
    options = (*CASES["state"], "--total-env-steps=1500", "--eval.every-epochs=1000")
    options += ("--run.no-bundle",)
    whole, killed = (
        fresh_arms(cfg.folder, f"{name} {which}", options) for which in ("whole", "killed")
    )
    learner = whole.learn()
    with whole.acting():
        learner.wait()
    draw, moments = random.Random(0), []
    learner = killed.learn()
    with killed.acting():
        for _ in range(cfg.kills):
            with contextlib.suppress(subprocess.TimeoutExpired):
                learner.wait(timeout=draw.uniform(8, 25))
            if learner.poll() is not None:
                break
            learner.kill()
            learner.wait()
            moments.append(len(epochs_of(killed.run)))
            say(f"{QUESTION}: killed after epoch {moments[-1]}")
            learner = killed.learn()
        learner.wait()
    ends = [last_arrays(arms.run) for arms in (whole, killed)]
    differ = [key for key in ends[0] if not np.array_equal(ends[0][key], ends[1][key])]
    params = {"epochs_at_kill": moments, "arrays": len(ends[0]), "differ": differ}
    params |= {"options": " ".join(options)}
    recorder.add(name, len(differ), "arrays that differ", params)


def fresh_arms(where: Path, name: str, options: tuple[str, ...]) -> Arms:
    """A learner and an actor whose folder, in another, is empty."""
    folder = (where / re.sub(r"\W+", "-", name)).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    return Arms(folder, options)


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """The rows of epochs in a run's metrics."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "epoch"]


def last_arrays(run: Path) -> dict[str, np.ndarray]:
    """All leaves of a run's newest checkpoint."""
    import jax

    from mjx_serl.config import TrainConfig
    from mjx_serl.run.checkpoint import CheckpointStore
    from mjx_serl.run.folder import RunFolder

    folder = RunFolder.open(run)
    cfg = folder.read_config(TrainConfig)
    shapes = cfg.build(cfg.build_observer()).state_shapes()
    state, *_ = CheckpointStore(folder.checkpoints).restore(shapes)
    plain = [
        (path, jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    ]
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in plain}


def wait_for(holds: Any, seconds: float) -> None:
    """Return once it holds; TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    go_on(ArmsConfig, __doc__, QUESTION, run)
