"""Ticks out and commands in: who is served, who is not, and that it is counted."""

import contextlib
import dataclasses
import json
import math
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from raw_peer import RawPeer, free_ports
from recorded import make_contract

from robot_bridge.__main__ import main
from robot_bridge.clock import MonotonicClock
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.driver import ArmState, Mode
from robot_bridge.messages import Command, Goal, Notice, Tick
from robot_bridge.network import codec, keys
from robot_bridge.network.admission import (
    AdmissionConfig,
    Guest,
    Leases,
    Refused,
    Sessions,
    Throttle,
)
from robot_bridge.network.client import BridgeClient, RemotePolicySide
from robot_bridge.network.clock_offset import ClockOffset
from robot_bridge.network.codec import Beat, Hello, Stamp, encode
from robot_bridge.network.endpoints import (
    ClientKeys,
    Endpoint,
    UnsafeBindError,
    check_bind,
    connect_with_keys,
    is_loopback,
)
from robot_bridge.network.keys import KeyFileError, Keyring
from robot_bridge.network.server import BridgeServer, Callbacks
from robot_bridge.policy.observation import ObservationBuilder
from robot_bridge.policy.policy_loop import ControlSide, PolicyLoop
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.limits import default_limits
from scenes.robots.panda import panda

CONFIG = AdmissionConfig()
GUESTS = {"policy": Guest(name="policy"), "operator": Guest(name="person")}


def tick(index: int = 0, t: float | None = None) -> Tick:
    now = time.monotonic() if t is None else t
    state = ArmState(
        t=now, seq=index, q=np.zeros(7), dq=np.zeros(7), position=np.zeros(3),
        quat=np.array([0.0, 1.0, 0.0, 0.0]), gripper_width=0.04, mode=Mode.MOVING,
    )  # fmt: skip
    goal = Goal(position=np.zeros(3), quat=state.quat, closure=0.0)
    return Tick(
        index=index, t=now, wall=0.0, phase=Phase.RUN, reasons=Reason.LEASH, state=state, goal=goal
    )


def command(seq: int = 0, source: str = "policy") -> Command:
    actions = np.full((1, 4), 0.5, np.float32)
    t = time.monotonic()
    return Command(seq=seq, t=t, actions=actions, dt=0.1, valid_for=0.25, source=source)


class Control:
    """What the server tells its side."""

    def __init__(self) -> None:
        self.arbiter = Arbiter()
        self.notices: list[Notice] = []
        self.faults: list[tuple[Reason, bool]] = []

    def fault(self, cause: Reason, *, protective: bool = False) -> None:
        self.faults.append((cause, protective))

    @property
    def callbacks(self) -> Callbacks:
        return Callbacks(offer=self.arbiter.offer, notice=self.notices.append, fault=self.fault)

    def commanded(self) -> Command | None:
        return self.arbiter.choose(time.monotonic()).command


