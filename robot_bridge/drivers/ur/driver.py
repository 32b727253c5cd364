"""A UR5e of the e-Series: joints over RTDE, followed by a program of ours on its controller."""

import contextlib
import secrets
from typing import Literal

from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    JointReadings,
    Target,
    require_connected,
    require_finite,
    require_token,
)
from robot_bridge.drivers.hosts import is_this_machine
from robot_bridge.drivers.polling import wait_for
from robot_bridge.drivers.ur.gripper import RobotiqGripper
from robot_bridge.drivers.ur.health import PROTECTIVE_STOP, faults_of, mode_of, program_runs, unfit
from robot_bridge.drivers.ur.link import UrLink
from robot_bridge.drivers.ur.program import Order, dashboard, send_program
from robot_bridge.drivers.ur.rtde import RtdeState
from robot_bridge.safety.kinematics import vector_to_quat
from scenes.contract.errors import InputError
from scenes.robots.ur5e import ur5e_2f85

_START = 1.0  # [s]
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
        self._links: tuple[UrLink, RobotiqGripper] | None = None
        self._armed, self._nonce = False, 0

    @property
    def info(self) -> ArmInfo:
        """What is connected; DriverError before `connect`."""
        return require_connected(self._info)

    def connect(self) -> None:
        """Open the links to controller and gripper and read both; moves nothing."""
        if self._links is not None:
            raise DriverError(f"Already connected to {self._host}")
        with contextlib.ExitStack() as opened:
            link = UrLink(self._host)
            opened.callback(link.close)
            serial = dashboard(self._host, "get serial number")
            gripper = RobotiqGripper(self._host, self._robot.parallel_gripper, self._readings)
            opened.callback(gripper.close)
            link.first()
            gripper.wait()
            opened.pop_all()
        self._links = link, gripper
        self._info = ArmInfo(
            robot=self._robot.name,
            serial=serial,
            firmware="PolyScope " + ".".join(map(str, link.version)),
            takes="joints",
            simulated=is_this_machine(self._host),
        )

    def arm(self, token: ArmToken) -> None:
        """Start our program where the arm stands; DriverError unless it is idle."""
        require_token(token, "arm")
        if self._armed:
            raise DriverError("The arm is armed already; stop it first")
        if why := unfit(self._raw()):
            raise DriverError(f"The arm cannot be armed: {why}")
        link, gripper = self._open_links()
        gripper.require_active()
        self._nonce = 1 + secrets.randbelow(2**31 - 1)
        link.target, link.order = self._raw().actual_q, Order.FOLLOW
        try:
            link.wait_sent()  # a target of before must not be there when the program starts
            with send_program(self._host, self._nonce):
                wait_for(
                    lambda: self._controlled(self._raw()),
                    _START,
                    complaint="The controller does not start our program; is it in Remote Control?",
                )
        except BaseException:
            link.order = Order.END
            raise
        self._armed = True

    def state(self) -> ArmState:
        """The newest reading; DriverError without a link to controller or gripper."""
        link, gripper = self._open_links()
        reading = link.newest()
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

    def joint_readings(self) -> JointReadings:
        """Temperature and current of each joint."""
        raw = self._raw()
        return {"motor_temperature": raw.joint_temperatures, "current": raw.actual_current}

    def servo(self, target: Target) -> None:
        """Follow the target's joints from the next package on; DriverError unless in control."""
        require_finite(target)
        link, _ = self._require_armed()
        if not self._controlled(self._raw()):
            raise DriverError("The controller ended control; its state says why")
        link.target = target.q.copy()

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most this force [N]; returns at once."""
        self._require_armed()[1].go(width, force)

    def hold(self) -> None:
        """Make the measured joints the target."""
        if self._armed:
            self._open_links()[0].target = self._raw().actual_q

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Brake and end the program ("soft"), or have the arm stop itself until it is recovered."""
        link, _ = self._open_links()
        if self._armed:
            link.order = Order.PROTECTIVE_STOP if kind == "protective" else Order.END
        self._armed = False

    def recover(self, token: ArmToken) -> None:
        """Release a protective stop; what needs the pendant is left to a person, and said."""
        require_token(token, "recover")
        link, _ = self._open_links()
        self._armed, link.order = False, Order.END
        if PROTECTIVE_STOP in faults_of(self._raw()):
            answer = dashboard(self._host, "unlock protective stop")
            if not answer.startswith("Protective stop releasing"):
                raise DriverError(f"The protective stop stays: {answer}")
            wait_for(
                lambda: PROTECTIVE_STOP not in faults_of(self._raw()),
                _START,
                complaint="The protective stop stays; look at the pendant, and recover again",
            )
        if why := unfit(self._raw()):
            raise DriverError(f"The arm has not recovered: {why}")

    def close(self) -> None:
        """End our program, and let go of the links."""
        if self._links is None:
            return
        self.stop("soft")
        (link, gripper), self._links = self._links, None
        with contextlib.suppress(DriverError):  # unsaid, the program ends by itself a bit later
            link.wait_sent()
        link.close()
        gripper.close()

    # -- inside ----------------------------------------------------------------------------------

    def _controlled(self, state: RtdeState) -> bool:
        return program_runs(state) and state.register == self._nonce

    def _raw(self) -> RtdeState:
        return self._open_links()[0].newest().value

    def _open_links(self) -> tuple[UrLink, RobotiqGripper]:
        if self._links is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._links

    def _require_armed(self) -> tuple[UrLink, RobotiqGripper]:
        if not self._armed:
            raise DriverError("The arm is not armed; a person must confirm first")
        return self._open_links()
