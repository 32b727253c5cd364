"""benchmarks.extremes: a row is a run's worst cell of the grid, and the page shows them all."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import extremes, methods_page
from benchmarks.results import Recorder
from benchmarks.training_run import TrainingRun
from mjx_serl.experiments import PRESETS
from scenes.contract.errors import UnknownNameError

GRID = [
    {"name": "friction 0.4", "successes": 45, "episodes": 50},
    {"name": "light", "successes": 50, "episodes": 50},
]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pretend to train; returns the commands."""
    commands: list[list[str]] = []

    def measure(self: TrainingRun, recorder: Recorder, name: str, params: dict[str, Any]) -> None:
        commands.append(self.command)
        if "--preset=pixels_varied" in self.command:
            recorder.missing(name, "exit 1", params)
            return
        self.folder.mkdir(parents=True)
        (self.folder / "summary.json").write_text(json.dumps({"grid": GRID, "task": "a"}))
        found = {"env_steps": 4000, "cpu_seconds": 240.0, "train": ""}
        recorder.add(name, 0.98, "rate", params | found)

    monkeypatch.setattr(TrainingRun, "measure", measure)
    return commands


def test_the_worst_cell_is_filed_once_and_all_are_told(trained: list, tmp_path: Path):
    cfg = extremes.ExtremesConfig(
        cases=("state_plain", "pixels_varied"), episodes=50, folder=tmp_path
    )
    recorder = Recorder("extremes")
    extremes.run(cfg, recorder)
    extremes.run(cfg, recorder)
    assert len(trained) == 2 and trained[0][-1] == "--eval.grid=50"
    plain, varied = recorder.results
    assert (plain.value, varied.value) == (0.9, None)
    assert plain.params["success_rate"] == 0.98
    lines = methods_page.page(recorder.results).splitlines()
    others = "  |" * (len(extremes.CASES) - 1)
    assert f"| friction 0.4 | 90 % |{others}" in lines
    assert f"| minutes | 2.0 |{others}" in lines


def test_cases_name_presets_and_an_unknown_one_is_told():
    for args in extremes.CASES.values():
        assert args[0].removeprefix("--preset=") in PRESETS
    with pytest.raises(UnknownNameError, match="Did you mean 'state_plain'"):
        extremes.run(extremes.ExtremesConfig(cases=("state_plan",)), Recorder("extremes"))


def test_the_plain_policy_imitates_as_much_as_the_varied_one():
    method = PRESETS["pixels_varied"]().method
    wanted = (
        f"--demos.count={method.demos.count}",
        f"--agent.bc-weight={method.agent.bc_weight:g}",
    )
    assert extremes.CASES["pixels_plain_imitating"][-2:] == wanted
