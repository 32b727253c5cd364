"""A Franka as the bridge sees it, over either library that speaks to its control box.

`FrankaDriver` is the ArmDriver; what a library must do for it is `FrankaLibrary`, which
`franka.FrankyLibrary` and `franka_rs.FrankaRsLibrary` are. The library's own thread computes
torques at 1 kHz from the latest target, so a busy Python delays targets, never torques. It holds
the last target for ever: that an old command stops the arm is the control loop's business.
"""

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from robot_bridge.compliance import Compliance, Settable
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    JointReadings,
    Mode,
    Target,
    Vector,
    require_connected,
    require_finite,
    require_token,
)
from robot_bridge.drivers.franka.config import FrankaConfig, told_as_driver_error
from robot_bridge.drivers.franka.frames import Matrix, ToolFrame, mode_of
from robot_bridge.drivers.franka.hand import FrankaHand, HandClient
from robot_bridge.drivers.polling import Poller, within
from scenes.contract.robot import RobotSpec

# A reading is at most this old, plus the millisecond of the robot's own cycle [s].
_PERIOD = 0.002
# A read that collides with the start or the end of control fails once, a lost link for 1 s.
_PATIENCE = 0.3
_CONNECT, _START, _STOP = 5.0, 1.0, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FrankaReading:
    """One state of the robot, in libfranka's names.

    Attributes:
        time: of the robot [s].
        q: joint positions [rad].
        dq: joint velocities [rad/s].
        tau: joint torques [N m].
        tau_ext: those that the arm's own model does not explain, filtered [N m].
        O_T_EE: pose of the end effector in the base frame [4, 4] [m].
        F_T_EE: pose of the end effector in the flange frame [4, 4] [m].
        robot_mode: the mode's name.
        current_errors: names of the errors.
        control_command_success_rate: share of recent packets that arrived [1].
    """

    time: float
    q: Vector
    dq: Vector
    tau: Vector
    tau_ext: Vector
    O_T_EE: Matrix
    F_T_EE: Matrix
    robot_mode: str
    current_errors: tuple[str, ...]
    control_command_success_rate: float


class FrankaLibrary(Protocol):
    """A library that controls a Franka; its calls may wait for the robot and raise anything."""

    @property
    def complies(self) -> Settable:
        """When it takes a compliance."""
        ...

    def comply(self, compliance: Compliance) -> None:
        """Yield so from the next start on, and at once where it can while it runs."""
        ...

    @property
    def firmware(self) -> str:
        """What the robot runs and what speaks to it."""
        ...

    def open(self) -> HandClient:
        """Connect to the arm and to the hand, which is returned; move nothing."""
        ...

    def close(self) -> None:
        """Let go of the arm."""
        ...

    def read(self) -> FrankaReading:
        """Wait for the next state."""
        ...

    def limits(self) -> dict[str, tuple[float, ...]]:
        """Fields of ArmInfo that the robot tells: q_min, q_max, dq_max."""
        ...

    def jacobian(self, q: Vector) -> Matrix:
        """Of the tool centre [6, 7] in the base frame, linear rows first."""
        ...

    @property
    def running(self) -> bool:
        """Whether it controls the arm."""
        ...

    def start(self, robot: RobotSpec, tool: ToolFrame) -> None:
        """Start to control the arm where it stands."""
        ...

    def track(self, O_T_EE: Matrix, q: Vector) -> None:
        """Go on towards this pose of the robot's end-effector frame, elbow as in q; at once."""
        ...

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Begin to stop, damped or as hard as the robot can; returns at once."""
        ...

    def join(self) -> None:
        """Wait until control has ended; raises what ended it."""
        ...

    def recover(self) -> None:
        """Clear the robot's error."""
        ...


