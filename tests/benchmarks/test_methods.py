"""benchmarks.methods and its page: cells are filed once, and told as they were measured."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods, methods_page
from benchmarks.results import Recorder, load
from mjx_serl.experiments import PRESETS
from scenes.contract.errors import UnknownNameError

TASK = "franka/pick_cube"


def test_a_cell_begins_with_the_run_that_it_is_over(pretended_train: Path):
    cfg = methods.MethodsConfig(
        only=(TASK,),
        methods=("residual", "bc"),
        seeds=(3,),
        minutes=0.2 / 120,
        folder=pretended_train / "runs",
    )
    recorder = Recorder("methods")
    methods.run(cfg, recorder)
    base, over = recorder.results
    assert base.name == f"{TASK}: bc, seed 3"
    assert over.name == f"{TASK}: residual, seed 3" and over.value == 0.4
    assert f"--init={pretended_train}/runs/franka-pick_cube-bc-s3" in over.params["train"]
    # What is filed is kept, also where it was needed by another cell.
    methods.run(cfg, recorder)
    assert recorder.results == [base, over]


def test_an_encoder_of_ours_is_trained_once_where_none_is_shipped(
    pretended_train: Path, monkeypatch: pytest.MonkeyPatch
):
    trained: list[list[str]] = []

    def pretend(command: list[str], **more: Any) -> None:
        assert more["check"]
        trained.append(command[1:])
        Path(command[3]).write_bytes(b"")

    monkeypatch.setattr(methods.subprocess, "run", pretend)
    peg, folder = "franka/peg_insertion", pretended_train / "runs"
    recorder, minutes = Recorder("methods"), 0.2 / 120
    cfg = methods.MethodsConfig(
        only=(TASK, peg), methods=("ours",), seeds=(0, 1), minutes=minutes, folder=folder
    )
    methods.run(cfg, recorder)
    encoder = folder / "franka-peg_insertion-encoder.npz"
    assert trained == [["-m", "mjx_serl.pretraining", str(encoder), f"--task={peg}"]]
    for row in recorder.results:
        given = f"--pixels.frozen={encoder}" in row.params["train"]
        assert given == (row.params["task"] == peg)
    assert len(recorder.results) == 4


def test_columns_name_presets_and_an_unknown_one_is_told():
    for method in (methods.METHODS | methods.ENCODERS).values():
        assert method.args[0].removeprefix("--preset=") in PRESETS
        assert not method.over or method.over in methods.METHODS
    with pytest.raises(UnknownNameError, match="Did you mean 'qc_rlpd'"):
        methods.run(methods.MethodsConfig(methods=("qcrlpd",)), Recorder("methods"))


def cell(recorder: Recorder, method: str, seed: int, rate: float, **more: Any) -> None:
    columns = methods.METHODS | methods.ENCODERS
    params = {
        "task": TASK,
        "method": method,
        "seed": seed,
        "episodes": 100,
        "env_steps": 4000,
        "cpu_seconds": 120.0 * (seed + 1),
        "train": "python " + " ".join(["train.py", *columns[method].args]),
    }
    recorder.add(methods.cell_name(TASK, method, seed), rate, "rate", params | more)


def test_what_was_measured_is_told():
    recorder = Recorder("methods")
    cell(recorder, "rlpd", 0, 0.9, curve=[(1000, 1.0, 0.2), (2000, 2.0, 0.9), (3000, 3.0, 0.95)])
    cell(recorder, "rlpd", 1, 1.0, curve=[(1000, 1.0, 0.2), (2000, 2.0, 0.8), (3000, 3.0, 0.95)])
    cell(recorder, "sac", 0, 0.0, curve=[(1000, 1.0, 0.0)])
    cell(recorder, "xfeat", 0, 0.5, curve=[(1000, 1.0, 0.5)])
    recorder.missing(
        methods.cell_name(TASK, "residual", 0), "exit 1", {"task": TASK, "method": "residual"}
    )
    lines = methods_page.page(recorder.results).splitlines()
    success, solved, pictured, *_ = (
        line.split(" | ") for line in lines if line.startswith(f"| {TASK} ")
    )
    columns = list(methods.METHODS)
    told = dict(zip(columns, success[1:], strict=True))
    assert told["rlpd"] == "95 % [91, 97], 1.5 min, 2 seeds"
    assert told["qc_rlpd"] == "not measured" and told["residual"] == "exit 1"
    assert pictured[1 + list(methods.ENCODERS).index("xfeat")].startswith("50 % [40, 60]")
    steps = dict(zip(columns, solved[1:], strict=True))
    assert steps["rlpd"] == "2,500" and steps["sac"].startswith("never")
    assert "- franka/pick_cube: rlpd, seed 0: ▂██ 4,000 env steps" in lines
    (laptop,) = (line for line in lines if line.startswith("| `laptop` "))
    assert f"{TASK} 95 % [91, 97], 1.5 min" in laptop


def test_the_page_is_of_today():
    # Numbers change with every measurement, columns and presets with the code, and the cells of the
    # grid of extremes with what is filed.
    def named(text: str) -> list[str]:
        rows = (line.split(" | ")[0] for line in text.splitlines())
        return [row for row in rows if row.startswith(("| ", "- `"))]

    hint = "python -m benchmarks.methods_page"
    assert named(methods_page.PAGE.read_text()) == named(methods_page.page(load())), hint
