"""benchmarks.flow_ppo: a row says what a run reached, and what imitation alone had."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flow_ppo
from benchmarks.results import Recorder
from benchmarks.training_run import TrainingRun

ROWS = [
    {"kind": "imitation", "epoch": 0, "updates": 500, "elapsed_s": 20.0},
    {"kind": "eval", "epoch": 0, "success_rate": 0.5, "success_ci95": [0.4, 0.6]},
    # The first rollout is not among the last ten.
    *({"kind": "epoch", "epoch": i, "episode/solved_once": 6.0 if i else 0.0,
       "episode/count": 8.0 if i else 100.0} for i in range(11)),
    {"kind": "eval", "epoch": 10, "success_rate": 0.8, "success_ci95": [0.7, 0.9]},
]  # fmt: skip


def test_a_row_says_what_imitation_had_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    def measure(self: TrainingRun, recorder: Recorder, name: str, params: dict[str, Any]) -> None:
        commands.append(self.command)
        if "--seed=1" in self.command:
            recorder.missing(name, "exit 1", params)
            return
        self.folder.mkdir(parents=True)
        lines = "\n".join(map(json.dumps, ROWS))
        (self.folder / "metrics.jsonl").write_text(lines)
        recorder.add(name, 0.9, "rate", params | {"cpu_seconds": 60.0})

    monkeypatch.setattr(TrainingRun, "measure", measure)
    cfg = flow_ppo.FlowPpoConfig(cases=("5_demonstrations",), arm=True, folder=tmp_path)
    recorder = Recorder("flow_ppo")
    flow_ppo.run(cfg, recorder)
    flow_ppo.run(cfg, recorder)
    assert len(commands) == 2 and "--demos.count=5" in commands[0]
    rows = {row.name: row for row in recorder.results}
    found = rows["5_demonstrations, seed 0"]
    assert found.value == 0.9 and found.params["gain"] == pytest.approx(0.4)
    assert found.params["under_noise"] == 0.75 and found.params["imitation_ended_s"] == 20.0
    assert rows["5_demonstrations, seed 1"].value is None
    assert "no finished run" in rows["5_demonstrations, seed 0: on the arm"].params["reason"]