class FrankaDriver:
    """See `driver.ArmDriver`. Targets are taken as poses; recovery takes up to a second."""

    def __init__(self, library: FrankaLibrary, config: FrankaConfig, robot: RobotSpec) -> None:
        self.config, self.robot = config, robot
        self._library = library
        self._tool = ToolFrame.of(robot)
        self._info: ArmInfo | None = None
        self._links: tuple[Poller[FrankaReading], FrankaHand] | None = None
        self._armed = False
        # Reading an idle robot and starting to control it exclude each other in both libraries.
        self._lock = threading.Lock()

    @property
    def info(self) -> ArmInfo:
        """What is connected; DriverError before `connect`."""
        return require_connected(self._info)

    def connect(self) -> None:
        """Open the links to arm and hand and read both; moves nothing."""
        config = self.config
        with told_as_driver_error(f"connect to {config.host}"):
            client = within(_CONNECT, self._library.open, what="connect")
        hand = FrankaHand(client, config, opened=self.robot.parallel_gripper.width_range[1])
        states = Poller(self._read, key=lambda s: s.time, period=_PERIOD, patience=_PATIENCE)
        self._links = states, hand
        states.first(_START)
        hand.wait()
        self._info = ArmInfo(
            robot=self.robot.name,
            serial=config.host,  # FCI does not tell the serial number
            firmware=self._library.firmware,
            takes="pose",
            simulated=config.simulated,
            compliance=self._library.complies,
            **self._library.limits(),
        )

    def arm(self, token: ArmToken) -> None:
        """Start to control the arm where it stands; DriverError unless it is idle."""
        require_token(token, "arm")
        state = self.state()
        if self._armed:
            raise DriverError("The arm is armed already; stop it first")
        if state.mode is not Mode.IDLE or state.faults:
            raise DriverError(f"Cannot arm while {state.mode.value} {state.faults}; see Desk")
        with self._lock, told_as_driver_error("start to control"):
            self._library.start(self.robot, self._tool)
        self._armed = True
        self._await_control()

    def state(self) -> ArmState:
        """The newest reading, 2 ms old; DriverError without a link."""
        states, hand = self._open_links()
        if self._armed and self._library.running:
            states.refresh()  # a copy of the control thread's, which does not wait
        reading = states.newest()
        raw = reading.value
        position, quat = self._tool.measured(raw.O_T_EE, raw.F_T_EE)
        mode = mode_of(raw.robot_mode)
        ended = self._armed and not self._library.running
        return ArmState(
            t=reading.t,
            seq=reading.seq,
            q=raw.q.copy(),
            dq=raw.dq.copy(),
            position=position,
            quat=quat,
            gripper_width=hand.width,
            mode=mode,
            faults=(*raw.current_errors, *(("control_ended",) if ended else ())),
            link_quality=raw.control_command_success_rate if mode is Mode.MOVING else 1.0,
            tau=raw.tau.copy(),
            twist=self._library.jacobian(raw.q) @ raw.dq,
        )

    def joint_readings(self) -> JointReadings:
        """Torques from outside."""
        return {"external_torque": self._open_links()[0].newest().value.tau_ext}

    def servo(self, target: Target) -> None:
        """Track this pose from the next millisecond on; DriverError unless armed and in control."""
        require_finite(target)
        states, _ = self._require_armed()
        if not self._library.running:
            raise DriverError("The robot ended control; its state says why")
        pose = self._tool.commanded(target, states.newest().value.F_T_EE)
        # Control may end between the look above and this.
        with told_as_driver_error("track a target"):
            self._library.track(pose, target.q)

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most this force [N]; returns at once."""
        _, hand = self._require_armed()
        if not np.isfinite((width, force)).all():
            raise DriverError("A width and a force must be finite")
        hand.go(width, force)

    def comply(self, compliance: Compliance) -> None:
        """Yield so from where the arm stands; see `compliance.Compliant`."""
        with told_as_driver_error("change the compliance"):
            self._library.comply(compliance)

    def hold(self) -> None:
        """Make the measured pose the target."""
        if self._armed:
            state = self.state()
            self.servo(Target(position=state.position, quat=state.quat, q=state.q))

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Come to rest damped ("soft"), or braked by the robot itself; ends control."""
        was_armed, self._armed = self._armed, False
        if was_armed and self._library.running:
            with told_as_driver_error("stop the arm"):
                self._library.stop(kind)

    def recover(self, token: ArmToken) -> None:
        """Clear the robot's error, which takes up to a second; it must be armed again."""
        require_token(token, "recover")
        self.state()
        self._armed = False
        with self._lock, told_as_driver_error("recover"):
            self._library.recover()

    def close(self) -> None:
        """Hold, stop, and let go of the links; a library that does not answer is left behind."""
        if self._links is None:
            return
        with contextlib.suppress(DriverError):
            self.hold()
            self.stop("soft")
        with contextlib.suppress(Exception):  # how control ended no longer matters
            within(_STOP, self._library.join, what="stop the arm")
        (states, hand), self._links = self._links, None
        hand.close()
        states.close()
        # A library may wait for ever for the thread that controlled a robot which is gone.
        with contextlib.suppress(DriverError):
            within(_STOP, self._library.close, what="disconnect")

    # -- inside ----------------------------------------------------------------------------------

    def _read(self) -> FrankaReading:
        with self._lock:
            return self._library.read()

    def _open_links(self) -> tuple[Poller[FrankaReading], FrankaHand]:
        if self._links is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._links

    def _require_armed(self) -> tuple[Poller[FrankaReading], FrankaHand]:
        if not self._armed:
            raise DriverError("The arm is not armed; a person must confirm first")
        return self._open_links()

    def _await_control(self) -> None:
        deadline = time.monotonic() + _START
        while self.state().mode is not Mode.MOVING:
            if time.monotonic() > deadline or not self._library.running:
                self._armed = False
                with told_as_driver_error("start to control"):
                    within(_STOP, self._library.join, what="start")
                raise DriverError("The robot did not start; is it unlocked and in execution mode?")
            time.sleep(_PERIOD)
