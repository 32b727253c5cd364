"""Demonstrations by hand: on disk at once, gone on with, taken back."""

from pathlib import Path

import numpy as np
import pytest

from mjx_serl.data.demos import load_demos
from mjx_serl.pilot.demo_file import DemoFile
from mjx_serl.types import Transition
from scenes.contract.demonstrations import DemoContract
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

CONTRACT = DemoContract.of(
    "toy",
    ObsSpec(fields=(ObsField(name="x", shape=(2,)),)),
    ActionSpec(mode="ee_delta", names=("x", "gripper"), scale=(0.1, 1.0), rate=10.0),
    episode_steps=8,
)


def episode(length: int, value: float) -> Transition:
    over = np.arange(length)[:, None] == length - 1
    no = np.zeros((length, 1), bool)
    return Transition(
        obs={"x": np.full((length, 1, 2), value, np.float32)},
        action=np.full((length, 1, 2), value / 10, np.float32),
        reward=over.astype(np.float32),
        terminated=over,
        truncated=no,
        valid=~no,
        expert=~no,
        extras={"policy_action": np.zeros((length, 1, 2), np.float32)},
    )


def values(path: Path) -> list[float]:
    rows = load_demos(path, CONTRACT)
    return [float(x) for x in rows.obs["x"][0, :, 0]]


def test_every_episode_is_on_disk_at_once(tmp_path: Path) -> None:
    file = DemoFile(tmp_path / "mine.npz", CONTRACT)
    for i, length in enumerate((3, 5, 2), start=1):
        file.append(episode(length, i))
        assert values(file.path) == [float(k) for k in range(1, i + 1)]
    rows = load_demos(file.path, CONTRACT)
    np.testing.assert_array_equal(rows.valid.sum(axis=0), [3, 5, 2])
    assert (len(file), file.steps) == (3, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.npz"]


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    DemoFile(path, CONTRACT).append(episode(3, 1))
    again = DemoFile(path, CONTRACT)
    again.append(episode(6, 2))
    assert values(path) == [1.0, 2.0]
    rows = load_demos(path, CONTRACT)
    np.testing.assert_array_equal(rows.valid.sum(axis=0), [3, 6])


def test_the_last_one_can_be_taken_back(tmp_path: Path) -> None:
    file = DemoFile(tmp_path / "mine.npz", CONTRACT)
    assert not file.take_back()
    file.append(episode(3, 1))
    file.append(episode(3, 2))
    assert file.take_back() and values(file.path) == [1.0]
    assert file.take_back() and not file.path.exists()


def test_a_file_of_another_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    DemoFile(path, CONTRACT).append(episode(3, 1))
    other = DemoContract(**{**CONTRACT.__dict__, "task": "other"})
    with pytest.raises(ValueError, match="task: task other, demonstrations toy"):
        DemoFile(path, other)
