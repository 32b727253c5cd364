"""What every ArmDriver must do, whatever arm is behind it.

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_conforms(check):
        check(Rig(make=lambda: MyDriver(...), robot=fr3()))

Each check makes a driver of its own, closes it, and leaves the arm idle.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from bench_arm import bench_contract

from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.compliance import Compliance, Compliant
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.control_loop import ControlLoop, Parts
from robot_bridge.control.joint_monitor import QUANTITIES
from robot_bridge.control.session import CONTROL_PERIOD
from robot_bridge.driver import (
    ArmDriver,
    ArmState,
    ArmToken,
    DriverError,
    Mode,
    MonitoredArm,
    Target,
    Vector,
)
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.limits import default_limits
from robot_bridge.safety.supervisor import NotAllowedError, Supervisor
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import multiply_quats, quat_to_matrix

# What may block is bounded; a tick is 10 ms.
PROMPT = 0.005


@dataclass(frozen=True, kw_only=True)
class Rig:
    """How to exercise a driver.

    make: a driver that is not connected. robot: the spec of its arm. wait: lets so many seconds
    pass for the arm (sleeps, or turns a simulation). follows: it moves when told to (a dry run
    does not). clock: that `wait` turns, None for the real one. tolerance: of the tool centre after
    a slow move [m] (an impedance gives way to friction). kinematics: of FK(q) against the pose [m].
    """

    make: Callable[[], ArmDriver]
    robot: RobotSpec
    wait: Callable[[float], None] = time.sleep
    follows: bool = True
    clock: Clock | None = None
    tolerance: float = 0.008
    kinematics: float = 1e-4

    @contextlib.contextmanager
    def connected(self) -> Iterator[ArmDriver]:
        """A connected driver, closed in the end."""
        driver = self.make()
        driver.connect()
        try:
            self.wait(0.1)
            yield driver
        finally:
            driver.close()

    @contextlib.contextmanager
    def armed(self) -> Iterator[ArmDriver]:
        """One that a person has armed."""
        with self.connected() as driver:
            driver.arm(token("arm"))
            self.wait(0.2)
            yield driver


def token(purpose) -> ArmToken:
    """A person's consent, as the supervisor would have made it."""
    return ArmToken(purpose=purpose, by="a test")


def forward(robot: RobotSpec, q: Vector) -> tuple[Vector, Vector]:
    """Tool centre [m] and wxyz quaternion at joint positions [rad]: the chain, link by link."""
    position, quat = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])

    def go(offset, turn) -> None:
        nonlocal position, quat
        position = position + quat_to_matrix(quat) @ np.asarray(offset)
        quat = multiply_quats(quat, np.asarray(turn))

    go(robot.links[0].pos, robot.links[0].quat)
    for link, angle in zip(robot.links[1:], q, strict=True):
        go(link.pos, link.quat)
        go((0.0, 0.0, 0.0), (np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)))
    go(robot.flange_pos, (1.0, 0.0, 0.0, 0.0))
    go(robot.ee_pos, robot.ee_quat)
    return position, quat / np.linalg.norm(quat)


def target_at(robot: RobotSpec, q: Vector) -> Target:
    """A target that says the same as a pose and as joint positions [rad]."""
    position, quat = forward(robot, q)
    return Target(position=position, quat=quat, q=np.asarray(q, float))


def sweep(rig: Rig, driver: ArmDriver, start: Vector, angle: float) -> Target:
    """Turn the first joint from `start` to `angle` beyond it, slowly, at 100 Hz, and settle."""
    q = start.copy()
    target = target_at(rig.robot, q)
    for step in range(1, 81):
        q[0] = start[0] + angle * step / 80
        target = target_at(rig.robot, q)
        driver.servo(target)
        rig.wait(0.01)
    rig.wait(0.5)
    return target


def prompt(call: Callable[[], object]) -> None:
    """Call it often; the fastest must be prompt (a busy machine delays any single one)."""
    spans = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        spans.append(time.perf_counter() - began)
    assert min(spans) < PROMPT, spans


