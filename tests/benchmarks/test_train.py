"""What the training benchmark reads out of a run folder."""

import json
import subprocess
from typing import Any

import pytest

from benchmarks import train
from benchmarks.results import Recorder
from benchmarks.train import TrainBenchConfig, read_run, run_seed
from mjx_serl.commands import BAD_INPUT

SUMMARY = {
    "task": "franka/pick_cube",
    "success_rate": 0.97,
    "success_ci95": [0.915, 0.99],
    "episodes": 100,
    "wall_seconds": 80.0,
    "compile_seconds": 12.0,
    "env_steps": 3000,
    "updates": 9000,
    "device": "cpu",
}


def epoch(elapsed, env_steps, grad_steps):
    return {
        "kind": "epoch",
        "elapsed_s": elapsed,
        "env_steps": env_steps,
        "grad_steps": grad_steps,
    }


@pytest.fixture
def folder(tmp_path):
    rows = [
        epoch(20.0, 1000, 3000),
        {"kind": "eval", "elapsed_s": 21.0, "success_rate": 0.5},
        epoch(30.0, 2000, 6000),
        {"kind": "eval", "elapsed_s": 31.0, "success_rate": 0.96},
        epoch(40.0, 3000, 9000),
        {"kind": "eval", "elapsed_s": 41.0, "success_rate": 0.99},
    ]
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_rates_and_first_success_come_from_the_run_folder(folder):
    row = read_run(folder)
    assert row["env_steps_per_second"] == 100.0
    assert row["updates_per_second"] == 300.0
    assert row["seconds_to_success"] == 31.0
    assert row["wall_seconds"] == 80.0


def test_a_run_that_fails_is_recorded_with_its_last_word(monkeypatch: pytest.MonkeyPatch):
    """Here the whole script train.py is started: bad input is one line and exit status 2."""
    ended, start = [], subprocess.run

    def noted(*args: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        ended.append(start(*args, **more))
        return ended[-1]

    monkeypatch.setattr(train.subprocess, "run", noted)
    recorder = Recorder("train")
    cfg = TrainBenchConfig(args=("--task", "franka/pick_cub"))
    assert run_seed(cfg, 0, recorder) is None
    assert recorder.results[0].value is None
    (script,) = (done for done in ended if str(train.ROOT / "train.py") in done.args)
    assert script.returncode == BAD_INPUT
    assert script.stderr.startswith("error: ") and script.stderr.count("\n") == 1
    assert "Did you mean 'franka/pick_cube'?" in script.stderr
    assert recorder.results[0].params["reason"] == f"exit 2: {script.stderr.strip()[:200]}"
