"""Clients of openpi's own package, many at once, or its own server: run in its environment.

python -m benchmarks.workers.openpi_clients PARAMS: JSON in, one line of JSON out. A server says its
port and serves until its standard input closes.
"""

import json
import socket
import sys
import threading
import time
from typing import Any

import numpy as np


def ask(params: dict[str, Any]) -> dict[str, Any]:
    """Return the latencies [s] of `requests` questions of each of `clients`, and their rate [1/s].

    All connect and ask twice before the first is counted, and begin together.
    """
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    obs = blank(params["observations"])
    barrier = threading.Barrier(params["clients"] + 1)
    latencies: list[list[float]] = [[] for _ in range(params["clients"])]

    def client(mine: list[float]) -> None:
        policy = WebsocketClientPolicy("127.0.0.1", params["port"])
        for _ in range(2):
            policy.infer(obs)
        barrier.wait()
        for _ in range(params["requests"]):
            began = time.perf_counter()
            policy.infer(obs)
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(mine,), daemon=True) for mine in latencies]
    for thread in threads:
        thread.start()
    barrier.wait(timeout=120.0)
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    every = [seconds for mine in latencies for seconds in mine]
    return {"latencies": every, "rate": len(every) / took}


def serve(params: dict[str, Any]) -> None:
    """Run openpi's own server of a policy that answers at once."""
    from openpi_client.base_policy import BasePolicy
    from openpi_server.websocket_policy_server import WebsocketPolicyServer

    actions = np.zeros(params["actions"], np.float32)

    class Echo(BasePolicy):
        def infer(self, obs: dict) -> dict:
            return {"actions": actions}

        def reset(self) -> None:
            pass

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = WebsocketPolicyServer(Echo(), host="127.0.0.1", port=port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": port}), flush=True)
    sys.stdin.read()


def blank(observations: dict[str, Any]) -> dict[str, Any]:
    """An observation of zeros, and words as openpi's clients send them."""
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in observations.items()}
    return {**arrays, "prompt": "pick up the cube"}


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if "clients" in told:
        print(json.dumps(ask(told)), flush=True)
    else:
        serve(told)
