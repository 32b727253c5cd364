"""The Piper's driver, with the vendor's unmodified SDK, on a simulated firmware."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator

import can
import numpy as np
import pytest
from driver_conformance import CHECKS, Rig, name_of, target_at, token
from hypothesis import given, settings
from hypothesis import strategies as st
from piper_firmware import HOME, Firmware, Frame, VirtualPiper

from robot_bridge.driver import ArmState, DriverError, Mode
from robot_bridge.drivers.piper.can_frames import (
    ARM_FAULTS,
    MAX_AGE,
    MOTOR_FAULTS,
    Feedback,
    check_outgoing,
    raw_joints,
)
from robot_bridge.drivers.piper.driver import PiperDriver
from robot_bridge.reasons import Reason
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.limits import default_limits
from robot_bridge.safety.state_check import StateWatch
from scenes.robots.piper import piper

pytestmark = pytest.mark.keeps_time

ROBOT = piper()
RATE = 100.0  # [Hz] of the simulated feedback: half of the arm's, to spare the test machine
# What must never happen to an arm, whatever a test does to it.
NEVER = {"reset", "drop", "disable", "mit", "gripper off", "gripper zeroed"}
JOINT_FRAMES = (0x2A5, 0x2A6, 0x2A7)
_NUMBERS = itertools.count()
IDS = st.one_of(st.sampled_from(sorted(MAX_AGE)), st.integers(0, 0x7FF))


@pytest.fixture
def arm() -> Iterator[VirtualPiper]:
    """A Piper on a bus of its own, which in the end was never reset, dropped or torque-driven."""
    with VirtualPiper(f"piper{next(_NUMBERS)}", rate=RATE) as simulated:
        yield simulated
    assert not NEVER & {fact.what for fact in simulated.firmware.facts}
    assert_nothing_forbidden(simulated.firmware)


@pytest.fixture
def driver(arm: VirtualPiper) -> Iterator[PiperDriver]:
    """Its driver, connected."""
    made = driver_of(arm)
    made.connect()
    yield made
    made.close()


@pytest.fixture
def armed(driver: PiperDriver) -> PiperDriver:
    """Its driver, armed, and the last frames of arming on the other side."""
    driver.arm(token("arm"))
    time.sleep(0.03)
    return driver


def driver_of(arm: VirtualPiper, **options) -> PiperDriver:
    return PiperDriver(arm.channel, interface="virtual", guarded=False, **options)


def assert_nothing_forbidden(firmware: Firmware) -> None:
    """On the bus itself: no reset, no motor off, no MIT, no zeroing, no fast or foreign move."""
    for identifier, data in firmware.received:
        assert not (identifier == 0x150 and data[0] == 2), "reset"
        assert not (identifier == 0x471 and data[1] != 2), "motor off"
        assert not 0x15A <= identifier <= 0x15F, "MIT"
        assert not (identifier == 0x151 and (data[1] != 1 or data[2] > 30 or data[3])), "mode"
        assert not (identifier == 0x159 and (data[6] not in (1, 3) or data[7])), "gripper"
        assert not (identifier == 0x47A and 0 in data[:6]), "collision detection off"


def until(condition: Callable[[], bool], seconds: float = 2.0) -> float:
    """Wait for a condition; return how long it took [s]."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.001)
    return time.monotonic() - began


def judged(state: ArmState) -> tuple[Reason, Reason]:
    """What the control loop makes of a single reading: reasons to hold and to fault."""
    return StateWatch(default_limits(ROBOT), ROBOT).check(state, time.monotonic())


def held(driver: PiperDriver) -> bool:
    return bool(judged(driver.state())[0] & Reason.STATE_STALE)


def turned(q: np.ndarray, joint: int, angle: float) -> np.ndarray:
    """Joint positions with one joint (from 1) turned further by `angle` [rad]."""
    return q + angle * np.eye(6)[joint - 1]


