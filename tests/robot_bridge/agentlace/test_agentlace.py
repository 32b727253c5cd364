"""An agentlace actor connects; an attacker who speaks agentlace gets nothing to run."""

import collections
import contextlib
import copyreg
import hashlib
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_bridge.agentlace import server as agentlace
from robot_bridge.agentlace.server import AgentlaceConfig, AgentlaceServer, compress, decompress
from robot_bridge.network.codec import CodecError
from robot_bridge.network.endpoints import UnsafeBindError
from scenes.contract import plain_pickle
from scenes.contract.arrays import DTYPES
from scenes.contract.plain_pickle import PickleRefusedError, dumps, loads

WITNESS = "/tmp/robot_bridge_agentlace_was_here"


class Learner:
    def __init__(self) -> None:
        self.rows: list[tuple[str, list]] = []
        self.requests: list[tuple[str, Any]] = []

    def deliver(self, store: str, rows: dict) -> None:
        self.rows.append((store, [*rows.values()]))

    def answer(self, kind: str, payload: Any) -> dict:
        self.requests.append((kind, payload))
        return {"ok": True}


class Actor:
    """The client side of the wire, as agentlace's TrainerClient has it (serl_family.md 4)."""

    def __init__(self, config: AgentlaceConfig) -> None:
        self._context = zmq.Context()
        self.config = config
        self.requests = self._context.socket(zmq.REQ)
        self.requests.linger, self.requests.rcvtimeo = 0, 3000
        self.requests.connect(f"tcp://127.0.0.1:{config.port_number}")
        self.updates = self._context.socket(zmq.SUB)
        self.updates.conflate, self.updates.rcvtimeo = True, 3000
        self.updates.subscribe(b"")
        self.updates.connect(f"tcp://127.0.0.1:{config.broadcast_port}")

    def ask(self, message: Any) -> Any:
        return self.ask_raw(lz4.frame.compress(pickle.dumps(message)))

    def ask_raw(self, frame: bytes) -> Any:
        self.requests.send(frame)
        return pickle.loads(lz4.frame.decompress(self.requests.recv()))

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def learner() -> Learner:
    return Learner()


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture
def server(learner: Learner) -> Iterator[AgentlaceServer]:
    config = AgentlaceConfig(port_number=free_port(), broadcast_port=free_port())
    with AgentlaceServer(
        config, stores=["actor_env"], deliver=learner.deliver, answer=learner.answer
    ) as made:
        yield made


@pytest.fixture
def actor(server: AgentlaceServer) -> Iterator[Actor]:
    made = Actor(server._config)
    yield made
    made.close()
    assert not os.path.exists(WITNESS)


def transition(index: int) -> dict[str, Any]:
    """As SERL's examples send them."""
    pixels = np.full((1, 8, 8, 3), index % 256, np.uint8)
    obs = collections.OrderedDict(front=pixels, state=np.full((1, 7), index, np.float32))
    return {
        "observations": obs,
        "next_observations": obs,
        "actions": np.zeros(4, np.float32),
        "rewards": np.float64(0.5),
        "masks": 1.0 - False,
        "dones": False,
        "intervene": np.bool_(True),
    }


def test_an_actor_does_what_it_does_with_agentlace(server, actor, learner):
    reply = actor.ask({"type": "hash"})
    # The actor compares the md5 of a pickle of the text.
    mine = json.dumps(
        {
            "port_number": actor.config.port_number,
            "broadcast_port": actor.config.broadcast_port,
            "request_types": ["send-stats"],
            "rate_limit": None,
            "version": "0.0.2",
            "experimental_pipeline_port": None,
        },
        separators=(",", ":"),
    )
    assert (
        hashlib.md5(pickle.dumps(reply["payload"])).digest()
        == hashlib.md5(pickle.dumps(mine)).digest()
    )

    def last_id() -> int:
        ask = {"type": "get_last_update_id", "payload": {"store_name": "actor_env"}}
        return actor.ask(ask)["payload"]

    assert last_id() == -1
    data = {"data": [transition(i) for i in range(3)], "last_id": 2}
    message = {"type": "datastore", "store_name": "actor_env", "payload": data}
    taken = {"success": True, "accepted": [True] * 3}
    assert actor.ask(message) == taken
    assert last_id() == 2
    assert actor.ask(message) == taken  # its answer was lost: sent again
    assert server.counters["duplicate"] == 3
    ((store, rows),) = learner.rows
    assert store == "actor_env"
    for index, row in enumerate(rows):
        np.testing.assert_equal(row, transition(index))
        assert row["observations"]["front"].dtype == np.uint8
        assert type(row["observations"]) is dict

    stats = {"train": {"return": np.float32(3.0)}}
    assert actor.ask({"type": "send-stats", "payload": stats}) == {"ok": True}
    assert learner.requests == [("send-stats", stats)]

    actor.ask({"type": "hash"})  # the actor was started anew, its ids begin again
    assert last_id() == -1