def eventually(holds: Callable[[], object], seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rb") as made:
        yield Path(made)


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def endpoint(folder: Path) -> Endpoint:
    return Endpoint.ipc(folder)


@pytest.fixture
def server(endpoint: Endpoint, control: Control) -> Iterator[BridgeServer]:
    with BridgeServer(endpoint, control.callbacks, guests=GUESTS, contract="abc") as made:
        yield made


# -- what works ----------------------------------------------------------------------------------


def test_a_policy_elsewhere_sees_ticks_and_commands(server, control, endpoint):
    with BridgeClient(endpoint, name="policy", want=["policy"], contract="abc") as client:
        client.wait(3.0)
        assert client.role == "admin"
        server.publish(tick(7))
        assert eventually(lambda: client.latest is not None and client.latest.index == 7)
        sent = command(3)
        assert client.offer(sent)
        assert eventually(lambda: control.commanded() is not None)
        got = control.commanded()
        assert (got.seq, got.t, got.source) == (3, sent.t, "policy")
        np.testing.assert_array_equal(got.actions, sent.actions)
        client.notice(Notice(t=1.0, reasons=Reason.POLICY_ERROR))
        assert eventually(lambda: control.notices == [Notice(t=1.0, reasons=Reason.POLICY_ERROR)])
        client.halt(protective=True)
        assert eventually(lambda: (Reason.EMERGENCY_STOP, True) in control.faults)
        assert eventually(lambda: client.pulse.tick == 7)
        assert client.pulse.phase is Phase.RUN
        assert client.pulse.holders == {"policy": "policy"}
    assert not any(server.counters.values())


def test_the_newest_tick_wins_and_publishing_never_waits(server, endpoint):
    with BridgeClient(endpoint, name="eye") as client:
        client.wait(3.0)
        server.publish(tick(0))
        assert eventually(lambda: client.latest is not None)
        started = time.perf_counter()
        for index in range(1, 2001):
            server.publish(tick(index))
        assert time.perf_counter() - started < 1.0
        assert eventually(lambda: client.latest.index == 2000)


def test_remote_policy_side_has_what_a_policy_loop_needs(server, control, endpoint):
    limits = default_limits(panda())
    with BridgeClient(endpoint, name="policy", want=["policy"]) as client:
        side = RemotePolicySide(client, limits)
        assert side.latest is None
        client.wait(3.0)
        server.publish(tick(1))
        assert eventually(lambda: side.latest is not None)
        side.offer(command(1))
        side.notice(Notice(t=0.0, reasons=Reason.POLICY_ERROR))
        side.fault(Reason.OBSERVATION_STALE)
        assert eventually(lambda: (Reason.OBSERVATION_STALE, False) in control.faults)
        assert eventually(lambda: control.commanded() is not None and control.notices)


class Constant:
    """A policy that wants the same whatever it sees."""

    def reset(self) -> None:
        pass

    def act(self, obs: dict) -> np.ndarray:
        return np.full((2, 4), 0.25, np.float32)


def test_a_policy_loop_runs_at_the_far_end(server, control, endpoint):
    limits, contract = default_limits(panda()), make_contract(size=None)
    with BridgeClient(endpoint, name="policy", want=["policy"]) as client:
        client.wait(3.0)
        side: ControlSide = RemotePolicySide(client, limits)
        loop = PolicyLoop(side, ObservationBuilder(contract), Constant(), period=0.1)
        server.publish(tick(1))
        assert eventually(lambda: side.latest is not None)
        loop.tick()
        assert eventually(lambda: control.commanded() is not None)
        assert control.commanded().actions.tolist() == [[0.25] * 4] * 2
        assert control.commanded().t == side.latest.state.t
        assert control.commanded().obs["ee_lag"].tolist() == [0.0, 0.0, 0.0]


def test_a_client_finds_a_server_that_is_started_anew(endpoint, control):
    with BridgeClient(endpoint, name="policy", want=["policy"]) as client:
        with BridgeServer(endpoint, control.callbacks, guests=GUESTS):
            client.wait(3.0)
        assert eventually(lambda: client.pulse is None)
        assert not client.offer(command())
        with BridgeServer(endpoint, control.callbacks, guests=GUESTS):
            client.wait(5.0)
            assert client.offer(command(9))
            assert eventually(lambda: control.commanded() is not None)


def test_another_contract_is_not_commanded(server, endpoint):
    with BridgeClient(endpoint, name="policy", want=["policy"], contract="xyz") as client:
        with pytest.raises(TimeoutError, match="contract: got abc, allowed: xyz"):
            client.wait(0.5)
        assert not client.may_command()


def test_no_server_is_said_in_one_line(endpoint):
    with (
        BridgeClient(endpoint, name="p") as client,
        pytest.raises(TimeoutError, match="No answer from the bridge after 0.1 s"),
    ):
        client.wait(0.1)


def test_loopback_tcp_works_and_cannot_outrank_the_policy(control):
    endpoint = Endpoint.tcp(free_ports())
    with (
        BridgeServer(endpoint, control.callbacks) as server,
        BridgeClient(endpoint, name="p", want=["operator"]) as client,
    ):
        with pytest.raises(TimeoutError, match="p may command; this needs admin"):
            client.wait(0.4)
        assert server.counters["role"] >= 1


def test_a_taken_address_is_one_line(control):
    port = free_ports()
    with (
        BridgeServer(Endpoint.tcp(port), control.callbacks),
        pytest.raises(OSError, match="Cannot"),
    ):
        BridgeServer(Endpoint.tcp(port), control.callbacks)


class OtherClock(MonotonicClock):
    """Another machine's."""

    def now(self) -> float:
        return time.monotonic() + 12_345.0


def test_times_are_converted_between_machines(server, control, endpoint):
    clock = OtherClock()
    with BridgeClient(endpoint, name="policy", want=["policy"], clock=clock) as client:
        client.wait(3.0)
        server.publish(tick(1, t=500.0))
        assert eventually(lambda: client.latest is not None)
        assert client.latest.t == pytest.approx(500.0 + 12_345.0, abs=0.02)
        assert client.latest.state.t == client.latest.t
        sent = dataclasses.replace(command(), t=clock.now())
        client.offer(sent)
        assert eventually(lambda: control.commanded() is not None)
        assert control.commanded().t == pytest.approx(sent.t - 12_345.0, abs=0.02)
        assert client.pulse is not None
    assert server.counters["late"] == 0


def test_a_halt_is_said_again_until_it_shows(endpoint, control):
    with BridgeClient(endpoint, name="p") as client:
        client.halt()  # nobody is there yet
        with BridgeServer(endpoint, control.callbacks) as server:
            assert eventually(lambda: control.faults)
            server.publish(dataclasses.replace(tick(1), phase=Phase.FAULT))
            assert eventually(lambda: client.pulse is not None and client.pulse.tick == 1)
            time.sleep(0.1)
            said = len(control.faults)
            time.sleep(0.6)
            assert len(control.faults) == said


# -- one commander -------------------------------------------------------------------------------


def test_a_second_commander_is_refused_while_the_first_holds(server, control, endpoint):
    with BridgeClient(endpoint, name="policy", want=["policy"]) as first:
        first.wait(3.0)
        with BridgeClient(endpoint, name="policy", want=["policy"]) as second:
            with pytest.raises(TimeoutError, match="held by policy for .* s more"):
                second.wait(1.5)
            assert not second.offer(command(5))
            with RawPeer(endpoint) as raw:  # which does not ask itself first
                raw.greet()
                refusal = raw.ask(command(6), 1)
                assert refusal.kind == "lease"
                assert "held by policy" in refusal.text
            assert server.counters["lease"] >= 2
            assert control.commanded() is None
            # An operator commands beside a policy: the arbiter chooses between them.
            with BridgeClient(endpoint, name="person", want=["operator"]) as person:
                person.wait(3.0)
                assert person.offer(command(1, "operator"))
                assert eventually(lambda: control.commanded() is not None)


def test_a_lease_given_back_is_free_at_once(server, endpoint):
    with BridgeClient(endpoint, name="policy", want=["policy"]) as first:
        first.wait(3.0)
    with BridgeClient(endpoint, name="policy", want=["policy"]) as second:
        second.wait(0.9)


def test_a_lease_ends_a_second_after_its_holder_fell_silent(server, endpoint):
    with RawPeer(endpoint) as silent:
        silent.greet()
        assert silent.ask(Beat(sent=0.0, want=("policy",)), 1).granted == ("policy",)
        began = time.monotonic()
        with BridgeClient(endpoint, name="policy", want=["policy"]) as client:
            client.wait(3.0)
        assert 0.9 < time.monotonic() - began < 2.0


# -- what is refused -----------------------------------------------------------------------------


def test_a_replayed_message_is_refused(server, control, endpoint):
    with RawPeer(endpoint) as raw:
        raw.greet()
        raw.ask(Beat(sent=0.0, want=("policy",)), 1)
        data = raw.send(command(1), 2)
        assert eventually(lambda: control.commanded() is not None)
        control.arbiter.clear()
        raw.socket.send(data)
        assert raw.answer().kind == "replayed"
        with RawPeer(endpoint) as other:  # the same bytes from another connection
            other.greet()
            other.socket.send(data)
            assert other.answer().kind == "unknown_session"
        assert server.counters["replayed"] == server.counters["unknown_session"] == 1
        assert control.commanded() is None


@pytest.mark.parametrize("age", [0.3, -0.3, float("nan"), float("inf")])
def test_a_message_of_another_time_is_refused(server, endpoint, age):
    with RawPeer(endpoint) as raw:
        raw.greet()
        assert raw.ask(Beat(sent=0.0), 1, age=age).kind == "late"
        assert server.counters["late"] == 1


class Trap:
    def __reduce__(self):
        return os.system, ("touch /tmp/robot_bridge_was_here",)


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([pickle.dumps(Trap())], "malformed"),
        ([b""], "malformed"),
        ([b"\xff" * 100], "malformed"),
        ([b"\x91" * 100_000], "malformed"),
        ([b"a", b"b"], "malformed"),
        ([encode(tick(0, t=0.0))], "malformed"),
        ([b"\x00" * (CONFIG.max_request + 1)], "oversized"),
    ],
)
def test_nonsense_is_counted_and_changes_nothing(server, control, endpoint, frames, kind):
    with RawPeer(endpoint) as raw:
        raw.socket.send_multipart(frames)
        assert eventually(lambda: server.counters[kind] == 1)
        assert raw.greet().role == "admin"  # the server lives
    assert sum(server.counters.values()) == 1
    assert not os.path.exists("/tmp/robot_bridge_was_here")


