"""Watch a bridge that runs: `python -m robot_bridge.deploy.observe ENDPOINT`.

ENDPOINT is what deploy.py was given with --listen: a folder, or HOST:PORT.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence

from robot_bridge.deploy.commands import guarded
from robot_bridge.messages import Tick
from robot_bridge.network.client import BridgeClient
from robot_bridge.network.endpoints import ClientKeys, parse_endpoint
from robot_bridge.network.keys import default_folder, load_pair
from robot_bridge.reasons import describe


def observe(options: argparse.Namespace) -> int:
    """Print the phase, the reasons and where the arm is; ValueError for what cannot be reached."""
    place = parse_endpoint(options.endpoint)
    keys = None
    if not place.local:
        if options.server_key is None:
            raise ValueError(f"'{options.endpoint}' is beyond loopback: give its --server-key")
        own = load_pair(default_folder() / f"{options.name}.key")
        keys = ClientKeys(options.server_key, own)
    until = time.monotonic() + options.seconds
    with BridgeClient(place, name=options.name, keys=keys) as client:
        while time.monotonic() < until:
            tick = client.latest
            sys.stdout.write(("waiting for the bridge" if tick is None else line(tick)) + "\n")
            sys.stdout.flush()
            time.sleep(1.0 / options.rate)
    return 0


def line(tick: Tick) -> str:
    """One line of a tick."""
    x, y, z = tick.state.position
    who = tick.source or "nobody"
    return (
        f"{tick.phase.value:<9} {who:<8} [{x:+.3f} {y:+.3f} {z:+.3f}] m  "
        f"{tick.state.gripper_width * 1e3:3.0f} mm  {describe(tick.reasons)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robot_bridge.deploy.observe", description=__doc__
    )
    parser.add_argument("endpoint", help="of the bridge")
    parser.add_argument("--name", default="observer", help="of the client, and of its NAME.key")
    parser.add_argument("--server-key", help="the bridge's public key, needed beyond loopback")
    parser.add_argument("--rate", type=float, default=2.0, help="lines per second")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long; for ever")
    return guarded(lambda: observe(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
