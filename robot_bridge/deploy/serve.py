"""Serve a bundle's policy to openpi clients: `python -m robot_bridge.deploy.serve RUN --port 8000`.

Loopback by default. Beyond it a token is required, read from the environment variable
MJX_SERL_POLICY_TOKEN so that it is in no history and no list of processes.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from robot_bridge.deploy.commands import Interruptible, guarded
from robot_bridge.deploy.deployment import POLICY_TOKEN
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.bundle import find_bundle, load_bundle


def serve(options: argparse.Namespace) -> int:
    """Load a bundle and answer until interrupted; BundleError, UnsafeBindError, OSError."""
    bundle = load_bundle(find_bundle(options.run))
    pairs = [word.partition("=") for word in options.rename]
    config = PolicyServerConfig(
        host=options.host,
        port=options.port,
        token=os.environ.get(POLICY_TOKEN, ""),
        renamed={theirs: ours for theirs, _, ours in pairs},
    )
    with PolicyServer(bundle.policy, bundle.contract, config) as server, Interruptible(_say):
        names = ", ".join(f"{f.name} {list(f.shape)}" for f in bundle.contract.obs.fields)
        _say(f"ws://{options.host}:{server.port}  {bundle.manifest.task}\nobserves {names}")
        threading.Event().wait()
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robot_bridge.deploy.serve", description=__doc__
    )
    parser.add_argument("run", type=Path, help="a run folder or a bundle")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--rename", nargs="*", default=(), metavar="THEIRS=OURS", help="observations' names"
    )
    return guarded(lambda: serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