def test_what_is_beyond_all_bounds_cuts_the_connection(server, endpoint):
    with RawPeer(endpoint) as raw:
        raw.greet()
        raw.socket.send(b"\x00" * (8 * 2**20))
        assert raw.ask(Beat(sent=0.0), 1) is None or raw.answer(0.2) is None
    with RawPeer(endpoint) as raw:
        assert raw.greet().role == "admin"


def test_a_flood_is_slowed_down_and_others_are_served(server, control, endpoint):
    with (
        RawPeer(endpoint) as flooder,
        BridgeClient(endpoint, name="policy", want=["policy"]) as client,
    ):
        flooder.greet()
        client.wait(3.0)
        served, sent, seq = 0, 0, 0
        started = time.monotonic()
        while time.monotonic() - started < 1.0:
            with contextlib.suppress(zmq.Again):
                seq += 1
                data = encode(Beat(sent=0.0), Stamp(flooder.session, seq, time.monotonic()))
                flooder.socket.send(data, zmq.NOBLOCK)
                sent += 1
            while flooder.socket.poll(0):
                served += isinstance(codec.decode(flooder.socket.recv())[0], codec.Pulse)
        assert sent > 1000
        assert served <= CONFIG.burst + CONFIG.rate * 1.2
        assert eventually(lambda: server.counters["flooded"] > 100)
        assert client.offer(command(1))
        assert eventually(lambda: control.commanded() is not None, 0.5)


