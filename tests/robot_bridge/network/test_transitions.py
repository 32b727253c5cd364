"""Transitions out, parameters in: everything once, in order, and only when it is whole."""

import contextlib
import errno
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_bridge.network import keys
from robot_bridge.network import transitions as stream
from robot_bridge.network.codec import Ask, CodecError, Part, Rows, Taken, decode, encode
from robot_bridge.network.endpoints import ClientKeys, UnsafeBindError
from robot_bridge.network.keys import Keyring
from robot_bridge.network.parameters import pack_parameters, unpack_parameters
from robot_bridge.network.spool import Spool
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.network.transitions import TransitionServer
from scenes.contract.arrays import DTYPES


def batch(index: int) -> dict[str, np.ndarray]:
    return {"index": np.array([index]), "pixels": np.full((1, 8, 8, 3), index % 256, np.uint8)}


def eventually(holds: Callable[[], object], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Learner:
    """Collects what it takes, and has a disk."""

    def __init__(self, server: TransitionServer) -> None:
        self.server = server
        self.seen: list[int] = []
        self.upto: dict[bytes, int] = {}

    def has(self, count: int, *, saves: bool = True) -> bool:
        for come in self.server.take():
            self.seen.append(int(come.arrays["index"][0]))
            self.upto[come.run] = come.id
        if saves:
            self.server.saved(self.upto)
        return len(self.seen) >= count


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        yield f"ipc://{folder}/stream"


def test_every_batch_comes_once_and_in_order(address):
    with TransitionServer(address) as server, TransitionClient(address) as client:
        learner = Learner(server)
        assert all(client.put(batch(i)) for i in range(300))
        assert eventually(lambda: learner.has(300))
        assert client.flush(3.0)
        assert not learner.has(301)
        assert learner.seen == list(range(300))


def test_a_full_queue_is_said_and_loses_nothing(address):
    with TransitionClient(address, spool=Spool(capacity=10)) as client:
        assert [client.put(batch(i)) for i in range(12)] == [True] * 10 + [False] * 2
        assert client.pending == 10
        assert not client.flush(0.05)
        with TransitionServer(address, capacity=4) as server:
            assert eventually(lambda: server.counters["full"] > 0)
            learner = Learner(server)
            assert eventually(lambda: learner.has(10), 10.0)
            assert learner.seen == list(range(10))
            assert client.flush(3.0)
            assert client.put(batch(10))


def test_a_full_disk_is_said_and_what_was_kept_still_goes_out(address, tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with TransitionClient(address, spool=Spool(tmp_path)) as client:
        assert client.put(batch(0))
        with monkeypatch.context() as patched:
            patched.setattr("robot_bridge.network.spool.write_atomically", full)
            assert not client.put(batch(1))
            assert client.trouble == "No space left on device"
        assert client.put(batch(2))
        with TransitionServer(address) as server:
            learner = Learner(server)
            assert eventually(lambda: learner.has(2))
            assert learner.seen == [0, 2]


def test_a_learner_started_anew_gets_what_was_not_taken(address):
    with TransitionClient(address) as client:
        with TransitionServer(address) as server:
            first = Learner(server)
            for index in range(5):
                client.put(batch(index))
            assert eventually(lambda: first.has(5))
            assert client.flush(3.0)
            for index in range(5, 9):
                client.put(batch(index))
            assert eventually(lambda: len(server._waiting) == 4)  # came, but was never taken
        with TransitionServer(address) as server:
            second = Learner(server)
            client.put(batch(9))
            assert eventually(lambda: second.has(5))
            assert client.flush(3.0)
    assert first.seen + second.seen == list(range(10))


def test_an_actor_started_anew_is_another_run(address):
    with TransitionServer(address) as server:
        learner = Learner(server)
        for start in (0, 100):
            with TransitionClient(address) as client:
                for index in range(start, start + 3):
                    client.put(batch(index))
                assert eventually(lambda: learner.has(3 + 3 * (start > 0)))  # noqa: B023
        assert learner.seen == [0, 1, 2, 100, 101, 102]


def test_what_no_checkpoint_holds_is_sent_to_the_next_learner(address, tmp_path):
    with (
        TransitionClient(address, spool=Spool(tmp_path)) as client,
        TransitionServer(address) as server,
    ):
        first = Learner(server)
        for index in range(6):
            client.put(batch(index))
        assert eventually(lambda: first.has(6, saves=False))
        upto = dict.fromkeys(first.upto, 2)  # so far goes its last checkpoint
        server.saved(upto)
        assert eventually(lambda: client.pending == 3)
    # Both have died.
    with (
        TransitionClient(address, spool=Spool(tmp_path)) as client,
        TransitionServer(address, saved=upto) as server,
    ):
        second = Learner(server)
        client.put(batch(6))
        assert eventually(lambda: second.has(4))
        assert second.seen == [3, 4, 5, 6]
        assert client.flush(3.0)


def test_a_checkpoint_older_than_the_last_does_not_stop_what_follows(address):
    with TransitionServer(address, saved={b"r": 4}), raw_actor(address) as ask:
        # The actor has dropped up to 7, which a checkpoint held that was damaged since.
        told = ask(encode(Ask(run=b"r", first=8, version=-1, part=-1)))
        assert (told.have, told.id, told.learned) == (7, 7, 7)  # nobody waits for what is lost
        assert ask(encode(Rows(run=b"r", id=8, arrays=batch(8)))).have == 8


def test_an_actor_waits_until_everything_is_learned_where_the_learner_says_so(address):
    with TransitionServer(address, pace=0) as server, TransitionClient(address) as client:
        learner = Learner(server)
        client.put(batch(0))
        assert eventually(lambda: learner.has(1))
        assert not client.wait(0.3)
        server.publish(1, {"x": np.zeros(2)})
        server.learned(learner.upto, ahead=0)
        assert client.wait(3.0)
        assert client.parameters.version == 1


def test_what_a_checkpoint_holds_may_not_be_learned_from_yet(address):
    with TransitionServer(address, saved={b"r": 4}, pace=0) as server, raw_actor(address) as ask:
        told = ask(encode(Ask(run=b"r", first=5, version=-1, part=-1)))
        assert (told.id, told.have, told.learned) == (4, 4, -1)
        server.learned({b"r": 4}, ahead=0)
        assert ask(encode(Ask(run=b"r", first=5, version=-1, part=-1))).learned == 4


def test_an_actor_waits_while_the_learner_is_behind_and_not_when_it_has_gone(address):
    with TransitionClient(address) as client:
        with TransitionServer(address, pace=2) as server:
            learner = Learner(server)
            assert client.wait(3.0)
            for index in range(4):
                client.put(batch(index))
            assert eventually(lambda: learner.has(4))
            assert eventually(lambda: not client.may_go_on)
            server.learned(learner.upto, ahead=1)
            assert client.wait(3.0)
            server.learned(learner.upto, ahead=3)
            assert eventually(lambda: not client.may_go_on)
        assert client.wait(4.0)
        assert client.silent > 1.0


def test_two_actors_do_not_clash(address):
    with (
        TransitionServer(address) as server,
        TransitionClient(address) as one,
        TransitionClient(address) as two,
    ):
        learner = Learner(server)
        for index in range(20):
            one.put(batch(index))
            two.put(batch(1000 + index))
        assert eventually(lambda: learner.has(40))
        assert [i for i in learner.seen if i < 1000] == list(range(20))
        assert [i for i in learner.seen if i >= 1000] == list(range(1000, 1020))


def test_parameters_come_whole_and_newest_wins(address):
    rng = np.random.default_rng(0)
    big = {"conv": rng.normal(size=(300, 1000)).astype(np.float32), "bias": np.zeros(3)}
    with TransitionServer(address) as server, TransitionClient(address) as client:
        assert client.parameters is None
        server.publish(1, big)
        assert eventually(lambda: client.parameters is not None)
        assert client.parameters.version == 1
        np.testing.assert_array_equal(client.parameters.arrays["conv"], big["conv"])
        server.publish(4, {"bias": np.ones(3)})
        server.publish(5, {"bias": np.full(3, 5.0)})
        assert eventually(lambda: client.parameters.version == 5)
        assert client.parameters.arrays["bias"].tolist() == [5.0, 5.0, 5.0]
        with pytest.raises(ValueError, match="got 5, allowed: > 5"):
            server.publish(5, big)


@contextlib.contextmanager
def raw_actor(address: str) -> Iterator[Callable[[bytes], object]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger = 0
        made.connect(address)

        def ask(data: bytes) -> object:
            made.send(data)
            return decode(made.recv())[0] if made.poll(2000) else None

        yield ask


def test_repeats_gaps_and_strangers(address):
    def rows(index: int) -> bytes:
        return encode(Rows(run=b"r", id=index, arrays=batch(index)))

    with TransitionServer(address) as server, raw_actor(address) as ask:
        assert ask(rows(7)).kind == "unknown_run"
        assert ask(encode(Ask(run=b"r", first=7, version=-1, part=-1))) == Taken(
            run=b"r", id=6, have=6, version=-1, learned=6
        )
        assert ask(rows(7)).have == 7
        assert ask(rows(7)).have == 7  # a repeat
        assert ask(rows(9)).have == 7  # a gap
        assert [int(b["index"][0]) for b in [come.arrays for come in server.take()]] == [7]
        assert ask(rows(7)).id == 6
        server.saved({b"r": 7})
        assert ask(rows(7)).id == 7
        assert server.take() == []
        assert ask(encode(Taken(run=b"r", id=0, have=0, version=0))) is None
        assert server.counters == dict.fromkeys(stream.REJECTIONS, 0) | {
            "unknown_run": 1, "gap": 1, "malformed": 1,
        }  # fmt: skip


def test_parameters_that_were_changed_on_the_way_are_not_used(address, caplog):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as fake:
        fake.linger = 0
        fake.bind(address)
        with TransitionClient(address) as client:
            deadline = time.monotonic() + 3.0
            while "sha256" not in caplog.text and time.monotonic() < deadline:
                peer, data = fake.recv_multipart()
                ask, _ = decode(data)
                blob = pack_parameters({"x": np.zeros(2)})
                answer = Taken(run=ask.run, id=-1, have=-1, version=3)
                if ask.part >= 0:
                    answer = Part(version=3, part=0, parts=1, digest=b"wrong", data=blob)
                fake.send_multipart([peer, encode(answer)])
            assert "their sha256 is wrong" in caplog.text
            assert client.parameters is None


def test_ages_are_right_where_the_clocks_are_not(address):
    def late() -> float:  # an hour behind the learner
        return time.time() - 3600.0

    with TransitionServer(address) as server, TransitionClient(address, wall=late) as client:
        assert client.age == math.inf and server.round_trip is None
        server.publish(1, {"x": np.zeros(2)})
        assert eventually(lambda: client.parameters is not None and server.round_trip is not None)
        assert client.offset.seconds == pytest.approx(3600.0, abs=0.1)
        assert client.age < 3.0
        client.put(batch(0))
        found = []
        assert eventually(lambda: found.extend(server.take()) or found)
        assert found[0].age is not None and found[0].age < 3.0


def test_keys_and_roles_hold_here_too(address):
    folder = Path(address.removeprefix("ipc://")).parent
    keys.new_server(folder)
    public = keys.load_pair(folder / "server.key").public
    observer = ClientKeys(public, keys.new_client(folder, "eye", "observe"))
    actor = ClientKeys(public, keys.new_client(folder, "actor", "command"))
    with TransitionServer(address, keys=Keyring(folder)) as server:
        learner = Learner(server)
        for own in (None, observer):
            with TransitionClient(address, keys=own) as client:
                client.put(batch(0))
                assert not client.flush(0.4)
        assert server.counters["role"] > 0
        with TransitionClient(address, keys=actor) as client:
            client.put(batch(1))
            assert eventually(lambda: learner.has(1))
        assert learner.seen == [1]


def test_an_open_bind_without_keys_is_refused():
    with pytest.raises(UnsafeBindError, match="no keys are given"):
        TransitionServer("tcp://0.0.0.0:5000")


def test_what_cannot_be_sent_is_said_at_once(address):
    with TransitionClient(address) as client:
        with pytest.raises(CodecError, match="Dtype"):
            client.put({"x": np.array([None])})
        with pytest.raises(CodecError, match="Size of a message"):
            client.put({"x": np.zeros(2**23 + 1, np.uint8)})
        assert client.pending == 0


ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
    ),
    max_size=4,
)


@given(ARRAYS)
def test_parameters_come_back(arrays):
    back = unpack_parameters(pack_parameters(arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@given(st.binary(max_size=100))
def test_garbage_is_no_parameters(blob):
    try:
        back = unpack_parameters(blob)
    except CodecError:
        return
    assert isinstance(back, dict)
