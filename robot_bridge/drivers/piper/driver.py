"""The AgileX Piper through piper_sdk: joint positions only, never a reset, never power off.

The arm has no watchdog: it goes on to its last target whatever happens to us, and pulling the CAN
cable does not stop it. So a second process guards this one (`piper_guard`). What drops the arm
(reset, motor off) and what has no position limits (MIT mode) cannot be sent at all
(`piper_can.check_outgoing`).
"""

import logging
from typing import Literal

import numpy as np

from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    JointReadings,
    Target,
    require_connected,
    require_token,
)
from robot_bridge.drivers.piper.bring_up import enable, identify, set_crash_level
from robot_bridge.drivers.piper.can_frames import JOINTS, MAX_AGE, STATUS, raw_joints
from robot_bridge.drivers.piper.health import faults_of, mode_of, unfit
from robot_bridge.drivers.piper.link import PiperLink
from robot_bridge.drivers.piper.watchdog import PiperGuard
from robot_bridge.drivers.polling import wait_for
from robot_bridge.safety.kinematics import Chain
from scenes.contract.errors import InputError
from scenes.robots.piper import piper

_LOG = logging.getLogger(__name__)
MAX_SPEED = 30  # [%] robot_bridge.md section 3, layer 20
_LIMIT_SLACK = 1e-4  # [rad] of a target beyond its limit, for rounding
# The gripper takes a motor torque [0.001 N m] and AgileX gives no lever arm: 40 N ask for the 2 N m
# that piper_control caps at. Monotonic, but not calibrated.
_EFFORT_PER_NEWTON, _MAX_EFFORT = 50.0, 2000
# Faults that the next valid target clears.
_OF_TARGETS = {"no_solution", "singularity", "target_exceeds_limit"}
# The watch compares a reading's time with the joints' age; a status may be older by this much [s].
_GRACE = MAX_AGE[STATUS] - MAX_AGE[JOINTS[0]]


