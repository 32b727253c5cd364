"""A UR5e of the e-Series: joints over RTDE, followed by a program of ours on its controller."""

import contextlib
import secrets
from typing import Literal

import numpy as np

from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    Target,
    require_finite,
    require_token,
)
from robot_bridge.drivers.hosts import is_this_machine
from robot_bridge.drivers.polling import Poller, Reading, wait_for
from robot_bridge.drivers.ur.gripper import RobotiqGripper
from robot_bridge.drivers.ur.health import PROTECTIVE_STOP, faults_of, mode_of, program_runs, unfit
from robot_bridge.drivers.ur.program import Order, dashboard, send_program
from robot_bridge.drivers.ur.rtde import Rtde, RtdeState
from robot_bridge.safety.kinematics import vector_to_quat
from scenes.contract.errors import InputError
from scenes.robots.ur5e import ur5e_2f85

# [s] A state that is late is stale at once; the link is lost when none comes for so long.
_PATIENCE, _FIRST, _START, _SENT = 1.0, 2.0, 1.0, 1.0
# A 2F-85's POS closed and open, as they come, from memory; the bridge tries both before it homes.
_READINGS = (230.0, 3.0)


class UrDriver:
    """See `driver.ArmDriver`; `arm` and `recover` wait for the controller, at most two seconds.

    Args:
        host: of the controller.
        gripper_readings: what the gripper says when closed and when open.
    """

    def __init__(self, host: str, *, gripper_readings: tuple[float, float] = _READINGS) -> None:
        closed, opened = gripper_readings
        if not (0 <= min(closed, opened) < max(closed, opened) <= 255):
            raise InputError(
                f"gripper_readings {closed:g} {opened:g}, allowed: two different numbers in 0..255"
            )
        self._host, self._readings = host, gripper_readings
        self._robot = ur5e_2f85()
        self._info: ArmInfo | None = None
        self._links: tuple[Rtde, Poller[RtdeState], RobotiqGripper] | None = None
        self._armed, self._nonce = False, 0
        # Set by whoever calls, sent by the thread that reads: after every state.
        self._beat, self._order, self._target = 0, Order.END, np.zeros(self._robot.num_joints)

    @property
    def info(self) -> ArmInfo:
        """What is connected; DriverError before `connect`."""
        if self._info is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._info

    def connect(self) -> None:
        """Open the links to controller and gripper and read both; moves nothing."""
        if self._links is not None:
            raise DriverError(f"Already connected to {self._host}")
        rtde = Rtde(self._host)
        try:
            if not (5, 6) <= rtde.version[:2] < (6, 0):
                raise DriverError(
                    "The controller runs PolyScope {}.{}, allowed: 5.6 or newer, below 6".format(
                        *rtde.version
                    )
                )
            serial = dashboard(self._host, "get serial number")
            gripper = RobotiqGripper(self._host, self._robot.parallel_gripper, self._readings)
        except BaseException:
            rtde.close()
            raise
        states = Poller(
            lambda: self._exchange(rtde), key=lambda s: s.timestamp, period=0.0, patience=_PATIENCE
        )
        self._links = rtde, states, gripper
        try:
            states.first(_FIRST)
            gripper.wait()
        except BaseException:
            self.close()
            raise
        self._info = ArmInfo(
            robot=self._robot.name,
            serial=serial,
            firmware="PolyScope " + ".".join(map(str, rtde.version)),
            takes="joints",
            simulated=is_this_machine(self._host),
        )

    def arm(self, token: ArmToken) -> None:
        """Start our program where the arm stands; DriverError unless it is idle."""
        require_token(token, "arm")
        if self._armed:
            raise DriverError("The arm is armed already; stop it first")
        if why := unfit(self._reading().value):
            raise DriverError(f"The arm cannot be armed: {why}")
        self._open_links()[2].require_active()
        self._nonce = 1 + secrets.randbelow(2**31 - 1)
        self._target, self._order = self._reading().value.actual_q, Order.FOLLOW
        try:
            self._wait_sent()  # a target of before must not be there when the program starts
            with send_program(self._host, self._nonce):
                wait_for(
                    lambda: self._controlled(self._reading().value),
                    _START,
                    complaint="The controller does not start our program; is it in Remote Control?",
                )
        except BaseException:
            self._order = Order.END
            raise
        self._armed = True

    def state(self) -> ArmState:
        """The newest reading; DriverError without a link to controller or gripper."""
        reading, gripper = self._reading(), self._open_links()[2]
        raw = reading.value
        controlled = self._armed and self._controlled(raw)
        ended = self._armed and not controlled
        return ArmState(
            t=reading.t,
            seq=reading.seq,
            q=raw.actual_q.copy(),
            dq=raw.actual_qd.copy(),
            position=raw.tcp_pose[:3].copy(),
            quat=vector_to_quat(raw.tcp_pose[3:]),
            gripper_width=gripper.width,
            mode=mode_of(raw, controlled=controlled),
            faults=(*faults_of(raw), *(("control_ended",) if ended else ())),
            twist=raw.tcp_speed.copy(),
        )

    def servo(self, target: Target) -> None:
        """Follow the target's joints from the next package on; DriverError unless in control."""
        require_finite(target)
        self._require_armed()
        if not self._controlled(self._reading().value):
            raise DriverError("The controller ended control; its state says why")
        self._target = target.q.copy()

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most this force [N]; returns at once."""
        self._require_armed()
        self._open_links()[2].go(width, force)

    def hold(self) -> None:
        """Make the measured joints the target."""
        if self._armed:
            self._target = self._reading().value.actual_q

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Brake and end the program ("soft"), or have the arm stop itself until it is recovered."""
        self._open_links()
        if self._armed:
            self._order = Order.PROTECTIVE_STOP if kind == "protective" else Order.END
        self._armed = False

    def recover(self, token: ArmToken) -> None:
        """Release a protective stop; what needs the pendant is left to a person, and said."""
        require_token(token, "recover")
        self._armed, self._order = False, Order.END
        if PROTECTIVE_STOP in faults_of(self._reading().value):
            answer = dashboard(self._host, "unlock protective stop")
            if not answer.startswith("Protective stop releasing"):
                raise DriverError(f"The protective stop stays: {answer}")
            wait_for(
                lambda: PROTECTIVE_STOP not in faults_of(self._reading().value),
                _START,
                complaint="The protective stop stays; look at the pendant, and recover again",
            )
        if why := unfit(self._reading().value):
            raise DriverError(f"The arm has not recovered: {why}")

    def close(self) -> None:
        """End our program, and let go of the links."""
        if self._links is None:
            return
        self.stop("soft")
        with contextlib.suppress(DriverError):  # unsaid, the program ends by itself a bit later
            self._wait_sent()
        (rtde, states, gripper), self._links = self._links, None
        states.close()
        rtde.close()
        gripper.close()

    # -- inside ----------------------------------------------------------------------------------

    def _exchange(self, rtde: Rtde) -> RtdeState:
        state = rtde.receive()
        self._beat = (self._beat + 1) % 2**31
        rtde.send(self._beat, self._order, self._target)
        return state

    def _wait_sent(self) -> None:
        """Wait until what was set has gone out; the beat was counted before it was read."""
        beat = self._beat
        wait_for(
            lambda: self._beat >= beat + 2 and bool(self._reading()),
            _SENT,
            complaint="The controller is not heard any more; check the cable",
        )

    def _controlled(self, state: RtdeState) -> bool:
        return program_runs(state) and state.register == self._nonce

    def _reading(self) -> Reading[RtdeState]:
        return self._open_links()[1].newest()

    def _open_links(self) -> tuple[Rtde, Poller[RtdeState], RobotiqGripper]:
        if self._links is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._links

    def _require_armed(self) -> None:
        self._open_links()
        if not self._armed:
            raise DriverError("The arm is not armed; a person must confirm first")