# -- the checks ----------------------------------------------------------------------------------


def check_nothing_works_before_connect(rig: Rig) -> None:
    driver = rig.make()
    with pytest.raises(DriverError):
        driver.state()
    with pytest.raises(DriverError):
        driver.arm(token("arm"))
    driver.close()


def check_connect_tells_what_it_is_and_moves_nothing(rig: Rig) -> None:
    with rig.connected() as driver:
        before = driver.state()
        info = driver.info
        assert info.robot == rig.robot.name
        assert info.takes in ("pose", "joints", "nothing")
        assert info.serial and info.firmware
        rig.wait(0.3)
        after = driver.state()
        assert before.mode is not Mode.MOVING and after.mode is not Mode.MOVING
        np.testing.assert_allclose(after.q, before.q, atol=1e-4)


def check_state_is_whole(rig: Rig) -> None:
    with rig.connected() as driver:
        state = driver.state()
        joints = rig.robot.num_joints
        assert state.q.shape == state.dq.shape == (joints,)
        assert state.position.shape == (3,) and state.quat.shape == (4,)
        for row in (state.q, state.dq, state.position, state.quat):
            assert row.dtype == np.float64 and np.isfinite(row).all()
        assert state.tau is None or state.tau.shape == (joints,)
        assert state.twist is None or state.twist.shape == (6,)
        assert abs(np.linalg.norm(state.quat) - 1) < 1e-6
        low, high = rig.robot.gripper.width_range
        assert low - 0.005 <= state.gripper_width <= high + 0.005
        assert 0.0 <= state.link_quality <= 1.0
        assert state.faults == () and state.mode in (Mode.IDLE, Mode.OTHER)


def check_state_is_fresh_and_prompt(rig: Rig) -> None:
    with rig.connected() as driver:
        first = driver.state()
        rig.wait(0.1)
        second = driver.state()
        assert second.seq > first.seq and second.t > first.t
        prompt(driver.state)


def check_pose_is_the_tool_centre_of_q(rig: Rig) -> None:
    with rig.connected() as driver:
        state = driver.state()
        position, quat = forward(rig.robot, state.q)
        assert np.linalg.norm(position - state.position) < rig.kinematics
        assert abs(abs(quat @ state.quat) - 1) < 1e-5  # q and -q are one rotation


def check_arm_needs_a_token_to_arm(rig: Rig) -> None:
    with rig.connected() as driver:
        for wrong in (None, token("recover"), "arm"):
            with pytest.raises(DriverError):
                driver.arm(wrong)
        with pytest.raises(DriverError):
            driver.servo(target_at(rig.robot, driver.state().q))
        assert driver.state().mode is not Mode.MOVING


def check_recover_needs_a_token_to_recover(rig: Rig) -> None:
    with rig.connected() as driver:
        for wrong in (None, token("arm"), "recover"):
            with pytest.raises(DriverError):
                driver.recover(wrong)


def check_arming_moves_nothing(rig: Rig) -> None:
    with rig.connected() as driver:
        before = driver.state()
        driver.arm(token("arm"))
        rig.wait(0.5)
        after = driver.state()
        assert after.mode in (Mode.IDLE, Mode.MOVING) and after.faults == ()
        np.testing.assert_allclose(after.q, before.q, atol=2e-3)


def check_servo_goes_there_and_back(rig: Rig) -> None:
    with rig.armed() as driver:
        start = driver.state()
        there = sweep(rig, driver, start.q, 0.08)
        reached = driver.state()
        assert np.linalg.norm(there.position - start.position) > 1.5 * rig.tolerance
        goal = there.position if rig.follows else start.position
        assert np.linalg.norm(reached.position - goal) < rig.tolerance
        there_q = start.q.copy()
        there_q[0] += 0.08
        sweep(rig, driver, there_q, -0.08)
        back = driver.state()
        assert np.linalg.norm(back.position - start.position) < rig.tolerance
        assert back.faults == ()


