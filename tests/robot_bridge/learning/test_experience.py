"""What a learner gets of an arm is what a recording of it would give as demonstrations."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded import make_contract, play, record

from robot_bridge.learning.experience import Experience
from robot_bridge.learning.link import LearnerLink, LearningConfig
from robot_bridge.network.spool import Spool
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.network.transitions import TransitionServer
from robot_bridge.records.demonstrations import export_demos
from scenes.contract.demonstrations import load_demonstrations

CONTRACT = make_contract()
EPISODES = {40: "success", 3: "failure", 17: "timeout"}
BY_HAND = {2: -0.25, 16: 0.5}


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        yield f"ipc://{folder}/learner"


def perform(experience: Experience) -> None:
    """Live what `record` writes."""
    first = 0
    for steps, ending in EPISODES.items():
        *played, after = play(CONTRACT, steps, first=first, by_hand=BY_HAND)
        experience.event("begin")
        for tick, obs in played:
            assert experience.put(tick, obs)
        experience.event(ending)
        assert experience.put(*after)
        first += len(played) + 1


def received(server: TransitionServer, rows: int) -> list[dict[str, np.ndarray]]:
    """All batches, once so many rows have come."""
    got, deadline = [], time.monotonic() + 5.0
    while sum(len(b["reward"]) for b in got) < rows and time.monotonic() < deadline:
        got += [dict(come.arrays) for come in server.take()]
        time.sleep(0.01)
    return got


def test_it_is_what_the_recording_would_give(address: str, tmp_path: Path) -> None:
    with TransitionServer(address) as server, TransitionClient(address) as client:
        experience = Experience(client, CONTRACT.obs)
        perform(experience)
        experience.close()
        got = received(server, 60)
    assert (experience.steps, experience.lost) == (60, 0)
    assert max(len(batch["reward"]) for batch in got) == 16
    joined = {name: np.concatenate([b[name] for b in got]) for name in got[0]}
    recording = record(tmp_path / "r", CONTRACT, EPISODES, by_hand=BY_HAND)
    endings = ("success", "failure", "timeout")
    export_demos([recording], tmp_path / "d.npz", CONTRACT, task="a/b", endings=endings)
    wanted, _ = load_demonstrations(tmp_path / "d.npz")
    valid = wanted.pop("valid").T.reshape(-1)
    assert joined.pop("step").tolist() == [*range(40), *range(3), *range(17)]
    assert joined.keys() == wanted.keys()
    for name, x in wanted.items():
        episodes_first = np.moveaxis(x, 1, 0).reshape(-1, *x.shape[2:])
        np.testing.assert_array_equal(joined[name], episodes_first[valid], err_msg=name)


def test_an_episode_that_ends_with_the_process_is_cut(address: str) -> None:
    with TransitionServer(address) as server, TransitionClient(address) as client:
        experience = Experience(client, CONTRACT.obs)
        experience.event("begin")
        for tick, obs in list(play(CONTRACT, 5))[:-1]:
            experience.put(tick, obs)
        experience.close()
        (batch,) = received(server, 5)
    assert batch["truncated"].tolist() == [False] * 4 + [True]
    assert not batch["terminated"].any()


def test_what_finds_no_room_is_counted_and_what_came_before_is_kept(address: str) -> None:
    with TransitionClient(address, spool=Spool(capacity=2)) as client:
        experience = Experience(client, CONTRACT.obs)
        perform(experience)
        experience.close()
        assert (experience.steps, experience.lost) == (32, 28)
        assert client.trouble == "the spool is full"
        assert client.pending == 2


def test_an_arm_goes_on_for_a_while_when_its_learner_is_gone(tmp_path: Path) -> None:
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        config = LearningConfig(learner=folder, spool=tmp_path / "spool", grace=2.5)
        link = LearnerLink(config, CONTRACT.obs, said.append)
        try:
            assert link.next_turn()  # after two seconds of silence
            deadline = time.monotonic() + 5.0
            while link.next_turn():
                assert time.monotonic() < deadline
        finally:
            link.close()
    assert said[-1] == "learner  nothing was heard of it for 2.5 s"
    assert link.told == "0 steps to the learner, 0 lost"
