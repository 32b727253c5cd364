"""Exported demonstrations: what the trainer's own reader accepts, with the actions executed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from recorded import make_contract, make_header, make_obs, make_tick, record

from mjx_serl.data.demos import DemoContract, load_demos
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer
from mjx_serl.run.demonstrations import demo_contract
from robot_bridge.messages import ENDINGS
from robot_bridge.records.demonstrations import Exported, export_demos
from robot_bridge.records.lerobot import export_lerobot
from robot_bridge.records.recorder import Recorder
from scenes.contract.policy_contract import Contract

TASK = "franka/pick_cube"
CONTRACT = make_contract()


def of(contract: Contract) -> DemoContract:
    steps = contract.episode_steps
    return DemoContract.of(TASK, contract.obs, contract.action, episode_steps=steps)


def test_the_trainer_reads_what_was_recorded_under_its_own_contract(tmp_path: Path):
    observer = Observer(make_env(TASK))
    contract = observer.contract
    episodes = {4: "success", 7: "success", 5: "failure"}
    recording = record(tmp_path / "r", contract, episodes, by_hand={2: -0.25})
    said = export_demos([recording], tmp_path / "demos.npz", contract, task=TASK)
    assert said == Exported(episodes=2, steps=11, intervened=2)
    rows = load_demos(tmp_path / "demos.npz", demo_contract(observer))
    steps = np.arange(7)[:, None]
    length = np.array([4, 7])
    np.testing.assert_array_equal(rows.valid, steps < length)
    np.testing.assert_array_equal(rows.terminated, steps == length - 1)
    np.testing.assert_array_equal(rows.reward, (steps == length - 1).astype(np.float32))
    np.testing.assert_array_equal(rows.expert, np.broadcast_to(steps == 2, (7, 2)))
    assert not rows.truncated.any()
    wanted = np.where(steps == 2, -0.25, (steps + 1) / 100) * rows.valid
    np.testing.assert_allclose(rows.action, np.broadcast_to(wanted[..., None], (7, 2, 4)))
    for values in rows.obs.values():
        np.testing.assert_array_equal(values[:4, 0].reshape(4, -1)[:, 0], [0, 1, 2, 3])
        assert not values[4:, 0].any()


def test_pictures_come_along_and_recordings_are_joined(tmp_path: Path):
    first = record(tmp_path / "a", CONTRACT, {3: "success"})
    second = record(tmp_path / "b", CONTRACT, {2: "failure", 4: None})
    out, endings = tmp_path / "demos.npz", ("success", "failure", "cut")
    said = export_demos([first, second], out, CONTRACT, task=TASK, endings=endings)
    assert (said.episodes, said.steps) == (3, 9)
    rows = load_demos(out, of(CONTRACT))
    assert rows.obs["front"].shape == (4, 3, 16, 24, 3) and rows.obs["front"].dtype == np.uint8
    assert rows.terminated.sum(0).tolist() == [1, 1, 0]
    assert rows.truncated.sum(0).tolist() == [0, 0, 1]
    assert rows.reward.sum(0).tolist() == [1, 0, 0]


def test_what_was_cut_short_is_truncated_and_never_a_failure(tmp_path: Path):
    recording = record(tmp_path / "r", CONTRACT, {2: "cut", 3: "timeout", 4: "fault", 5: "reset"})
    with pytest.raises(ValueError, match="recorded are: 2 cut, 1 fault, 1 timeout"):
        export_demos([recording], tmp_path / "no.npz", CONTRACT, task=TASK, endings=("failure",))
    export_demos([recording], tmp_path / "demos.npz", CONTRACT, task=TASK, endings=ENDINGS)
    rows = load_demos(tmp_path / "demos.npz", of(CONTRACT))
    assert not rows.terminated.any() and rows.truncated.sum(0).tolist() == [1, 1, 1, 1]
    assert not rows.reward.any()


def test_another_contract_is_refused(tmp_path: Path):
    recording = record(tmp_path / "r", CONTRACT, {3: "success"})
    other = dataclasses.replace(CONTRACT, episode_steps=7)
    with pytest.raises(ValueError, match=r"recorded under contract \w{12}, this one is \w{12}"):
        export_demos([recording], tmp_path / "demos.npz", other, task=TASK)
    assert list(tmp_path.iterdir()) == [recording]


def test_without_a_success_it_says_what_there_is(tmp_path: Path):
    recording = record(tmp_path / "r", CONTRACT, {3: "failure", 2: "failure", 4: None})
    with pytest.raises(ValueError, match="wanted success, recorded are: 1 cut, 2 failure"):
        export_demos([recording], tmp_path / "demos.npz", CONTRACT, task=TASK)


def test_an_existing_file_is_kept(tmp_path: Path):
    recording = record(tmp_path / "r", CONTRACT, {3: "success"})
    export_demos([recording], tmp_path / "demos.npz", CONTRACT, task=TASK)
    with pytest.raises(FileExistsError, match="never overwritten"):
        export_demos([recording], tmp_path / "demos.npz", CONTRACT, task=TASK)


def test_episodes_with_lost_ticks_are_left_out(tmp_path: Path):
    with Recorder(tmp_path / "r", make_header(CONTRACT)) as recorder:
        for index in (0, 1, 5):
            recorder.put(make_tick(index, action=np.zeros(4)), make_obs(CONTRACT, index))
        recorder.event("success")
    with pytest.raises(ValueError, match="recorded are: 1 incomplete"):
        export_demos([tmp_path / "r"], tmp_path / "demos.npz", CONTRACT, task=TASK)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (np.zeros(2, np.float32), r"'ee_lag' is float32\[2\], allowed: float32\[3\]"),
        (np.zeros(3), r"'ee_lag' is float64\[3\], allowed: float32\[3\]"),
        (np.full(3, np.nan, np.float32), "'ee_lag' is not finite at 1000.010 s"),
    ],
)
def test_observations_that_do_not_fit_are_named(tmp_path: Path, broken, said: str):
    with Recorder(tmp_path / "r", make_header(CONTRACT)) as recorder:
        recorder.put(make_tick(0), make_obs(CONTRACT, 0) | {"ee_lag": broken})
        recorder.put(make_tick(1, action=np.zeros(4)))
        recorder.event("success")
    with pytest.raises(ValueError, match=said):
        export_demos([tmp_path / "r"], tmp_path / "demos.npz", CONTRACT, task=TASK)
    assert not (tmp_path / "demos.npz").exists()


def test_a_damaged_recording_is_exported_only_when_said_so(tmp_path: Path):
    recording = record(tmp_path / "r", CONTRACT, {5: "success", 6: "success", 7: "success"})
    part = recording / "part-0000.rec"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1  # in the second episode
    part.write_bytes(bytes(data))
    for export in (export_demos, export_lerobot):
        out = tmp_path / export.__name__
        with pytest.raises(ValueError, match=r"is damaged: \d+ bytes at \d+ .*--allow-damage"):
            export([recording], out, CONTRACT, task=TASK)
        assert not out.exists()
    out = tmp_path / "demos.npz"
    said = export_demos([recording], out, CONTRACT, task=TASK, allow_damage=True)
    # What is left out is the episode that is not whole, and no other.
    assert said == Exported(episodes=2, steps=12, intervened=0)


def test_a_damaged_ending_is_no_reason_to_join_episodes(tmp_path: Path):
    """The verdict of the first and the ticks between the two are lost."""
    recording = record(tmp_path / "r", CONTRACT, {5: "success", 6: "success"})
    part = recording / "part-0000.rec"
    data = bytearray(part.read_bytes())
    verdict = data.index(b"success")
    data[verdict] ^= 1
    part.write_bytes(bytes(data))
    out = tmp_path / "demos.npz"
    said = export_demos([recording], out, CONTRACT, task=TASK, allow_damage=True)
    assert said == Exported(episodes=1, steps=6, intervened=0)