def check_servo_is_prompt_and_the_latest_wins(rig: Rig) -> None:
    with rig.armed() as driver:
        start = driver.state()
        there, here = start.q.copy(), target_at(rig.robot, start.q)
        there[0] += 0.005
        prompt(lambda: driver.servo(here))
        for _ in range(50):
            driver.servo(target_at(rig.robot, there))
        driver.servo(here)
        rig.wait(0.3)
        assert np.linalg.norm(driver.state().position - start.position) < rig.tolerance


def check_a_target_that_is_not_finite_is_refused(rig: Rig) -> None:
    with rig.armed() as driver:
        before = driver.state()
        good = target_at(rig.robot, before.q)
        for bad in (np.nan, np.inf):
            for field in ("position", "quat", "q"):
                rows = {name: getattr(good, name).copy() for name in ("position", "quat", "q")}
                rows[field][-1] = bad
                with pytest.raises(DriverError):
                    driver.servo(Target(**rows))
        rig.wait(0.2)
        after = driver.state()
        assert after.faults == ()
        np.testing.assert_allclose(after.q, before.q, atol=5e-3)


def check_a_compliance_is_taken_as_often_as_it_says(rig: Rig) -> None:
    """Set before arming and, where it can be, while the arm stands: no jump, no fault, prompt."""
    with rig.connected() as driver:
        assert (driver.info.compliance != "never") == isinstance(driver, Compliant)
        if not isinstance(driver, Compliant):
            return
        driver.comply(Compliance(translational_stiffness=1500.0))
        driver.arm(token("arm"))
        rig.wait(0.2)
        before = driver.state()
        if driver.info.compliance == "standing":
            stiffer = Compliance(translational_stiffness=3000.0, rotational_stiffness=300.0)
            prompt(lambda: driver.comply(stiffer))
            rig.wait(0.3)
        after = driver.state()
        assert after.mode is Mode.MOVING and after.faults == ()
        assert np.linalg.norm(after.position - before.position) < rig.tolerance
        driver.hold()


def check_what_joints_say_is_whole_and_known(rig: Rig) -> None:
    with rig.connected() as driver:
        if not isinstance(driver, MonitoredArm):
            return
        prompt(driver.joint_readings)
        readings = driver.joint_readings()
        assert readings and set(readings) <= set(QUANTITIES)
        for row in readings.values():
            assert row.shape == (rig.robot.num_joints,) and np.isfinite(row).all()


def check_hold_stays_where_it_is(rig: Rig) -> None:
    with rig.armed() as driver:
        q = driver.state().q
        ahead = q.copy()
        ahead[0] += 0.01
        driver.servo(target_at(rig.robot, ahead))
        prompt(driver.hold)
        rig.wait(0.3)
        first = driver.state()
        rig.wait(0.3)
        np.testing.assert_allclose(driver.state().q, first.q, atol=2e-3)


def check_gripper_returns_at_once_and_gets_there(rig: Rig) -> None:
    with rig.armed() as driver:
        closed, opened = rig.robot.gripper.width_range
        for width in (0.5 * (closed + opened), opened):
            prompt(lambda width=width: driver.gripper(width, 10.0))
            deadline = time.monotonic() + 3.0
            while rig.follows and abs(driver.state().gripper_width - width) > 0.003:
                assert time.monotonic() < deadline, driver.state().gripper_width
                rig.wait(0.05)


def check_stop_ends_control(rig: Rig) -> None:
    for kind in ("soft", "protective"):
        with rig.armed() as driver:
            prompt(lambda kind=kind, driver=driver: driver.stop(kind))
            rig.wait(0.5)
            state = driver.state()
            assert state.mode is not Mode.MOVING
            with pytest.raises(DriverError):
                driver.servo(target_at(rig.robot, state.q))


def check_close_may_come_twice_and_ends_the_link(rig: Rig) -> None:
    with rig.armed() as driver:
        pass
    driver.close()
    with pytest.raises(DriverError):
        driver.state()
    with rig.connected() as again:  # the arm is free for the next client, and idle
        assert again.state().mode is not Mode.MOVING


