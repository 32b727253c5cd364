"""Watches a bridge that runs: `python -m robot_bridge observe ENDPOINT`."""

import math
import sys
import time

from robot_bridge.messages import Tick
from robot_bridge.network.client import BridgeClient
from robot_bridge.network.endpoints import ClientKeys, parse_endpoint
from robot_bridge.network.keys import default_folder, load_pair
from robot_bridge.reasons import describe
from scenes.contract.errors import InputError
from scenes.contract.ranges import require_number


def observe(
    endpoint: str,
    /,
    *,
    name: str = "observer",
    server_key: str | None = None,
    rate: float = 2.0,
    seconds: float = math.inf,
) -> int:
    """Print a running bridge's phase, its reasons and where the arm is.

    Args:
        endpoint: what deploy.py was given with --listen: a folder, or HOST:PORT.
        name: of this client, and of its NAME.key.
        server_key: the bridge's public key, needed beyond loopback.
        rate: lines per second [Hz].
        seconds: how long [s].

    Raises:
        ValueError: a number is out of range, the endpoint is none, or it is beyond loopback and a
            key is missing.
    """
    require_number("rate", rate, above=0, most=1000)
    if seconds != math.inf:
        require_number("seconds", seconds, above=0)
    place = parse_endpoint(endpoint)
    keys = None
    if not place.local:
        if server_key is None:
            raise InputError(f"'{endpoint}' is beyond loopback: give its --server-key")
        keys = ClientKeys(server_key, load_pair(default_folder() / f"{name}.key"))
    until = time.monotonic() + seconds
    with BridgeClient(place, name=name, keys=keys) as client:
        while time.monotonic() < until:
            tick = client.latest
            sys.stdout.write(("waiting for the bridge" if tick is None else line(tick)) + "\n")
            sys.stdout.flush()
            time.sleep(1.0 / rate)
    return 0


def line(tick: Tick) -> str:
    """One line of a tick."""
    x, y, z = tick.state.position
    who = tick.source or "nobody"
    return (
        f"{tick.phase.value:<9} {who:<8} [{x:+.3f} {y:+.3f} {z:+.3f}] m  "
        f"{tick.state.gripper_width * 1e3:3.0f} mm  {describe(tick.reasons)}"
    )