# -- the contract of every driver ----------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_conforms(check: Callable[[Rig], None], arm: VirtualPiper) -> None:
    check(Rig(make=lambda: driver_of(arm), robot=ROBOT, tolerance=0.001))


# -- connecting and arming -----------------------------------------------------------------------


def test_connecting_only_asks(arm: VirtualPiper, driver: PiperDriver) -> None:
    time.sleep(0.1)
    assert {identifier for identifier, _ in arm.firmware.received} <= {0x472, 0x4AF}
    assert arm.firmware.enabled == [False] * 6 and not arm.firmware.facts
    assert driver.state().mode is Mode.OTHER
    assert (driver.info.firmware, driver.info.takes) == ("S-V1.8-2", "joints")


def test_the_arms_own_limits_are_read(driver: PiperDriver) -> None:
    """Each motor's own: the SDK's getter gives all six the row that came last."""
    info = driver.info
    np.testing.assert_allclose(np.degrees(info.q_min), (-150, 0, -170, -100, -70, -120))
    np.testing.assert_allclose(np.degrees(info.q_max), (150, 180, 0, 100, 70, 120))
    assert info.dq_max == (3.0,) * 6
    for ours, theirs in zip(ROBOT.q_max, info.q_max, strict=True):
        assert ours <= theirs + 1e-3


def test_an_arm_that_tells_no_limits_is_taken_at_the_specs(arm: VirtualPiper) -> None:
    arm.firmware.ranges = False
    driver = driver_of(arm)
    driver.connect()
    assert driver.info.q_max is None
    driver.close()


def test_arming_sets_collision_detection_then_the_target_then_the_motors(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    assert arm.firmware.crash_levels == [1] * 6
    assert all(arm.firmware.enabled)
    assert arm.firmware.speed == 30
    order = [i for i, _ in arm.firmware.received if i in (0x47A, 0x157, 0x471)]
    assert order.index(0x47A) < order.index(0x157) < order.index(0x471)
    assert order.count(0x471) >= 2, "the first enable is lost"
    assert armed.state().mode is Mode.IDLE
    np.testing.assert_allclose(arm.firmware.q, HOME, atol=1e-5)


def test_a_target_left_from_before_is_not_chased(arm: VirtualPiper, driver: PiperDriver) -> None:
    arm.firmware.target = np.array(HOME) + 0.5
    driver.arm(token("arm"))
    time.sleep(0.2)
    np.testing.assert_allclose(driver.state().q, HOME, atol=1e-4)


def test_motors_that_stay_off_are_named(arm: VirtualPiper, driver: PiperDriver) -> None:
    arm.breaks(disabled=frozenset({3, 5}))
    with pytest.raises(DriverError, match=r"motors stay off: joint3, joint5"):
        driver.arm(token("arm"))
    with pytest.raises(DriverError, match="not armed"):
        driver.servo(target_at(ROBOT, driver.state().q))


def test_collision_detection_that_is_not_taken_refuses_to_arm(
    arm: VirtualPiper, driver: PiperDriver
) -> None:
    arm.breaks(drop=frozenset({0x47B}))
    with pytest.raises(DriverError, match="did not take collision detection level 1"):
        driver.arm(token("arm"))
    assert arm.firmware.enabled == [False] * 6


@pytest.mark.parametrize("version", ["S-V1.6-2", "S-V1.5-2", "S-V0.9-9"])
def test_old_firmware_is_refused_with_a_way_out(version: str, arm: VirtualPiper) -> None:
    arm.firmware.version = version
    driver = driver_of(arm)
    with pytest.raises(DriverError, match=rf"{version}.*10 mm.*update it to S-V1.6-3 or newer"):
        driver.connect()
    with pytest.raises(DriverError, match="Not connected"):
        driver.state()
    arm.firmware.version = "S-V1.6-3"
    driver.connect()  # the channel is free again
    driver.close()


def test_a_firmware_that_does_not_know_where_its_arm_is_is_refused(arm: VirtualPiper) -> None:
    arm.firmware.version = "S-V1.8-6"
    with pytest.raises(DriverError, match=r"S-V1\.8-6: the arm's real pose leaves .*119 and 120"):
        driver_of(arm).connect()
    assert arm.firmware.enabled == [False] * 6
    for near in ("S-V1.8-5", "S-V1.8-7"):
        arm.firmware.version = near
        driver = driver_of(arm)
        driver.connect()
        driver.close()


def test_a_firmware_whose_number_the_sdk_cuts_off_is_still_newer(arm: VirtualPiper) -> None:
    arm.firmware.version = "S-V1.10-1"
    driver = driver_of(arm)
    driver.connect()
    assert driver.info.firmware == "S-V1.10-"
    driver.close()


def test_a_silent_arm_and_one_without_firmware_are_refused(arm: VirtualPiper) -> None:
    arm.breaks(silent=True)
    with pytest.raises(DriverError, match="No full feedback.*powered"):
        driver_of(arm).connect()
    arm.breaks(silent=False, drop=frozenset({0x4AF}))
    with pytest.raises(DriverError, match="does not tell its firmware"):
        driver_of(arm).connect()


def test_a_port_that_is_not_there_is_refused() -> None:
    with pytest.raises(DriverError, match="Cannot open socketcan 'nocan0'.*ip link set"):
        PiperDriver("nocan0", guarded=False).connect()
    with pytest.raises(DriverError, match="Cannot open slcan '/dev/nothing'"):
        PiperDriver("/dev/nothing", interface="slcan", guarded=False).connect()


def test_a_second_sdk_object_on_a_channel_is_seen(arm: VirtualPiper, driver: PiperDriver) -> None:
    second = driver_of(arm)
    with pytest.raises(DriverError, match="Another piper_sdk object .* two commanders"):
        second.connect()
    with pytest.raises(DriverError, match="Already connected"):
        driver.connect()
    driver.close()
    second.connect()
    second.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 31}, "speed must be 1..30 %, got 31"),
        ({"speed": 0}, "speed must be 1..30"),
        ({"crash_level": 0}, "crash_level must be 1..8, got 0"),
        ({"crash_level": 9}, "crash_level must be 1..8"),
    ],
)
def test_settings_beyond_the_limits_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PiperDriver("x", **options)


