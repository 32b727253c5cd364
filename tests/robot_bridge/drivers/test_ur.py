"""The UR5e's driver against a controller that speaks the real protocols and runs its program."""

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench_arm import bench_contract
from driver_conformance import (
    CHECKS,
    Rig,
    confirm,
    forward,
    governed,
    name_of,
    target_at,
    token,
)
from ur_controller import UrController, served

from robot_bridge.control.session import EpisodeReport
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import build_rig, rig_makers
from robot_bridge.driver import DriverError, Mode
from robot_bridge.drivers.ur.driver import UrDriver
from robot_bridge.drivers.ur.rtde import Rtde
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.robots.ur5e import ur5e_2f85

pytestmark = pytest.mark.keeps_time

ROBOT = ur5e_2f85()
controller = pytest.fixture(served)


# Somebody's program that keeps the arm where it is.
OTHER = """def other():
  while True:
    sync()
  end
end
"""


def rig(controller: UrController) -> Rig:
    return Rig(make=lambda: UrDriver(controller.host), robot=ROBOT)


def waited(until: Any, *, seconds: float = 3.0) -> float:
    """How long it took [s]; it must happen."""
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.002)
    return time.monotonic() - began


def lost(driver: UrDriver) -> str:
    """Why the driver gave the controller up, "" while it has not."""
    try:
        driver.state()
    except DriverError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check, controller):
    check(rig(controller))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"remote": False}, "is it in Remote Control"),
        ({"active": False}, "gripper is not active; activate it in its tab"),
        ({"robot_mode": 5}, "switch it on and release its brakes on the pendant"),
        ({"freedrive": True}, "it is in freedrive"),
        ({"stops": {"emergency"}}, "robot_emergency_stop; clear that on the pendant"),
        ({"pending": OTHER}, "another program runs on it; stop that on the pendant"),
    ],
)
def test_an_arm_that_is_not_ready_is_refused_with_what_to_do(spoil, said, controller):
    vars(controller).update(spoil)
    waited(lambda: controller.pending is None)
    with rig(controller).connected() as driver:
        with pytest.raises(DriverError, match=said):
            driver.arm(token("arm"))
        assert not controller.scripts or said.startswith("is it in Remote")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"version": (3, 15, 8, 0)}, r"PolyScope 3\.15, allowed: 5\.6 or newer"),
        ({"version": (10, 7, 0, 0)}, r"PolyScope 10\.7, allowed"),
        ({"silent": True}, "sends nothing any more"),
    ],
)
def test_a_controller_that_is_not_ours_to_drive_is_refused_and_let_go(spoil, said, controller):
    vars(controller).update(spoil)
    driver = UrDriver(controller.host)
    with pytest.raises(DriverError, match=said) as caught:
        driver.connect()
    assert "\n" not in str(caught.value)
    waited(lambda: not controller.writers)  # the registers are free again
    driver.close()


def test_nobody_there_is_one_line():
    with pytest.raises(DriverError, match=r"Cannot reach RTDE at 127\.9\.9\.9:30004 .*refused"):
        UrDriver("127.9.9.9").connect()


def test_registers_that_another_client_writes_are_refused(controller):
    other = Rtde(controller.host)
    with pytest.raises(DriverError, match="Another client of the controller writes input_int"):
        UrDriver(controller.host).connect()
    other.close()


def test_another_tool_on_the_pendant_is_refused_before_anything_moves(controller):
    controller.tool = (0.0, 0.0, 0.1)
    with (
        rig(controller).connected() as driver,
        pytest.raises(NotAllowedError, match=r"0\.100 m and 0\.00 rad .* a ur5e_2f85's"),
    ):
        confirm(governed(rig(controller), driver), rig(controller))
    assert controller.scripts == []


def test_a_protective_stop_is_a_reflex_and_released_only_by_a_person(controller):
    with rig(controller).armed() as driver:
        target = target_at(ROBOT, driver.state().q + 1.0)  # what no governor would send
        driver.servo(target)
        waited(lambda: driver.state().mode is Mode.REFLEX)
        assert driver.state().faults == ("protective_stop", "control_ended")
        with pytest.raises(DriverError, match="ended control"):
            driver.servo(target)
        with pytest.raises(DriverError, match="stays: Cannot unlock protective stop until 5s"):
            driver.recover(token("recover"))
        time.sleep(0.3)
        driver.recover(token("recover"))
        assert controller.said.count("unlock protective stop") == 2
        q = driver.state().q
        driver.arm(token("arm"))  # the target that led there is forgotten
        time.sleep(0.2)
        assert driver.state().mode is Mode.MOVING and driver.state().faults == ()
        np.testing.assert_allclose(driver.state().q, q, atol=1e-6)


