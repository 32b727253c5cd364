"""Serves a bundle's policy to openpi clients: `python -m robot_bridge serve RUN --port 8000`."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robot_bridge.deploy.commands import Interruptible
from robot_bridge.openpi.introduction import policy_token
from robot_bridge.openpi.requests import sent_fields
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.openpi.wire import PROMPT
from robot_bridge.policy.bundle import Bundle, find_bundle, load_bundle
from robot_bridge.policy.policy import OnnxPolicy, Policy, SteerablePolicy
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import check_ranges, ranged


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a policy is served, and for whom.

    Loopback by default. Beyond it a token is required, read from the environment variable
    MJX_SERL_POLICY_TOKEN so that it is in no history and no list of processes.

    Attributes:
        host: to listen on.
        port: 0 takes a free one.
        rename: THEIRS=OURS, for each observation that clients name otherwise.
        tokenizer_model: file of the policy's tokenizer, where that has one.
        max_clients: connections at a time.
        max_per_peer: of them from one address.
    """

    host: str = "127.0.0.1"
    port: int = ranged(8000, least=0, most=65535)
    rename: tuple[str, ...] = ()
    tokenizer_model: Path | None = None
    max_clients: int = ranged(16, least=1, most=1024)
    max_per_peer: int = ranged(8, least=1, most=1024)

    def __post_init__(self) -> None:
        check_ranges(self)

    def config(self, contract: Contract, horizon: int) -> PolicyServerConfig:
        """The server's; errors as of `read_renaming`."""
        return PolicyServerConfig(
            host=self.host,
            port=self.port,
            token=policy_token(),
            renamed=read_renaming(self.rename, contract.obs.names),
            tokenizer_model=self.tokenizer_model,
            horizon=horizon,
            max_clients=self.max_clients,
            max_per_peer=self.max_per_peer,
        )


OPTIONS = ServeOptions()


def serve(run: Path, /, server: ServeOptions = OPTIONS) -> int:
    """Serve a bundle's policy to openpi clients until interrupted.

    Where the bundle says what its policy does from other noise (`export --noise`), clients may
    choose the noise. Policies that answer many clients at once are served by `mjx-serl serve`.

    Args:
        run: a run folder or a bundle.
        server: where, and for whom.

    Raises:
        ValueError: the bundle cannot be used (BundleError) or the host is not safe to listen on
            (UnsafeBindError).
        OSError: the port cannot be had.
    """
    bundle = load_bundle(find_bundle(run))
    manifest = bundle.manifest
    config = server.config(bundle.contract, manifest.horizon)
    return serve_policy(steerable(bundle), bundle.contract, config, manifest.task)


def serve_policy(policy: Policy, contract: Contract, config: PolicyServerConfig, task: str) -> int:
    """Serve a policy until interrupted, and say where and what it observes."""
    with PolicyServer(policy, contract, config) as server, Interruptible(_say):
        names = ", ".join(f"{n} {list(f.shape)}" for n, f in sent_fields(contract).items())
        names += "" if contract.language is None else f", {PROMPT} in words"
        _say(f"ws://{config.host}:{server.port}  {task}\nobserves {names}")
        threading.Event().wait()
    return 0


def steerable(bundle: Bundle) -> Policy:
    """A bundle's policy, with what it does from other noise where the bundle says so."""
    contract, horizon = bundle.contract, bundle.manifest.horizon
    if bundle.explore is None or contract.stack > 1:
        return bundle.policy
    size = {"horizon": horizon, "action_dim": contract.action.dim}
    steered = OnnxPolicy(bundle.explore, contract.inputs, **size, noisy=True)
    return SteerablePolicy(bundle.policy, steered, (horizon, contract.action.dim))


def read_renaming(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Read THEIRS=OURS; InputError for a word that is none, an unknown name, or one named twice."""
    renamed: dict[str, str] = {}
    for word in words:
        theirs, equals, ours = word.partition("=")
        if not (theirs and equals):
            raise InputError(f"--rename '{word}' is not THEIRS=OURS, e.g. images/cam=front")
        if ours not in known:
            raise UnknownNameError(unknown_name("observation", ours, known))
        if theirs in renamed or ours in renamed.values():
            raise InputError(f"--rename '{word}': '{theirs}' or '{ours}' is renamed twice")
        renamed[theirs] = ours
    return renamed


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
