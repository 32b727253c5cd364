"""Serve a bundle's policy to openpi clients: `python -m robot_bridge.serve RUN --port 8000`.

Loopback by default. Beyond it a token is required, read from the environment variable
MJX_SERL_POLICY_TOKEN so that it is in no history and no list of processes.
"""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import tyro

from robot_bridge.bundle import find_bundle, load_bundle
from robot_bridge.commands import guarded
from robot_bridge.deployment import POLICY_TOKEN
from robot_bridge.openpi_server import PolicyServer, PolicyServerConfig


def serve(
    run: tyro.conf.Positional[Path],
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    rename: tuple[str, ...] = (),
) -> int:
    """Load a bundle and answer until interrupted.

    Args:
        run: a run folder or a bundle.
        host: to listen on.
        port: 0 takes a free one.
        rename: THEIRS=OURS for observations that clients call otherwise.
    """
    bundle = load_bundle(find_bundle(run))
    pairs = [word.partition("=") for word in rename]
    config = PolicyServerConfig(
        host=host,
        port=port,
        token=os.environ.get(POLICY_TOKEN, ""),
        renamed={theirs: ours for theirs, _, ours in pairs},
    )
    with PolicyServer(bundle.policy, bundle.contract, config) as server:
        names = ", ".join(f"{f.name} {list(f.shape)}" for f in bundle.contract.obs.fields)
        sys.stdout.write(f"ws://{host}:{server.port}  {bundle.manifest.task}\nobserves {names}\n")
        sys.stdout.flush()
        threading.Event().wait()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return guarded(lambda: tyro.cli(serve, args=arguments, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
