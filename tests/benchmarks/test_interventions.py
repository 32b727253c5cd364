"""benchmarks.interventions: a row is when a policy holds 90 %, and the page shows the medians."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import interventions, methods_page
from benchmarks.interventions import InterventionsConfig, driven, steps_held
from benchmarks.results import Recorder
from benchmarks.training_run import TrainingRun
from mjx_serl.commands import parse_train
from scenes.contract.errors import UnknownNameError

PEG = "franka/peg_insertion"


def test_it_is_held_from_the_first_of_two_checks_in_a_row() -> None:
    assert steps_held([(400, 1, 0.95), (800, 2, 0.5), (1200, 3, 0.9), (1600, 4, 0.97)]) == 1200
    assert steps_held([(400, 1, 0.95), (800, 2, 0.5), (1200, 3, 0.95)]) is None
    assert steps_held([]) is None


def test_how_often_a_person_drives_is_told_of_ten_epochs_at_a_time(tmp_path: Path) -> None:
    rows = [
        {"kind": "epoch", "env_steps": 100 * i, "takeover/share": 0.5 if i <= 10 else 0.1}
        for i in range(1, 16)
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"kind": "eval"}])
    (tmp_path / "metrics.jsonl").write_text(text)
    assert driven(tmp_path / "metrics.jsonl") == [(1000, 0.5), (1500, 0.1)]


def test_every_run_is_one_that_train_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in interventions.HELPERS.values():
        cfg, _ = parse_train([*interventions._COMMON, *options])
        cfg.check()
        assert (cfg.method.takeover.attend > 0) == ("--takeover.attend=1" in options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pretend to train: a person halves the env steps, and without one seed 1 never holds it."""
    commands: list[list[str]] = []

    def measure(self: TrainingRun, recorder: Recorder, name: str, params: dict[str, Any]) -> None:
        commands.append(self.command)
        self.folder.mkdir(parents=True)
        helped = params["helper"].startswith("person")
        row = {"kind": "epoch", "env_steps": 2000, "takeover/share": 0.02}
        (self.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        good = 0.0 if params["seed"] == 1 and not helped else 0.95
        first = 1000 if helped else 2000 + params["seed"]
        curve = [(first, 1.0, good), (first + 400, 2.0, good)]
        found = {"curve": curve, "cpu_seconds": 120.0, "env_steps": 2400, "train": ""}
        late = params["task"] == PEG
        recorder.add(name, 0.95, "rate", params | found | {"out_of_time": late})

    monkeypatch.setattr(TrainingRun, "measure", measure)
    monkeypatch.setattr(interventions, "reader_of", lambda folder, task: [f"--encoder={task}"])
    return commands


def test_runs_are_filed_once_and_the_page_tells_of_them(trained: list, tmp_path: Path) -> None:
    cfg = InterventionsConfig(tasks=(PEG,), helpers=("alone", "person"), folder=tmp_path)
    recorder = Recorder("interventions")
    interventions.run(cfg, recorder)
    interventions.run(cfg, recorder)
    assert len(trained) == 6
    text = methods_page.page(recorder.results)
    assert f"| {PEG} | `alone` | 2,000, not within 20 minutes, 2,002 | 2,002 | " in text
    assert f"| {PEG} | `person` | 1,000, 1,000, 1,000 | 1,000 | 2 %, 2 %, 2 % | 1.0 |" in text
    assert "| franka/pick_cube | `alone` | not measured" in text


def test_only_a_frozen_encoder_is_trained_before(trained: list, tmp_path: Path) -> None:
    cfg = InterventionsConfig(tasks=(PEG,), seeds=(0,), folder=tmp_path)
    interventions.run(cfg, Recorder("interventions"))
    found = [f"--encoder={PEG}" in command for command in trained]
    assert found == ["weighted" in who for who in interventions.HELPERS]


def test_what_never_held_it_says_how_far_it_came(trained: list, tmp_path: Path) -> None:
    cfg = InterventionsConfig(helpers=("alone",), seeds=(1,), folder=tmp_path)
    recorder = Recorder("interventions")
    interventions.run(cfg, recorder)
    told = {row.params["task"]: row.params["reason"] for row in recorder.results}
    assert told == {PEG: "not within 20 minutes", "franka/pick_cube": "not within 2,400 env steps"}


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'person'"):
        interventions.run(InterventionsConfig(helpers=("persn",)), Recorder("interventions"))
    with pytest.raises(ValueError, match="seed -1, allowed: 0 to"):
        interventions.run(InterventionsConfig(seeds=(-1,)), Recorder("interventions"))
