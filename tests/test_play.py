"""play.py: what it writes for a scripted policy and for a run, and what it refuses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from tiny_bundle import drawn_policy, summary_of, tiny_run, with_changes
from two_joints import registered
from videos import frames

from mjx_serl.cli import play as play_command
from mjx_serl.commands import BAD_INPUT, guarded
from mjx_serl.viewing import play as playing
from mjx_serl.viewing.run_video import RunVideo

ROOT = Path(__file__).resolve().parent.parent

Play = Callable[..., int]


@pytest.fixture(scope="module")
def play() -> Play:
    """The script's main, which is called with its options."""
    return lambda *task, **options: guarded(lambda: play_command.main(*task, **options))


def cube_pixels(picture: np.ndarray) -> int:
    """Pixels of the cube's red."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return int(((red > 120) & (green < 70) & (blue < 70)).sum())


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.strip()


def test_the_expert_is_recorded_by_all_cameras(
    play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert play("franka/pick_cube", episodes=1, size=64, out=tmp_path) == 0
    path = tmp_path / "franka-pick_cube-expert.mp4"
    assert capsys.readouterr().out == f"{path}: 1 of 1 episodes solved\n"
    video = frames(path)
    assert video.shape[1:] == (256, 3 * 256 + 2 * 4, 3) and len(video) > 10
    for camera in (video[:, :, :256], video[:, :, 260:516], video[:, :, 520:]):
        assert cube_pixels(camera[0]) > 20
        assert np.abs(camera[0].astype(int) - camera[-1]).max() > 60


@pytest.mark.parametrize(
    ("task", "options", "text"),
    [
        ("franka/pick_cub", {}, "Unknown task 'franka/pick_cub'. Did you mean"),
        ("franka/pick_cube", {"policy": "trained"}, "name it with --run RUN_FOLDER"),
        ("franka/pick_cube", {"policy": "experd"}, "Unknown policy 'experd'. Did you mean"),
        (
            "franka/pick_cube",
            {"view": True, "port": 99999},
            "port 99999, allowed: 1 to 65535",
        ),
        (
            "franka/pick_cube",
            {"out": Path("x.gif")},
            "Cannot write 'x.gif', allowed: .mp4, .png, or a",
        ),
        ("franka/pick_cube", {"episodes": 0}, "episodes 0, allowed: 1 to 100000"),
        ("franka/pick_cube", {"size": 0}, "size 0, allowed: 1 to 4096"),
        ("franka/pick_cube", {"run": Path("nowhere")}, "Run folder 'nowhere' does not exist"),
    ],
)
def test_what_cannot_be_played(
    play: Play, capsys: pytest.CaptureFixture[str], task: str, options: dict[str, Any], text: str
):
    assert play(task, **options) == BAD_INPUT
    assert text in one_line(capsys.readouterr().err)


def test_a_run_is_of_one_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = SimpleNamespace(cfg=SimpleNamespace(task="franka/pick_cube", pixels=None), observer=None)
    monkeypatch.setattr(playing, "load_policy", lambda path: (run, None))
    with pytest.raises(ValueError, match=r"is of task 'franka/pick_cube', got 'other': drop one"):
        playing.build_playable("other", tmp_path, None, size=64)


def test_a_file_that_cannot_be_written_is_told_before_anything_is_played(tmp_path: Path):
    (tmp_path / "file").touch()
    for out in ("a.txt", "file/a.mp4", "file"):
        with pytest.raises((ValueError, OSError), match=r"a.txt|file"):
            playing.require_output(tmp_path / out)
    playing.require_output(tmp_path / "new" / "a.mp4")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_run_without_cameras_is_recorded_if_asked(tmp_path: Path):
    with registered(episode_steps=4) as task:
        run = tiny_run(tmp_path, task=task)
        for video, written in (("off", False), ("auto", False), ("on", True)):
            run.cfg = with_changes(run.cfg, video=video)
            RunVideo().after_run(run, drawn_policy(run), summary_of(run))
            assert (run.folder.path / "policy.mp4").exists() is written


@pytest.mark.slow
def test_the_whole_script_writes_a_picture_of_the_start(tmp_path: Path):
    command = [sys.executable, str(ROOT / "play.py"), "--size", "32", "--out", "new/a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "new/a.png: front, wrist, side\n"
    picture = matplotlib.image.imread(tmp_path / "new" / "a.png")
    assert picture.shape[:2] == (256, 3 * 256 + 2 * 4)
