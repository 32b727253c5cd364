"""`mjx-serl demos`: other projects' files for a real task, and what its command line refuses."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mjx_serl.cli import start
from mjx_serl.data.demos import load_demos
from mjx_serl.envs import observation
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.run.demo_files import (
    DeleteDemos,
    ExportDemos,
    ImportDemos,
    ShowDemos,
    delete_demos,
    export_demos,
    import_demos,
    show_demos,
)
from mjx_serl.training.demonstrations import demo_contract
from scenes.contract.demonstrations import load_demonstrations
from scenes.contract.lerobot import DATA_PATH

TASK = "franka/pick_cube"
# robosuite's names; what it has no word for is a constant.
MAP = (
    *("ee_position=robot0_eef_pos", "cube_position=object[0:3]", "ee_target=robot0_eef_pos"),
    *("cube_from_ee=object[0:3]-robot0_eef_pos", "ee_lag=0", "gripper_command=0.5*action[6]+0.5"),
    *("gripper_width=robot0_gripper_qpos[0]-robot0_gripper_qpos[1]", "joint_velocity=0"),
    "action=action[0:3],action[6]",
)
SIZES = {"robot0_eef_pos": 3, "object": 10, "robot0_gripper_qpos": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "lift.hdf5", "w") as opened:
        for index, length in enumerate((5, 3)):
            demo = opened.create_group(f"data/demo_{index}")
            demo["actions"] = rng.uniform(-1, 1, (length, 7))
            demo["rewards"] = demo["dones"] = np.arange(length) == length - 1
            for name, size in SIZES.items():
                demo[f"obs/{name}"] = rng.normal(size=(length, size))
    return tmp_path / "lift.hdf5"


def test_robomimic_s_become_demonstrations_and_those_a_dataset(file: Path, tmp_path: Path):
    said: list[str] = []
    out = tmp_path / "demos.npz"
    import_demos(ImportDemos(files=(file,), task=TASK, out=out, mapping=MAP), said.append)
    assert said[0] == f"{file}: robomimic HDF5, 2 episodes, 8 steps"
    assert "  cube_from_ee = object[0:3]-robot0_eef_pos" in said
    assert said[-1] == f"{out}: 2 episodes, 8 steps of {TASK}"
    rows = load_demos(out, demo_contract(Observer(make_env(TASK, physics="native"))))
    np.testing.assert_array_equal(rows.valid.sum(0), [5, 3])
    with h5py.File(file) as opened:
        demo: Any = opened["data/demo_1"]
        obs, action = demo["obs"], demo["actions"][...]
        wanted = obs["object"][:, :3] - obs["robot0_eef_pos"][...]
    np.testing.assert_allclose(rows.obs["cube_from_ee"][:3, 1], wanted, rtol=1e-6)
    np.testing.assert_allclose(rows.action[:3, 1], action[:, [0, 1, 2, 6]], rtol=1e-6)
    np.testing.assert_allclose(
        rows.obs["gripper_command"][:3, 1], 0.5 * action[:, 6:] + 0.5, rtol=1e-6
    )
    export_demos(ExportDemos(file=out, out=tmp_path / "set"), said.append)
    assert said[-1] == f"{tmp_path / 'set'}: 2 episodes, 8 steps"
    again = tmp_path / "again.npz"
    import_demos(ImportDemos(files=(tmp_path / "set",), task=TASK, out=again), said.append)
    with np.load(out) as one, np.load(again) as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name], name)


def test_pictures_are_of_the_cameras_named_and_nothing_is_drawn(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(observation, "build_renderer", None)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    with h5py.File(file, "a") as opened:
        opened["data/demo_0/obs/agentview_image"] = pictures
        opened["data/demo_1/obs/agentview_image"] = pictures[:3]
    # What only a simulator knows is not observed beside pictures.
    words = [word for word in MAP if not word.startswith("cube_")]
    cfg = ImportDemos(
        files=(file, file),
        task=TASK,
        out=tmp_path / "demos.npz",
        mapping=(*words, "front=agentview_image"),
        cameras=("front",),
        image_size=16,
    )
    import_demos(cfg, lambda _: None)
    arrays, contract = load_demonstrations(cfg.out)
    assert arrays["obs/front"].shape == (5, 4, 16, 16, 3)
    for column in (0, 2):
        np.testing.assert_array_equal(arrays["obs/front"][:, column], pictures)
    observed = Observer(make_env(TASK, physics="native")).obs_spec.names
    assert {name for name, *_ in contract.obs} == {"front", *observed} - {
        "cube_position",
        "cube_from_ee",
    }
    with pytest.raises(KeyError, match="Unknown camera 'fron'"):
        import_demos(dataclasses.replace(cfg, cameras=("fron",), out=tmp_path / "b.npz"), print)


@pytest.mark.parametrize(("module", "extra"), [("h5py", "robomimic"), ("pyarrow", "lerobot")])
def test_without_its_package_a_format_says_what_to_install(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
):
    (tmp_path / "meta").mkdir()
    info = {"codebase_version": "v3.0", "fps": 10, "data_path": DATA_PATH, "features": {}}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    monkeypatch.setitem(sys.modules, module, None)
    path = file if module == "h5py" else tmp_path
    with pytest.raises(ImportError, match=rf"pip install 'mjx-serl\[{extra}\]'"):
        import_demos(ImportDemos(files=(path,), task=TASK, out=tmp_path / "b.npz"), print)


REFUSED = {
    "no file": ((), "No file is named"),
    "nothing there": (("none.hdf5",), "'none.hdf5' does not exist"),
    "an unknown task": (
        ("lift.hdf5", "--task", "franka/pick_cub"),
        "Unknown task 'franka/pick_cub",
    ),
    "another kind": (
        ("lift.hdf5", "--out", "x.hdf5"),
        "Demonstrations are .npz files, got 'x.hdf5'",
    ),
    "a word that says nothing": (("lift.hdf5", "--map", "x"), "--map 'x', allowed: OURS=THEIRS"),
}


@pytest.mark.parametrize("kind", [*REFUSED])
def test_what_is_refused_is_one_line(
    file: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("MUJOCO_GL", "")
    words, text = REFUSED[kind]
    # The last of an option given twice counts.
    options = ["--task", TASK, "--out", "x.npz"]
    line = ["mjx-serl", "demos", "import", *words[:1], *options, *words[1:]]
    monkeypatch.setattr(sys, "argv", line)
    assert start.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and text in said
    assert not (file.parent / "x.npz").exists()


def test_episodes_are_listed_and_deleted(file: Path, tmp_path: Path):
    out, said = tmp_path / "demos.npz", []
    import_demos(ImportDemos(files=(file, file), task=TASK, out=out, mapping=MAP), said.append)
    before, contract = load_demonstrations(out)
    said.clear()
    show_demos(ShowDemos(file=out), said.append)
    assert said == [
        *(f"{i:4}  {steps:4} steps  return 1" for i, steps in enumerate((5, 3, 5, 3), start=1)),
        f"{out}: 4 episodes, 16 steps of {TASK}",
    ]
    for wrong, message in (
        ((3, 7), r"got 7, allowed: 1 to 4; .* show "),
        ((), "none is named"),
        ((1, 2, 3, 4), "remove the file instead"),
    ):
        with pytest.raises(ValueError, match=message):
            delete_demos(DeleteDemos(file=out, episodes=wrong), said.append)
    np.testing.assert_array_equal(load_demonstrations(out)[0]["action"], before["action"])
    delete_demos(DeleteDemos(file=out, episodes=(3, 1)), said.append)
    assert said[-1] == f"{out}: without 1, 3; 2 episodes, 6 steps"
    left, told = load_demonstrations(out)
    assert told == contract and left["reward"].shape == (3, 2)
    np.testing.assert_array_equal(left["action"], before["action"][:3, [1, 3]])
