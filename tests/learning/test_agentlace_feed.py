"""A SERL actor feeds our learner: its transitions as episodes, parameters back, both start anew."""

import pickle
import socket
import time
from collections.abc import Iterator
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zmq

from mjx_serl.learning import agentlace_feed
from mjx_serl.learning.agentlace_feed import ENV, PEOPLE, AgentlaceFeed
from mjx_serl.learning.arrivals import ArrivedEpisode
from robot_bridge.agentlace.server import AgentlaceConfig
from scenes.contract.demonstrations import DemoContract
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(0.02, 0.02, 0.02, 1.0), rate=10.0
)
FIELDS = (
    ObsField(name="wrist", shape=(8, 8, 3), dtype="uint8"),
    ObsField(name="ee_position", shape=(3,), unit="m"),
)
CONTRACT = DemoContract.of("franka/pick_cube", ObsSpec(fields=FIELDS), ACTION)
MAP = ("ee_position=state[0:3]", "wrist=wrist_1")


def row(number: int, *, done: bool = False, paid: float = 0.0) -> dict[str, Any]:
    """A transition as SERL's actors store it: a history axis of one, a mask."""

    def obs(n: int) -> dict[str, np.ndarray]:
        return {"state": np.full((1, 6), n, np.float32), "wrist_1": np.full((1, 8, 8, 3), n, "u1")}

    return {
        "observations": obs(number),
        "actions": np.full(4, number / 100, np.float32),
        "next_observations": obs(number + 1),
        "rewards": paid,
        "masks": 1.0 - done,
        "dones": done,
    }


def received(socket: zmq.Socket) -> Any:
    """What agentlace makes of a frame."""
    return pickle.loads(lz4.frame.decompress(socket.recv()))


class Actor:
    """The wire of agentlace's TrainerClient: asks for the last id, sends all that is newer."""

    def __init__(self, port: int) -> None:
        self._context = zmq.Context()
        self._requests = self._context.socket(zmq.REQ)
        self._requests.linger, self._requests.rcvtimeo = 0, 3000
        self._requests.connect(f"tcp://127.0.0.1:{port}")
        self.updates = self._context.socket(zmq.SUB)
        self.updates.conflate, self.updates.rcvtimeo = True, 3000
        self.updates.subscribe(b"")
        self.updates.connect(f"tcp://127.0.0.1:{port + 1}")
        self.rows: dict[str, list[Any]] = {ENV: [], PEOPLE: []}
        self.ask(type="hash")

    def ask(self, **message: Any) -> dict[str, Any]:
        self._requests.send(lz4.frame.compress(pickle.dumps(message)))
        return received(self._requests)

    def update(self, store: str = ENV) -> None:
        name = {"store_name": store}
        last = self.ask(type="get_last_update_id", payload=name)["payload"]
        payload = {"data": self.rows[store][last + 1 :], "last_id": len(self.rows[store]) - 1}
        assert self.ask(type="datastore", store_name=store, payload=payload)["success"]

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def port() -> int:
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        return first.getsockname()[1]


def config(port: int) -> AgentlaceConfig:
    return AgentlaceConfig(port_number=port, broadcast_port=port + 1)


@pytest.fixture
def feed(port: int) -> Iterator[AgentlaceFeed]:
    made = AgentlaceFeed(config(port), CONTRACT, MAP)
    yield made
    made.close()


@pytest.fixture
def actor(port: int, feed: AgentlaceFeed) -> Iterator[Actor]:
    made = Actor(port)
    yield made
    made.close()


def numbers(episode: ArrivedEpisode) -> list[int]:
    return episode.arrays["obs/ee_position"][:, 0].astype(int).tolist()


def test_transitions_become_episodes_and_those_of_people_are_experts(feed, actor) -> None:
    actor.rows[ENV] = [row(n, done=n in (3, 7), paid=float(n == 3)) for n in range(9)]
    actor.rows[PEOPLE] = [row(n, done=n == 7) for n in range(5, 8)]
    actor.update()
    actor.update(PEOPLE)
    solved, timed_out, shown = feed.take()
    assert [numbers(e) for e in (solved, timed_out, shown)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [5, 6, 7],
    ]
    assert solved.arrays["terminated"].tolist() == [False] * 3 + [True]
    assert solved.arrays["reward"].tolist() == [0, 0, 0, 1]
    assert timed_out.arrays["truncated"].tolist() == [False] * 3 + [True]
    assert not solved.arrays["expert"].any() and shown.arrays["expert"].all()
    assert solved.arrays["obs/wrist"].shape == (4, 8, 8, 3)
    assert feed.take() == []  # the ninth waits for its episode's end


