"""Franka drivers against simulated robots that speak the FCI's own protocol."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from driver_conformance import CHECKS, Rig, name_of, prompt, target_at, token

from benchmarks.peers.franka_server import FrankaServer, SimulatorError, free_host, serve
from robot_bridge.driver import ArmDriver, DriverError, Mode, Target
from robot_bridge.drivers.franka.config import FrankaConfig
from robot_bridge.drivers.franka.driver import FrankaDriver
from robot_bridge.drivers.franka.frames import ToolFrame, invert, matrix_to_quat
from robot_bridge.drivers.franka.franka_rs import franka_rs_driver
from robot_bridge.drivers.franka.franky import franky_driver
from scenes.contract.rotations import quat_to_matrix
from scenes.robots.fr3 import fr3

pytestmark = pytest.mark.keeps_time

DRIVERS = {"franky": franky_driver, "franka-rs": franka_rs_driver}
both = pytest.mark.parametrize("kind", DRIVERS)
wire = pytest.mark.wire
ROBOT = fr3()


@contextlib.contextmanager
def server_or_skip(**options) -> Iterator[FrankaServer]:
    try:
        with serve(**options) as server:
            yield server
    except SimulatorError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server():
    with server_or_skip() as server:
        yield server


def make_driver(kind: str, server: FrankaServer, **changes) -> FrankaDriver:
    return DRIVERS[kind](FrankaConfig(host=server.host, realtime=False, **changes))


@contextlib.contextmanager
def armed(kind: str, server: FrankaServer) -> Iterator[ArmDriver]:
    with Rig(make=lambda: make_driver(kind, server), robot=ROBOT).armed() as driver:
        yield driver


def wait_until(condition, *, seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.002)
    return time.monotonic() - began


@wire
@both
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(kind, check, server):
    check(Rig(make=lambda: make_driver(kind, server), robot=ROBOT))


@wire
@both
def test_follows_a_slow_ramp_without_a_reflex(kind, server):
    with armed(kind, server) as driver:
        start = state = driver.state()
        errors = []
        began = time.monotonic()
        for step in range(1, 201):  # 4 cm at 2 cm/s, down
            position = start.position - [0.0, 0.0, 0.02 * step / 100]
            driver.servo(Target(position=position, quat=start.quat, q=start.q))
            time.sleep(max(0.0, began + step / 100 - time.monotonic()))
            state = driver.state()
            assert state.mode is Mode.MOVING and state.faults == ()
            errors.append(np.linalg.norm(state.position - position))
        # Friction that this simulator does not compensate, and damping: a few millimetres.
        assert np.mean(errors) < 0.008 and max(errors) < 0.011
        assert driver.state().position[2] < start.position[2] - 0.03
        assert abs(state.twist[2] + 0.02) < 0.01


@wire
@both
def test_a_reflex_is_reported_and_only_a_person_recovers_from_it(kind, server):
    with armed(kind, server) as driver:
        server.tell("reflex")
        took = wait_until(lambda: driver.state().mode is Mode.REFLEX, seconds=1.0)
        assert took < 0.1
        faults = driver.state().faults
        assert "controller_torque_discontinuity" in faults and "control_ended" in faults
        here = target_at(ROBOT, driver.state().q)
        with pytest.raises(DriverError):
            driver.servo(here)
        driver.stop("soft")  # as the supervisor does on a fault
        with pytest.raises(DriverError, match="reflex"):
            driver.arm(token("arm"))
        with pytest.raises(DriverError):
            driver.recover(token("arm"))
        assert driver.state().mode is Mode.REFLEX  # nothing has cleared it
        driver.recover(token("recover"))
        wait_until(lambda: driver.state().mode is Mode.IDLE, seconds=1.0)
        assert driver.state().faults == ()
        driver.arm(token("arm"))
        driver.servo(here)
        assert driver.state().mode is Mode.MOVING


@wire
@both
def test_the_user_stop_is_reported_and_nothing_goes_on_after_it(kind, server):
    with armed(kind, server) as driver:
        server.tell("user_stop")
        wait_until(lambda: driver.state().mode is Mode.USER_STOPPED, seconds=1.0)
        assert "control_ended" in driver.state().faults
        driver.stop("soft")
        with pytest.raises(DriverError, match="user_stopped"):
            driver.arm(token("arm"))
        server.tell("release")
        wait_until(lambda: driver.state().mode is Mode.IDLE, seconds=1.0)
        driver.arm(token("arm"))  # a person again
        assert driver.state().mode is Mode.MOVING


@wire
@both
def test_a_jump_of_the_target_is_absorbed_by_the_clip(kind, server):
    with armed(kind, server) as driver:
        start = state = driver.state()
        aside = np.add(start.position, [0.0, 0.03, 0.0])
        away = Target(position=aside, quat=start.quat, q=start.q)
        fastest = 0.0
        for _ in range(100):
            driver.servo(away)
            time.sleep(0.01)
            state = driver.state()
            assert state.mode is Mode.MOVING and state.faults == ()
            fastest = max(fastest, float(np.linalg.norm(state.twist[:3])))
        assert fastest < 0.3  # stiffness times clip over damping is 0.22 m/s
        assert np.linalg.norm(state.position - away.position) < 0.012


@wire
@both
def test_a_robot_that_is_gone_is_noticed_and_nothing_hangs(kind):
    with server_or_skip() as server, armed(kind, server) as driver:
        here = target_at(ROBOT, driver.state().q)
        server.kill()
        time.sleep(0.05)
        last, began = driver.state(), time.monotonic()

        def lost() -> bool:
            try:
                prompt(driver.state)
                assert driver.state().t <= last.t + 0.05  # stale at once: layer 14 holds on it
                with contextlib.suppress(DriverError):
                    prompt(lambda: driver.servo(here))
            except DriverError as error:
                return "link is lost" in str(error)
            return False

        assert wait_until(lost, seconds=4.0) < 3.0
        began = time.monotonic()
        for call in (driver.hold, lambda: driver.stop("protective")):
            with contextlib.suppress(DriverError):
                call()
        assert time.monotonic() - began < 0.1
        with pytest.raises(DriverError):
            driver.recover(token("recover"))


@wire
@both
def test_a_library_that_does_not_let_go_is_left_behind(kind, server, monkeypatch):
    driver, never = make_driver(kind, server), threading.Event()
    driver.connect()
    let_go = driver._library.close
    monkeypatch.setattr(driver._library, "close", never.wait)
    began = time.monotonic()
    driver.close()
    assert time.monotonic() - began < 5.0
    never.set()
    let_go()


@wire
@both
def test_the_hand_grasps_what_is_there_and_the_latest_width_wins(kind):
    with server_or_skip(object_width=0.03) as server, armed(kind, server) as driver:
        for width in np.linspace(0.07, 0.0, 15):
            prompt(lambda width=width: driver.gripper(float(width), 20.0))
        wait_until(lambda: abs(driver.state().gripper_width - 0.03) < 0.002, seconds=2.0)
        driver.gripper(0.08, 20.0)
        wait_until(lambda: abs(driver.state().gripper_width - 0.08) < 0.002, seconds=2.0)
        with pytest.raises(DriverError):
            driver.gripper(float("nan"), 20.0)


@wire
def test_another_simulator_by_other_people_agrees():
    checks = ("pose_is_the_tool_centre_of_q", "servo_goes_there_and_back")
    with server_or_skip(kind="franky") as server:
        rig = Rig(make=lambda: make_driver("franky", server), robot=ROBOT)
        for check in CHECKS:
            if name_of(check) in checks:
                check(rig)
        # It answers with the version's bytes swapped (2560); franka-rs looks at them.
        with pytest.raises(DriverError, match="version"):
            make_driver("franka-rs", server).connect()


@wire
@both
def test_nobody_there_is_one_line_with_a_hint(kind):
    driver = DRIVERS[kind](FrankaConfig(host=free_host(), realtime=False))
    with pytest.raises(DriverError, match=r"FCI in Desk") as caught:
        driver.connect()
    assert "\n" not in str(caught.value)


@wire
@both
def test_another_version_of_the_robot_is_one_line_with_a_hint(kind):
    with old_robot() as host:
        driver = DRIVERS[kind](FrankaConfig(host=host, realtime=False))
        with pytest.raises(DriverError, match="version") as caught:
            driver.connect()
        assert "\n" not in str(caught.value) and host in str(caught.value)


@wire
@both
def test_a_robot_that_accepts_and_says_nothing_is_given_up(kind, monkeypatch):
    monkeypatch.setattr("robot_bridge.drivers.franka.driver._CONNECT", 0.5)
    with old_robot(silent=True) as host:
        driver = DRIVERS[kind](FrankaConfig(host=host, realtime=False))
        with pytest.raises(DriverError, match="another client"):
            driver.connect()


@contextlib.contextmanager
def old_robot(*, silent: bool = False) -> Iterator[str]:
    """A control box with FCI v9: refuses the connection in the protocol's words, or is silent."""
    host = free_host()
    with socket.create_server((host, 1337)) as listener:
        peers = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    peers.append(peer)
                    request = peer.recv(64)
                    if not silent:
                        # header (command, id, size), status 1 = incompatible, version 9
                        number = struct.unpack("<I", request[4:8])[0]
                        peer.sendall(struct.pack("<IIIBH", 0, number, 15, 1, 9))

        threading.Thread(target=answer, daemon=True).start()
        yield host
        for peer in peers:
            peer.close()


