"""Recordings as arms, policies behind a server, and sessions that people cut short."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from robot_bridge.clock import ManualClock
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rig import Rig, RigConfig
from robot_bridge.deploy.rigs import build_rig, open_senses, rig_makers
from robot_bridge.drivers.dry_run import NullDriver
from robot_bridge.drivers.replay import ReplayDriver, ReplayObjects
from robot_bridge.openpi.client import RemotePolicy, RemotePolicyError
from robot_bridge.openpi.server import PolicyServer, PolicyServerConfig
from robot_bridge.policy.bundle import Bundle, load_bundle
from robot_bridge.records.reader import read_recording
from robot_bridge.safety.supervisor import Supervisor

pytestmark = pytest.mark.keeps_time

ROOT = Path(__file__).parents[3]
NULL = RigConfig(robot="null", objects=("cube=0.4,0.05,0.02",))


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def deploy(bundle: Bundle, config: RigConfig | Rig, **options) -> tuple[Deployment, list[str]]:
    said: list[str] = []
    built = isinstance(config, Rig)
    rig = config if built else build_rig(config, bundle.contract, rig_makers())
    talk = Talk(said.append, lambda prompt: "")
    deployment = Deployment(DeployConfig(**{"separate": False} | options), bundle, rig, talk)
    deployment.run()
    return deployment, said


@pytest.fixture(scope="module")
def recorded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of no arm, in lock-step: a busy machine records the same."""
    root = tmp_path_factory.mktemp("records")
    contract, clock = bundle.contract, ManualClock()
    arm = NullDriver(contract.robot, contract.home, clock)
    rig = Rig(driver=arm, clock=clock, senses=lambda: open_senses(NULL, contract, clock))
    deploy(bundle, rig, seconds=2.0, record=root)
    (folder,) = root.iterdir()
    return folder


# -- replay ------------------------------------------------------------------------------------


def test_a_recording_is_played_to_the_policy_that_made_it(bundle: Bundle, recorded: Path) -> None:
    """The same bundle, seeing the same, begins as it did then."""
    config = RigConfig(robot="replay", address=str(recorded))
    deployment, said = deploy(bundle, config, seconds=60.0)
    (report,) = deployment.reports
    assert report.ending == "cut" and 1.5 < report.seconds < 2.5
    gaps = deployment.rig.driver.gaps
    # The arm does not follow, so the two part with time; they begin as one.
    assert len(gaps) > 150 and max(gaps[:10]) < 1e-3 and max(gaps) < 0.2
    assert f"replay   {len(gaps)} targets were sent, " in said[-1]


def test_states_come_again_in_their_own_time(recorded: Path) -> None:
    clock = ManualClock()
    driver = ReplayDriver(recorded, clock)
    ticks = [tick for tick in read_recording(recorded).ticks if tick.target is not None]
    driver.connect()
    first = driver.state()
    np.testing.assert_array_equal(first.q, ticks[0].state.q)
    assert first.t <= clock.now()
    clock.advance(1.0)
    later = driver.state()
    expected = [tick.state.q for tick in ticks if abs(tick.t - ticks[0].t - 1.0) < 0.03]
    assert any(np.array_equal(later.q, q) for q in expected) and later.seq > first.seq
    places, _ = ReplayObjects(driver).positions()
    np.testing.assert_allclose(places["cube"], (0.4, 0.05, 0.02), atol=1e-6)
    clock.advance(60.0)
    assert driver.over


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recording"):
        ReplayDriver(tmp_path, ManualClock())
    with pytest.raises(ValueError, match="--address, the folder of a recording"):
        build_rig(RigConfig(robot="replay"), None, rig_makers())


# -- another machine's policy ------------------------------------------------------------------


