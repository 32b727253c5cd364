"""Files of ours taken for another task: what agrees is kept, what does not is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from foreign_task import CONTRACT, NUMBERS, contract_of, imported, numbers

from scenes.contract.demonstrations import stack_episodes, write_demonstrations

LENGTHS = (4, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    episodes = []
    for seed, length in enumerate(LENGTHS):
        data, last = numbers(length, seed), np.arange(length) == length - 1
        episode = {f"obs/{name}": data[name] for name, *_ in CONTRACT.obs}
        episode |= {"action": data["action"], "reward": last.astype(np.float32)}
        episode |= {"terminated": last & (seed == 0), "truncated": last & (seed == 1)}
        episodes.append(episode | {"expert": ~last})
    write_demonstrations(tmp_path / "demos.npz", stack_episodes(episodes), CONTRACT)
    return tmp_path / "demos.npz"


def test_some_of_what_was_observed_for_another_task(path: Path):
    """As for a run without cameras, of which the file has some."""
    other = dataclasses.replace(contract_of(*NUMBERS, limit=5), task="other")
    found = imported(path, contract=other)
    assert len(found.episodes) == 2
    for seed, episode in enumerate(found.episodes):
        data, last = numbers(LENGTHS[seed], seed), np.arange(LENGTHS[seed]) == LENGTHS[seed] - 1
        assert {name for name in episode if name.startswith("obs/")} == {"obs/grip", "obs/position"}
        np.testing.assert_array_equal(episode["obs/position"], data["position"])
        np.testing.assert_array_equal(episode["action"], data["action"])
        np.testing.assert_array_equal(episode["expert"], ~last)
        np.testing.assert_array_equal(episode["terminated"], last & (seed == 0))
        np.testing.assert_array_equal(episode["truncated"], last & (seed == 1))
    assert "pays and ends as 'toy' did: hold that against the task yourself" in found.notes
    assert "1 episodes are longer than the task's limit of 5 steps: taken whole" in found.notes
    assert not any("taken as this task's" in note for note in found.notes)


def test_actions_that_mean_something_else_are_refused(path: Path):
    changes = {"action_scale": (0.1, 0.1, 0.1, 0.5), "mode": "ee_delta_osc", "frame": "tool"}
    with pytest.raises(ValueError) as caught:
        imported(path, contract=dataclasses.replace(CONTRACT, **changes))
    *lines, _ = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "mode of actions",
        "frame of actions",
        "action_scale [m per step, gripper 1]",
    ]
    slower = dataclasses.replace(CONTRACT, rate=5.0)
    with pytest.raises(ValueError, match=r"rate \[Hz\]: task 5, file 10"):
        imported(path, contract=slower)


def test_a_map_answers_for_the_scale(path: Path):
    smaller = dataclasses.replace(CONTRACT, action_scale=(0.2, 0.2, 0.2, 1.0))
    found = imported(path, "action=0.5*action[0:3],action[3]", contract=smaller)
    wanted = numbers(4, 0)["action"] * [0.5, 0.5, 0.5, 1.0]
    np.testing.assert_allclose(found.episodes[0]["action"], wanted, rtol=1e-6)


def test_episodes_in_which_physics_failed_are_left_out(path: Path, tmp_path: Path):
    with np.load(path) as file:
        arrays = {name: np.array(file[name]) for name in file.files}
    arrays["valid"][2, 1] = False
    arrays["truncated"][2, 1] = True
    np.savez(tmp_path / "lost.npz", **arrays)
    found = imported(tmp_path / "lost.npz")
    assert len(found.episodes) == 1
    assert "1 episodes in which physics failed left out" in found.notes
