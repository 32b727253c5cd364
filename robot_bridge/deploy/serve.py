"""Serves a bundle's policy to openpi clients: `python -m robot_bridge serve RUN --port 8000`."""

import os
import sys
import threading
from pathlib import Path

from robot_bridge.deploy.commands import Interruptible
from robot_bridge.deploy.deployment import POLICY_TOKEN
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.bundle import find_bundle, load_bundle


def serve(
    run: Path, /, *, host: str = "127.0.0.1", port: int = 8000, rename: tuple[str, ...] = ()
) -> int:
    """Serve a bundle's policy to openpi clients until interrupted.

    Loopback by default. Beyond it a token is required, read from the environment variable
    MJX_SERL_POLICY_TOKEN so that it is in no history and no list of processes.

    Args:
        run: a run folder or a bundle.
        host: to listen on.
        port: 0 takes a free one.
        rename: THEIRS=OURS, for each observation that clients name otherwise.

    Raises:
        ValueError: the bundle cannot be used (BundleError) or the host is not safe to listen on
            (UnsafeBindError).
        OSError: the port cannot be had.
    """
    bundle = load_bundle(find_bundle(run))
    pairs = [word.partition("=") for word in rename]
    config = PolicyServerConfig(
        host=host,
        port=port,
        token=os.environ.get(POLICY_TOKEN, ""),
        renamed={theirs: ours for theirs, _, ours in pairs},
    )
    with PolicyServer(bundle.policy, bundle.contract, config) as server, Interruptible(_say):
        names = ", ".join(f"{f.name} {list(f.shape)}" for f in bundle.contract.obs.fields)
        _say(f"ws://{host}:{server.port}  {bundle.manifest.task}\nobserves {names}")
        threading.Event().wait()
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