def check_a_tool_frame_that_is_not_the_arms_is_refused(rig: Rig) -> None:
    with rig.connected() as driver:
        arm = Altered(driver)
        loop = governed(rig, arm)
        arm.offset = np.array([0.0, 0.0, 0.107])  # the hand is not set as the end effector
        with pytest.raises(NotAllowedError, match=r"0\.107 m and 0\.00 rad from where its joints"):
            confirm(loop, rig)
        assert driver.state().mode is not Mode.MOVING and not arm.sent
        arm.offset = np.zeros(3)
        confirm(loop, rig)
        loop.home(driver.state().q + 0.1)
        turn(loop, rig, 0.05)
        arm.offset = np.array([0.0, 0.0, 0.107])  # somebody sets another one meanwhile
        before = len(arm.sent)
        turn(loop, rig, 0.02)
        supervisor = loop.parts.supervisor
        assert supervisor.phase is Phase.FAULT and len(arm.sent) == before
        assert supervisor.cause & Reason.KINEMATICS_MISMATCH


def check_an_arm_that_is_told_to_move_and_stands_faults(rig: Rig) -> None:
    with rig.connected() as driver:
        arm = Altered(driver, deaf=True)
        loop = governed(rig, arm, following_max_age=0.3)
        confirm(loop, rig)
        loop.home(driver.state().q + 0.3)
        turn(loop, rig, 1.5)
        supervisor = loop.parts.supervisor
        if not rig.follows:
            assert supervisor.phase is Phase.ARMED  # nothing is sent, so nothing is expected
            return
        assert supervisor.phase is Phase.FAULT and supervisor.cause & Reason.NOT_FOLLOWING


class Altered:
    """A driver whose arm says its tool is `offset` [m] away, or is deaf to what it is sent."""

    def __init__(self, driver: ArmDriver, *, deaf: bool = False) -> None:
        self._driver, self._deaf = driver, deaf
        self.offset = np.zeros(3)
        self.sent: list[Target] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def state(self) -> ArmState:
        state = self._driver.state()
        return dataclasses.replace(state, position=state.position + self.offset)

    def servo(self, target: Target) -> None:
        self.sent.append(target)
        if not self._deaf:
            self._driver.servo(target)


def governed(rig: Rig, driver: Any, **changes: Any) -> ControlLoop:
    """A control loop on a driver; it is turned by hand."""
    contract = dataclasses.replace(bench_contract(), robot=rig.robot)
    slow = {"state_max_age": 0.5, "watchdog": 5.0, "command_fault_age": 5.0}
    limits = dataclasses.replace(default_limits(rig.robot), **slow | changes)
    clock = MonotonicClock() if rig.clock is None else rig.clock
    parts = Parts(
        contract=contract,
        limits=limits,
        driver=driver,
        governor=Governor(rig.robot, limits, dt=CONTROL_PERIOD),
        gate=ActionGate(contract, limits),
        supervisor=Supervisor(driver, clock, phrase="yes"),
        arbiter=Arbiter(),
        clock=clock,
    )
    return ControlLoop(parts)


def confirm(loop: ControlLoop, rig: Rig) -> None:
    """A person arms it."""
    supervisor = loop.parts.supervisor
    supervisor.arm(supervisor.confirm("arm", by="a test", typed="yes"))
    rig.wait(0.05)


def turn(loop: ControlLoop, rig: Rig, seconds: float) -> None:
    """Turn the loop for so long, or until it faults."""
    for _ in range(round(seconds / CONTROL_PERIOD)):
        if loop.tick().phase is Phase.FAULT:
            return
        rig.wait(CONTROL_PERIOD)


CHECKS = tuple(value for name, value in list(globals().items()) if name.startswith("check_"))


def name_of(check: Callable[[Rig], None]) -> str:
    """What a check is called in a test's name."""
    return check.__name__.removeprefix("check_")
