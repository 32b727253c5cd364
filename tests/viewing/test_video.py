"""Files of pictures: what a browser is given, and what stays where writing fails."""

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import numpy as np
import pytest

from mjx_serl.viewing import video
from mjx_serl.viewing.video import GAP, GAP_COLOR, grid, save_picture, save_video, side_by_side

RED, GREEN = (200, 60, 30), (20, 200, 60)


def probe(path: Path) -> str:
    """What ffmpeg says of a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """The frames of a video, uint8 [T, H, W, 3]."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def moving_square(count: int, height: int, width: int) -> np.ndarray:
    """A green square that moves right by one pixel per frame, on red."""
    frames = np.full((count, height, width, 3), RED, np.uint8)
    for t in range(count):
        frames[t, 8:24, t : t + 16] = GREEN
    return frames


def test_a_small_odd_camera_comes_back_enlarged_in_its_colours(tmp_path: Path):
    frames = moving_square(20, 63, 65)
    save_video(tmp_path / "a.mp4", frames, fps=10)
    # 63 px need five times to reach 256; 315 and 325 are odd and grow by one.
    back = decode(tmp_path / "a.mp4", 316, 326)
    assert len(back) == 20
    np.testing.assert_allclose(back[0, 300, 300], RED, atol=8)
    np.testing.assert_allclose(back[0, 80, 40], GREEN, atol=8)
    np.testing.assert_allclose(back[19, 80, 40], RED, atol=8)
    np.testing.assert_allclose(back[19, 80, 5 * 19 + 40], GREEN, atol=8)


def test_browsers_can_play_it_while_it_loads(tmp_path: Path):
    path = tmp_path / "a.mp4"
    save_video(path, moving_square(6, 64, 64), fps=12.5)
    said = probe(path)
    assert "h264" in said and "yuv420p(tv, bt709" in said
    assert "12.50 fps" in said and "256x256" in said
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert path.stat().st_mode & 0o777 == 0o644


def test_large_frames_keep_their_size(tmp_path: Path):
    save_video(tmp_path / "a.mp4", moving_square(2, 300, 400), fps=10)
    assert "400x300" in probe(tmp_path / "a.mp4")


def test_a_video_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    exe = tmp_path / "broken"
    exe.write_text("#!/bin/sh\ncat > /dev/null\necho no space left >&2\nexit 1\n")
    exe.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(exe))
    path = tmp_path / "a.mp4"
    path.write_text("precious")
    with pytest.raises(OSError, match=r"a\.mp4: ffmpeg failed: no space left"):
        save_video(path, moving_square(2, 64, 64), fps=10)
    assert path.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "broken"]


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match="Writing videos needs imageio_ffmpeg.*pip inst"):
        save_video(tmp_path / "a.mp4", moving_square(2, 64, 64), fps=10)


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"float32\[2, 8, 8, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"uint8\[0, 8, 8, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8\[8, 8, 3\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"uint8\[2, 8, 8, 4\]"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, frames: np.ndarray, got: str):
    with pytest.raises(ValueError, match=rf"Pictures are {got}, allowed: uint8\[T, H, W, 3\]"):
        save_video(tmp_path / "a.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_cameras_side_by_side():
    small = np.full((3, 64, 64, 3), 1, np.uint8)
    odd = np.full((3, 100, 84, 3), 2, np.uint8)
    large = np.full((3, 256, 200, 3), 3, np.uint8)
    both = side_by_side([small, odd, large])
    # 64 -> 256, 100 -> 200 in the middle of 256, 256 as it is.
    assert both.shape == (3, 256, 256 + GAP + 168 + GAP + 200, 3)
    assert (both[:, :, :256] == 1).all()
    assert (both[:, :, 256 : 256 + GAP] == GAP_COLOR).all()
    column = both[0, :, 256 + GAP + 5, 0]
    assert (column[28:228] == 2).all() and (column[:28] == GAP_COLOR).all()
    assert (column[228:] == GAP_COLOR).all()
    assert (both[:, :, -200:] == 3).all()


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (4, 2, 2), (5, 2, 3), (9, 3, 3)])
def test_worlds_in_a_grid(count: int, rows: int, columns: int):
    worlds = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
    tiled = grid(np.broadcast_to(worlds, (count, 10, 10, 3)), gap=2)
    assert tiled.shape == (12 * rows - 2, 12 * columns - 2, 3)
    corners = tiled[::12, ::12, 0].ravel()
    assert corners[:count].tolist() == list(range(1, count + 1))
    assert (corners[count:] == GAP_COLOR).all()
    assert (tiled[10:12] == GAP_COLOR).all()


def test_wide_worlds_are_stacked():
    assert grid(np.zeros((8, 10, 40, 3), np.uint8), gap=0).shape == (40, 80, 3)


def test_a_picture_comes_back_exactly(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    save_picture(tmp_path / "a.png", picture)
    back = matplotlib.image.imread(tmp_path / "a.png")
    np.testing.assert_array_equal(np.round(255 * back[..., :3]).astype(np.uint8), picture)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pixels_are_repeated_not_blended():
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    large = video.enlarge(frames, least=12)
    assert large.shape == (2, 15, 18, 3)
    for row in range(3):
        np.testing.assert_array_equal(large[:, row::3, row::3], frames)
