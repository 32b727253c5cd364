"""Labelled pictures on disk: what is read fits, whatever else is there is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjx_serl.data.frames import FrameFile, load_frames

GOOD: dict[str, Any] = {
    "frames/front": np.full((3, 8, 8, 3), 7, np.uint8),
    "label": np.array([0, 1, 1], np.int32),
    "episode": np.array([0, 0, 4], np.int32),
}


def load(path: Path, **changes: Any):
    np.savez(path, **{k: v for k, v in (GOOD | changes).items() if v is not None})
    return load_frames(path, cameras=("front",), size=8, classes=2)


def test_frames_are_read(tmp_path: Path):
    pictures, label, episode = load(tmp_path / "f.npz")
    assert (pictures["front"] == 7).all()
    assert label.tolist() == [0, 1, 1] and episode.tolist() == [0, 0, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames/front": GOOD["frames/front"][:, :4]}, r"uint8\[3, 4, 8, 3\], allowed: uint8\[3"),
        ({"frames/front": None}, "holds no frames of front"),
        ({"label": np.array([0.0, 1.0, 1.0])}, "'label' is float64"),
        ({"label": np.array([0, 1, 2])}, "label 2, allowed: 0 to 1"),
        ({"episode": np.array([0, -1, 2])}, "'episode' is int64"),
        ({"label": np.array([{}] * 3, object)}, "holds no frames"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "f.npz", **changes)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="No frames"):
        load_frames(tmp_path / "f.npz", cameras=(), size=8, classes=2)


def test_whole_episodes_are_on_disk_at_once_and_gone_on_with(tmp_path: Path):
    path, sizes = tmp_path / "f.npz", {"cameras": ("front",), "size": 8}

    def pictures(value: int, count: int) -> dict[str, np.ndarray]:
        return {"front": np.full((count, 8, 8, 3), value, np.uint8)}

    file = FrameFile(path, **sizes)
    file.append(pictures(1, 3), np.array([False, True, True]))
    file = FrameFile(path, **sizes)
    file.append(pictures(2, 2), np.array([False, False]))
    assert file.counts == (3, 2) and [p.name for p in tmp_path.iterdir()] == ["f.npz"]
    seen, label, episode = load_frames(path, **sizes, classes=2)
    assert seen["front"][:, 0, 0, 0].tolist() == [1, 1, 1, 2, 2]
    assert label.tolist() == [0, 1, 1, 0, 0] and episode.tolist() == [0, 0, 0, 1, 1]
    file.take_back()
    assert FrameFile(path, **sizes).counts == (1, 2)
    file.take_back()
    assert not path.exists()


def test_a_file_of_frames_that_cannot_go_on_stays(tmp_path: Path, monkeypatch: Any):
    path, both = tmp_path / "f.npz", np.zeros((2, 8, 8, 3), np.uint8)
    file = FrameFile(path, cameras=("front", "wrist"), size=8)
    file.append({"front": both, "wrist": both}, np.array([True, False]))
    with pytest.raises(ValueError, match="holds frames of wrist too"):
        FrameFile(path, cameras=("front",), size=8)
    with pytest.raises(ValueError, match=r"allowed: uint8\[2, 16, 16, 3\]"):
        FrameFile(path, cameras=("front", "wrist"), size=16)
    monkeypatch.setattr("mjx_serl.data.frames.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="allowed are 1000"):
        file.append({"front": both, "wrist": both}, np.array([True, False]))
    assert file.counts == FrameFile(path, cameras=file.cameras, size=8).counts == (1, 1)