@pytest.mark.parametrize(
    ("stop", "mode"),
    [
        ("safeguard", Mode.USER_STOPPED),
        ("emergency", Mode.USER_STOPPED),
        ("fault", Mode.REFLEX),
    ],
)
def test_what_a_person_must_look_at_is_not_recovered_from_here(stop, mode, controller):
    with rig(controller).armed() as driver:
        controller.stop(stop)
        waited(lambda: driver.state().mode is mode)
        assert "control_ended" in driver.state().faults
        with pytest.raises(
            DriverError, match=f"not recovered: it reports .*{stop}.* on the pendant"
        ):
            driver.recover(token("recover"))


def test_a_program_stopped_on_the_pendant_ends_control(controller):
    with rig(controller).armed() as driver:
        controller.program = None
        waited(lambda: driver.state().faults == ("control_ended",))
        assert driver.state().mode is Mode.IDLE


def test_the_arm_stops_by_itself_when_we_are_gone(controller):
    with rig(controller).armed() as driver:
        controller.hang_up()  # a process that died, a cable that was cut
        took = waited(lambda: not controller.running)
        assert 0.05 < took < 0.5, took
        waited(lambda: "link is lost" in lost(driver))
        driver.stop("protective")  # nothing hangs on the way down
    assert max(map(abs, controller.qd)) == 0.0


def test_a_controller_that_freezes_is_stale_at_once_and_one_that_is_silent_lost_soon(controller):
    with rig(controller).armed() as driver:
        controller.frozen = True
        time.sleep(0.03)
        old = driver.state()
        time.sleep(0.1)
        assert driver.state().seq == old.seq and time.monotonic() - driver.state().t > 0.1
        controller.silent = True
        waited(lambda: "link is lost" in lost(driver))


def test_the_gripper_takes_the_nearest_force_and_keeps_what_it_holds(controller):
    with rig(controller).armed() as driver:
        controller.grips[1] = 120  # something is between the pads
        driver.gripper(0.0, 40.0)
        waited(lambda: controller.position == 120)
        waited(lambda: abs(driver.state().gripper_width - 0.085 * 110 / 227) < 1e-9)
        assert controller.said[-1] == "SET GTO 1 POS 230 SPE 255 FOR 23"  # 39.4 N
        with pytest.raises(DriverError, match="finite"):
            driver.gripper(float("nan"), 10.0)


def test_a_late_answer_of_the_gripper_is_not_taken_for_the_next(controller):
    with rig(controller).armed() as driver:
        controller.late = 0.4  # once, longer than anybody waits for it
        waited(lambda: controller.late == 0.0)
        driver.gripper(0.04, 10.0)
        waited(lambda: abs(driver.state().gripper_width - 0.04) < 1e-3)


def test_readings_of_the_gripper_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"gripper_readings 3 3, allowed: two different numbers"):
        UrDriver("127.0.0.1", gripper_readings=(3, 3))


# -- the whole bridge ----------------------------------------------------------------------------

OBJECT = (0.45, 0.1, 0.06)


class Reach:
    """Goes to the cube, and closes there."""

    def reset(self) -> None:
        """Nothing is kept."""

    def act(self, obs: Any) -> Any:
        """A step of 25 mm at most, and the gripper."""
        offset = np.asarray(obs["cube_from_ee"])
        step = np.clip(0.5 * (offset - obs["ee_lag"]) / 0.025, -1.0, 1.0)
        return np.append(step, 1.0 if np.linalg.norm(offset) < 0.005 else -1.0)[None].astype("f4")


def deployed(controller: UrController) -> EpisodeReport:
    """Home, one episode of three seconds, and whatever deploy.py does before and after."""
    contract = dataclasses.replace(bench_contract(), robot=ROBOT, home=ROBOT.home)
    place = ",".join(map(str, OBJECT))
    config = RigConfig(robot="ur5e", address=controller.host, objects=(f"cube={place}",))
    manifest = SimpleNamespace(task="bench", measured=None, horizon=1)
    bundle: Any = SimpleNamespace(
        contract=contract, digest="0" * 64, policy=Reach(), manifest=manifest
    )
    rig = build_rig(config, contract, rig_makers())
    talk = Talk(lambda line: None, lambda prompt: "")
    options = DeployConfig(episodes=1, seconds=3.0, separate=False)
    (report,) = Deployment(options, bundle, rig, talk).run()
    return report


def test_a_policy_runs_from_home_to_the_end_of_its_session(controller):
    controller.q[0] = ROBOT.home[0] - 0.3  # the arm stands elsewhere
    report = deployed(controller)
    assert report.ending == "timeout", report
    assert not {"driver_error", "not_following", "robot_fault"} & set(report.reasons)
    position, _ = forward(ROBOT, np.array(controller.q))
    np.testing.assert_allclose(position, OBJECT, atol=3e-3)
    assert controller.wanted == 230 and not controller.stops
    waited(lambda: not controller.running)
