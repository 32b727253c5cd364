"""What a person has consented to is what moves the arm: ways to take over, none of which does.

A deployment runs on an arm that is at once wherever it is told to be, under a policy that stands
still. Whoever gets a command in moves it by centimetres.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq
from bench_arm import HOME, ScriptedPolicy, bench_contract
from raw_peer import RawPeer, free_ports

from robot_bridge.deploy import deployment as deploying
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import build_rig, rig_makers
from robot_bridge.learning.link import LearningConfig
from robot_bridge.messages import Command, Notice, Tick
from robot_bridge.network import keys
from robot_bridge.network.client import BridgeClient
from robot_bridge.network.codec import Beat, Hello, Stamp, encode
from robot_bridge.network.endpoints import ClientKeys, Endpoint, parse_endpoint
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.limits import default_limits, tighten

pytestmark = pytest.mark.keeps_time

DIGEST = "0123456789abcdef" * 4
CALM = np.zeros((1, 4), np.float32)
AWAY = np.array([[0.0, 1.0, 1.0, 1.0]], np.float32)


class Deployed:
    """A deployment on the null arm in real time, in a thread of its own."""

    def __init__(self, listen: str, **options: Any) -> None:
        self.endpoint = parse_endpoint(listen)
        self.ticks: list[Tick] = []
        self.said: list[str] = []
        self.failed: list[BaseException] = []
        self._over = threading.Event()
        contract = bench_contract()
        bundle: Any = SimpleNamespace(
            contract=contract,
            digest=DIGEST,
            policy=ScriptedPolicy(lambda _: CALM),
            manifest=SimpleNamespace(task="bench", measured=None, horizon=1),
        )
        rig = build_rig(
            RigConfig(robot="null", objects=("cube=0.4,0,0.02",)), contract, rig_makers()
        )
        rig = dataclasses.replace(
            rig,
            judge=lambda: "cut" if self._over.is_set() else None,
            sinks=(self.ticks.append,),
        )
        config = DeployConfig(listen=listen, separate=False, seconds=60.0, **options)
        self._deployment = Deployment(config, bundle, rig, Talk(self.said.append, lambda _: ""))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._deployment.run()
        except BaseException as error:
            self.failed.append(error)

    def running(self) -> "Deployed":
        deadline = time.monotonic() + 5.0
        while not (self.ticks and self.ticks[-1].source == "policy"):
            assert not self.failed and time.monotonic() < deadline, self.failed
            time.sleep(0.005)
        return self

    def later(self, seconds: float = 0.06) -> Tick:
        """A tick of some time from now."""
        time.sleep(seconds)
        return self.ticks[-1]

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=5.0)


START, _ = Chain(bench_contract().robot).forward(HOME)


def stands(tick: Tick) -> bool:
    """Whether the tool is where it began, but for the millimetre of coming upright."""
    return float(np.linalg.norm(tick.state.position - START)) < 2e-3


def away(seq: int = 1, source: str = "policy") -> Command:
    return Command(
        seq=10_000 + seq, t=time.monotonic(), actions=AWAY, dt=0.1, valid_for=0.25, source=source
    )


def push(
    peer: RawPeer, *want: str, name: str = "raw", ticket: str = "", bare: bool = False
) -> None:
    """Ask to command, and command whatever the answer is."""
    if not bare:
        peer.greet(name, ticket=ticket)
    for round_ in range(3):
        for place, source in enumerate(want):
            seq = 1 + 10 * round_ + 2 * place
            peer.send(Beat(sent=0.0, want=want), seq)
            peer.send(away(seq, source), seq + 1)
    peer.socket.poll(30)


# -- a bridge that only lets others watch ----------------------------------------------------------

WATCHED: dict[str, Callable[[Endpoint], None]] = {}


def way(attack: Callable[[Endpoint], None]) -> Callable[[Endpoint], None]:
    WATCHED[attack.__name__] = attack
    return attack


@way
def asks_for_the_policys_role(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        push(peer, "policy")


@way
def asks_for_the_operators_role(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        push(peer, "operator")


@way
def asks_for_both(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        push(peer, "policy", "operator")


@way
def goes_through_the_ordinary_client(endpoint: Endpoint) -> None:
    with BridgeClient(endpoint, name="policy", want=["policy", "operator"]) as client:
        with contextlib.suppress(TimeoutError):
            client.wait(0.3)
        for source in ("policy", "operator"):
            client.offer(away(source=source))


@way
def calls_itself_the_policy(endpoint: Endpoint) -> None:
    with RawPeer(endpoint, identity=b"policy") as peer:
        push(peer, "policy", name="policy", ticket="policy")


@way
def has_an_empty_name(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        push(peer, "policy", "operator", name="")


@way
def commands_without_asking(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        peer.greet()
        for seq in range(1, 6):
            peer.send(away(seq, "operator" if seq % 2 else "policy"), seq)
        peer.socket.poll(30)


@way
def commands_without_a_hello(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        push(peer, "policy", bare=True)


@way
def commands_in_another_peers_session(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as one, RawPeer(endpoint) as other:
        one.greet()
        other.session = one.session
        push(other, "policy", bare=True)


@way
def asks_a_hundred_times(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        peer.greet()
        for seq in range(1, 101):
            peer.send(Beat(sent=0.0, want=("policy",)), seq)
        peer.send(away(), 200)
        peer.socket.poll(30)


@way
def publishes_where_ticks_come_from(endpoint: Endpoint) -> None:
    shout(Endpoint(endpoint.requests, endpoint.ticks), (zmq.DEALER, zmq.PUB, zmq.PUSH))


@way
def is_another_kind_of_socket(endpoint: Endpoint) -> None:
    shout(endpoint, (zmq.REQ, zmq.ROUTER, zmq.PUSH))


def shout(place: Endpoint, kinds: tuple[int, ...]) -> None:
    """Send a target to a place that did not ask, from a socket of each kind."""
    for kind in kinds:
        with RawPeer(place, kind=kind) as peer:
            time.sleep(0.02)
            with contextlib.suppress(zmq.ZMQError):
                peer.socket.send(encode(away(), Stamp(b"", 1, time.monotonic())), zmq.NOBLOCK)


@way
def says_that_the_policy_has_failed(endpoint: Endpoint) -> None:
    with RawPeer(endpoint) as peer:
        peer.greet()
        peer.send(Notice(t=time.monotonic(), reasons=Reason.POLICY_ERROR), 1)
        push(peer, "policy", bare=True)


@way
def comes_with_seventy_peers(endpoint: Endpoint) -> None:
    """The last way: after it nobody else is heard for two seconds."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(endpoint)) for _ in range(70)]
        for peer in peers:
            peer.send(Hello(name="policy", sent=0.0), 0)
        with RawPeer(endpoint) as last:
            last.send(Hello(name="policy", sent=0.0), 0)
            last.socket.poll(200)
        peers[0].session = getattr(peers[0].answer(), "session", b"")
        push(peers[0], "policy", bare=True)


