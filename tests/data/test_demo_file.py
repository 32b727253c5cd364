"""Demonstrations by hand: on disk at once, gone on with, taken back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.data.demos import load_demos
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


def test_any_can_be_deleted_by_its_key_which_stays(tmp_path: Path) -> None:
    file = DemoFile(tmp_path / "mine.npz", CONTRACT)
    for i, length in enumerate((3, 5, 2), start=1):
        file.append(episode(length, i))
    assert file.delete(2) == 1 and file.delete(2) == 0
    assert file.episodes == ((1, 3, 1.0), (3, 2, 1.0))
    file.append(episode(4, 4))
    assert [e.key for e in file.episodes] == [1, 3, 4] and values(file.path) == [1.0, 3.0, 4.0]
    again = DemoFile(file.path)
    assert again.contract == CONTRACT and len(again) == 3, "by what it says of itself"
    assert again.delete(1, 3) == 2 and values(file.path) == [3.0]
    arrays = again.arrays(2)
    assert arrays is not None and arrays["action"].shape == (2, 2)
    assert again.arrays(1) is None


def test_states_go_on_with_the_file_and_a_file_without_them_without(tmp_path: Path) -> None:
    known = dataclasses.replace(CONTRACT, states=(("sim/q", (1,), "float32"),), scene="ours")

    def with_state(value: float) -> Transition:
        rows = episode(3, value)
        return rows.replace(extras={"sim/q": np.full((3, 1, 1), value, np.float32)})

    path, older = tmp_path / "mine.npz", tmp_path / "older.npz"
    DemoFile(path, known).append(with_state(1))
    file = DemoFile(path, known)
    file.append(with_state(2))
    kept = [DemoFile(path).arrays(key) for key in (1, 2)]
    assert [float(a["state/sim/q"][0, 0]) for a in kept if a is not None] == [1.0, 2.0]
    DemoFile(older, CONTRACT).append(episode(3, 1))
    goes_on = DemoFile(older, known)
    assert goes_on.contract == CONTRACT
    goes_on.append(with_state(2))
    assert values(older) == [1.0, 2.0]
    other = dataclasses.replace(known, scene="theirs")
    with pytest.raises(ValueError, match="states are of another scene"):
        DemoFile(path, other)