def test_the_older_version_has_one_field_less():
    assert "experimental" not in AgentlaceConfig(version="0.0.1").as_json()


def test_parameters_are_broadcast(server, actor):
    tree = {"actor": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step": 3}
    deadline = time.monotonic() + 5.0
    while not actor.updates.poll(50) and time.monotonic() < deadline:
        server.publish(tree)
    got = pickle.loads(lz4.frame.decompress(actor.updates.recv()))
    np.testing.assert_equal(got, tree)
    server.publish({"bad": object()})
    server.publish({"bad": np.array([None])})
    deadline = time.monotonic() + 5.0
    while not server.counters["internal"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert actor.ask({"type": "hash"})["success"]


def test_parameters_do_not_name_what_old_numpy_lacks():
    data = dumps({"x": np.zeros(3), "y": np.float32(1)})
    assert b"numpy._core" not in dumps({"x": np.zeros(3)})
    assert pickle.loads(data)["x"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ([], "got list, allowed: a dict"),
        ({}, "'type' must be str"),
        ({"type": np.zeros(3)}, "'type' must be str"),
        ({"type": "shutdown"}, "Unknown type: 'shutdown'"),
        ({"type": "datastore", "store_name": "other", "payload": {}}, "allowed: actor_env"),
        ({"type": "datastore", "store_name": [], "payload": {}}, "allowed: actor_env"),
        ({"type": "datastore", "store_name": "actor_env"}, "'data' must be list"),
        (
            {"type": "datastore", "store_name": "actor_env", "payload": {"data": []}},
            "'last_id' must be int",
        ),
        (
            {
                "type": "datastore",
                "store_name": "actor_env",
                "payload": {"data": [1], "last_id": 0},
            },
            "allowed: dicts",
        ),
        ({"type": "get_last_update_id", "payload": 3}, "'store_name' must be str"),
    ],
)
def test_wrong_messages_are_answered_and_counted(server, actor, learner, message, said):
    reply = actor.ask(message)
    assert reply["success"] is False
    assert said in reply["message"]
    assert sum(server.counters.values()) == 1
    assert learner.rows == []


def test_a_learner_that_fails_is_told_and_nothing_is_marked_as_sent(server, actor, learner):
    def fail(store: str, rows: list) -> None:
        raise RuntimeError("full disk at /secret/place")

    server._deliver = fail
    payload = {"data": [transition(0)], "last_id": 0}
    message = {"type": "datastore", "store_name": "actor_env", "payload": payload}
    assert actor.ask(message) == {"success": False, "message": "the learner failed"}
    server._deliver = learner.deliver
    assert actor.ask(message) == {"success": True, "accepted": [True]}
    assert len(learner.rows) == 1


class Queue:
    """agentlace's TrainerClient on a QueuedDataStore: sends what is newer than it is told."""

    def __init__(self, config: AgentlaceConfig) -> None:
        self.config, self.rows = config, list[dict]()
        self.wire = Actor(config)
        assert self.wire.ask({"type": "hash"})["success"]

    def update(self) -> Any:
        ask = {"type": "get_last_update_id", "payload": {"store_name": "actor_env"}}
        newer = self.rows[self.wire.ask(ask)["payload"] + 1 :]
        data = {"data": newer, "last_id": len(self.rows) - 1}
        return self.wire.ask({"type": "datastore", "store_name": "actor_env", "payload": data})

    def reconnect(self) -> None:
        """As after a time-out: another socket, and nothing is said."""
        self.wire.close()
        self.wire = Actor(self.config)


def delivered(learner: Learner) -> list[int]:
    return [int(row["observations"]["state"][0, 0]) for _, rows in learner.rows for row in rows]


def test_a_restarted_learner_gets_all_that_the_actor_holds():
    """500 transitions of two pictures of 128 x 128 in one message, as HIL-SERL's actor has them."""
    config = AgentlaceConfig(port_number=free_port(), broadcast_port=free_port())
    counts = []
    pictures = {name: np.zeros((2, 1, 128, 128, 3), np.uint8) for name in ("front", "wrist")}
    actor = None
    for _ in range(2):
        learner = Learner()
        with AgentlaceServer(config, stores=["actor_env"], deliver=learner.deliver):
            actor = actor or Queue(config)
            for index in range(500 - len(actor.rows)):
                here, there = (
                    {name: x[i] + np.uint8(index % 256) for name, x in pictures.items()}
                    for i in range(2)
                )
                row = transition(index) | {"observations": here, "next_observations": there}
                actor.rows.append(row)
            assert actor.update()["success"]
        counts.append(sum(len(rows) for _, rows in learner.rows))
    actor.wire.close()
    assert counts == [500, 500]


def test_a_restarted_actor_begins_again_and_loses_nothing(server, learner):
    for run in range(2):
        actor = Queue(server._config)
        actor.rows = [transition(100 * run + i) for i in range(20)]
        assert actor.update()["success"]
        actor.wire.close()
    assert delivered(learner) == [*range(20), *range(100, 120)]


def test_two_actors_share_a_store_and_reconnect(server, learner):
    actors = [Queue(server._config) for _ in range(2)]
    rng = random.Random(0)
    for step in range(20):
        for place, actor in enumerate(actors):
            for _ in range(rng.randint(0, 9)):
                actor.rows.append(transition(1000 * place + len(actor.rows)))
            if rng.random() < 0.3:
                actor.reconnect()
            assert actor.update()["success"], step
    wanted = [1000 * place + i for place, a in enumerate(actors) for i in range(len(a.rows))]
    assert sorted(delivered(learner)) == wanted
    for actor in actors:
        actor.wire.close()


@pytest.mark.parametrize("last", [2**60, -7, 2**40 + 1])
def test_an_id_that_cannot_be_does_not_spoil_the_store(server, learner, last):
    with contextlib.closing(Actor(server._config)) as liar:
        data = {"data": [transition(0)], "last_id": last}
        message = {"type": "datastore", "store_name": "actor_env", "payload": data}
        assert f"last_id of 1 rows: got {last}" in liar.ask(message)["message"]
    actor = Queue(server._config)
    actor.rows = [transition(i) for i in range(5)]
    actor.reconnect()
    assert actor.update()["success"] and delivered(learner) == [*range(5)]
    actor.wire.close()


def test_each_row_is_answered_for_and_refusals_are_in_the_log(server, actor, learner, caplog):
    data = {"data": [transition(0), 3, transition(2)], "last_id": 2}
    message = {"type": "datastore", "store_name": "actor_env", "payload": data}
    reply = [actor.ask(message) for _ in range(20)][-1]
    assert reply["success"] and reply["accepted"] == [True, False, True]
    assert "1 of 3 rows of 'actor_env': allowed: dicts" in reply["message"]
    assert delivered(learner) == [0, 2]
    assert server.counters["refused_row"] == 20
    # Once a second, not ten thousand times an hour.
    assert 1 <= caplog.text.count("An actor's message was refused: 1 of 3 rows") <= 2


def test_beyond_loopback_only_in_so_many_words(learner):
    config = AgentlaceConfig(port_number=free_port(), broadcast_port=free_port())
    for host in ("0.0.0.0", "*", "192.168.1.2"):
        with pytest.raises(UnsafeBindError, match="listen_beyond_loopback=True"):
            AgentlaceServer(config, stores=[], deliver=learner.deliver, host=host)


def test_a_taken_port_is_one_line(server, learner):
    with pytest.raises(OSError, match="Cannot listen at 127.0.0.1"):
        AgentlaceServer(server._config, stores=[], deliver=learner.deliver)


# -- attacks -------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Slotted:
    __slots__ = ("x",)


def touch() -> tuple[Any, ...]:
    return (f"touch {WITNESS}",)


def crafted(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def deep_list(levels: int) -> bytes:
    return crafted(b"]" * levels, b"a" * (levels - 1))


def billion_laughs() -> list:
    laugh: list = ["ha"]
    for _ in range(9):
        laugh = [laugh] * 10
    return laugh


ATTACKS = {
    "os.system": pickle.dumps(Calls(os.system, touch())),
    "os.system, protocol 0": pickle.dumps(Calls(os.system, touch()), 0),
    "os.system, protocol 2": pickle.dumps(Calls(os.system, touch()), 2),
    "subprocess": pickle.dumps(Calls(subprocess.Popen, (["touch", WITNESS],))),
    "nested": pickle.dumps({"type": "hash", "payload": [{"x": (Calls(os.system, touch()),)}]}),
    "inside an array": pickle.dumps(np.array([Calls(os.system, touch())], object)),
    "array of objects": pickle.dumps(np.array([None, 1], object)),
    "array of records": pickle.dumps(np.zeros(2, [("a", "f4")])),
    "array of text": pickle.dumps(np.array(["a"])),
    "array of dates": pickle.dumps(np.array(["2020-01-01"], "datetime64[D]")),
    "copyreg": pickle.dumps(Calls(copyreg._reconstructor, (Slotted, object, None))),
    "an instance": pickle.dumps(Slotted(), 2),
    "eval": crafted(named("builtins", "eval"), text("1"), b"\x85R"),
    "getattr": crafted(named("builtins", "getattr"), b")R"),
    "a dotted name": crafted(named("numpy", "ndarray.tofile"), b")R"),
    "numpy's own loader": crafted(named("numpy", "load"), text("/tmp/x"), b"\x85R"),
    "an allowed name left over": crafted(named("numpy", "ndarray")),
    "call of numpy.ndarray": crafted(named("numpy", "ndarray"), b"K\x01\x85\x85R"),
    "scalar of objects": crafted(
        named("numpy.core.multiarray", "scalar"), named("numpy", "dtype"), text("O8"), b"\x85R",
        b"C\x08aaaaaaaa", b"\x86R",
    ),
    "persistent id": crafted(text("x"), b"Q"),
    "extension registry": crafted(b"\x82\x01"),
    "new object": crafted(named("collections", "OrderedDict"), b")\x81"),
    "state of a dict": crafted(b"}", b"}", b"b"),
    "truncated": pickle.dumps({"a": np.zeros(5)})[:-10],
    "followed by more": pickle.dumps(1) + b"x",
    "no stack": crafted(b"0", b"a"),
    "a mark too many": crafted(b"(", b"(", b"t"),
    "length of 4 GB": crafted(b"X" + struct.pack("<I", 2**32 - 1)),
    "length of 16 EB": crafted(b"\x8e" + struct.pack("<Q", 2**64 - 1)),
    "memo at 4 G": crafted(b"]", b"r" + struct.pack("<I", 2**32 - 1), b"0"),
    "unknown memo": crafted(b"h\x09"),
    "an integer of 255 bytes": crafted(b"\x8a\xff" + b"\x7f" * 255),
    "deep": deep_list(100_000),
    "a little too deep": deep_list(plain_pickle.MAX_DEPTH + 1),
    "circular": crafted(b"]\x94", b"h\x00", b"a"),
    "a billion laughs": pickle.dumps(billion_laughs()),
    "unhashable key": crafted(b"}", b"]", b"N", b"s"),
    "tuple key": crafted(b"}", b")", b"N", b"s"),
    "too many values": pickle.dumps([0] * (plain_pickle.MAX_VALUES + 1)),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name):
    with pytest.raises(PickleRefusedError):
        loads(ATTACKS[name])
    assert not os.path.exists(WITNESS)


@pytest.mark.parametrize("name", ["os.system", "nested", "copyreg", "deep", "array of objects"])
def test_attacks_are_counted_and_the_server_lives(server, actor, learner, name):
    reply = actor.ask_raw(lz4.frame.compress(ATTACKS[name]))
    assert reply["success"] is False
    assert server.counters["refused_pickle"] == 1
    assert actor.ask({"type": "hash"})["success"]
    assert learner.rows == learner.requests == []


def test_bombs_are_stopped_for_what_they_are():
    for name in ("deep", "circular", "a billion laughs"):
        with pytest.raises(PickleRefusedError, match="Nesting or number of values"):
            loads(ATTACKS[name])
    with pytest.raises(PickleRefusedError, match="Name in a pickle: got posix.system"):
        loads(ATTACKS["os.system"])


def test_one_array_mentioned_often_is_not_many_arrays(monkeypatch):
    monkeypatch.setattr(plain_pickle, "MAX_ARRAY_BYTES", 64 * 2**20)
    big = np.zeros(2**20, np.uint8)
    assert len(loads(pickle.dumps([big] * 3))) == 3
    with pytest.raises(PickleRefusedError, match="Arrays of a pickle"):
        loads(pickle.dumps([big] * 65))


SMALL = 2**20  # in place of half a gigabyte


def bomb() -> bytes:
    return lz4.frame.compress(bytes(SMALL + 1))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (bomb(), "lz4 frame: truncated"),
        (b"", "lz4 frame"),
        (b"not lz4", "Not an lz4 frame"),
        (lz4.frame.compress(b"x" * 1000)[:-4], "lz4 frame: truncated"),
        (lz4.frame.compress(pickle.dumps(1)) * 2, "followed by more"),
        (bytes(SMALL + 1), "Size of a frame"),
    ],
    ids=["bomb", "empty", "nonsense", "truncated", "two", "oversized"],
)
def test_bad_frames_are_refused(frame, said, monkeypatch):
    monkeypatch.setattr(agentlace, "MAX_BYTES", SMALL)
    with pytest.raises(CodecError, match=said):
        decompress(frame)


