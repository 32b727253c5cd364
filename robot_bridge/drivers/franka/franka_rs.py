"""Panda (FCI v5) and FR3 (v10) through franka-rs: its impedance law, in Rust, at 1 kHz.

    driver = franka_rs_driver(FrankaConfig(host="172.16.0.2"), robot=panda())

Verified against a simulated FR3 only: there is no simulator for FCI v5, so nothing here has met a
Panda, simulated or real. The library cannot set the end-effector frame: the impedance acts in the
one that Desk has, which should be the hand's.
"""

import contextlib
import importlib.metadata
import threading
from typing import Any, Literal

import numpy as np

from robot_bridge.compliance import Compliance, Settable
from robot_bridge.driver import Vector
from robot_bridge.drivers.franka.config import FrankaConfig, load_library
from robot_bridge.drivers.franka.driver import FrankaDriver, FrankaReading
from robot_bridge.drivers.franka.frames import Matrix, ToolFrame, matrix_to_quat
from robot_bridge.drivers.franka.hand import HandClient
from scenes.contract.robot import RobotSpec
from scenes.robots.fr3 import fr3

# The library smooths targets a second time. The governor has kept its limits already, so these stay
# just inside the FR3's own (robot_bridge.md 6): tighter ones only add lag, 19 mm for 12 (2 m/s^2
# and 40 m/s^3, 0.15 m/s on franka-sim). Deviation is from where control began.
_BUDGET = {
    "max_velocity": 1.0,
    "max_acceleration": 8.0,
    "max_jerk": 4000.0,
    "max_deviation": 1.2,
    "max_angular_velocity": 2.0,
    "max_angular_acceleration": 15.0,
    "max_angular_jerk": 5000.0,
    "max_angular_deviation": 3.0,
}
# Share of the torque limits that it may use (robot_bridge.md 3 row 10).
_TORQUE_SHARE = 0.6


def franka_rs_driver(config: FrankaConfig, *, robot: RobotSpec | None = None) -> FrankaDriver:
    """A driver for the FR3, or for the Panda as `robot`."""
    robot = robot or fr3()
    return FrankaDriver(FrankaRsLibrary(config, robot), config, robot)


class FrankaRsLibrary:
    """See `franka_arm.FrankaLibrary`."""

    def __init__(self, config: FrankaConfig, robot: RobotSpec) -> None:
        self._config, self._T_flange_tool = config, robot.T_flange_ee
        self._compliance = config.compliance
        self._arm: Any = None
        self._model: Any = None
        self._targets: Any = None

    complies: Settable = "arming"  # its loop takes a quarter of a second to start anew

    def comply(self, compliance: Compliance) -> None:
        """Yield so when the target loop starts."""
        self._compliance = compliance

    @property
    def firmware(self) -> str:
        """The version it agreed on with the robot."""
        version = importlib.metadata.version("franka-rs")
        return f"FCI v{self._arm.fci_version}, franka-rs {version}"

    def open(self) -> HandClient:
        """Connect, and fetch the model."""
        self._arm = load_library("franka").Robot(
            self._config.host, realtime="enforce" if self._config.realtime else "ignore"
        )
        self._model = self._arm.model()
        return _Hand(self._arm.gripper())

    def close(self) -> None:
        """Disconnect."""
        self._arm = self._model = self._targets = None

    def read(self) -> FrankaReading:
        """Wait for the next state, or take the control thread's last."""
        raw = self._targets.state() if self.running else self._arm.read_once()
        return FrankaReading(
            time=raw.time,
            q=raw.q,
            dq=raw.dq,
            tau=raw.tau_J,
            tau_ext=np.asarray(raw.tau_ext_hat_filtered),
            O_T_EE=raw.O_T_EE,
            F_T_EE=raw.F_T_EE,
            robot_mode=raw.robot_mode,
            current_errors=tuple(raw.current_errors),
            control_command_success_rate=raw.control_command_success_rate,
        )

    def limits(self) -> dict[str, tuple[float, ...]]:
        """It does not tell."""
        return {}

    def jacobian(self, q: Vector) -> Matrix:
        """By the robot's model."""
        return self._model.zero_jacobian("ee", q, self._T_flange_tool)

    @property
    def running(self) -> bool:
        """Whether the target loop is in control."""
        return self._targets is not None and self._targets.running

    def start(self, robot: RobotSpec, tool: ToolFrame) -> None:
        """Set the thresholds, which it leaves alone otherwise, and start the target loop."""
        config, compliance = self._config, self._compliance
        self._collect()
        torques, forces = [config.collision_torque] * 7, [config.collision_force] * 6
        self._arm.set_collision_behavior_simple(torques, torques, forces, forces)
        self._targets = self._arm.cartesian_targets(
            cartesian_stiffness=_six(
                compliance.translational_stiffness, compliance.rotational_stiffness
            ),
            cartesian_damping=_six(compliance.translational_damping, compliance.rotational_damping),
            # It has one for all axes.
            leash=(min(compliance.translational_clip), min(compliance.rotational_clip)),
            torque_limits=[_TORQUE_SHARE * limit for limit in robot.tau_max],
            **_BUDGET,
        )

    def track(self, O_T_EE: Matrix, q: Vector) -> None:
        """Hand the pose to the control thread; its elbow stays as it was when armed."""
        w, x, y, z = matrix_to_quat(O_T_EE[:3, :3])
        self._targets.move_to([*O_T_EE[:3, 3], x, y, z, w])

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Settle on the last target, or preempt: the robot's own controller brakes."""
        if kind == "protective":
            self._arm.stop()
        # Settling takes a quarter of a second.
        threading.Thread(target=self._collect, name="settling", daemon=True).start()

    def join(self) -> None:
        """Wait for the end of the loop."""
        if self._targets is not None:
            self._targets.stop()

    def recover(self) -> None:
        """Ask the robot to recover."""
        self._collect()
        self._arm.automatic_error_recovery()

    def _collect(self) -> None:
        """Wait for the last loop's end, which is known already."""
        with contextlib.suppress(Exception):
            self.join()


class _Hand:
    """franka-rs's gripper as a HandClient."""

    def __init__(self, gripper: Any) -> None:
        self.move, self.grasp, self.stop = gripper.move, gripper.grasp, gripper.stop
        self.read_width = lambda: gripper.read_once().width


def _six(translational: float, rotational: float) -> list[float]:
    return [translational] * 3 + [rotational] * 3