def test_our_own_side_failing_does_not_end_the_server(endpoint, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    callbacks = Callbacks(offer=fail, notice=fail, fault=fail)
    with (
        BridgeServer(endpoint, callbacks, guests=GUESTS) as server,
        BridgeClient(endpoint, name="policy", want=["policy"]) as client,
    ):
        client.wait(3.0)
        client.offer(command())
        client.halt()
        assert eventually(lambda: server.counters["internal"] >= 2)
        assert client.pulse is not None


# -- keys ----------------------------------------------------------------------------------------


@pytest.fixture
def keyed(folder: Path, control: Control) -> Iterator[tuple[BridgeServer, Endpoint, Path]]:
    keys.new_server(folder)
    endpoint = Endpoint.tcp(free_ports())
    ring = Keyring(folder)
    guests = {"policy": Guest(name="laptop")}
    with BridgeServer(endpoint, control.callbacks, guests=guests, keys=ring) as server:
        yield server, endpoint, folder


def client_keys(folder: Path, name: str, role: codec.Role) -> ClientKeys:
    own = keys.new_client(folder, name, role)
    return ClientKeys(keys.load_pair(folder / "server.key").public, own)


def test_each_key_may_do_what_its_role_says(keyed, control):
    server, endpoint, folder = keyed
    commander = client_keys(folder, "laptop", "command")
    observer = client_keys(folder, "tablet", "observe")
    with (
        BridgeClient(endpoint, name="x", want=["policy"], keys=commander) as policy,
        BridgeClient(endpoint, name="x", keys=observer) as eye,
    ):
        policy.wait(3.0)
        eye.wait(3.0)
        assert (policy.role, eye.role) == ("command", "observe")
        # Known by its key.
        assert eventually(lambda: eye.pulse.holders == {"policy": "laptop"})
        server.publish(tick(4))
        assert eventually(lambda: eye.latest is not None and eye.latest.index == 4)
        eye.halt()
        assert eventually(lambda: any(r.kind == "role" for r in eye.refusals))
        assert control.faults == []
    with RawPeer(endpoint, observer) as raw:
        raw.greet()
        assert raw.ask(Beat(sent=0.0, want=("policy",)), 1).granted == ()
        assert raw.ask(command(1), 2).kind == "role"
    assert control.commanded() is None


def stranger(folder: Path, kind: str) -> ClientKeys | None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    server = keys.load_pair(folder / "server.key").public
    return {
        "no key": None,
        "unknown key": ClientKeys(server, keys.KeyPair(public, secret)),
        "wrong server": dataclasses.replace(client_keys(folder, "a", "admin"), server=public),
    }[kind]


@pytest.mark.parametrize("kind", ["no key", "unknown key", "wrong server"])
def test_strangers_get_nothing(keyed, kind):
    server, endpoint, folder = keyed
    own = stranger(folder, kind)
    context = zmq.Context()
    ticks = context.socket(zmq.SUB)
    ticks.linger = 0
    if own is not None:
        connect_with_keys(ticks, own)
    ticks.subscribe(b"")
    ticks.connect(endpoint.ticks)
    with RawPeer(endpoint, own) as raw:
        raw.send(Hello(name="x", sent=0.0), 0)
        for index in range(10):
            server.publish(tick(index))
            time.sleep(0.02)
        assert raw.answer(0.3) is None
        assert not ticks.poll(0)
    context.destroy(linger=0)
    counted = "denied_key" if kind == "unknown key" else "handshake"
    assert server.counters[counted] >= 1


def test_a_client_struck_off_the_list_is_out(keyed):
    server, endpoint, folder = keyed
    own = client_keys(folder, "gone", "admin")
    with BridgeClient(endpoint, name="x", keys=own) as client:
        client.wait(3.0)
    (folder / "clients" / "gone.json").unlink()
    with RawPeer(endpoint, own) as raw:
        raw.send(Hello(name="x", sent=0.0), 0)
        assert raw.answer(0.3) is None
    assert server.counters["denied_key"] >= 1


def test_a_list_open_to_others_lets_nobody_in(keyed):
    _, endpoint, folder = keyed
    own = client_keys(folder, "a", "admin")
    (folder / "clients" / "a.json").chmod(0o644)
    with RawPeer(endpoint, own) as raw:
        raw.send(Hello(name="x", sent=0.0), 0)
        assert raw.answer(0.3) is None


def test_key_files_are_private(folder):
    keys.new_server(folder / "k")
    keys.new_client(folder / "k", "laptop", "command")
    for path in [folder / "k", *(folder / "k").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert "secret" not in json.loads((folder / "k" / "clients" / "laptop.json").read_text())


@pytest.mark.parametrize("name", ["server.key", "clients", "clients/laptop.json", "."])
def test_loose_permissions_are_refused(folder, name):
    home = folder / "k"
    keys.new_server(home)
    keys.new_client(home, "laptop", "command")
    (home / name).chmod((home / name).stat().st_mode | 0o040)
    with pytest.raises(KeyFileError, match=r"Others can reach .*: mode .*; chmod"):
        keys.private_folder(home)
        Keyring(home)


def test_links_bad_names_and_bad_files_are_refused(folder):
    keys.new_server(folder)
    (folder / "link.key").symlink_to(folder / "server.key")
    with pytest.raises(KeyFileError, match="or a link"):
        keys.load_pair(folder / "link.key")
    for name in ("../x", "", "server", "a/b", "x" * 65):
        with pytest.raises(KeyFileError, match="Name of a client"):
            keys.new_client(folder, name, "command")
    with pytest.raises(KeyFileError, match="Role of 'a': got 'root'"):
        keys.allow_client(folder, keys.Client("a", "root", "x" * 40))
    with pytest.raises(KeyFileError, match="exists; delete it first"):
        keys.new_server(folder)
    for text in ("", "[]", '{"public": "x"}', "[" * 4000, '{"public": "x", "secret": 5}'):
        (folder / "bad.key").write_text(text)
        (folder / "bad.key").chmod(0o600)
        with pytest.raises(KeyFileError):
            keys.load_pair(folder / "bad.key")
    with pytest.raises(KeyFileError, match="does not exist; make it with"):
        keys.load_pair(folder / "none.key")


def test_the_command_line_prints_public_keys_only(folder, capsys):
    home = ["--folder", str(folder / "k")]
    assert main(["keys", "server", *home]) == 0
    assert main(["keys", "new", "laptop", "--role", "command", *home]) == 0
    public = zmq.curve_keypair()[0].decode()
    allow = ["keys", "allow", "t", "--role", "observe", "--public", public]
    assert main([*allow, *home]) == 0
    assert main(["keys", "list", *home]) == 0
    said = capsys.readouterr().out
    for name in ("server", "laptop"):
        pair = keys.load_pair(folder / "k" / f"{name}.key")
        assert pair.public in said
        assert pair.secret not in said
        assert pair.secret not in repr(pair)
    assert f"{public}  observe t" in said
    assert main(["keys", "server", *home]) == 2
    assert "exists" in capsys.readouterr().err


def test_keys_run_as_a_module(folder):
    line = [sys.executable, "-m", "robot_bridge", "keys", "new", "a", "--role", "admin"]
    done = subprocess.run(
        [*line, "--folder", str(folder / "k")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == keys.load_pair(folder / "k" / "a.key").public


# -- where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "*", "192.168.1.5", "robot.lan", "eth0", "[::]", "127.0.0.1.evil.com", ""]
)
def test_an_open_bind_without_keys_is_refused(host, control):
    with pytest.raises(UnsafeBindError, match="can be reached from other machines"):
        BridgeServer(Endpoint.tcp(5555, host=host), control.callbacks)
    check_bind(f"tcp://{host}:5555", keyed=True)


def test_loopback_is_told_by_address():
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.8.9.1")
    assert is_loopback("[::1]")
    assert is_loopback("localhost")
    assert not is_loopback("localhost.evil.com")


def test_an_ipc_folder_open_to_others_is_refused(folder, control):
    loose = folder / "loose"
    loose.mkdir()
    loose.chmod(0o755)
    with pytest.raises(UnsafeBindError, match="mode 755, allowed: 700"):
        BridgeServer(Endpoint.ipc(loose), control.callbacks)
    for address in ("ipc://@name", "ipc://relative/x", "ipc:///" + "x" * 200, "inproc://x"):
        with pytest.raises(UnsafeBindError, match="got"):
            check_bind(address, keyed=True)


# -- the rules, without sockets ------------------------------------------------------------------


def test_leases_rules():
    sessions, leases = Sessions(CONFIG), Leases(CONFIG, {"policy": Guest(name="p")})
    a = sessions.open(b"a", "p", "command", 0.0)
    b = sessions.open(b"b", "p", "admin", 0.0)
    leases.take(a, "policy", 0.0)
    leases.take(a, "policy", 0.9)
    with pytest.raises(Refused, match="held by p for 0.10 s more"):
        leases.take(b, "policy", 1.8)
    leases.release(b, "policy")  # not b's
    leases.require(a, "policy", 1.8)
    with pytest.raises(Refused, match="held by nobody"):
        leases.require(a, "policy", 1.9)
    leases.take(b, "policy", 1.9)
    with pytest.raises(Refused, match="held by p"):
        leases.require(a, "policy", 2.0)
    with pytest.raises(Refused, match="needs admin"):
        leases.take(a, "operator", 2.0)
    with pytest.raises(Refused, match="operator are the bridge's own; deploy.py --operator-source"):
        leases.take(b, "operator", 2.0)
    assert leases.holders(2.0) == {"policy": "p"}
    assert leases.holders(3.0) == {}


def test_who_was_consented_to_has_no_successor():
    sessions, leases = Sessions(CONFIG), Leases(CONFIG, {"policy": Guest(name="p")})
    a, b = (sessions.open(name, "p", "command", 0.0) for name in (b"a", b"b"))
    assert not leases.keep("policy", 0.0)
    leases.take(a, "policy", 0.0)
    assert leases.keep("policy", 0.5)
    leases.release(a, "policy")
    with pytest.raises(Refused, match="consented to was another process"):
        leases.take(b, "policy", 5.0)
    leases.take(a, "policy", 9.0)


@pytest.mark.parametrize(("name", "ticket"), [("p", ""), ("p", "T"), ("p", "é"), ("q", "t")])
def test_the_bridges_own_process_is_known_by_its_ticket(name, ticket):
    sessions = Sessions(CONFIG)
    leases = Leases(CONFIG, {"policy": Guest(name="p", ticket="t")})
    other = sessions.open(b"a", name, "admin", 0.0, ticket=ticket)
    for ask in (leases.take, leases.require):
        with pytest.raises(Refused, match="are p's, not"):
            ask(other, "policy", 0.0)
    leases.take(sessions.open(b"b", "p", "admin", 0.0, ticket="t"), "policy", 0.0)


def test_a_guest_on_loopback_needs_keys(control):
    with pytest.raises(UnsafeBindError, match="without keys does not tell who commands"):
        BridgeServer(Endpoint.tcp(free_ports()), control.callbacks, guests=GUESTS)


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=400))
def test_no_second_sees_more_than_rate_and_burst(gaps):
    throttle, now, admitted = Throttle(CONFIG), 0.0, []
    for gap in gaps:
        now += gap
        with contextlib.suppress(Refused):
            throttle.admit(b"x", now)
            admitted.append(now)
    for start in admitted:
        inside = [t for t in admitted if start <= t <= start + 1.0]
        assert len(inside) <= CONFIG.burst + CONFIG.rate * 1.0 + 1


def test_a_slow_peer_is_never_throttled():
    throttle = Throttle(CONFIG)
    for index in range(2000):
        throttle.admit(b"x", index / 199.0)


def test_sessions_are_bounded_and_the_silent_make_room():
    sessions = Sessions(dataclasses.replace(CONFIG, max_peers=2))
    for name in (b"a", b"b"):
        sessions.open(name, "x", "observe", 0.0)
    with pytest.raises(Refused, match="2 peers are connected"):
        sessions.open(b"c", "x", "observe", 1.0)
    sessions.open(b"c", "x", "observe", 31.0)
    throttle = Throttle(dataclasses.replace(CONFIG, max_peers=2))
    for index in range(1000):
        throttle.admit(index.to_bytes(4, "big"), 0.0)
    assert len(throttle._levels) == 8


@given(
    offset=st.floats(-1e6, 1e6),
    trips=st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 0.05)), min_size=1, max_size=30),
)
def test_the_clock_offset_is_within_the_quickest_round_trip(offset, trips):
    clock, now = ClockOffset(), 100.0
    for there, back in trips:
        thinks = 0.3 * back  # for so long it kept the message
        came = now + there + offset
        clock.note(now, came, came + thinks, now + there + thinks + back)
        now += 1.0
    quickest = min(there + back for there, back in trips[-16:])
    assert abs(clock.seconds - offset) <= quickest + 1e-6


def test_one_machine_converts_nothing():
    clock = ClockOffset()
    clock.note(5.0, 5.0004, 5.0004, 5.001)
    assert clock.seconds == 0.0 and clock.round_trip == pytest.approx(0.001)


@pytest.mark.parametrize("wrong", [(5.0, math.nan, 5.0, 5.1), (5.0, 9.0, 8.0, 5.1), (5, 0, 0, 4)])
def test_times_that_cannot_be_say_nothing_of_a_clock(wrong):
    clock = ClockOffset()
    clock.note(*wrong)
    assert clock.seconds == 0.0 and clock.round_trip == math.inf
