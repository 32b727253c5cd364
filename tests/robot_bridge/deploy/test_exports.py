"""From recordings to data by command: `python -m robot_bridge export-demos|export-lerobot`."""

import json
from pathlib import Path

import pytest
from recorded import record

from mjx_serl.data.demos import DemoContract, load_demos
from robot_bridge.__main__ import main
from robot_bridge.policy.bundle import Bundle, load_bundle


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture
def recording(bundle: Bundle, tmp_path: Path) -> Path:
    return record(tmp_path / "r", bundle.contract, {3: "success", 2: "failure", 4: "cut"})


def test_demonstrations_come_out_of_a_recording(
    bundle: Bundle, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demos.npz"
    options = ["--bundle", str(bundle.path), "--out", str(out)]
    assert main(["export-demos", str(recording), *options]) == 0
    assert capsys.readouterr().out == f"{out}: 1 episodes, 3 steps, 0 of them a person's\n"
    contract = bundle.contract
    task = DemoContract.of(bundle.manifest.task, contract.obs, contract.action)
    assert load_demos(out, task).valid.sum() == 3
    assert main(["export-demos", str(recording), *options]) == 2
    assert "never overwritten" in capsys.readouterr().err
    options[-1] = str(tmp_path / "all.npz")
    assert main(["export-demos", str(recording), *options, "--endings", "failure", "cut"]) == 0
    assert load_demos(Path(options[-1]), task).terminated.sum() == 1


def test_a_dataset_comes_out_of_a_recording(
    bundle: Bundle, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    options = ["--bundle", str(bundle.path), "--out", str(tmp_path / "set"), "--task", "lift it"]
    assert main(["export-lerobot", str(recording), *options]) == 0
    assert "3 episodes, 9 steps" in capsys.readouterr().out
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 3


@pytest.mark.parametrize("command", ["export-demos", "export-lerobot"])
def test_what_cannot_be_exported_is_said_in_one_line(
    bundle: Bundle, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--bundle", str(bundle.path), "--out", str(tmp_path / "out")]
    for recordings, said in (([], "No recording is given"), ([str(tmp_path)], "no recording in")):
        assert main([command, *recordings, *options]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_tyro_it_is_said_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tyro", None)
    assert main(["observe", "here"]) == 2
    assert "needs tyro" in capsys.readouterr().err