# -- without a robot -----------------------------------------------------------------------------


def test_quaternions_come_back_from_matrices():
    rng = np.random.default_rng(0)
    for quat in [
        *rng.normal(size=(500, 4)),
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]:
        matrix = quat_to_matrix(quat)
        np.testing.assert_allclose(quat_to_matrix(matrix_to_quat(matrix)), matrix, atol=1e-12)


def test_commanded_is_the_inverse_of_measured_whatever_frame_the_robot_has():
    rng = np.random.default_rng(1)
    tool = ToolFrame.of(ROBOT)
    for _ in range(50):
        frame = np.eye(4)
        frame[:3, :3], frame[:3, 3] = quat_to_matrix(rng.normal(size=4)), rng.normal(size=3)
        quat = rng.normal(size=4)
        quat /= np.linalg.norm(quat)
        wanted = Target(position=rng.normal(size=3), quat=quat, q=np.zeros(7))
        position, back = tool.measured(tool.commanded(wanted, frame), frame)
        np.testing.assert_allclose(position, wanted.position, atol=1e-12)
        assert abs(back @ quat) > 1 - 1e-12
        np.testing.assert_allclose(invert(frame) @ frame, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"max_delta_tau": 1.5},
        {"collision_force": 100.0},
        {"collision_torque": 0.0},
        {"nullspace_stiffness": float("nan")},
    ],
)
def test_a_config_beyond_the_table_is_refused(change):
    with pytest.raises(ValueError, match="allowed above 0"):
        FrankaConfig(host="robot", **change)


def test_only_this_machine_is_a_simulation():
    for host, simulated in (("127.3.2.1", True), ("localhost", True), ("172.16.0.2", False)):
        assert FrankaConfig(host=host).simulated is simulated
