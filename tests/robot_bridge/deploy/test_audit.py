"""What a deployment leaves behind and lets others see."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_arm import PHRASE, REFLEX, Bench

from robot_bridge.__main__ import main
from robot_bridge.clock import ManualClock
from robot_bridge.deploy.audit import AuditLog
from robot_bridge.network.endpoints import UnsafeBindError, parse_endpoint
from robot_bridge.network.server import BridgeServer, Callbacks
from robot_bridge.reasons import Phase

ROOT = Path(__file__).parents[3]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_arming_faults_and_recoveries_are_written_down(tmp_path: Path) -> None:
    bench = Bench(running=False)
    path = tmp_path / "state" / "audit.jsonl"
    audit = AuditLog(path, bench.clock, {"bundle": "b1", "serial": "A7"})
    bench.supervisor._audit = audit.note
    bench.arm_it()
    bench.control.begin()
    bench.run(0.2)
    bench.arm.spoil = REFLEX
    bench.run_until(Phase.FAULT, within=0.2)
    bench.supervisor.recover(bench.supervisor.confirm("recover", by="eve", typed=PHRASE))
    lines = read(path)
    assert [line["event"] for line in lines] == ["armed", "fault", "recovered"]
    assert all(line["bundle"] == "b1" and line["serial"] == "A7" for line in lines)
    assert lines[0]["by"] == "test" and lines[2]["by"] == "eve"
    assert lines[1]["cause"] == "robot_fault"
    assert path.stat().st_mode & 0o077 == 0


def test_an_audit_log_that_cannot_be_written_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    AuditLog(tmp_path / "file" / "audit.jsonl", ManualClock(), {}).note("armed")
    assert "was not written" in caplog.text
    AuditLog(None, ManualClock(), {}).note("armed")


@pytest.mark.parametrize("text", ["7400", ":7400", "host:", "host:0x10", "host:99999"])
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="a folder or HOST:PORT"):
        parse_endpoint(text)


def test_endpoints_know_who_can_reach_them(tmp_path: Path) -> None:
    assert parse_endpoint(f"{tmp_path}/x").local and parse_endpoint("127.0.0.1:7400").local
    assert not parse_endpoint("192.168.1.4:7400").local


def test_a_running_bridge_can_be_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench()
    nothing = Callbacks(offer=lambda c, t: None, notice=lambda n: None, fault=lambda *a, **k: None)
    with BridgeServer(parse_endpoint(f"{tmp_path}/sockets"), nothing) as server:
        server.publish(bench.ticks[-1])
        time.sleep(0.1)
        options = [f"{tmp_path}/sockets", "--seconds", "1.5", "--rate", "5"]
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_bridge", "observe", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 15.0
        while process.poll() is None and time.monotonic() < deadline:
            server.publish(bench.ticks[-1])
            time.sleep(0.05)
        out, _ = process.communicate(timeout=5.0)
    assert "run       policy" in out and " m  " in out


def test_watching_beyond_loopback_takes_the_servers_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", "192.168.1.4:7400"]) == 2
    assert "--server-key" in capsys.readouterr().err


def test_listening_beyond_loopback_takes_keys(tmp_path: Path) -> None:
    nothing = Callbacks(offer=lambda c, t: None, notice=lambda n: None, fault=lambda *a, **k: None)
    with pytest.raises(UnsafeBindError, match="robot_bridge keys server"):
        BridgeServer(parse_endpoint("0.0.0.0:7400"), nothing)