@pytest.fixture(scope="module", params=["loopback", "folder"])
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    folder = str(tmp_path_factory.mktemp("b") / "s")
    listen = folder if request.param == "folder" else f"127.0.0.1:{free_ports()}"
    bridge = Deployed(listen)
    # One that is there before anything is armed gets no more than those who come later.
    with BridgeClient(bridge.endpoint, name="policy", want=["policy", "operator"]) as early:
        yield bridge.running()
        assert not early.may_command("policy") and not early.may_command("operator")
    bridge.close()
    assert not bridge.failed and all(stands(tick) for tick in bridge.ticks)


@pytest.mark.parametrize("attack", WATCHED.values(), ids=WATCHED)
def test_nobody_takes_over_from_the_policy_that_runs(
    watched: Deployed, attack: Callable[[Endpoint], None]
) -> None:
    attack(watched.endpoint)
    tick = watched.later()
    assert stands(tick) and tick.phase is Phase.RUN
    assert tick.source == "policy" and tick.seq < 10_000 and not tick.reasons


# -- a bridge whose policy a person has asked to come from elsewhere -------------------------------


@contextlib.contextmanager
def elsewhere(listen: str, own: ClientKeys | None = None, **options: Any) -> Iterator[Any]:
    """The bridge, and the client that a person has named, standing still."""
    bridge = Deployed(listen, policy_source="laptop", **options)
    client = BridgeClient(bridge.endpoint, name="laptop", want=["policy"], keys=own)
    stopped = threading.Event()

    def stand() -> None:
        seq = 0
        while not stopped.wait(0.05):
            seq += 1
            client.offer(dataclasses.replace(away(), seq=seq, actions=CALM))

    thread = threading.Thread(target=stand, daemon=True)
    thread.start()
    try:
        yield bridge.running(), client
    finally:
        stopped.set()
        thread.join()
        client.close()
        bridge.close()