def test_no_thread_outlives_its_driver(arm: VirtualPiper) -> None:
    before = set(threading.enumerate())
    driver = driver_of(arm)
    driver.connect()
    assert set(threading.enumerate()) - before
    driver.close()
    assert not set(threading.enumerate()) - before


# -- moving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_joint_targets_are_reached_to_a_thousandth_of_a_degree(
    seed: int, armed: PiperDriver
) -> None:
    goal = np.array(HOME) + np.random.default_rng(seed).uniform(-0.2, 0.2, 6)
    armed.servo(target_at(ROBOT, goal))
    until(lambda: bool((np.degrees(abs(armed.state().q - goal)) <= 0.001).all()), 4.0)
    until(lambda: armed.state().mode is Mode.IDLE)


def test_a_pose_is_reached_through_our_inverse_kinematics(armed: PiperDriver) -> None:
    """The governor's chain finds the joints; the arm's pose is measured through the same rows."""
    position, quat = np.array([0.31, 0.06, 0.03]), np.array([0.0, 1.0, 0.0, 0.0])
    found = Chain(ROBOT).solve(position, quat, start=armed.state().q)
    armed.servo(target_at(ROBOT, found.q))
    until(lambda: bool(np.linalg.norm(armed.state().position - position) < 1e-4), 4.0)
    assert abs(armed.state().quat @ quat) > 1 - 1e-6


def test_it_says_that_it_moves_and_how_fast(armed: PiperDriver) -> None:
    armed.servo(target_at(ROBOT, turned(armed.state().q, 1, 0.3)))
    until(lambda: armed.state().mode is Mode.MOVING)
    until(lambda: 0.5 < armed.state().dq[0] < 0.95)  # 30 % of 3 rad/s


