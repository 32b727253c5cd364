"""Labelled pictures on disk: what is read fits, whatever else is there is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjx_serl.data.frames import load_frames

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
