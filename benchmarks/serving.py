"""How long does a client of openpi's wait for an action of ours, alone and beside many others?

    python -m benchmarks.serving

`openpi-client` as it is published, in an environment of its own, asks our server over loopback: a
convolutional policy of two pictures with the weights that it starts with, which cost what trained
ones do. Our client asks openpi's own server, for what the protocol itself costs. Clients ask again
as soon as they are answered, and run on the cores that serve them. A row's figure is the 99th
percentile, the median over rounds; its details have the median answer, and the least and the
largest of the rounds' percentiles.
"""

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import ROOT
from benchmarks.results import Ratio, Recorder, measure_load, say
from benchmarks.resumable import measure_to_save
from benchmarks.workers.platform import prepare
from robot_bridge.openpi.client import RemotePolicy, RemotePolicyConfig
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.policy import Policy
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import ranged

if TYPE_CHECKING:
    from mjx_serl.export.served import ServedPolicy

QUESTION = "serving"
_WORKER = "benchmarks.workers.openpi_clients"
_TIMEOUT = 600.0  # of all questions of a row [s]
_CLIENT, _SERVER = "openpi-client 0.1.2", "openpi-server 0.1.0"


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What is asked.

    Attributes:
        clients: at once.
        requests: of each of them; of one alone ten times as many.
        image_size: width and height of the policy's two pictures [px].
        rounds: interleaved; figures are medians over them.
        save: file the results and rewrite RESULTS.md.
    """

    clients: int = ranged(64, least=2, most=512)
    requests: int = ranged(50, least=1)
    image_size: int = ranged(64, least=16, most=512)
    rounds: int = ranged(5, least=1)
    save: bool = False


class OneByOne:
    """A policy that answers its clients one after the other, as openpi's server has it."""

    def __init__(self, policy: "ServedPolicy") -> None:
        self._policy = policy

    def reset(self) -> None:
        """Nothing."""

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return actions [H, A]."""
        return self._policy.act(obs)


class Echo:
    """A policy that answers at once."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._actions = np.zeros(shape, np.float32)

    def reset(self) -> None:
        """Nothing."""

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return zeros [H, A]."""
        del obs
        return self._actions


@dataclass(frozen=True)
class Waited:
    """How long clients waited in one round.

    Attributes:
        latencies: of every answer [s].
        facts: of who asked and how.
    """

    latencies: list[float]
    facts: dict[str, float]

    @property
    def p99_ms(self) -> float:
        """99th percentile [ms]."""
        return 1e3 * float(np.percentile(self.latencies, 99))


Ask = Callable[[], Waited]


def run(cfg: ServingConfig, recorder: Recorder) -> None:
    """Ask everything; a peer that cannot be installed leaves a row that says so."""
    policy, contract = fresh_policy(cfg)
    try:
        python = peer_python("openpi")
    except PeerError as error:
        recorder.missing(f"{_CLIENT}, our server", str(error))
        return
    echo, many = Echo((1, contract.action.dim)), f"{cfg.clients} x {_CLIENT}, our server"
    one = partial(_ours_asked, cfg, python, contract, clients=1)
    all_ = partial(_ours_asked, cfg, python, contract, clients=cfg.clients)
    with _their_server(python, (1, contract.action.dim)) as port:
        theirs = partial(_theirs_asked, cfg, python, contract, port)
        _compare(
            cfg,
            recorder,
            {
                f"{_CLIENT}, {_SERVER}, nothing to compute": partial(theirs, ours=False),
                f"our client, {_SERVER}, nothing to compute": partial(theirs, ours=True),
                f"{_CLIENT}, our server, nothing to compute": partial(one, echo),
            },
        )
    _compare(cfg, recorder, {f"{_CLIENT}, our server": partial(one, policy)})
    _compare(
        cfg,
        recorder,
        {
            f"{many}, one by one": partial(all_, OneByOne(policy)),
            f"{many}, in batches": partial(all_, policy),
        },
    )


def _compare(cfg: ServingConfig, recorder: Recorder, asked: dict[str, Ask]) -> None:
    """Ask in turn, round after round; the first is what the others are compared with."""
    load = measure_load()
    rounds: dict[str, list[Waited]] = {name: [] for name in asked}
    for number in range(cfg.rounds):
        for name, ask in asked.items():
            say(f"round {number + 1} of {cfg.rounds}: {name}")
            rounds[name].append(ask())
    baseline, *_ = rounds
    for name, found in rounds.items():
        p99 = [waited.p99_ms for waited in found]
        facts: dict[str, Any] = {
            k: statistics.median_high(w.facts[k] for w in found) for k in found[0].facts
        }
        facts["median_ms"] = 1e3 * float(np.median([np.median(w.latencies) for w in found]))
        facts |= {"lowest_p99_ms": min(p99), "highest_p99_ms": max(p99), "rounds": cfg.rounds}
        ratio = None
        if name != baseline:
            shares = [w.p99_ms / b.p99_ms for w, b in zip(found, rounds[baseline], strict=True)]
            value = float(np.median(shares))
            ratio = Ratio(
                to=baseline, value=value, low=min(shares), high=max(shares), rounds=cfg.rounds
            )
        recorder.add(name, float(np.median(p99)), "ms", facts, load=load, ratio=ratio)


def _ours_asked(
    cfg: ServingConfig, python: Path, contract: Contract, policy: Policy, *, clients: int
) -> Waited:
    """Their clients at our server."""
    config = PolicyServerConfig(
        port=0, max_clients=clients, max_per_peer=clients, max_batch=cfg.clients
    )
    with PolicyServer(policy, contract, config) as server:
        found = _clients(python, _question(cfg, contract, server.port, clients))
        sizes = dict(server.batches)
    answered = sum(size * count for size, count in sizes.items())
    mean_batch = answered / sum(sizes.values())
    facts = {"clients": clients, "mean_batch": mean_batch, "largest_batch": max(sizes)}
    return Waited(found["latencies"], {**facts, "requests_per_second": found["rate"]})


def _theirs_asked(
    cfg: ServingConfig, python: Path, contract: Contract, port: int, *, ours: bool
) -> Waited:
    """Our client, or theirs, at their server."""
    if ours:
        latencies = _ours(contract, port, 10 * cfg.requests)
    else:
        latencies = _clients(python, _question(cfg, contract, port, 1))["latencies"]
    return Waited(latencies, {"clients": 1})


def _question(cfg: ServingConfig, contract: Contract, port: int, clients: int) -> dict[str, Any]:
    """What their clients are told to ask."""
    return {
        "observations": {f.name: (f.shape, f.dtype) for f in contract.obs.fields},
        "port": port,
        "clients": clients,
        "requests": cfg.requests if clients > 1 else 10 * cfg.requests,
    }


def fresh_policy(cfg: ServingConfig) -> tuple["ServedPolicy", Contract]:
    """A compiled policy of two pictures that has learned nothing, and its contract."""
    prepare()
    import jax

    from mjx_serl.config import TrainConfig
    from mjx_serl.data import normalize
    from mjx_serl.envs.observation import PixelConfig
    from mjx_serl.export.served import ServedPolicy
    from mjx_serl.training.state import PolicyParams

    pixels = PixelConfig(cameras=("front", "wrist"), size=cfg.image_size)
    built = TrainConfig(task="franka/pick_cube", physics="native", pixels=pixels, num_envs=1)
    observer = built.build_observer()
    trainer = built.build(observer)
    agent, spec = built.method.agent.build(), observer.obs_spec
    state = jax.jit(lambda key: agent.init(key, spec, observer.env.action_spec))(jax.random.key(0))
    params = PolicyParams(agent.acting(state), normalize.init(spec, scaled=True))
    policy = ServedPolicy(trainer, observer, params, most=cfg.clients)
    say(f"compiling batches of {policy.sizes}")
    policy.warm_up()
    return policy, observer.contract


def _clients(python: Path, params: dict[str, Any]) -> dict[str, Any]:
    """What openpi's own clients measured."""
    done = subprocess.run(
        [python, "-m", _WORKER, json.dumps(params)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{_WORKER}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def _their_server(python: Path, actions: tuple[int, int]) -> Iterator[int]:
    """Port of openpi's own server of a policy that answers at once."""
    process = subprocess.Popen(
        [python, "-m", _WORKER, json.dumps({"actions": actions})],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(json.loads(process.stdout.readline())["port"])
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=10.0)


def _ours(contract: Contract, port: int, requests: int) -> list[float]:
    """Latencies of our client at a server of openpi's [s]."""
    config = RemotePolicyConfig(
        uri=f"ws://127.0.0.1:{port}", timeout=2.0, require_contract=False, prompt="pick up the cube"
    )
    obs = {f.name: np.zeros(f.shape, f.dtype) for f in contract.obs.fields}
    with RemotePolicy(contract, config) as policy:
        policy.handshake()
        return [_timed(lambda: policy.act(obs)) for _ in range(requests)]


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    measure_to_save(ServingConfig, __doc__, QUESTION, run)
