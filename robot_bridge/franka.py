"""The FR3 through franky-control: its Cartesian impedance tracker turns targets into 1 kHz torques.

    driver = FrankyDriver(FrankaConfig(host="172.16.0.2"))

The tracker runs in franky's C++ thread, so a busy Python delays targets, never torques. It holds the
last target for ever; that an old command stops the arm is the control loop's business. PyPI's wheel
speaks FCI v10 (system 5.9 or newer).
"""

import contextlib
import importlib.metadata
import threading
import time
import xml.etree.ElementTree as ElementTree
from typing import Any, Literal

import numpy as np

from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    Mode,
    Target,
    require_finite,
    require_token,
)
from robot_bridge.franka_config import FrankaConfig, told_as_driver_error
from robot_bridge.franka_frames import ToolFrame, invert, mode_of
from robot_bridge.franka_hand import FrankaHand
from robot_bridge.polling import Poller
from scenes.robots.fr3 import fr3
from scenes.specs import RobotSpec

# A reading is at most this old, plus the millisecond of the robot's own cycle [s].
_PERIOD = 0.002
# A read that collides with the start or the end of control fails once, a lost link for 1 s.
_PATIENCE = 0.3
_START = 1.0
_STOP = 1.5


class FrankyDriver:
    """See `driver.ArmDriver`. Targets are taken as poses; recovery takes up to a second."""

    def __init__(self, config: FrankaConfig, *, robot: RobotSpec | None = None) -> None:
        self.config, self.robot = config, robot or fr3()
        self._tool = ToolFrame.of(self.robot)
        self._info: ArmInfo | None = None
        self._arm: Any = None
        self._hand: FrankaHand | None = None
        self._states: Poller[Any] | None = None
        self._tracker: Any = None
        # Reading an idle robot and starting to control it exclude each other in libfranka.
        self._lock = threading.Lock()

    @property
    def info(self) -> ArmInfo:
        """What is connected; DriverError before `connect`."""
        if self._info is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._info

    def connect(self) -> None:
        """Open the links to arm and hand and read both; sets collision thresholds, moves nothing."""
        franky, config = _franky(), self.config
        realtime = (
            franky.RealtimeConfig.Enforce if config.realtime else franky.RealtimeConfig.Ignore
        )
        with told_as_driver_error(f"connect to {config.host}"):
            self._arm = franky.Robot(
                config.host,
                default_torque_threshold=config.collision_torque,
                default_force_threshold=config.collision_force,
                realtime_config=realtime,
            )
            client = franky.Gripper(config.host)
        self._jacobian_frame = franky.Frame.EndEffector, franky.Affine(self._tool.T_flange_tool)
        self._error_names = [name for name in dir(franky.Errors) if not name.startswith("_")]
        self._hand = FrankaHand(
            client,
            lambda: client.width,
            speed=config.gripper_speed,
            grasp_below=config.grasp_below,
            opened=self.robot.gripper.width_range[1],
        )
        self._states = Poller(
            self._read, key=lambda s: s.time.to_msec(), period=_PERIOD, patience=_PATIENCE
        )
        self._states.first(_START)
        self._hand.wait()
        self._info = self._describe()

    def arm(self, token: ArmToken) -> None:
        """Start the tracker where the arm stands; DriverError unless the arm is idle."""
        require_token(token, "arm")
        state = self.state()
        if self._tracker is not None:
            raise DriverError("The arm is armed already; stop it first")
        if state.mode is not Mode.IDLE or state.faults:
            raise DriverError(f"Cannot arm while {state.mode.value} {state.faults}; see Desk")
        with self._lock, told_as_driver_error("start the tracker"):
            _forget_last_motion(self._arm)
            self._put_tool()
            self._tracker = self._start_tracker()
        self._await_control()

    def state(self) -> ArmState:
        """The newest reading, 2 ms old; DriverError without a link."""
        if self._states is None or self._hand is None:
            raise DriverError("The arm is not connected; call connect() first")
        reading = self._states.newest()
        raw = reading.value
        position, quat = self._tool.measured(raw.O_T_EE.matrix, raw.F_T_EE.matrix)
        frame, tool = self._jacobian_frame
        jacobian = self._arm.model.zero_jacobian(frame, raw.q, tool, raw.EE_T_K)
        mode, rate = mode_of(raw.robot_mode.name), raw.control_command_success_rate
        return ArmState(
            t=reading.t,
            seq=reading.seq,
            q=raw.q.copy(),
            dq=raw.dq.copy(),
            position=position,
            quat=quat,
            gripper_width=self._hand.width,
            mode=mode,
            faults=self._faults(raw),
            link_quality=rate if mode is Mode.MOVING else 1.0,
            tau=raw.tau_J.copy(),
            twist=jacobian @ raw.dq,
        )

    def servo(self, target: Target) -> None:
        """Track this pose from the next millisecond on; DriverError unless armed and in control."""
        require_finite(target)
        if self._tracker is None:
            raise DriverError("The arm is not armed; a person must confirm first")
        if not self._arm.is_in_control:
            raise DriverError("The robot ended control; its state says why")
        F_T_EE = self._tool.T_flange_tool  # as `arm` has put it
        self._tracker.set_target(_franky().Affine(self._tool.commanded(target, F_T_EE)))

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m] with at most this force [N]; returns at once."""
        if self._hand is None or self._tracker is None:
            raise DriverError("The arm is not armed; a person must confirm first")
        if not np.isfinite((width, force)).all():
            raise DriverError("A width and a force must be finite")
        self._hand.go(width, force)

    def hold(self) -> None:
        """Make the measured pose the target."""
        if self._tracker is not None:
            state = self.state()
            self.servo(Target(position=state.position, quat=state.quat, q=state.q))

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Brake with damping alone ("soft"), or as hard as the robot itself does; ends control."""
        tracker, self._tracker = self._tracker, None
        if tracker is None or not self._arm.is_in_control:
            return
        with told_as_driver_error("stop the arm"):
            if kind == "soft":
                self._arm.move(_franky().TorqueStopMotion(), asynchronous=True)
            else:
                self._arm.stop()

    def recover(self, token: ArmToken) -> None:
        """Clear the robot's error, which takes up to a second; it must be armed again."""
        require_token(token, "recover")
        self.state()
        self._tracker = None
        with self._lock, told_as_driver_error("recover"):
            _forget_last_motion(self._arm)
            if not self._arm.recover_from_errors():
                raise DriverError("The robot did not recover; see Desk for what is in its way")

    def close(self) -> None:
        """Hold, stop, and let go of the links."""
        if self._arm is None or self._hand is None or self._states is None:
            return
        with contextlib.suppress(DriverError):
            self.hold()
            self.stop("soft")
        with contextlib.suppress(Exception):  # what ended the motion no longer matters
            self._arm.join_motion(timeout=_STOP)
        self._hand.close()
        self._states.close()
        self._arm = self._hand = self._states = self._tracker = None

    # -- inside ----------------------------------------------------------------------------------

    def _read(self) -> Any:
        with self._lock:
            return self._arm.state

    def _describe(self) -> ArmInfo:
        limits = [
            [float(joint.attrib[name]) for name in ("lower", "upper", "velocity")]
            for joint in ElementTree.fromstring(self._arm.model_urdf).findall(
                "joint[@type='revolute']/limit"
            )
        ]
        q_min, q_max, dq_max = zip(*limits[: self.robot.num_joints], strict=True)
        return ArmInfo(
            robot=self.robot.name,
            serial=self.config.host,  # FCI does not tell the serial number
            firmware=f"FCI v10, franky-control {importlib.metadata.version('franky-control')}",
            takes="pose",
            simulated=self.config.simulated,
            q_min=q_min,
            q_max=q_max,
            dq_max=dq_max,
        )

    def _faults(self, raw: Any) -> tuple[str, ...]:
        faults = tuple(n for n in self._error_names if getattr(raw.current_errors, n))
        if self._tracker is not None and not self._arm.is_in_control:
            faults += ("control_ended",)
        return faults

    def _put_tool(self) -> None:
        """Make RobotSpec's tool centre the frame that the impedance acts in, and see it there."""
        tool = self._tool.T_flange_tool
        in_nominal = invert(self._arm.state.F_T_NE.matrix) @ tool
        self._arm.set_ee(in_nominal.T.ravel().tolist())  # column-major
        deadline = time.monotonic() + _START
        while not np.allclose(self._arm.state.F_T_EE.matrix, tool, atol=1e-4):
            # Were the tracker started before, its first target would be the old frame's pose.
            if time.monotonic() > deadline:
                raise DriverError("The robot did not take the tool centre; see the hand in Desk")

    def _start_tracker(self) -> Any:
        franky, c = _franky(), self.config
        return franky.CartesianImpedanceTracker(
            self._arm,
            translational_stiffness=c.translational_stiffness,
            rotational_stiffness=c.rotational_stiffness,
            damping=np.repeat((c.translational_damping, c.rotational_damping), 3),
            translational_error_clip=np.full(3, c.translational_clip),
            rotational_error_clip=np.full(3, c.rotational_clip),
            posture_task=franky.PostureTask(self._arm.state.q, c.nullspace_stiffness),
            max_delta_tau=c.max_delta_tau,
            lower_joint_limits=np.array(self.robot.q_min),
            upper_joint_limits=np.array(self.robot.q_max),
        )

    def _await_control(self) -> None:
        deadline = time.monotonic() + _START
        while self.state().mode is not Mode.MOVING:
            if time.monotonic() > deadline or not self._arm.is_in_control:
                self._tracker = None
                with told_as_driver_error("start the tracker"):
                    self._arm.poll_motion()  # raises what ended it
                raise DriverError("The robot did not start; is it unlocked and in execution mode?")
            time.sleep(_PERIOD)


def _forget_last_motion(arm: Any) -> None:
    """Collect the exception that ended the last motion, or the next call raises it."""
    with contextlib.suppress(Exception):
        arm.poll_motion()


def _franky() -> Any:
    try:
        import franky
    except ImportError:
        raise DriverError("franky is not installed; pip install 'mjx-serl[franka]'") from None
    return franky
