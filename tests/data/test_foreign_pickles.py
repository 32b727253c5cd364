"""Pickles as SERL and HIL-SERL write them: what is read, what is told, what is refused."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_task import CONTRACT, NUMBERS, contract_of, imported, numbers

from scenes.contract.demonstrations import load_demonstrations, stack_episodes, write_demonstrations

MAP = ("position=state[1:4]", "grip=state[0]")
Rows = list[dict[str, Any]]


def transitions(length: int, seed: int = 0, *, reward: float = 1.0, mask: float = 0.0) -> Rows:
    """An episode as `record_demos.py` of HIL-SERL saves it: one observation of history."""
    data = numbers(length + 1, seed)
    # gym orders the entries of a flattened observation by name.
    state = np.concatenate([data["grip"], data["position"]], axis=1).astype(np.float64)
    obs = [
        OrderedDict(state=state[t][None], front=data["front"][t][None]) for t in range(length + 1)
    ]
    rows: Rows = []
    for t in range(length):
        last = t == length - 1
        rows.append(
            {
                "observations": obs[t],
                "actions": data["action"][t],
                "next_observations": obs[t + 1],
                "rewards": np.float64(reward if last else 0.0),
                "masks": mask if last else 1.0,
                "dones": np.bool_(last),
                "infos": {"succeed": last, "note": "text"},
            }
        )
    return rows


def saved(tmp_path: Path, rows: Any, protocol: int = 4) -> Path:
    path = tmp_path / "demos.pkl"
    path.write_bytes(pickle.dumps(rows, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_episodes_come_as_they_were(tmp_path: Path, protocol: int):
    rows = transitions(4) + transitions(3, seed=1)
    found = imported(saved(tmp_path, rows, protocol), *MAP)
    assert len(found.episodes) == 2 and found.steps == 7
    for episode, (seed, length) in zip(found.episodes, ((0, 4), (1, 3)), strict=True):
        data = numbers(length + 1, seed)
        for name in ("position", "grip", "front"):
            np.testing.assert_array_equal(episode[f"obs/{name}"], data[name][:-1])
            assert episode[f"obs/{name}"].dtype == data[name].dtype
        np.testing.assert_array_equal(episode["action"], data["action"][:-1])
        np.testing.assert_array_equal(episode["reward"], [0] * (length - 1) + [1])
        np.testing.assert_array_equal(episode["terminated"], episode["reward"] > 0)
        assert not episode["truncated"].any() and episode["expert"].all()
    assert any("rate 10 Hz, scale 0.1, 0.1, 0.1, 1 " in note for note in found.notes)
    assert "position = state[1:4]" in found.notes and "front = front" in found.notes


def test_what_is_written_is_a_file_of_ours(tmp_path: Path):
    found = imported(saved(tmp_path, transitions(4) + transitions(2, seed=1)), *MAP)
    write_demonstrations(tmp_path / "demos.npz", stack_episodes(found.episodes), CONTRACT)
    arrays, contract = load_demonstrations(tmp_path / "demos.npz")
    assert contract == CONTRACT
    np.testing.assert_array_equal(arrays["valid"].sum(0), [4, 2])


def test_an_end_that_pays_nothing_is_a_time_out_whatever_the_mask_says(tmp_path: Path):
    """Real robots of SERL put mask 0 at the time limit (serl_family.md 7, number 23)."""
    rows = transitions(3, reward=0.0) + transitions(3, 1, reward=0.0, mask=1.0) + transitions(3, 2)
    found = imported(saved(tmp_path, rows), *MAP)
    assert [bool(e["terminated"].any()) for e in found.episodes] == [False, False, True]
    assert [bool(e["truncated"][-1]) for e in found.episodes] == [True, True, False]
    assert "1 episodes end unpaid with mask 0: taken for time-outs" in found.notes
    assert "2 of 3 episodes end unsolved: their last step is truncated" in found.notes


def test_gaps_cut_episodes(tmp_path: Path):
    """As in a buffer of interventions, of which a person's steps alone were kept."""
    rows = transitions(6)
    del rows[2]
    found = imported(saved(tmp_path, rows), *MAP)
    assert [len(e["reward"]) for e in found.episodes] == [2, 3]
    assert found.episodes[0]["truncated"][-1] and not found.episodes[0]["terminated"].any()
    assert "1 times a transition does not lead to the next: cut there" in found.notes


def test_an_episode_without_an_end_is_cut(tmp_path: Path):
    found = imported(saved(tmp_path, transitions(4)[:-1]), *MAP)
    assert found.episodes[0]["truncated"].tolist() == [False, False, True]
    assert "1 episode does not end: cut at its last step" in found.notes


def test_longer_episodes_than_the_task_s_are_told(tmp_path: Path):
    found = imported(saved(tmp_path, transitions(9)), *MAP)
    assert "1 episodes are longer than the task's limit of 6 steps: taken whole" in found.notes


