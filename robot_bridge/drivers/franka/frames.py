"""Where a Franka's tool centre is: between the robot's end-effector frame and RobotSpec's.

The robot reports and controls O_T_EE, whose frame F_T_EE (in the flange) a person sets in Desk or a
program sets on connection; the bridge means RobotSpec's tool centre, whatever is set.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import Mode, Target, Vector
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import quat_to_matrix

Matrix = NDArray[np.float64]

# libfranka's RobotMode, as either library spells it, in lower case without "_".
MODES = {
    "idle": Mode.IDLE,
    "move": Mode.MOVING,
    "reflex": Mode.REFLEX,
    "userstopped": Mode.USER_STOPPED,
    "guiding": Mode.GUIDING,
}


def mode_of(name: str) -> Mode:
    """The bridge's mode for libfranka's."""
    return MODES.get(name.lower().replace("_", ""), Mode.OTHER)


@dataclass(frozen=True)
class ToolFrame:
    """RobotSpec's tool centre in the flange frame.

    Attributes:
        T_flange_tool: homogeneous [4, 4] [m].
    """

    T_flange_tool: Matrix

    @classmethod
    def of(cls, robot: RobotSpec) -> "ToolFrame":
        """The spec's; its `T_flange_ee`."""
        return cls(robot.T_flange_ee)

    def measured(self, O_T_EE: Matrix, F_T_EE: Matrix) -> tuple[Vector, Vector]:
        """Position [m] and wxyz quaternion of the tool centre, from what the robot reports."""
        pose = O_T_EE @ invert(F_T_EE) @ self.T_flange_tool
        return pose[:3, 3].copy(), matrix_to_quat(pose[:3, :3])

    def commanded(self, target: Target, F_T_EE: Matrix) -> Matrix:
        """What the robot's O_T_EE [4, 4] must be for the tool centre to be at the target."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = quat_to_matrix(target.quat.tolist()), target.position
        return pose @ invert(self.T_flange_tool) @ F_T_EE


def urdf_limits(urdf: str) -> dict[str, tuple[float, ...]]:
    """Limits of the arm's joints as the robot's own model has them: ArmInfo's fields, by name."""
    joints = ElementTree.fromstring(urdf).findall("joint[@type='revolute']/limit")
    names = {"q_min": "lower", "q_max": "upper", "dq_max": "velocity"}
    return {ours: tuple(float(j.attrib[name]) for j in joints) for ours, name in names.items()}


def invert(pose: Matrix) -> Matrix:
    """Inverse of a rigid transform [4, 4]."""
    turned = np.eye(4)
    turned[:3, :3] = pose[:3, :3].T
    turned[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return turned


def matrix_to_quat(matrix: Matrix) -> Vector:
    """Unit wxyz quaternion of a rotation matrix [3, 3].

    The column of the largest of the four squared entries is divided by: no cancellation anywhere.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    rows = np.array(
        [
            [1 + a + e + i, h - f, c - g, d - b],
            [h - f, 1 + a - e - i, b + d, c + g],
            [c - g, b + d, 1 - a + e - i, f + h],
            [d - b, c + g, f + h, 1 - a - e + i],
        ]
    )
    quat = rows[np.argmax(np.diag(rows))]
    return quat / np.linalg.norm(quat)
