"""The client of SERL's robot servers, against one that behaves like theirs and then does not."""

import contextlib
import time

import numpy as np
import pytest
from bench_arm import bench_contract
from driver_conformance import CHECKS, Rig, confirm, governed, name_of, prompt, target_at, token
from serl_server import SerlServer, pose_of, serve_serl

from robot_bridge.compliance import Compliance
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import build_rig, rig_makers
from robot_bridge.driver import ArmDriver, DriverError, Mode
from robot_bridge.drivers.serl_http.driver import SerlHttpDriver
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.robots.panda import panda

pytestmark = pytest.mark.keeps_time

ROBOT = panda()
PLACE = ("cube=0.4,0,0.02",)


@pytest.fixture
def server():
    with serve_serl(ROBOT) as (arm, url):
        yield arm, url


@contextlib.contextmanager
def armed(url: str):
    with Rig(make=lambda: SerlHttpDriver(url, robot=ROBOT), robot=ROBOT).armed() as driver:
        yield driver


def wait_until(condition, *, seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.002)
    return time.monotonic() - began


def lost(driver: ArmDriver) -> str:
    """Why the driver gave the server up, "" while it has not."""
    try:
        prompt(driver.state)
    except DriverError as error:
        return str(error)
    return ""


# A gripper of theirs is open or closed.
@pytest.mark.parametrize("check", [c for c in CHECKS if "gripper" not in c.__name__], ids=name_of)
def test_conforms(check, server):
    check(Rig(make=lambda: SerlHttpDriver(server[1], robot=ROBOT), robot=ROBOT))


def test_clears_errors_only_when_a_person_says_so(server):
    arm, url = server
    with armed(url) as driver:
        here = target_at(ROBOT, driver.state().q)
        for _ in range(20):
            driver.servo(here)
            time.sleep(0.005)
        driver.stop("soft")
        for wrong in (None, token("arm")):
            with pytest.raises(DriverError):
                driver.recover(wrong)
        assert "/clearerr" not in arm.seen and "/jointreset" not in arm.seen
        driver.recover(token("recover"))
        assert arm.seen.count("/clearerr") == 1


def test_quaternions_travel_as_theirs(server):
    arm, url = server
    with armed(url) as driver:
        q = driver.state().q
        q[6] += 0.2
        driver.servo(target_at(ROBOT, q))
        wait_until(lambda: len(arm.poses) > 1, seconds=1.0)
        np.testing.assert_allclose(arm.poses[-1], pose_of(ROBOT, q), atol=1e-12)


def test_a_slow_server_gets_the_newest_target_and_keeps_nobody_waiting(server):
    arm, url = server
    with armed(url) as driver:
        arm.slow = 0.05
        start = driver.state().q
        for step in range(50):
            target = target_at(ROBOT, start + 0.001 * step)
            prompt(lambda target=target: driver.servo(target))
        last = pose_of(ROBOT, start + 0.049)
        wait_until(lambda: np.allclose(arm.poses[-1], last, atol=1e-9), seconds=1.0)
        assert len(arm.poses) < 20  # the ones between were never sent


def test_the_gripper_opens_and_closes_once_each(server):
    arm, url = server
    with armed(url) as driver:
        for width in (0.08, 0.07, 0.02, 0.0, 0.01, 0.08):
            prompt(lambda width=width: driver.gripper(width, 20.0))
            time.sleep(0.05)
        wait_until(lambda: arm.seen[-1] == "/open_gripper", seconds=1.0)
        grips = [path for path in arm.seen if "gripper" in path]
        assert grips == ["/open_gripper", "/close_gripper", "/open_gripper"]
        wait_until(lambda: driver.state().gripper_width == 0.08, seconds=1.0)


def test_a_protective_stop_ends_their_impedance_and_arming_starts_it_again(server):
    arm, url = server
    with armed(url) as driver:
        driver.stop("protective")
        wait_until(lambda: "/stopimp" in arm.seen, seconds=1.0)
        assert driver.state().mode is Mode.IDLE
        driver.arm(token("arm"))
        assert arm.seen.count("/startimp") == 1