def test_the_bridge_runs_a_policy_behind_a_server(bundle: Bundle) -> None:
    with PolicyServer(bundle.policy, bundle.contract, PolicyServerConfig(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}"
        deployment, _ = deploy(bundle, NULL, seconds=1.5, policy_server=uri)
    (report,) = deployment.reports
    assert report.ending == "timeout" and report.reasons.get("policy_error", 0) < 50
    assert sum(server.batches.values()) >= 10


class Chunks:
    """Answers with eight small actions."""

    def reset(self) -> None:
        pass

    def act(self, obs: dict) -> np.ndarray:
        return np.full((8, 4), 0.1, np.float32)


def test_as_much_of_a_servers_chunks_is_played_as_is_asked_for(bundle: Bundle) -> None:
    with PolicyServer(Chunks(), bundle.contract, PolicyServerConfig(port=0)) as server:
        options = {"policy_server": f"ws://127.0.0.1:{server.port}", "policy_horizon": 5}
        deployment, said = deploy(bundle, NULL, seconds=2.0, **options)
        asked = sum(server.batches.values()) - 2  # of the handshake
        (report,) = deployment.reports
        assert report.ending == "timeout" and 3 <= asked <= 5  # in twenty actions
        assert any("8 actions per observation, 5 of them played" in line for line in said)
        with pytest.raises(ValueError, match="--policy-horizon 9 .* allowed: 1 to 8"):
            deploy(bundle, NULL, seconds=1.0, **options | {"policy_horizon": 9})


def test_nothing_is_armed_for_a_server_that_is_not_there(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    handshake = RemotePolicy.handshake
    monkeypatch.setattr(RemotePolicy, "handshake", lambda self: handshake(self, seconds=0.3))
    monkeypatch.setattr(Supervisor, "arm", lambda *_: pytest.fail("armed"))
    with pytest.raises(RemotePolicyError, match="No policy at ws://127.0.0.1:9"):
        deploy(bundle, NULL, seconds=3.5, policy_server="ws://127.0.0.1:9")


def test_a_server_that_goes_away_holds_the_arm_and_faults(bundle: Bundle) -> None:
    with PolicyServer(bundle.policy, bundle.contract, PolicyServerConfig(port=0)) as server:
        uri = f"ws://127.0.0.1:{server.port}"
        timer = threading.Timer(1.5, server.close)
        timer.start()
        deployment, _ = deploy(bundle, NULL, seconds=6.0, policy_server=uri)
        timer.join()
    (report,) = deployment.reports
    assert report.ending == "fault" and report.reasons["policy_error"] > 100


# -- people ------------------------------------------------------------------------------------


def start(*argv: str, tmp_path: Path) -> subprocess.Popen[str]:
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    command = [sys.executable, *argv]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 3])
def test_interrupting_lets_go_of_the_arm(
    bundle: Bundle, tmp_path: Path, how: signal.Signals, times: int
) -> None:
    options = ["--robot", "null", "--objects", "cube=0.4,0,0.02", "--seconds", "60"]
    record = ["--record", str(tmp_path / "records")]
    process = start("deploy.py", str(bundle.path), *options, *record, tmp_path=tmp_path)
    assert process.stdout is not None
    while "limits" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    time.sleep(1.0)
    for _ in range(times):
        process.send_signal(how)
        time.sleep(0.02)
    _, err = process.communicate(timeout=20.0)
    assert process.returncode == 130, err
    assert "Interrupted; nothing is commanded any more." in err and "Traceback" not in err
    (folder,) = (tmp_path / "records").iterdir()
    ticks = read_recording(folder).ticks
    assert len(ticks) > 30 and ticks[50].target is not None


@pytest.mark.slow
def test_a_bundle_is_served(bundle: Bundle, tmp_path: Path) -> None:
    process = start(
        "-m", "robot_bridge", "serve", str(bundle.path), "--port", "0", tmp_path=tmp_path
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    uri = line.split()[0]
    assert uri.startswith("ws://127.0.0.1:")
    try:
        deployment, _ = deploy(bundle, NULL, seconds=1.0, policy_server=uri)
        assert deployment.reports[0].ending == "timeout"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10.0)
        assert process.returncode == 130 and "Traceback" not in err
    finally:
        process.kill()
        process.wait()
