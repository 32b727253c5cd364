"""Serves a bundle's policy to openpi clients: `python -m robot_bridge serve RUN --port 8000`."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from robot_bridge.deploy.commands import Interruptible
from robot_bridge.openpi.introduction import policy_token
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.bundle import find_bundle, load_bundle
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.ranges import require_number


def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    rename: tuple[str, ...] = (),
    tokenizer_model: Path | None = None,
) -> int:
    """Serve a bundle's policy to openpi clients until interrupted.

    Loopback by default. Beyond it a token is required, read from the environment variable
    MJX_SERL_POLICY_TOKEN so that it is in no history and no list of processes.

    Args:
        run: a run folder or a bundle.
        host: to listen on.
        port: 0 takes a free one.
        rename: THEIRS=OURS, for each observation that clients name otherwise.
        tokenizer_model: file of the policy's tokenizer, where that has one.

    Raises:
        ValueError: the bundle cannot be used (BundleError) or the host is not safe to listen on
            (UnsafeBindError).
        OSError: the port cannot be had.
    """
    require_number("port", port, least=0, most=65535, whole=True)
    bundle = load_bundle(find_bundle(run))
    renamed = read_renaming(rename, bundle.contract.obs.names)
    config = PolicyServerConfig(
        host=host,
        port=port,
        token=policy_token(),
        renamed=renamed,
        tokenizer_model=tokenizer_model,
    )
    with PolicyServer(bundle.policy, bundle.contract, config) as server, Interruptible(_say):
        names = ", ".join(f"{f.name} {list(f.shape)}" for f in bundle.contract.obs.fields)
        _say(f"ws://{host}:{server.port}  {bundle.manifest.task}\nobserves {names}")
        threading.Event().wait()
    return 0


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
