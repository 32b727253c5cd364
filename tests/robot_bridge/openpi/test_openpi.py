"""openpi's websocket protocol: our server with their client, our client with our server."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from peer_env import PeerEnv, peer_python
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robot_bridge.deploy.serve import read_renaming
from robot_bridge.network.codec import CodecError
from robot_bridge.network.endpoints import UnsafeBindError
from robot_bridge.openpi import client as openpi_client
from robot_bridge.openpi import wire as openpi_wire
from robot_bridge.openpi.client import (
    RemotePolicy,
    RemotePolicyConfig,
    RemotePolicyError,
    RemotePolicyTimeout,
)
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig, safe_traceback
from robot_bridge.openpi.wire import pack, unpack
from robot_bridge.policy.observation import Words
from scenes.contract.arrays import DTYPES
from scenes.contract.language import INSTRUCTION, Language, TokenizerConfig, instruction_field
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.serialize import digest
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec
from scenes.robots.panda import panda

pytestmark = pytest.mark.keeps_time

# openpi-client 0.1.2's own bytes (reference vla_and_real2sim.md 4.4).
GOLDEN = bytes.fromhex(
    "83a16184c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634"
    "c40573686170659102a16ecb3ff8000000000000a670726f6d7074a47069636b"
)
CONTRACT = Contract(
    robot=panda(),
    obs=ObsSpec(
        fields=(
            ObsField(name="ee_position", shape=(3,)),
            ObsField(name="front", shape=(4, 4, 3), dtype="uint8"),
        )
    ),
    action=ActionSpec(
        mode="ee_delta", names=("dx", "dy", "dz", "gripper"), scale=(0.01,) * 4, rate=10.0
    ),
    ik=IkSpec(rate=100.0, damping=0.01, max_joint_step=0.1),
    home=panda().home,
    episode_steps=100,
)
OBS = {
    "ee_position": np.array([0.1, 0.2, 0.3], np.float32),
    "front": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
}


class Linear:
    """Actions that tell which observation they answer."""

    def __init__(self) -> None:
        self.resets = 0
        self.wait = threading.Event()
        self.wait.set()

    def reset(self) -> None:
        self.resets += 1

    def act(self, obs: dict) -> np.ndarray:
        self.wait.wait(10.0)
        first = float(obs["ee_position"][0]) + float(obs["front"].mean()) / 1000
        return np.full((2, 4), first, np.float32)


class Batched(Linear):
    def act_batch(self, obs: list[dict]) -> list[np.ndarray]:
        return [self.act(one) for one in obs]


class Broken(Linear):
    def act(self, obs: dict) -> np.ndarray:
        raise ValueError("no such file: /home/someone/secret/weights.npz")


@contextlib.contextmanager
def served(policy: Linear, **options: object) -> Iterator[PolicyServer]:
    with PolicyServer(policy, CONTRACT, PolicyServerConfig(port=0, **options)) as server:
        yield server


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    with served(Linear()) as made:
        yield made


def uri(server: PolicyServer) -> str:
    return f"ws://127.0.0.1:{server.port}"


def remote(server: PolicyServer, **options: object) -> RemotePolicy:
    made = RemotePolicy(CONTRACT, RemotePolicyConfig(uri=uri(server), timeout=2.0, **options))
    made.wait(5.0)
    return made


def eventually(holds: Callable[[], object], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# -- the wire ------------------------------------------------------------------------------------


def test_bytes_are_those_of_openpi():
    message = {"a": np.array([1, 2], np.float32), "n": np.float64(1.5), "prompt": "pick"}
    assert pack(message) == GOLDEN
    back = unpack(GOLDEN)
    np.testing.assert_array_equal(back["a"], message["a"])
    assert back["a"].dtype == np.float32
    assert not back["a"].flags.writeable  # as theirs
    assert back["n"] == 1.5
    assert back["prompt"] == "pick"


@given(
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    )
)
def test_arrays_come_back(array):
    back = unpack(pack({"x": [array, {"y": array}], "z": array[()] if array.ndim == 0 else 1}))
    for got in (back["x"][0], back["x"][1]["y"]):
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_scalars_come_back_with_their_dtype():
    back = unpack(pack({"f": np.float32(0.5), "i": np.int64(-3), "b": np.bool_(True)}))
    assert {name: type(value) for name, value in back.items()} == {
        "f": np.float32, "i": np.int64, "b": np.bool_,
    }  # fmt: skip


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_plain(data):
    with contextlib.suppress(CodecError):
        unpack(data)


def array_map(**fields: object) -> bytes:
    good = {b"__ndarray__": True, b"data": b"\x00" * 8, b"dtype": "<f4", b"shape": [2]}
    return msgspec.msgpack.encode(good | {k.encode(): v for k, v in fields.items()})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (array_map(dtype="|O8"), "Dtype of an array: got '|O8'"),
        (array_map(dtype="V8"), "Dtype"),
        (array_map(dtype=5), "dtype as text"),
        (array_map(shape=[3]), "got 8 bytes, allowed: 12"),
        (array_map(shape=[-1]), "got 8 bytes"),
        (array_map(shape=[2**62, 2**62]), "got 8 bytes"),
        (array_map(shape=["2"]), "shape as whole numbers"),
        (array_map(data="text"), "data as bytes"),
        (b"\x91" * 50_000, "Not a message"),
        (b"\x91" * 20 + b"\x01", "Nesting"),
        (msgspec.msgpack.encode([1] * 20_000), "number of values"),
        (msgspec.msgpack.encode({5: 1}), "Keys of a map"),
        (msgspec.msgpack.encode({b"__npgeneric__": True, b"data": 999, b"dtype": "|u1"}), "Scalar"),
        (msgspec.msgpack.encode({b"__npgeneric__": True, b"data": "x", b"dtype": "|u1"}), "Scalar"),
        (b"\x80" + b"\x00" * openpi_wire.MAX_BYTES, "Size of a message"),
    ],
)
def test_bad_messages_are_refused(data, said):
    with pytest.raises(CodecError, match=said.replace("|", r"\|")):
        unpack(data)


@pytest.mark.parametrize("value", [np.array([None]), np.zeros(2, complex), np.array("a"), object()])
def test_what_is_no_number_is_not_sent(value):
    with pytest.raises(CodecError):
        pack({"x": value})


# -- the server ----------------------------------------------------------------------------------


def test_metadata_tell_a_wrong_preset(server):
    with connect(uri(server)) as connection:
        metadata = unpack(connection.recv())
    assert metadata["contract"] == digest(CONTRACT)
    assert metadata["observations"]["front"] == {"shape": [4, 4, 3], "dtype": "uint8"}
    assert metadata["action_dim"] == 4
    assert metadata["action_names"] == ["dx", "dy", "dz", "gripper"]


def test_answers_carry_actions_and_timing(server):
    with connect(uri(server)) as connection:
        connection.recv()
        for turn in range(2):
            connection.send(pack(OBS | {"prompt": "pick"}))
            reply = unpack(connection.recv())
            np.testing.assert_allclose(reply["actions"], np.full((2, 4), 0.1235), atol=1e-6)
            assert reply["policy_timing"]["infer_ms"] >= 0
            assert ("prev_total_ms" in reply["server_timing"]) == (turn == 1)


def test_health_is_answered_while_the_policy_hangs():
    policy = Linear()
    with served(policy) as server, connect(uri(server)) as connection:
        connection.recv()
        policy.wait.clear()
        connection.send(pack(OBS))
        url = f"http://127.0.0.1:{server.port}/healthz"
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        with connect(uri(server)) as other:
            assert unpack(other.recv())["action_dim"] == 4
        policy.wait.set()
        assert unpack(connection.recv(timeout=5.0))["actions"].shape == (2, 4)


def test_a_server_of_a_hung_policy_still_closes():
    policy = Linear()
    policy.wait.clear()
    began = time.monotonic()
    with served(policy) as server, connect(uri(server)) as connection:
        connection.recv()
        connection.send(pack(OBS))
        time.sleep(0.05)
        server.close()
    assert time.monotonic() - began < 6.0
    policy.wait.set()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"ee_position": OBS["ee_position"]}, "missing front; got ee_position"),
        (OBS | {"fronte": 1}, "Did you mean 'front'"),
        (OBS | {"front": OBS["front"].astype(np.float32)}, "got float32 .*allowed: uint8"),
        (OBS | {"ee_position": np.zeros(4, np.float32)}, r"got float32 \(4,\), allowed: float32"),
        ({"a": {"b": {"c": 1}}}, "a/b/c"),
        ([1, 2], "got list, allowed: a map"),
        ("text", "got text, allowed: msgpack"),
    ],
)
def test_wrong_observations_are_said_and_end_the_connection(server, sent, said):
    with connect(uri(server)) as connection:
        connection.recv()
        connection.send(sent if isinstance(sent, str) else pack(sent))
        text = connection.recv()
        assert isinstance(text, str)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv()
    assert closed.value.rcvd.code == 1011
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(text)
    assert server.rejected == 1


def test_tracebacks_carry_no_folders():
    with served(Broken()) as server, connect(uri(server)) as connection:
        connection.recv()
        connection.send(pack(OBS))
        text = str(connection.recv())
    assert text.startswith("Traceback")
    assert "test_openpi.py" in text
    assert text.endswith("ValueError: no such file: weights.npz")
    assert "/" not in text
    assert "/" not in safe_traceback(OSError(2, "gone", "/root/a-b.c/d_e/f"))


def test_several_clients_are_one_batch():
    policy = Batched()
    clients = 6
    with served(policy, batch_window=0.1) as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(uri(server))) for _ in range(clients)]
        for connection in connections:
            connection.recv()
        for index, connection in enumerate(connections):
            at = {"ee_position": np.full(3, index, np.float32), "front": OBS["front"] * 0}
            connection.send(pack(at))
        for index, connection in enumerate(connections):
            actions = unpack(connection.recv(timeout=5.0))["actions"]
            np.testing.assert_array_equal(actions, np.full((2, 4), index))
        assert max(server.batches) > 1
        assert sum(size * count for size, count in server.batches.items()) == clients


def test_names_of_clients_are_ours_by_config():
    renamed = {"images/cam": "front", "observation/state": "ee_position"}
    sent = {"images": {"cam": OBS["front"]}, "observation/state": OBS["ee_position"]}
    with served(Linear(), renamed=renamed) as server, connect(uri(server)) as connection:
        connection.recv()
        connection.send(pack(sent))
        assert unpack(connection.recv())["actions"].shape == (2, 4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["front"], "'front' is not THEIRS=OURS"),
        (["=front"], "is not THEIRS=OURS"),
        (["cam=fornt"], "Unknown observation 'fornt'. Did you mean 'front'"),
        (["cam="], "Unknown observation ''"),
        (["cam=front", "cam2=front"], "renamed twice"),
        (["cam=front", "cam=ee_position"], "renamed twice"),
    ],
)
def test_names_on_the_command_line_are_checked(words, line):
    with pytest.raises((ValueError, KeyError), match=line):
        read_renaming(words, CONTRACT.obs.names)


def test_names_on_the_command_line():
    read = read_renaming(["images/cam=front", "s=ee_position"], CONTRACT.obs.names)
    assert read == {"images/cam": "front", "s": "ee_position"}


def test_beyond_loopback_needs_a_token():
    for host in ("0.0.0.0", "", "192.168.0.2", "robot.lan"):
        with pytest.raises(UnsafeBindError, match="there is no token"):
            PolicyServer(Linear(), CONTRACT, PolicyServerConfig(host=host, port=0))


@pytest.mark.parametrize("sent", [None, "Api-Key wrong", "secret", "Api-Key ", "Bearer secret"])
def test_without_the_token_there_is_nothing(sent):
    with served(Linear(), token="secret") as server:
        headers = None if sent is None else {"Authorization": sent}
        with pytest.raises(InvalidStatus) as refused:
            connect(uri(server), additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert server.rejected == 1
        right = {"Authorization": "Api-Key secret"}
        with connect(uri(server), additional_headers=right) as connection:
            assert unpack(connection.recv())["action_dim"] == 4
    assert "secret" not in repr(PolicyServerConfig(token="secret"))


def test_browsers_are_turned_away(server):
    with pytest.raises(InvalidStatus) as refused:
        connect(uri(server), origin="http://evil.example")
    assert refused.value.response.status_code == 403


def test_too_many_clients_are_turned_away():
    with served(Linear(), max_clients=1) as server, connect(uri(server)):
        with pytest.raises(InvalidStatus) as refused:
            connect(uri(server))
        assert refused.value.response.status_code == 503


def test_sixteen_idle_clients_keep_nobody_out():
    with served(Linear(), idle_after=0.1) as server, contextlib.ExitStack() as stack:
        busy = stack.enter_context(connect(uri(server)))
        busy.recv()
        idle = [stack.enter_context(connect(uri(server))) for _ in range(7)]
        time.sleep(0.15)
        for _ in range(9):  # as many again
            busy.send(pack(OBS))
            assert unpack(busy.recv(timeout=2.0))["actions"].shape == (2, 4)
            idle.append(stack.enter_context(connect(uri(server))))
            time.sleep(0.12)
        idle[0].recv()  # the metadata that it was told
        with pytest.raises(ConnectionClosed) as closed:
            idle[0].recv(timeout=2.0)
        assert closed.value.rcvd.code == 1013
        with remote(server) as policy:
            np.testing.assert_allclose(policy.act(OBS), np.full((2, 4), 0.1235), atol=1e-6)
        busy.send(pack(OBS))  # who works is never asked to leave
        assert unpack(busy.recv(timeout=2.0))["actions"].shape == (2, 4)


def test_one_machine_leaves_room_for_others():
    with served(Linear(), max_per_peer=1) as server, connect(uri(server)):
        with pytest.raises(InvalidStatus) as refused:
            connect(uri(server))
        assert refused.value.response.status_code == 503
        # Another address of this machine stands for another machine.
        there, elsewhere = ("127.0.0.1", server.port), ("127.0.0.9", 0)
        with (
            socket.create_connection(there, source_address=elsewhere) as other,
            connect(uri(server), sock=other) as connection,
        ):
            assert unpack(connection.recv())["action_dim"] == 4


def test_oversized_frames_end_the_connection(server):
    with connect(uri(server)) as connection:
        connection.recv()
        with pytest.raises(ConnectionClosed) as closed:
            connection.send(b"\x00" * (openpi_wire.MAX_BYTES + 1))
            connection.recv()
    assert closed.value.rcvd.code == 1009  # message too big
    with connect(uri(server)) as connection:
        assert unpack(connection.recv())["action_dim"] == 4


def test_a_taken_port_is_one_line(server):
    with pytest.raises(OSError, match="Cannot listen at 127.0.0.1"):
        PolicyServer(Linear(), CONTRACT, PolicyServerConfig(port=server.port))


# -- words ----------------------------------------------------------------------------------------

USUAL = "pick up the cube"
WORDED = dataclasses.replace(
    CONTRACT,
    obs=ObsSpec(fields=(*CONTRACT.obs.fields, instruction_field(TokenizerConfig().build()))),
    language=Language(tokenizer=TokenizerConfig(), instruction=USUAL),
)


class Listening(Linear):
    """Answers with the sum of what it was told."""

    def act(self, obs: dict) -> np.ndarray:
        assert obs[INSTRUCTION].dtype == np.int32
        return np.full((2, 4), obs[INSTRUCTION].sum(), np.float32)


def total(text: str) -> float:
    return float(WORDED.language.told(text).sum())


@pytest.fixture
def listening() -> Iterator[PolicyServer]:
    with PolicyServer(Listening(), WORDED, PolicyServerConfig(port=0)) as made:
        yield made


def test_a_policy_that_reads_words_is_told_them(listening):
    with connect(uri(listening)) as connection:
        told = unpack(connection.recv())
        assert told["prompt"] == USUAL
        assert set(told["observations"]) == {"ee_position", "front"}
        for sent, wanted in [({"prompt": "put it down"}, "put it down"), ({}, USUAL)]:
            connection.send(pack(OBS | sent))
            assert unpack(connection.recv())["actions"][0, 0] == total(wanted)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (5, "Prompt: got int, allowed: text"),
        ("x" * 80, "takes 81 numbers, allowed: 64"),
        (" " * 5000, "allowed: up to 2000"),
    ],
)
def test_words_that_do_not_fit_are_refused(listening, prompt, said):
    with connect(uri(listening)) as connection:
        connection.recv()
        connection.send(pack(OBS | {"prompt": prompt}))
        assert said in str(connection.recv())
    assert listening.rejected == 1


@pytest.mark.parametrize("prompt", ["", "put it down"])
def test_our_client_sends_words_and_not_their_numbers(listening, prompt):
    config = RemotePolicyConfig(uri=uri(listening), timeout=2.0, prompt=prompt)
    with RemotePolicy(WORDED, config) as policy:
        assert policy.handshake(seconds=5.0).horizon == 2
        seen = OBS | Words(prompt=prompt).observed(WORDED)
        assert policy.act(seen)[0, 0] == total(prompt or USUAL)


# -- noise ---------------------------------------------------------------------------------------


class Steered(Batched):
    """Answers with the noise that a client has chosen, else with a seven."""

    noise_shape = (2, 4)

    def act(self, obs: dict) -> np.ndarray:
        return obs.get("noise", np.full((2, 4), 7.0, np.float32))


NOISE = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_a_policy_that_starts_from_noise_is_steered():
    with served(Steered(), horizon=2) as server, remote(server) as policy:
        assert policy.metadata["action_horizon"] == 2 and policy.noise_shape == (2, 4)
        np.testing.assert_array_equal(policy.act(OBS, noise=NOISE), NOISE)
        np.testing.assert_array_equal(policy.act(OBS), np.full((2, 4), 7.0))
        with pytest.raises(RemotePolicyError, match=r"Noise \(2, 3\) .*allowed: \(2, 4\)"):
            policy.act(OBS, noise=NOISE[:, :3])


def test_a_policy_without_noise_says_so(server):
    with remote(server) as policy:
        assert policy.noise_shape is None and "noise" not in policy.metadata
        with pytest.raises(RemotePolicyError, match="cannot be steered"):
            policy.act(OBS, noise=NOISE)
    with connect(uri(server)) as connection:
        connection.recv()
        connection.send(pack(OBS | {"noise": NOISE}))
        assert "Unknown observation 'noise'" in str(connection.recv())


@pytest.mark.parametrize("wrong", [{"noise": NOISE[:1]}, {"noise": NOISE + np.inf}])
def test_wrong_noise_costs_the_client_that_sent_it_alone(wrong):
    with served(Steered(), batch_window=0.1) as server, contextlib.ExitStack() as stack:
        good, bad = (stack.enter_context(connect(uri(server))) for _ in range(2))
        for connection in (good, bad):
            connection.recv()
        bad.send(pack(OBS | wrong))
        good.send(pack(OBS | {"noise": NOISE}))
        assert "Observation 'noise'" in str(bad.recv(timeout=5.0))
        np.testing.assert_array_equal(unpack(good.recv(timeout=5.0))["actions"], NOISE)


# -- our client ----------------------------------------------------------------------------------


def test_our_client_runs_our_server(server):
    with remote(server) as policy:
        policy.reset()
        for _ in range(3):
            np.testing.assert_allclose(policy.act(OBS), np.full((2, 4), 0.1235), atol=1e-6)
        assert policy.metadata["action_dim"] == 4


def test_a_hung_server_costs_one_deadline_and_its_answer_is_not_mistaken():
    policy = Linear()
    with served(policy) as server:
        config = RemotePolicyConfig(uri=uri(server), timeout=0.15)
        with RemotePolicy(CONTRACT, config) as client:
            client.wait(5.0)
            policy.wait.clear()
            began = time.monotonic()
            with pytest.raises(RemotePolicyTimeout, match="within 150 ms"):
                client.act(OBS)
            assert 0.14 < time.monotonic() - began < 0.4
            began = time.monotonic()
            with pytest.raises(RemotePolicyTimeout, match="the last observation"):
                client.act(OBS)
            assert time.monotonic() - began < 0.05
            policy.wait.set()
            other = OBS | {"ee_position": np.full(3, 7.0, np.float32)}

            def answered() -> bool:
                with contextlib.suppress(RemotePolicyError):
                    return float(client.act(other)[0, 0]) > 7.0
                return False

            assert eventually(answered)


def test_it_connects_again_when_the_server_comes_back():
    with served(Linear()) as first:
        port = first.port
        client = remote(first)
    with client:
        assert eventually(lambda: not client._connected.is_set())
        began = time.monotonic()
        with pytest.raises(RemotePolicyError, match="No policy at ws://"):
            client.act(OBS)
        assert time.monotonic() - began < 0.05
        with PolicyServer(Linear(), CONTRACT, PolicyServerConfig(port=port)):
            client.wait(10.0)
            assert client.act(OBS).shape == (2, 4)


def test_another_contract_is_noticed(server):
    other = dataclasses.replace(CONTRACT, episode_steps=99)
    with (
        RemotePolicy(other, RemotePolicyConfig(uri=uri(server))) as client,
        pytest.raises(RemotePolicyError, match="Contract of the server's policy"),
    ):
        client.wait(0.5)


def test_a_token_is_sent():
    with served(Linear(), token="secret") as server:
        with remote(server, token="secret") as policy:
            assert policy.act(OBS).shape == (2, 4)
        with (
            RemotePolicy(CONTRACT, RemotePolicyConfig(uri=uri(server), token="no")) as client,
            pytest.raises(RemotePolicyError, match="HTTP 401"),
        ):
            client.wait(0.5)


@contextlib.contextmanager
def foreign(replies: list[object], metadata: object) -> Iterator[str]:
    """A server of openpi's own kind, that answers with `replies` in turn."""
    ready, done, where = threading.Event(), asyncio.Event(), []

    async def talk(connection: Any) -> None:
        await connection.send(pack(metadata))
        for reply in replies:
            with contextlib.suppress(ConnectionClosed):
                await connection.recv()
                await connection.send(reply if isinstance(reply, str) else pack(reply))

    async def main() -> None:
        async with serve(talk, "127.0.0.1", 0) as server:
            where.append((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait(5.0)
    loop, port = where[0]
    yield f"ws://127.0.0.1:{port}"
    loop.call_soon_threadsafe(done.set)
    thread.join()


def test_servers_of_openpis_own_are_admitted_in_so_many_words():
    actions = np.zeros((50, 4))
    with foreign([{"actions": actions}], {}) as where:
        strict = RemotePolicyConfig(uri=where)
        with (
            RemotePolicy(CONTRACT, strict) as client,
            pytest.raises(RemotePolicyError, match="does not tell its contract"),
        ):
            client.wait(0.3)
        config = RemotePolicyConfig(
            uri=where, timeout=2.0, require_contract=False, prompt="pick",
            names={"front": "observation/image", "ee_position": "observation/state"},
        )  # fmt: skip
        with RemotePolicy(CONTRACT, config) as client:
            client.wait(5.0)
            assert client.act(OBS).shape == (50, 4)


def test_a_server_of_openpis_own_is_asked_before_it_is_needed():
    actions = np.tile(np.array([0.5, 0.0, 0.0, 1.0]), (50, 1))
    with foreign([{"actions": actions}] * 3, {}) as where:
        config = RemotePolicyConfig(
            uri=where, timeout=1.0, require_contract=False, prompt="pick",
            gripper="opposite",
        )  # fmt: skip
        with RemotePolicy(CONTRACT, config) as client:
            met = client.handshake(seconds=5.0)
            assert (met.horizon, met.largest) == (50, 1.0) and met.seconds < 1.0
            assert client.act(OBS)[0].tolist() == [0.5, 0.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("reply", "metadata", "said"),
    [
        ({"actions": np.zeros((50, 7))}, {}, r"Actions: got \(50, 7\)"),
        ({"actions": np.full((50, 4), np.nan)}, {}, "are not finite"),
        ({"actions": np.zeros((5, 4))}, {"action_rate": 15.0}, "got 15.0 Hz, allowed: 10.0 Hz"),
        ("KeyError: 'observation/state'", {}, "server failed: KeyError: 'observation/state'"),
    ],
)
def test_a_server_that_does_not_fit_is_told_before_it_is_needed(reply, metadata, said):
    with foreign([reply] * 2, metadata) as where:
        config = RemotePolicyConfig(uri=where, timeout=1.0, require_contract=False)
        with (
            RemotePolicy(CONTRACT, config) as client,
            pytest.raises(RemotePolicyError, match=said),
        ):
            client.handshake(seconds=0.5)


def test_a_server_that_is_too_slow_is_told_before_it_is_needed():
    policy = Linear()
    act = policy.act
    policy.act = lambda obs: time.sleep(0.1) or act(obs)
    with served(policy) as server:
        config = RemotePolicyConfig(uri=uri(server), timeout=0.05)
        with (
            RemotePolicy(CONTRACT, config) as client,
            pytest.raises(RemotePolicyError, match=r"needs 0\.1.. s, allowed: 0\.05 s"),
        ):
            client.handshake(seconds=5.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"uri": "127.0.0.1:8000"}, "allowed: ws://HOST:PORT"),
        ({"uri": "http://x:1"}, "allowed: ws://HOST:PORT"),
        ({"timeout": 0.0}, "at most 2"),
        ({"timeout": float("nan")}, "at most 2"),
        ({"gripper": "open"}, "Unknown gripper convention 'open'"),
        ({"names": {"fornt": "x"}}, "Unknown observation 'fornt'. Did you mean 'front'"),
    ],
)
def test_options_of_a_server_are_checked(options, said):
    with pytest.raises((ValueError, KeyError), match=said):
        RemotePolicy(CONTRACT, RemotePolicyConfig(**{"uri": "ws://127.0.0.1:9"} | options))


