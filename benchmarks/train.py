"""How long does learning take? Whole `train.py` runs, read from what they leave behind.

python -m benchmarks.train --seeds 0 1 2
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT
from benchmarks.results import Ratio, Recorder, measure_load, say
from benchmarks.resumable import measure_to_save
from scenes.contract.ranges import MOST_SEED, ranged

SUCCESS_GOAL = 0.95
# Options that turn any preset into seconds of work on a CPU.
SMOKE_ARGS = (
    "--physics=native",
    "--num-envs=4",
    "--total-env-steps=40",
    "--loop.steps-per-epoch=5",
    "--loop.batch-size=8",
    "--loop.updates-per-step=1",
    "--loop.warmup-steps=16",
    "--loop.buffer-size=100",
    "--demos.count=0",
    "--eval.episodes=2",
    "--eval.check-episodes=2",
    "--run.no-bundle",
)


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig:
    """Which runs.

    Attributes:
        preset: of `mjx_serl/experiments.py`.
        seeds: one run each, one after the other.
        timeout: seconds for one run.
        seconds_goal: wanted wall time of a run [s].
        args: further options of train.py.
        save: file the results and rewrite RESULTS.md.
    """

    preset: str = "laptop"
    seeds: tuple[int, ...] = ranged((0, 1, 2), least=0, most=MOST_SEED, filled=True)
    timeout: float = ranged(600.0, above=0)
    seconds_goal: float = ranged(90.0, above=0)
    args: tuple[str, ...] = ()
    save: bool = False


def run(cfg: TrainBenchConfig, recorder: Recorder) -> None:
    """Train once per seed; then the medians over the seeds that finished."""
    walls = []
    for seed in cfg.seeds:
        say(f"train: {cfg.preset}, seed {seed}")
        row = run_seed(cfg, seed, recorder)
        if row is not None:
            walls.append(row["wall_seconds"])
    if len(walls) > 1:
        params = {"preset": cfg.preset, "seeds": list(cfg.seeds), "worst": max(walls)}
        recorder.add("median wall time", statistics.median(walls), "s", params)


def run_seed(cfg: TrainBenchConfig, seed: int, recorder: Recorder) -> dict[str, Any] | None:
    """One run: record its wall time, success, rates and time to success; None where it failed."""
    name = f"{cfg.preset} seed {seed}"
    load = measure_load()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            "--preset",
            cfg.preset,
            "--seed",
            str(seed),
            "--run.folder",
            folder,
            "--run.name",
            "bench",
            *cfg.args,
        ]
        problem = _finish(command, cfg.timeout)
        if problem is not None:
            recorder.missing(name, problem, {"preset": cfg.preset, "seed": seed})
            return None
        row = read_run(Path(folder) / "bench")
    params = row | {"preset": cfg.preset, "seed": seed, "args": list(cfg.args)}
    _record(recorder, name, params, load, cfg.seconds_goal)
    return row


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a finished run folder says: summary, rates and the time to success [s].

    `seconds_to_success` counts from the start of the run to the first check with at least 95 %
    success; `training_seconds` is the same without compiling. None where no check reached it.
    """
    summary = json.loads((folder / "summary.json").read_text())
    epochs, checks = _rows(folder, "epoch"), _rows(folder, "eval")
    solved = next((r["elapsed_s"] for r in checks if r["success_rate"] >= SUCCESS_GOAL), None)
    kept = ("task", "success_rate", "success_ci95", "episodes", "wall_seconds", "compile_seconds")
    return {
        **{k: summary[k] for k in (*kept, "env_steps", "updates", "device")},
        "seconds_to_success": solved,
        **_rates(epochs),
    }


def read_curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return env steps, seconds and success rate of every check of a run."""
    checks = _rows(folder, "eval")
    return [(row["env_steps"], row["elapsed_s"], row["success_rate"]) for row in checks]


def _rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def _rates(epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Return env steps and updates per second between the first and the last epoch."""
    if len(epochs) < 2:
        return {}
    first, last = epochs[0], epochs[-1]
    seconds = max(last["elapsed_s"] - first["elapsed_s"], 1e-9)
    return {
        "env_steps_per_second": (last["env_steps"] - first["env_steps"]) / seconds,
        "updates_per_second": (last["grad_steps"] - first["grad_steps"]) / seconds,
    }


def _record(
    recorder: Recorder, name: str, params: dict[str, Any], load: dict[str, float], goal: float
) -> None:
    wall = params["wall_seconds"]
    # A time has no baseline to be divided by: the goal itself is one.
    ratio = Ratio(
        to=f"goal of {goal:g} s",
        value=goal / wall,
        low=goal / wall,
        high=goal / wall,
        rounds=1,
        goal=1.0,
    )
    recorder.add(f"{name}: wall time", wall, "s", params, load=load, ratio=ratio)
    recorder.add(f"{name}: success", params["success_rate"], "rate", params, load=load)
    if "env_steps_per_second" in params:
        rates = ("env_steps_per_second", "env-steps/s"), ("updates_per_second", "updates/s")
        for key, unit in rates:
            recorder.add(f"{name}: {unit}", params[key], unit, params, load=load)
    solved = params["seconds_to_success"]
    if solved is None:
        recorder.missing(f"{name}: time to success", f"no check reached {SUCCESS_GOAL:.0%}")
    else:
        recorder.add(f"{name}: time to success", solved, "s", params, load=load)


def _finish(command: list[str], timeout: float) -> str | None:
    """Run to the end; returns one line on what went wrong, None if nothing."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:.0f} s"
    if done.returncode == 0:
        return None
    return f"exit {done.returncode}: {last_line(done.stderr.strip() or done.stdout)}"


def last_line(said: str) -> str:
    """Return the last thing that a process said, in at most 200 characters."""
    return (said.strip() or "without a word").splitlines()[-1][:200]


def smoke() -> TrainBenchConfig:
    """Return one run of seconds that only shows that everything works."""
    return TrainBenchConfig(seeds=(0,), args=SMOKE_ARGS)


if __name__ == "__main__":
    measure_to_save(TrainBenchConfig, __doc__, "train", run)