def test_hold_stops_a_move_where_it_is(arm: VirtualPiper, armed: PiperDriver) -> None:
    armed.servo(target_at(ROBOT, turned(armed.state().q, 1, 1.0)))
    until(lambda: armed.state().q[0] > 0.1)
    armed.hold()
    until(lambda: armed.state().mode is Mode.IDLE)
    assert armed.state().q[0] < 0.3
    assert all(arm.firmware.enabled)


def test_the_gripper_opens_and_its_effort_is_capped(arm: VirtualPiper, armed: PiperDriver) -> None:
    armed.gripper(0.06, 20.0)
    until(lambda: abs(armed.state().gripper_width - 0.06) < 1e-4)
    assert arm.firmware.gripper_effort == 1000
    armed.gripper(0.06, 400.0)
    until(lambda: arm.firmware.gripper_effort == 2000)


@pytest.mark.parametrize(
    ("width", "force"), [(-0.01, 1), (0.08, 1), (math.nan, 1), (0.05, -1), (0.05, math.inf)]
)
def test_impossible_gripper_commands_are_refused(
    width: float, force: float, arm: VirtualPiper, armed: PiperDriver
) -> None:
    with pytest.raises(DriverError, match=r"Gripper: 0..0.07 m"):
        armed.gripper(width, force)
    assert 0x159 not in {i for i, _ in arm.firmware.received}