@pytest.mark.parametrize(
    ("gripper", "open_", "closed"), [("same", -1, 1), ("unit", 0, 1), ("opposite", 1, -1)]
)
def test_a_servers_gripper_becomes_ours(gripper, open_, closed):
    reply = {"actions": np.array([[0.1, 0.2, 0.3, open_], [0.1, 0.2, 0.3, closed]], float)}
    with foreign([reply], {}) as where:
        config = RemotePolicyConfig(uri=where, timeout=2.0, require_contract=False, gripper=gripper)
        with RemotePolicy(CONTRACT, config) as client:
            client.wait(5.0)
            np.testing.assert_allclose(
                client.act(OBS), [[0.1, 0.2, 0.3, -1.0], [0.1, 0.2, 0.3, 1.0]]
            )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"actions": np.zeros((50, 7))}, r"Actions: got \(50, 7\), allowed: \(1 or more, 4\)"),
        ({"actions": np.zeros(4)}, "as floats"),
        ({"actions": [[0.0] * 4]}, "as floats"),
        ({}, "as floats"),
        ([], "as floats"),
        ("Traceback\n  x\nKeyError: 'state'", "server failed: KeyError: 'state'"),
    ],
)
def test_bad_answers_are_no_actions(reply, said):
    with foreign([reply], {}) as where:
        config = RemotePolicyConfig(uri=where, timeout=2.0, require_contract=False)
        with RemotePolicy(CONTRACT, config) as client:
            client.wait(5.0)
            with pytest.raises(RemotePolicyError, match=said):
                client.act(OBS)