def test_a_policy_from_elsewhere_is_the_one_that_was_consented_to(tmp_path: Path) -> None:
    with elsewhere(str(tmp_path / "s")) as (bridge, client):
        assert any("laptop chooses the actions" in line for line in bridge.said)
        for name in ("laptop", "eve"):
            with RawPeer(bridge.endpoint) as peer:
                push(peer, "policy", "operator", name=name)
        assert stands(bridge.later()) and bridge.ticks[-1].phase is Phase.RUN
        client.close()  # who was consented to goes, and another of the same name comes
        time.sleep(1.1)
        with RawPeer(bridge.endpoint) as peer:
            push(peer, "policy", name="laptop")
        with (
            BridgeClient(bridge.endpoint, name="laptop", want=["policy"]) as second,
            pytest.raises(TimeoutError, match="consented to was another process"),
        ):
            second.wait(0.4)
        assert bridge.later().phase is Phase.HOLD and stands(bridge.ticks[-1])


def test_with_keys_only_the_named_key_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keys"
    public = keys.new_server(folder).public
    own = {
        name: ClientKeys(public, keys.new_client(folder, name, role))
        for name, role in (("laptop", "command"), ("boss", "admin"), ("tablet", "observe"))
    }
    monkeypatch.setattr(deploying, "default_folder", lambda: folder)
    with elsewhere(f"127.0.0.1:{free_ports()}", own["laptop"]) as (bridge, _):
        for name in own:
            with RawPeer(bridge.endpoint, own[name]) as peer:
                push(peer, "policy", "operator", name="laptop")
        with RawPeer(bridge.endpoint) as peer:  # without a key
            push(peer, "policy", bare=True)
        assert stands(bridge.later()) and bridge.ticks[-1].phase is Phase.RUN


def test_what_is_typed_names_who_moves_the_arm(tmp_path: Path) -> None:
    listen = str(tmp_path)

    def words(**options: Any) -> tuple[str, ...]:
        contract, nobody = bench_contract(), None
        bundle: Any = SimpleNamespace(contract=contract, digest=DIGEST)
        limits = tighten(default_limits(contract.robot), tcp_speed=options.pop("speed", 0.2))
        deployment = Deployment(DeployConfig(**options), bundle, nobody, nobody)
        return deployment._commanders(limits)

    assert words() == (DIGEST[:8],)
    # What goes on learning is consented to by what does not change, and how far a version may go.
    (run,) = words(learning=LearningConfig(learner="gpu:7420"))
    assert run.startswith("learn-") and len(run) == 14
    assert words(learning=LearningConfig(learner="other:1")) == (run,)
    for other in ({"jump": 0.1}, {}):
        learning = LearningConfig(learner="gpu:7420", **other)
        speed = 0.2 if other else 0.1
        assert words(learning=learning, speed=speed) != (run,)
    assert words(policy_server="ws://gpu:8000/x") == ("gpu:8000",)
    both = words(listen=listen, policy_source="laptop", operator_source="tablet")
    assert both == ("laptop", "tablet")


@pytest.mark.parametrize(
    "options",
    [
        {"policy_source": "laptop"},
        {"operator_source": "tablet"},
        {"policy_source": " ", "listen": "/tmp/he"},
        {"policy_source": "laptop", "listen": "/tmp/he", "policy_server": "ws://127.0.0.1:1"},
    ],
)
def test_sources_that_name_nobody_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="-source"):
        DeployConfig(**options)


def test_loopback_without_keys_proves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "default_folder", lambda: tmp_path / "none")
    bridge = Deployed(f"127.0.0.1:{free_ports()}", policy_source="laptop")
    bridge.close()
    assert "make it with: python -m robot_bridge keys" in str(bridge.failed[0])


def test_nobody_is_armed_for_who_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "_GUEST_PATIENCE", 0.05)
    bridge = Deployed(str(tmp_path / "s"), policy_source="laptop")
    bridge.close()
    assert "No policy came to" in str(bridge.failed[0])
    assert not bridge.ticks