def test_a_target_beyond_a_limit_is_refused_not_clipped(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    sent = len(arm.firmware.received)
    with pytest.raises(DriverError, match=r"Target of joint2 is -0.1000 rad, allowed 0.0..3.14"):
        armed.servo(target_at(ROBOT, np.array([0.0, -0.1, -0.98, 0.0, 1.0, 0.0])))
    time.sleep(0.05)
    assert len(arm.firmware.received) == sent


@pytest.mark.parametrize("bad", [[math.nan] * 6, [math.inf] + [0.0] * 5, [0.0] * 5, [0.0] * 7])
def test_only_six_finite_joints_become_integers(bad: list[float]) -> None:
    with pytest.raises(DriverError, match="must be 6 finite numbers"):
        raw_joints(bad)


def test_degrees_are_rounded_not_cut() -> None:
    assert raw_joints(np.radians([1.0, -1.0, 0.0019999, 179.9996, -0.0006, 0.0004])) == (
        *(1000, -1000, 2, 180000),
        *(-1, 0),
    )


def test_feedback_is_not_clipped_to_the_sdks_limits(arm: VirtualPiper, driver: PiperDriver) -> None:
    """With its limits on the SDK would report a joint beyond its limit as standing on it."""
    arm.firmware.q[1] = -0.05
    until(lambda: abs(driver.state().q[1] + 0.05) < 1e-4)


# -- what can never be sent ----------------------------------------------------------------------

FORBIDDEN = {
    "reset": lambda sdk: sdk.ResetPiper(),
    "resume after stop": lambda sdk: sdk.EmergencyStop(2),
    "drag teaching": lambda sdk: sdk.MotionCtrl_1(0, 0, 1),
    "motors off": lambda sdk: sdk.DisableArm(7),
    "one motor off": lambda sdk: sdk.DisableArm(3),
    "MIT torque": lambda sdk: sdk.JointMitCtrl(1, 0.0, 0.0, 10.0, 0.8, 0.0),
    "MIT mode": lambda sdk: sdk.MotionCtrl_2(1, 1, 20, 0xAD),
    "MOVE M": lambda sdk: sdk.MotionCtrl_2(1, 4, 20, 0),
    "Cartesian move": lambda sdk: sdk.EndPoseCtrl(0, 0, 0, 0, 0, 0),
    "full speed": lambda sdk: sdk.MotionCtrl_2(1, 1, 31, 0),
    "standby": lambda sdk: sdk.MotionCtrl_2(0, 1, 20, 0),
    "gripper off": lambda sdk: sdk.GripperCtrl(0, 1000, 0x00, 0),
    "gripper zero": lambda sdk: sdk.GripperCtrl(0, 1000, 0x01, 0xAE),
    "collision off": lambda sdk: sdk.CrashProtectionConfig(1, 1, 1, 0, 1, 1),
    "limits to default": lambda sdk: sdk.ArmParamEnquiryAndConfig(0, 2, 0, 0, 3),
    "wider limits": lambda sdk: sdk.MotorAngleLimitMaxSpdSet(2, 3000, -3000, 3000),
    "joint zero": lambda sdk: sdk.JointConfig(1, 0xAE),
    "master and slave": lambda sdk: sdk.MasterSlaveConfig(0xFC, 0, 0, 0),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_endangers_the_arm_cannot_be_sent(
    name: str, arm: VirtualPiper, armed: PiperDriver
) -> None:
    """Not even by the SDK's own methods on the object that the driver uses."""
    sdk = type(armed._link.sdk)._instances[arm.channel]
    sent = len(arm.firmware.received)
    with pytest.raises(DriverError, match="is never sent to a Piper"):
        FORBIDDEN[name](sdk)
    time.sleep(0.03)
    assert len(arm.firmware.received) == sent


@pytest.mark.parametrize("identifier", [0x150, 0x151, 0x152, 0x15A, 0x471, 0x475, 0x47D, 0x422])
def test_a_frame_of_ones_is_on_no_list(identifier: int) -> None:
    with pytest.raises(DriverError):
        check_outgoing(identifier, [0xFF] * 8, max_speed=30)


@settings(deadline=None)  # the machine is shared
@given(
    identifier=st.one_of(st.sampled_from([0x150, 0x151, 0x159, 0x471, 0x477, 0x47A]), IDS),
    data=st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 20, 30, 31, 0xAD, 0xAE, 0xFF]), max_size=9),
)
def test_whatever_passes_is_harmless(identifier: int, data: list[int]) -> None:
    firmware = Firmware()
    try:
        check_outgoing(identifier, data, max_speed=30)
    except DriverError:
        return
    firmware.receive(identifier, bytes(data))
    assert not NEVER & {fact.what for fact in firmware.facts}
    assert_nothing_forbidden(firmware)


def test_the_sdks_own_joint_limits_are_on(arm: VirtualPiper, armed: PiperDriver) -> None:
    """A second line behind the driver's: what slipped through would be clipped."""
    armed._link.sdk.JointCtrl(*[999_999] * 6)
    until(lambda: arm.firmware.target is not None and bool(arm.firmware.target[0] > 2.6))
    expected = (2.6179, 3.14, 0.0, 1.745, 1.22, 2.09439)
    np.testing.assert_allclose(arm.firmware.target, expected, atol=1e-5)
    armed.hold()


# -- feedback that stops -------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [(0x2A6,), JOINT_FRAMES], ids=["one pair", "all pairs"])
def test_lost_joint_frames_are_stale_within_60_ms(
    frames: tuple[int, ...], arm: VirtualPiper, armed: PiperDriver
) -> None:
    """Everything else goes on coming, so the SDK would call the arm well."""
    until(lambda: not held(armed))
    took = []
    for _ in range(3):  # a busy machine delays any single one
        arm.breaks(drop=frozenset(frames))
        took.append(until(lambda: held(armed)))
        seq = armed.state().seq
        time.sleep(0.03)
        assert armed.state().seq == seq
        arm.breaks(drop=frozenset())
        until(lambda: not held(armed))
    assert min(took) <= 0.06