def test_what_a_person_did_before_an_episodes_end_does_not_wait_for_one(feed, actor) -> None:
    actor.rows[PEOPLE] = [row(n) for n in (2, 3, 20, 21, 22)]
    actor.update(PEOPLE)
    (first,) = feed.take()
    assert numbers(first) == [2, 3] and first.arrays["truncated"].tolist() == [False, True]
    actor.rows[PEOPLE].append(row(40))
    actor.update(PEOPLE)
    assert [numbers(e) for e in feed.take()] == [[20, 21, 22]]


def test_what_a_person_did_last_comes_once_they_have_let_go(feed, actor, monkeypatch) -> None:
    actor.rows[PEOPLE] = [row(n) for n in (2, 3)]
    actor.update(PEOPLE)
    assert feed.take() == []
    actor.rows[ENV] = [row(4)]
    actor.update()
    assert feed.take() == []  # they may drive on
    now = time.monotonic() + 6.0
    monkeypatch.setattr(agentlace_feed.time, "monotonic", lambda: now)
    actor.rows[ENV].append(row(5))
    actor.update()
    (shown,) = feed.take()
    assert numbers(shown) == [2, 3] and shown.arrays["expert"].all()
    assert shown.arrays["truncated"].tolist() == [False, True]
    actor.rows[ENV].append(row(6))
    actor.update()
    assert feed.take() == []


def test_parameters_come_back_by_the_parts_of_their_names(feed, actor) -> None:
    weights = np.arange(3, dtype=np.float32)
    deadline, got = time.monotonic() + 5.0, None
    while got is None and time.monotonic() < deadline:
        feed.publish({"agent/actor/dense_0": weights, "normalizer/mean/x": weights + 1})
        actor.updates.rcvtimeo = 200
        try:
            got = received(actor.updates)
        except zmq.Again:
            continue
    assert got is not None
    np.testing.assert_array_equal(got["agent"]["actor"]["dense_0"], weights)
    np.testing.assert_array_equal(got["normalizer"]["mean"]["x"], weights + 1)


def test_a_learner_that_starts_anew_takes_nothing_twice_and_loses_nothing(port) -> None:
    first = AgentlaceFeed(config(port), CONTRACT, MAP)
    actor = Actor(port)
    actor.rows[ENV] = [row(n, done=n == 3) for n in range(6)]
    actor.update()
    (episode,) = first.take()
    kept = first.seen()  # of a checkpoint that holds the episode, and not the two rows after it
    first.close()
    again = AgentlaceFeed(config(port), CONTRACT, MAP, kept)
    actor.rows[ENV] += [row(n, done=n == 8) for n in range(6, 9)]
    actor.update()  # it is told -1, and sends all that it holds
    assert [numbers(e) for e in again.take()] == [[4, 5, 6, 7, 8]]
    assert numbers(episode) == [0, 1, 2, 3]
    again.close()
    actor.close()


def test_a_checkpoint_knows_the_rows_it_holds_whichever_store_they_came_from(port) -> None:
    """Those that a person drove wait for what follows, while later ones are learned from."""
    first = AgentlaceFeed(config(port), CONTRACT, MAP)
    actor = Actor(port)
    actor.rows[PEOPLE] = [row(n) for n in (1, 2)]
    actor.update(PEOPLE)
    actor.rows[ENV] = [row(n, done=n in (3, 7)) for n in range(8)]
    actor.update()
    stored, waiting = first.take()
    kept = first.seen(without=waiting.keys)
    first.close()
    again = AgentlaceFeed(config(port), CONTRACT, MAP, kept)
    actor.rows[PEOPLE].append(row(30))
    actor.update(PEOPLE)
    actor.update()
    assert numbers(stored) == [0, 1, 2, 3]
    assert [numbers(e) for e in again.take()] == [[4, 5, 6, 7], [1, 2]]
    again.close()
    actor.close()


def test_rows_of_another_task_are_refused_and_counted(feed, actor, capsys) -> None:
    other = row(0, done=True)
    other["observations"]["wrist_1"] = np.zeros((1, 16, 16, 3), np.uint8)
    actor.rows[ENV] = [other, row(1, done=True)]
    actor.update()
    assert [numbers(e) for e in feed.take()] == [[1]]
    assert feed.refused == 1
    assert "picture 'wrist'" in capsys.readouterr().err