def test_an_observation_that_cannot_be_sent_does_not_block_the_next(server):
    with remote(server) as policy:
        with pytest.raises(CodecError):
            policy.act({"front": np.array([None])})
        assert policy.act(OBS).shape == (2, 4)


def test_patience_has_an_end(monkeypatch):
    monkeypatch.setattr(openpi_client, "_PATIENCE", 0.2)
    policy = Linear()
    with served(policy) as server:
        config = RemotePolicyConfig(uri=uri(server), timeout=0.05)
        with RemotePolicy(CONTRACT, config) as client:
            client.wait(5.0)
            policy.wait.clear()
            with pytest.raises(RemotePolicyTimeout):
                client.act(OBS)
            assert eventually(lambda: not client._connected.is_set(), 2.0)
            policy.wait.set()


# -- their client --------------------------------------------------------------------------------

# Of the second the wheel is the server's one file.
OPENPI = PeerEnv(
    "openpi", pins=("openpi-client==0.1.2", "openpi-server==0.1.0", "typing-extensions"), ours=False
)
THEIR_CLIENT = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
assert np.__version__ < "2", np.__version__
policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]), api_key="secret")
obs = {
    "ee_position": np.array([0.1, 0.2, 0.3], np.float32),
    "front": np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    "prompt": "pick",
}
replies = [policy.infer(obs) for _ in range(3)]
try:
    policy.infer({"prompt": "pick"})
