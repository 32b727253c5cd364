"""Watch a bridge that runs: `python -m robot_bridge.observe ENDPOINT`.

ENDPOINT is what deploy.py was given with --listen: a folder, or HOST:PORT.
"""

import sys
import time
from collections.abc import Sequence

import tyro

from robot_bridge.commands import guarded
from robot_bridge.endpoints import ClientKeys, parse_endpoint
from robot_bridge.keys import default_folder, load_pair
from robot_bridge.messages import Tick
from robot_bridge.reasons import describe
from robot_bridge.remote import BridgeClient


def observe(
    endpoint: tyro.conf.Positional[str],
    /,
    name: str = "observer",
    server_key: str | None = None,
    rate: float = 2.0,
    seconds: float | None = None,
) -> int:
    """Print the phase, the reasons and where the arm is.

    Args:
        endpoint: of the bridge.
        name: of the client; beyond loopback its key is NAME.key of python -m robot_bridge.keys.
        server_key: the bridge's public key, needed beyond loopback.
        rate: lines per second [Hz].
        seconds: how long; None until interrupted.
    """
    place = parse_endpoint(endpoint)
    keys = None
    if not place.local:
        if server_key is None:
            raise ValueError(f"'{endpoint}' is beyond loopback: give the bridge's --server-key")
        keys = ClientKeys(server_key, load_pair(default_folder() / f"{name}.key"))
    until = None if seconds is None else time.monotonic() + seconds
    with BridgeClient(place, name=name, keys=keys) as client:
        while until is None or time.monotonic() < until:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return guarded(lambda: tyro.cli(observe, args=arguments, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