class PiperDriver:
    """An ArmDriver for one Piper.

    Args:
        channel: CAN interface, or serial port for "slcan".
        interface: python-can's name of the kind of bus.
        speed: of joint motions [%], at most 30.
        crash_level: sensitivity of the arm's collision detection, 1 to 8; 0 would switch it off.
        guarded: let a second process hold the arm when this one dies; False for simulations only.
        clock: stamps readings.
    """

    def __init__(
        self,
        channel: str = "can0",
        *,
        interface: str = "socketcan",
        speed: int = MAX_SPEED,
        crash_level: int = 1,
        guarded: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if not 1 <= speed <= MAX_SPEED:
            raise InputError(f"PiperDriver: speed must be 1..{MAX_SPEED} %, got {speed}")
        if not 1 <= crash_level <= 8:
            raise InputError(f"PiperDriver: crash_level must be 1..8, got {crash_level}")
        self._robot = piper()
        self._chain = Chain(self._robot)
        self._clock = clock or MonotonicClock()
        self._channel, self._interface = channel, interface
        self._speed, self._crash_level = speed, crash_level
        self._guard = PiperGuard(channel, interface=interface, speed=speed) if guarded else None
        self._link: PiperLink | None = None
        self._info: ArmInfo | None = None
        self._armed = False
        self._sent: tuple[int, ...] = ()

    @property
    def info(self) -> ArmInfo:
        """What is connected; valid after `connect`."""
        return require_connected(self._info)

    def connect(self) -> None:
        """Open the bus, read the arm and its firmware; neither moves nor enables it."""
        if self._link is not None:
            raise DriverError(f"Already connected to the Piper on '{self._channel}'")
        link = PiperLink(self._channel, self._interface, max_speed=self._speed, clock=self._clock)
        link.open()
        self._link = link
        try:
            wait_for(
                lambda: link.feedback.quality(link.now()) == 1.0,
                2.0,
                complaint=f"No full feedback on '{self._channel}'; is the arm powered and plugged?",
            )
            self._info = identify(link)
            if self._guard is not None:
                self._guard.start()
        except BaseException:
            self.close()
            raise

    def arm(self, token: ArmToken) -> None:
        """Enable the arm where it stands, collision detection on; DriverError while faulted."""
        require_token(token, "arm")
        link = self._require_link()
        if unfit(link.feedback):
            raise DriverError(f"The Piper is not fit to be armed: {unfit(link.feedback)}")
        wait_for(
            lambda: link.feedback.fresh((*JOINTS, STATUS), link.now()),
            0.3,
            complaint="The Piper is not heard any more; check the CAN cable",
        )
        set_crash_level(link, self._crash_level)
        enable(link, speed=self._speed)
        self._sent = link.feedback.raw_joints
        self._armed = True

    def state(self) -> ArmState:
        """The newest reading; its `t` is that of its oldest part, so that a lost message shows."""
        link = self._require_link()
        if link.lost:
            raise DriverError(f"'{self._channel}' cannot be read any more; is the adapter plugged?")
        feedback = link.feedback
        q = feedback.q
        position, quat = self._chain.forward(q)
        heard = (*map(feedback.received, JOINTS), feedback.received(STATUS) + _GRACE)
        if self._guard is not None:
            self._guard.beat(feedback.raw_joints, armed=self._armed)
        return ArmState(
            t=min(*heard, link.now()),
            seq=feedback.readings,
            q=q,
            dq=feedback.dq,
            position=position,
            quat=quat,
            gripper_width=feedback.gripper_width,
            mode=mode_of(feedback, armed=self._armed),
            faults=faults_of(feedback, armed=self._armed),
            link_quality=feedback.quality(link.now()),
        )

    def joint_readings(self) -> JointReadings:
        """Supply, temperatures and current of each motor."""
        return self._require_link().feedback.slow

    def servo(self, target: Target) -> None:
        """Go on towards the target's joint positions; DriverError for one beyond the limits."""
        link = self._require_armed()
        if not np.isfinite(np.concatenate([target.position, target.quat])).all():
            raise DriverError("Target pose must be finite; the governor never sends another")
        raw = raw_joints(target.q)
        low, high = np.asarray(self._robot.q_min), np.asarray(self._robot.q_max)
        beyond = (target.q < low - _LIMIT_SLACK) | (target.q > high + _LIMIT_SLACK)
        if beyond.any():
            i = int(np.argmax(beyond))
            raise DriverError(
                f"Target of joint{i + 1} is {target.q[i]:.4f} rad, allowed {low[i]}..{high[i]}"
            )
        self._command(link, raw)

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m]; the force [N] is proportional to, not equal to, what it grips."""
        link = self._require_armed()
        opened = self._robot.parallel_gripper.width_range[1]
        if not (0.0 <= width <= opened and 0.0 <= force < np.inf):
            raise DriverError(f"Gripper: 0..{opened} m with a force >= 0, got {width}, {force}")
        effort = min(_MAX_EFFORT, round(force * _EFFORT_PER_NEWTON))
        link.sdk.GripperCtrl(round(width * 1e6), effort, 0x01, 0)

    def hold(self) -> None:
        """Make the measured joints the target; without fresh ones the last target stays it."""
        link = self._require_link()
        if self._armed:
            fresh = link.feedback.fresh(JOINTS, link.now())
            self._command(link, link.feedback.raw_joints if fresh else self._sent)

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """End control. "soft" holds where the arm is, powered.

        "protective" is the arm's emergency stop (0x150 byte 0 = 1): it sags, damped, until it
        rests on something, and afterwards only a person with the power switch brings it back.
        """
        link = self._require_link()
        try:
            if kind == "protective":
                link.sdk.EmergencyStop(0x01)
            else:
                self.hold()
        finally:
            self._armed = False

    def recover(self, token: ArmToken) -> None:
        """See that the fault is over; what needs a reset is left to a person.

        A fault of a bad target is cleared by sending the measured joints as the next one.
        """
        require_token(token, "recover")
        link = self._require_link()
        self._armed = False
        faults = set(faults_of(link.feedback, armed=False))
        if faults and faults <= _OF_TARGETS:
            self._command(link, link.feedback.raw_joints)
        wait_for(
            lambda: not unfit(link.feedback),
            0.5,
            complaint=f"The Piper still reports {unfit(link.feedback)}. Only a reset clears that; "
            "it drops the arm and this bridge never sends it: support the arm by hand, switch its "
            "power off and on, then recover again",
        )

    def close(self) -> None:
        """Hold if armed, then let go of bus and guard; the arm stays powered."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            if self._armed:
                self._command(link, link.feedback.raw_joints)
        except DriverError:
            _LOG.warning("The Piper on '%s' was out of reach when let go of", self._channel)
        finally:
            self._armed = False
            if self._guard is not None:
                self._guard.dismiss()
            link.close()

    # -- inside ----------------------------------------------------------------------------------

    def _command(self, link: PiperLink, raw: tuple[int, ...]) -> None:
        self._sent = raw
        link.command(raw, speed=self._speed)

    def _require_link(self) -> PiperLink:
        if self._link is None:
            raise DriverError("Not connected to a Piper; call connect() first")
        return self._link

    def _require_armed(self) -> PiperLink:
        link = self._require_link()
        if not self._armed:
            raise DriverError("The Piper is not armed; a person has to arm it first")
        return link
