"""Processes that train one run: what they agree on, and what each says that finds nobody."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mjx_serl.ranks import Ranks
from mjx_serl.run.peers import Peers
from scenes.contract.command_line import FAILED

SCRIPT = Path(__file__).with_name("one_peer.py")


def start(rank: int, port: int, *, join_s: int = 60) -> subprocess.Popen[str]:
    """Start one of two processes."""
    ranks = Ranks(rank, 2, f"127.0.0.1:{port}", bind=f"127.0.0.1:{port}", join_s=join_s)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | ranks.environ() | {"PYTHONPATH": str(Path.cwd())},
        text=True,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_two_processes_agree_and_hold_parts_of_a_state():
    port = free_port()
    processes = [start(rank, port) for rank in (0, 1)]
    found: list[dict[str, Any]] = []
    for process in processes:
        out, _ = process.communicate(timeout=120)
        found.append(json.loads(out.splitlines()[-1]))
    for rank, own in enumerate(found):
        assert own["most"] == [1, 3]
        assert own["texts"] == ["", "ab"]
        assert own["here"] == [[3.0 * rank + k for k in range(3)]]
        assert own["gathered"] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        assert own["key"] == [0, 5]
        assert own["same"] == ""
        assert "agent.lr: 0 on rank 0, 1 on rank 1" in own["other"]
        assert own["equal"] == "Processes hold other parameter"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_finds_nobody_says_where_it_looked(rank: int):
    port = free_port()
    process = start(rank, port, join_s=3)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == FAILED
    assert f"error: rank {rank} of 2 did not meet all others at 127.0.0.1:{port} within 3 s" in out


def test_one_process_asks_nobody():
    alone = Peers()
    assert alone.writes
    assert alone.most(True, 3) == (True, 3)
    assert alone.texts("a") == ["a"]
    state = {"a": object()}
    assert alone.gathered(state) is state
