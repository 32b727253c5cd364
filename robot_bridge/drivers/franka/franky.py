"""The FR3 through franky-control: its Cartesian impedance tracker, in C++, at 1 kHz.

    driver = franky_driver(FrankaConfig(host="172.16.0.2"))

PyPI's wheel speaks FCI v10 (system 5.9 or newer); franky's own index has others, and
`franka_rs` speaks to a Panda.
"""

import contextlib
import importlib.metadata
import time
from typing import Any, Literal

import numpy as np

from robot_bridge.compliance import Compliance, Settable
from robot_bridge.driver import DriverError, Vector
from robot_bridge.drivers.franka.config import FrankaConfig, load_library
from robot_bridge.drivers.franka.driver import FrankaDriver, FrankaReading
from robot_bridge.drivers.franka.frames import Matrix, ToolFrame, invert, urdf_limits
from robot_bridge.drivers.franka.hand import HandClient
from scenes.contract.robot import RobotSpec
from scenes.robots.fr3 import fr3

# SetEE is answered at once; the states that follow carry it a millisecond later [s].
_PUT_TOOL = 0.5
_STOP = 1.5
# franky fixes a tracker's posture when it starts; a new one takes over from this distance [rad].
_POSTURE_STEP = 0.02


def franky_driver(config: FrankaConfig, *, robot: RobotSpec | None = None) -> FrankaDriver:
    """A driver for the FR3, or for another `robot` that franky's wheel speaks to."""
    robot = robot or fr3()
    return FrankaDriver(FrankyLibrary(config, robot), config, robot)


class FrankyLibrary:
    """See `franka_arm.FrankaLibrary`."""

    def __init__(self, config: FrankaConfig, robot: RobotSpec) -> None:
        self._config, self._T_flange_tool = config, robot.T_flange_ee
        self._compliance = config.compliance
        self._low, self._high = np.array(robot.q_min), np.array(robot.q_max)
        self._posture = np.array(robot.home)
        self._franky: Any = None
        self._arm: Any = None
        self._tracker: Any = None

    complies: Settable = "standing"

    @property
    def firmware(self) -> str:
        """The wheel connects to FCI v10 only."""
        return f"FCI v10, franky-control {importlib.metadata.version('franky-control')}"

    def open(self) -> HandClient:
        """Connect, and set the collision thresholds."""
        self._franky = franky = load_library("franky")
        enforce, ignore = franky.RealtimeConfig.Enforce, franky.RealtimeConfig.Ignore
        self._arm = franky.Robot(
            self._config.host,
            default_torque_threshold=self._config.collision_torque,
            default_force_threshold=self._config.collision_force,
            realtime_config=enforce if self._config.realtime else ignore,
        )
        self._frame = franky.Frame.EndEffector, franky.Affine(self._T_flange_tool)
        self._errors = [name for name in dir(franky.Errors) if not name.startswith("_")]
        return _Hand(franky.Gripper(self._config.host))

    def close(self) -> None:
        """Disconnect."""
        self._arm = self._tracker = None

    def read(self) -> FrankaReading:
        """Wait for the next state, or take the control thread's last."""
        raw = self._arm.state
        return FrankaReading(
            time=raw.time.to_msec() / 1e3,
            q=raw.q,
            dq=raw.dq,
            tau=raw.tau_J,
            tau_ext=np.asarray(raw.tau_ext_hat_filtered),
            O_T_EE=raw.O_T_EE.matrix,
            F_T_EE=raw.F_T_EE.matrix,
            robot_mode=raw.robot_mode.name,
            current_errors=tuple(n for n in self._errors if getattr(raw.current_errors, n)),
            control_command_success_rate=raw.control_command_success_rate,
        )

    def limits(self) -> dict[str, tuple[float, ...]]:
        """From the URDF that the robot serves."""
        return urdf_limits(self._arm.model_urdf)

    def jacobian(self, q: Vector) -> Matrix:
        """By the robot's model."""
        frame, tool = self._frame
        return self._arm.model.zero_jacobian(frame, q, tool, self._franky.Affine())

    @property
    def running(self) -> bool:
        """Whether the tracker is in control."""
        return self._tracker is not None and self._arm.is_in_control

    def start(self, robot: RobotSpec, tool: ToolFrame) -> None:
        """Start the tracker at the measured pose; its impedance acts in the tool centre."""
        self._forget_last_motion()
        self._put(tool.T_flange_tool)
        self._track_with(self._arm.state.q)

    def track(self, O_T_EE: Matrix, q: Vector) -> None:
        """Hand the pose to the control thread; a tracker with another posture takes over."""
        if np.abs(q - self._posture).max() > _POSTURE_STEP:
            self._track_with(q)
        self._tracker.set_target(self._franky.Affine(O_T_EE))

    def _track_with(self, q: Vector) -> None:
        """Start a tracker, which a running one yields to within a cycle; elbow as in q [rad]."""
        franky, config, compliance = self._franky, self._config, self._compliance
        elbow = config.nullspace_stiffness
        self._posture = np.array(q)
        self._tracker = franky.CartesianImpedanceTracker(
            self._arm,
            translational_stiffness=compliance.translational_stiffness,
            rotational_stiffness=compliance.rotational_stiffness,
            damping=np.repeat((compliance.translational_damping, compliance.rotational_damping), 3),
            translational_error_clip=np.array(compliance.translational_clip),
            rotational_error_clip=np.array(compliance.rotational_clip),
            posture_task=franky.PostureTask(q, elbow, max_torque=config.nullspace_torque),
            max_delta_tau=config.max_delta_tau,
            lower_joint_limits=self._low,
            upper_joint_limits=self._high,
        )

    def comply(self, compliance: Compliance) -> None:
        """Start a tracker that yields so, where one runs: its clips cannot be changed."""
        self._compliance = compliance
        if self.running:
            self._track_with(self._posture)

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Ramp into damping alone, or preempt: the robot's own controller brakes."""
        if kind == "soft":
            self._arm.move(self._franky.TorqueStopMotion(), asynchronous=True)
        else:
            self._arm.stop()

    def join(self) -> None:
        """Wait for the end of the motion."""
        self._arm.join_motion(timeout=_STOP)

    def recover(self) -> None:
        """Ask the robot to recover; DriverError where it does not."""
        self._forget_last_motion()
        if not self._arm.recover_from_errors():
            raise DriverError("The robot did not recover; see Desk for what is in its way")

    def _forget_last_motion(self) -> None:
        """Collect the exception that ended the last motion, or the next call raises it."""
        self._tracker = None
        with contextlib.suppress(Exception):
            self._arm.poll_motion()

    def _put(self, T_flange_tool: Matrix) -> None:
        """Make the tool centre the robot's end-effector frame, and see that it is.

        A tracker started earlier would take the old frame's pose for its first target.
        """
        in_nominal = invert(self._arm.state.F_T_NE.matrix) @ T_flange_tool
        self._arm.set_ee(in_nominal.T.ravel().tolist())  # column-major
        deadline = time.monotonic() + _PUT_TOOL
        while not np.allclose(self._arm.state.F_T_EE.matrix, T_flange_tool, atol=1e-4):
            if time.monotonic() > deadline:
                raise DriverError("The robot did not take the tool centre; see the hand in Desk")


class _Hand:
    """franky's gripper as a HandClient."""

    def __init__(self, gripper: Any) -> None:
        self.move, self.grasp, self.stop = gripper.move, gripper.grasp, gripper.stop
        self.read_width = lambda: gripper.width