def test_frames_that_are_no_requests_are_dropped(server, actor):
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(f"tcp://127.0.0.1:{actor.config.port_number}")
        raw.send(b"alone")
        raw.send_multipart([b"x", b"y"])
        raw.send_multipart([b"", b"not lz4"])
        assert raw.poll(3000)
        assert decompress(raw.recv_multipart()[1])["success"] is False
    assert server.counters["malformed"] == 3


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_plain(data):
    for body in (data, b"\x80\x04" + data + b"."):
        try:
            loads(body)
        except PickleRefusedError:
            continue


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_values_come_back(value, protocol):
    assert loads(pickle.dumps(value, protocol)) == value
    assert loads(dumps(value)) == value


@given(
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    st.sampled_from([4, 5]),
    st.booleans(),
)
def test_arrays_and_scalars_come_back(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran and array.ndim else array
    back = loads(pickle.dumps({"x": array, "again": [array]}, protocol))
    for got in (back["x"], back["again"][0]):
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tobytes() == array.tobytes()
    if array.size:
        scalar = loads(pickle.dumps(array.flat[0], protocol))
        assert scalar.dtype == array.dtype
        assert scalar.tobytes() == array.flat[0].tobytes()


def test_numpy_1_names_are_read():
    written = pickle.dumps({"x": np.arange(3.0), "s": np.float32(2)}, 4)
    old = written.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert old != written
    np.testing.assert_equal(loads(old), {"x": np.arange(3.0), "s": np.float32(2)})


def test_frames_come_back():
    tree = {"a": [1, {"b": np.zeros((2, 2), np.float32)}]}
    np.testing.assert_equal(pickle.loads(lz4.frame.decompress(compress(tree))), tree)
