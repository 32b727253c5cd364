"""How long does a client of openpi's wait for an action of ours, alone and beside many others?

    python -m benchmarks.serving

`openpi-client` as it is published, in an environment of its own, asks our server over loopback: a
convolutional policy of two pictures with the weights that it starts with, which cost what trained
ones do. Our client asks openpi's own server, for what the protocol itself costs. Clients ask again
as soon as they are answered, and run on the cores that serve them. A row's figure is the 99th
percentile; its details have the median.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import read_options
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.table import finish
from benchmarks.workers.platform import prepare
from robot_bridge.openpi.client import RemotePolicy, RemotePolicyConfig
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
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
        save: file the results and rewrite RESULTS.md.
    """

    clients: int = ranged(64, least=2, most=512)
    requests: int = ranged(50, least=1)
    image_size: int = ranged(64, least=16, most=512)
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


def run(cfg: ServingConfig, recorder: Recorder) -> None:
    """Ask everything; a peer that cannot be installed leaves a row that says so."""
    policy, contract = fresh_policy(cfg)
    try:
        python = peer_python("openpi")
    except PeerError as error:
        recorder.missing(f"{_CLIENT}, our server", str(error))
        return
    sent = {f.name: (f.shape, f.dtype) for f in contract.obs.fields}
    ask = {"observations": sent}

    def asked(name: str, served: Any, clients: int, requests: int) -> None:
        say(name)
        config = PolicyServerConfig(
            port=0, max_clients=clients, max_per_peer=clients, max_batch=cfg.clients
        )
        with PolicyServer(served, contract, config) as server:
            params = ask | {"port": server.port, "clients": clients, "requests": requests}
            found = _clients(python, params)
            sizes = dict(server.batches)
        answered = sum(size * count for size, count in sizes.items())
        facts = {
            "clients": clients,
            "mean_batch": answered / sum(sizes.values()),
            "largest_batch": max(sizes),
            "requests_per_second": found["rate"],
        }
        _add(recorder, name, found["latencies"], facts)

    echo = Echo((1, contract.action.dim))
    asked(f"{_CLIENT}, our server, nothing to compute", echo, 1, 10 * cfg.requests)
    with _their_server(python, (1, contract.action.dim)) as port:
        say(f"our client, {_SERVER}")
        latencies = _ours(contract, port, 10 * cfg.requests)
        _add(recorder, f"our client, {_SERVER}, nothing to compute", latencies, {"clients": 1})
        params = ask | {"port": port, "clients": 1, "requests": 10 * cfg.requests}
        theirs = _clients(python, params)["latencies"]
        _add(recorder, f"{_CLIENT}, {_SERVER}, nothing to compute", theirs, {"clients": 1})
    asked(f"{_CLIENT}, our server", policy, 1, 10 * cfg.requests)
    many = f"{cfg.clients} x {_CLIENT}, our server"
    asked(f"{many}, in batches", policy, cfg.clients, cfg.requests)
    asked(f"{many}, one by one", OneByOne(policy), cfg.clients, cfg.requests)


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


def _add(recorder: Recorder, name: str, latencies: list[float], facts: dict[str, Any]) -> None:
    ms = 1e3 * np.asarray(latencies)
    spread = {"median_ms": float(np.median(ms)), "worst": float(ms.max()), "requests": len(ms)}
    recorder.add(name, float(np.percentile(ms, 99)), "ms", {**facts, **spread})


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


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(ServingConfig, __doc__)
    recorder = Recorder(QUESTION)
    run(cfg, recorder)
    if cfg.save:
        finish(recorder.results)


if __name__ == "__main__":
    main()