except RuntimeError as error:
    refusal = str(error)
print(json.dumps({
    "metadata": policy.get_server_metadata(),
    "actions": replies[-1]["actions"].tolist(),
    "dtype": str(replies[-1]["actions"].dtype),
    "timing": sorted(replies[-1]["server_timing"]),
    "refusal": refusal,
}))
"""


@pytest.mark.slow
def test_openpis_own_client_is_served(tmp_path: Path):
    python = peer_python(OPENPI)
    script = tmp_path / "client.py"
    script.write_text(THEIR_CLIENT)
    with served(Linear(), token="secret") as server:
        done = subprocess.run(
            [python, script, str(server.port)], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["metadata"]["contract"] == digest(CONTRACT)
    np.testing.assert_allclose(said["actions"], np.full((2, 4), 0.1235), atol=1e-6)
    assert said["dtype"] == "float32"
    assert said["timing"] == ["infer_ms", "prev_total_ms"]
    assert "missing ee_position, front" in said["refusal"]


THEIR_SERVER = """
import asyncio, socket, sys
import numpy as np
import websockets.asyncio.server as serving
from openpi_client.base_policy import BasePolicy
from openpi_server.websocket_policy_server import WebsocketPolicyServer
class Policy(BasePolicy):
    def infer(self, obs):
        assert set(obs) == {"observation/state", "observation/image", "prompt"}, sorted(obs)
        assert obs["observation/image"].dtype == np.uint8
        if obs["prompt"] == "fail":
            raise ValueError("cannot do that")
        return {"actions": np.full((50, 4), obs["observation/state"][0], np.float64)}
    def reset(self):
        pass
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = WebsocketPolicyServer(Policy(), host="127.0.0.1", port=port, metadata={"policy": "pi"})
print(port, flush=True)
server.serve_forever()
"""


@pytest.mark.slow
def test_our_client_asks_openpis_own_server(tmp_path: Path):
    script = tmp_path / "server.py"
    script.write_text(THEIR_SERVER)
    process = subprocess.Popen(
        [peer_python(OPENPI), script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        where = f"ws://127.0.0.1:{int(process.stdout.readline())}"
        named = {"front": "observation/image", "ee_position": "observation/state"}
        options = {"uri": where, "timeout": 2.0, "require_contract": False, "names": named}
        with RemotePolicy(CONTRACT, RemotePolicyConfig(**options, prompt="pick")) as policy:
            met = policy.handshake(seconds=10.0)
            assert (met.horizon, policy.metadata) == (50, {"policy": "pi"})
            assert policy.noise_shape is None
            np.testing.assert_allclose(policy.act(OBS), np.full((50, 4), 0.1), rtol=1e-6)
        with RemotePolicy(CONTRACT, RemotePolicyConfig(**options, prompt="fail")) as policy:
            policy.wait(5.0)
            with pytest.raises(RemotePolicyError, match="ValueError: cannot do that"):
                policy.act(OBS)
    finally:
        process.kill()
        process.communicate()