def test_flat_observations_are_called_state(tmp_path: Path):
    rows = transitions(3)
    for row in rows:
        for key in ("observations", "next_observations"):
            row[key] = row[key]["state"][0]
    found = imported(saved(tmp_path, rows), *MAP, contract=contract_of(*NUMBERS))
    assert found.episodes[0]["obs/position"].shape == (3, 3)


def test_numbers_that_are_not_finite_leave_the_episode_out(tmp_path: Path):
    rows = transitions(3) + transitions(3, seed=1)
    rows[1]["observations"]["state"][0, 2] = np.nan
    rows[5]["actions"] = np.array([0, 0, 0, 1e300])
    rows += transitions(2, seed=2)
    found = imported(saved(tmp_path, rows), *MAP)
    assert len(found.episodes) == 1 and "steps pay 0 to 1" in found.notes
    assert any(note.startswith("2 episodes with numbers that are not") for note in found.notes)
    with pytest.raises(ValueError, match="no episode can be used, of 1 that there are"):
        imported(saved(tmp_path, rows[:3]), *MAP)


def test_actions_beyond_the_range_are_told_and_cut_when_asked(tmp_path: Path):
    rows = transitions(3)
    rows[1]["actions"] = np.array([1.5, 0, 0, -3], np.float32)
    path = saved(tmp_path, rows)
    with pytest.raises(
        ValueError, match=r"1 of 3 steps have actions beyond \[-1, 1\], up to 3: --c"
    ):
        imported(path, *MAP)
    found = imported(path, *MAP, clip_actions=True)
    np.testing.assert_array_equal(found.episodes[0]["action"][1], [1, 0, 0, -1])
    found = imported(path, *MAP, "action=0.25*action")
    np.testing.assert_array_equal(found.episodes[0]["action"][1], [0.375, 0, 0, -0.75])


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path):
    rows = transitions(2)
    for row in rows:
        row["actions"] = np.zeros(7)
        row["observations"]["front"] = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError) as caught:
        imported(saved(tmp_path, rows), "grip=states[0]", "speed=state")
    assert [line.split("demos.pkl: ")[1] for line in str(caught.value).splitlines()] == [
        "--map speed: the task has front, grip, position, action",
        "picture 'front': task uint8[8, 8, 3], file uint8[4, 4, 3]; --image-size, or record anew",
        "--map grip: the file has no states",
        "observation 'position' float32[3]: nothing is called so; say --map position=...",
        "'action': task float32[4], file 'action' of 7 entries; say --map action=...",
        "the file (SERL or HIL-SERL pickle) has: state float64[4], front uint8[4, 4, 3], "
        "action float64[7]",
    ]


# -- what is no such file ----------------------------------------------------------------------


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_read_only_when_that_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match=r"which can run programs .* --allow-pickle"):
        imported(saved(tmp_path, transitions(2)), *MAP, allow_pickle=False)


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path):
    rows = transitions(2)
    rows[0]["infos"] = Trap(tmp_path / "trapped")
    with pytest.raises(ValueError, match="Name in a pickle: got pathlib"):
        imported(saved(tmp_path, rows), *MAP)
    assert not (tmp_path / "trapped").exists()


REFUSED = {
    "a dict": ({"a": 1}, "is a pickle of a dict; allowed: a list of transitions"),
    "nothing": ([], "is a pickle of a list; allowed: a list of transitions"),
    "frames": ([np.zeros(3)], "transition 0 has no 'observations'"),
    "no mask": ([{k: v for k, v in transitions(1)[0].items() if k != "masks"}], "no 'masks'"),
    "words": ([transitions(1)[0] | {"observations": {"state": "text"}}], "'state' is <U4"),
    "rewards": ([transitions(1)[0] | {"rewards": np.zeros(2)}], "'rewards' of a transition is no"),
    "shapes": (
        [*transitions(2)[:1], transitions(2)[1] | {"actions": np.zeros(3)}],
        "'action' is not in all transitions, or not of one shape",
    ),
}


@pytest.mark.parametrize("kind", [*REFUSED])
def test_what_is_no_list_of_transitions(tmp_path: Path, kind: str):
    value, text = REFUSED[kind]
    with pytest.raises(ValueError) as caught:
        imported(saved(tmp_path, value), *MAP)
    assert text in str(caught.value) and "demos.pkl" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04", b"\x80\x09.", b"\x89HDF"])
def test_what_begins_like_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="begins with|pickle"):
        imported(tmp_path / "x", *MAP)


def test_files_that_are_not_there_or_hold_other_arrays(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        imported(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match=r"has no meta/info\.json; allowed: a pickle of SERL"):
        imported(tmp_path)
    np.savez(tmp_path / "ours.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match=r"ours\.npz is no demonstration file: 'contract' is mis"):
        imported(tmp_path / "ours.npz")