def test_a_lost_status_is_stale_within_a_quarter_second(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    arm.breaks(drop=frozenset({0x2A1}))
    took = until(lambda: time.monotonic() - armed.state().t > 0.05)
    assert 0.15 < took < 0.4


def test_lost_motor_frames_show_in_the_link(arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(drop=frozenset({0x253}))
    until(lambda: armed.state().link_quality < 0.95, 0.5)
    assert held(armed)


def test_all_feedback_lost_holds_and_keeps_the_last_target(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    """Where the joints are is unknown, so the arm is not sent back to where they were."""
    goal = turned(armed.state().q, 1, 0.2)
    armed.servo(target_at(ROBOT, goal))
    arm.breaks(silent=True)
    until(lambda: held(armed), 0.2)
    armed.hold()
    armed.stop("soft")
    time.sleep(0.05)
    np.testing.assert_allclose(arm.firmware.target, goal, atol=1e-5)
    with pytest.raises(DriverError, match="not heard"):
        armed.arm(token("arm"))


def test_late_feedback_is_stale_and_recovers(arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(late=0.3)
    until(lambda: held(armed), 0.25)
    until(lambda: not held(armed), 2.0)


@settings(deadline=None)  # the machine is shared
@given(frames=st.lists(st.tuples(IDS, st.binary(min_size=0, max_size=8)), max_size=30))
def test_no_feedback_breaks_the_reading(frames: list[tuple[int, bytes]]) -> None:
    feedback = Feedback()
    for identifier in MAX_AGE:
        feedback.take(identifier, bytes(8), 1.0)
    for identifier, data in frames:
        feedback.take(identifier, data, 1.0)
    assert np.isfinite(feedback.q).all() and np.isfinite(feedback.dq).all()
    assert math.isfinite(feedback.gripper_width)
    assert all(isinstance(name, str) for name in feedback.status.faults + feedback.motor_faults)
    assert len(feedback.enabled) == 6
    assert feedback.quality(1.0) == 1.0 and feedback.quality(9.0) == 0.0


# -- what the arm complains about ----------------------------------------------------------------


@pytest.mark.parametrize("code", [*sorted(ARM_FAULTS), 0x7F], ids=hex)
def test_every_status_code_is_a_fault(code: int, arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(arm_status=code)
    expected = ARM_FAULTS.get(code, "unknown_status_0x7f")
    until(lambda: armed.state().faults == (expected,))
    state = armed.state()
    assert judged(state)[1] & Reason.ROBOT_FAULT
    assert state.mode is (Mode.USER_STOPPED if code == 0x01 else Mode.REFLEX)
    armed.stop("soft")
    with pytest.raises(DriverError, match=f"not fit to be armed: {expected}"):
        armed.arm(token("arm"))
    assert all(arm.firmware.enabled), "it stays powered"


@pytest.mark.parametrize("joint", range(1, 7))
@pytest.mark.parametrize(("byte", "name"), [(8, "angle_limit"), (0, "communication")])
def test_every_error_bit_is_a_fault(
    joint: int, byte: int, name: str, arm: VirtualPiper, armed: PiperDriver
) -> None:
    arm.breaks(err_code=1 << (byte + joint - 1))
    until(lambda: armed.state().faults == (f"joint{joint}_{name}",))
    assert judged(armed.state())[1] & Reason.ROBOT_FAULT


@pytest.mark.parametrize("bit", MOTOR_FAULTS, ids=MOTOR_FAULTS.get)
def test_every_motor_bit_is_a_fault(bit: int, arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(motor_status={4: 1 << bit})
    until(lambda: armed.state().faults == (f"joint4_{MOTOR_FAULTS[bit]}",))


def test_a_motor_that_drops_out_is_a_fault(arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(disabled=frozenset({3}))
    until(lambda: armed.state().faults == ("joint3_disabled",))
    assert armed.state().mode is Mode.REFLEX


def test_the_teach_button_takes_the_arm_from_us(arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(ctrl_mode=0x02)
    until(lambda: armed.state().mode is Mode.GUIDING)
    assert armed.state().faults == ("not_in_can_control",)
    armed.stop("soft")
    with pytest.raises(DriverError, match="teaching mode"):
        armed.arm(token("arm"))
    with pytest.raises(DriverError, match="still reports being in its teaching mode.*power off"):
        armed.recover(token("recover"))


def test_another_control_mode_is_a_fault(arm: VirtualPiper, armed: PiperDriver) -> None:
    arm.breaks(ctrl_mode=0x04)
    until(lambda: armed.state().faults == ("not_in_can_control",))


def test_a_protective_stop_sags_and_only_a_person_ends_it(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    armed.stop("protective")
    until(lambda: armed.state().mode is Mode.USER_STOPPED)
    assert [fact.what for fact in arm.firmware.facts] == ["enabled", "sag"]
    with pytest.raises(DriverError, match="emergency_stop.*support the arm by hand.*power off"):
        armed.recover(token("recover"))
    with pytest.raises(DriverError, match="not armed"):
        armed.servo(target_at(ROBOT, armed.state().q))


def test_a_fault_of_a_target_is_recovered_by_a_good_one(
    arm: VirtualPiper, armed: PiperDriver
) -> None:
    arm.firmware.arm_status = 0x04
    until(lambda: armed.state().faults == ("target_exceeds_limit",))
    armed.stop("soft")
    arm.firmware.arm_status = 0x04  # it came again with nobody steering
    until(lambda: armed.state().faults != ())
    armed.recover(token("recover"))
    assert armed.state().faults == ()
    armed.arm(token("arm"))
    np.testing.assert_allclose(armed.state().q, HOME, atol=1e-3)


# -- a bus that fails ----------------------------------------------------------------------------


def test_a_firmware_behind_its_time_still_reads() -> None:
    class Slow(Firmware):
        def step(self, dt: float) -> list[Frame]:
            time.sleep(2 * dt)
            return super().step(dt)

    slow = Slow()
    with VirtualPiper("slow", firmware=slow), can.Bus(interface="virtual", channel="slow") as bus:
        for _ in range(20):
            bus.send(can.Message(arbitration_id=0x151, data=bytes(8), is_extended_id=False))
            time.sleep(0.01)
        until(lambda: len(slow.received) >= 20, 0.5)


def test_a_full_queue_is_an_error_not_a_log_line(
    armed: PiperDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise can.CanOperationError("Transmit buffer full")

    here = target_at(ROBOT, armed.state().q)
    bus = armed._link.sdk.GetCanBus().send_bus
    with monkeypatch.context() as patch:
        patch.setattr(bus, "send", full)
        for call in (lambda: armed.servo(here), armed.hold, lambda: armed.stop("soft")):
            with pytest.raises(DriverError, match="did not take frame 0x151.*queue is full"):
                call()
    with pytest.raises(DriverError, match="not armed"):
        armed.servo(here)  # a stop that failed still ended control
    armed.arm(token("arm"))
    armed.servo(here)


def test_bus_off_is_an_error(armed: PiperDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    here = target_at(ROBOT, armed.state().q)
    bus = type(armed._link.sdk.GetCanBus().send_bus)
    with monkeypatch.context() as patch:
        patch.setattr(bus, "state", property(lambda _: can.BusState.ERROR))
        with pytest.raises(DriverError, match="SEND_CAN_BUS_NOT_OK.*bus is off"):
            armed.servo(here)
        until(lambda: armed._link.lost, 1.0)
        with pytest.raises(DriverError, match="cannot be read any more"):
            armed.state()
    until(lambda: not armed._link.lost, 1.0)
    assert armed.state().faults == ()


def test_closing_without_a_bus_still_lets_go(
    arm: VirtualPiper, armed: PiperDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise can.CanOperationError("gone")

    monkeypatch.setattr(armed._link.sdk.GetCanBus().send_bus, "send", gone)
    armed.close()
    again = driver_of(arm)
    again.connect()
    again.close()