def test_gains_go_out_in_serls_names_when_armed_and_again_when_changed(server):
    arm, url = server
    with Rig(make=lambda: SerlHttpDriver(url, robot=ROBOT), robot=ROBOT).connected() as driver:
        driver.comply(Compliance(translational_clip=(0.003, 0.003, 0.01)))
        assert arm.params == []  # nothing is told to an arm that nobody has armed
        driver.arm(token("arm"))
        (peg,) = arm.params
        assert peg["translational_stiffness"] == 2000.0 and peg["rotational_damping"] == 7.0
        assert (peg["translational_clip_x"], peg["translational_clip_neg_z"]) == (0.003, 0.01)
        assert len(peg) == 18 and peg["translational_Ki"] == 0.0
        driver.comply(Compliance(translational_stiffness=3000.0))
        wait_until(lambda: len(arm.params) == 2, seconds=1.0)
        assert arm.params[1]["translational_stiffness"] == 3000.0
        arm.misbehave = "error"
        driver.comply(Compliance())
        # The pose that was on its way when it was armed may fail first.
        wait_until(lambda: "compliance: " in str(driver.state().faults), seconds=1.0)
        assert not lost(driver)


@pytest.mark.parametrize("how", SerlServer.ANSWERS)
def test_a_server_that_misbehaves_is_stale_at_once_and_lost_soon(how, server):
    arm, url = server
    with armed(url) as driver:
        arm.misbehave = how
        began = time.monotonic()
        time.sleep(0.2)
        assert driver.state().t < began + 0.05  # stale at once: layer 14 holds on it
        wait_until(lambda: bool(lost(driver)), seconds=1.5)
        assert "link is lost: /getstate" in lost(driver) and "\n" not in lost(driver)
        prompt(lambda: driver.stop("protective"))  # nothing hangs on the way down either
        arm.misbehave = None


def test_a_server_that_dies_is_lost_and_targets_are_reported_as_not_sent():
    with serve_serl(ROBOT) as (arm, url), armed(url) as driver:
        here = target_at(ROBOT, driver.state().q)
        arm.misbehave = "error"
        driver.servo(here)
        wait_until(lambda: any("not_sent" in f for f in driver.state().faults), seconds=0.4)
    with pytest.raises(DriverError):
        driver.state()


def test_a_franka_hand_behind_a_server_has_its_own_readings(server):
    arm, url = server
    arm.gripper = 0.08  # serl_robot_infra's gripper_type Franka: the width [m]
    config = RigConfig(robot="serl-http", address=url, gripper_readings=(0.0, 0.08), objects=PLACE)
    rig = build_rig(config, bench_contract(), rig_makers())
    rig.driver.connect()
    try:
        assert rig.driver.state().gripper_width == pytest.approx(0.08)
    finally:
        rig.driver.close()
    for wrong in ((0.0, 0.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="allowed: two different numbers"):
            SerlHttpDriver(url, robot=ROBOT, gripper_readings=wrong)


def test_nobody_there_is_one_line():
    driver = SerlHttpDriver("http://127.0.0.1:9", robot=ROBOT)
    with pytest.raises(DriverError, match=r"/getstate.*refused") as caught:
        driver.connect()
    assert "\n" not in str(caught.value)


def test_another_tool_is_refused_before_anything_moves(server):
    arm, url = server
    state = arm.state()
    state["pose"][2] += 0.1034  # the flange, not the hand
    arm.state = lambda: state
    rig = Rig(make=lambda: SerlHttpDriver(url, robot=ROBOT), robot=ROBOT)
    with (
        rig.connected() as driver,
        pytest.raises(NotAllowedError, match=r"0\.103 m and 0\.00 rad .* a panda's"),
    ):
        confirm(governed(rig, driver), rig)
    assert arm.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.5:5000",
        "http://robot.local:5000",
        "http://0.0.0.0:5000",
        "https://127.0.0.1:5000",
        "http://127.0.0.1:5000/robot",
        "http://user@127.0.0.1:5000",
        "127.0.0.1:5000",
    ],
)
def test_only_this_machine_unless_said_in_so_many_words(url):
    with pytest.raises(ValueError, match="allow_remote|HOST:PORT"):
        SerlHttpDriver(url, robot=ROBOT)


def test_another_machine_when_said_in_so_many_words():
    SerlHttpDriver("http://192.168.1.5:5000", robot=ROBOT, allow_remote=True)
