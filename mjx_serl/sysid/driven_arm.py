"""An arm that is simulated to be identified: its joints, delayed and measured with noise.

The bridge drives it through `robot_bridge.drivers.simulated_joints.SimJointDriver`.
"""

from collections import deque
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64

from mjx_serl.sysid.arm_model import build_arm_model, tool_site
from scenes.contract.robot import RobotSpec

Vector = Float64[np.ndarray, " J"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of what is measured. Ours, in the range of a geared servo's encoders.

    Attributes:
        position: [rad].
        velocity: [rad/s].
    """

    position: float = 1e-5
    velocity: float = 1e-3


class DrivenArm:
    """A robot alone in its simulator; numpy in and out, float64 [m, rad, s], base frame.

    Attributes:
        sim_dt: physics step [s].
        name: of its robot.

    Args:
        robot: with the parameters that it truly has.
        delay: from a command to the drives [s].
        noise: of its readings.
        seed: of the noise.
        sim_dt: see above.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        delay: float = 0.0,
        noise: Noise | None = None,
        seed: int = 0,
        sim_dt: float = 0.005,
    ) -> None:
        self.sim_dt, self.name = sim_dt, robot.name
        arm = build_arm_model(robot, sim_dt=sim_dt)
        self._arm, self._model = arm, arm.model
        self._data = mujoco.MjData(self._model)
        mujoco.mj_resetDataKeyframe(self._model, self._data, 0)
        mujoco.mj_forward(self._model, self._data)
        self._noise, self._draw = noise or Noise(), np.random.default_rng(seed)
        self._delay, self._steps = round(delay / sim_dt), 0
        self._coming: deque[tuple[int, Vector]] = deque()
        self._width = robot.parallel_gripper.width_range[1]
        self._target = np.asarray(robot.home, np.float64)
        self._measure()

    def command(self, q: Vector) -> None:
        """Set the joint positions that the drives go to, once the delay is over [rad]."""
        self._coming.append((self._steps + self._delay, np.array(q, np.float64)))

    def grip(self, width: float) -> None:
        """Set the gripper's opening [m]."""
        self._width = width

    def advance(self, substeps: int) -> None:
        """Let physics steps pass."""
        for _ in range(substeps):
            while self._coming and self._coming[0][0] <= self._steps:
                self._target = self._coming.popleft()[1]
            self._data.ctrl[:] = self._arm.controls(self._target[None], self._width)[0]
            mujoco.mj_step(self._model, self._data)
            self._steps += 1
        mujoco.mj_kinematics(self._model, self._data)
        self._measure()

    def joints(self) -> tuple[Vector, Vector]:
        """Measured positions [rad] and velocities [rad/s]."""
        return self._q, self._dq

    def tool(self) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 4"]]:
        """Position [m] and orientation (wxyz) of the tool centre."""
        site, quat = tool_site(self._model), np.empty(4)
        mujoco.mju_mat2Quat(quat, self._data.site_xmat[site])
        return self._data.site_xpos[site].copy(), quat

    def width(self) -> float:
        """Opening of the gripper [m]."""
        return float(self._data.qpos.sum() - self._data.qpos[self._arm.qpos].sum())

    def _measure(self) -> None:
        joints, noise = len(self._arm.qpos), self._noise
        q, dq = self._data.qpos[self._arm.qpos], self._data.qvel[self._arm.dofs]
        self._q = q + noise.position * self._draw.standard_normal(joints)
        self._dq = dq + noise.velocity * self._draw.standard_normal(joints)
