"""Tool paths of one arm as joint paths of another, by pyroki (the extra `ik`).

For data, not for control: recorded demonstrations on another robot, reachability of a workspace,
an oracle for our own inverse kinematics. In the loop it is `robot_bridge.safety.kinematics` and the
environment's damped least squares.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from scenes.contract.extras import require
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import multiply_quats

TOOL = "tool"  # link of the tool centre
# Weights of position [1/m], rotation [1/rad], joint limits and rest, as in pyroki's own examples.
POSITION, ROTATION, LIMITS, REST = 50.0, 10.0, 100.0, 0.01


@dataclass(frozen=True)
class Retargeted:
    """q [T, J] [rad], and how far each pose was missed: position [T] [m], rotation [T] [rad]."""

    q: NDArray[np.float64]
    position_error: NDArray[np.float64]
    rotation_error: NDArray[np.float64]

    def reached(self, *, position: float = 1e-3, rotation: float = 0.01) -> NDArray[np.bool_]:
        """Which poses were met within these errors [m], [rad]."""
        return (self.position_error < position) & (self.rotation_error < rotation)


def retarget(
    robot: RobotSpec,
    positions: NDArray[np.floating],
    quats: NDArray[np.floating],
    *,
    start: Sequence[float] | None = None,
) -> Retargeted:
    """Return joint positions that bring the robot's tool centre to each pose of a path.

    Each pose is solved from the solution before it, so that a smooth path stays one.

    Args:
        robot: whose joints are asked for.
        positions: [T, 3] in its base frame [m].
        quats: [T, 4] wxyz.
        start: joint positions to begin at [rad], None for home.

    Raises:
        ModuleNotFoundError: pyroki is not installed.
        ValueError: the shapes do not fit.
    """
    positions, quats = np.asarray(positions, np.float64), np.asarray(quats, np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3 or quats.shape != (len(positions), 4):
        raise ValueError(
            f"retarget: positions {positions.shape} and quats {quats.shape}, "
            "allowed: [T, 3] and [T, 4]"
        )
    solve, forward = _solver(robot)
    q = np.asarray(robot.home if start is None else start, np.float32)
    rows, errors = [], []
    for position, quat in zip(positions, quats, strict=True):
        pose = np.concatenate([quat / np.linalg.norm(quat), position]).astype(np.float32)
        q = np.asarray(solve(pose, q))
        rows.append(q.astype(np.float64))
        errors.append(_missed(np.asarray(forward(q)), pose))
    missed = np.asarray(errors).reshape(-1, 2)
    return Retargeted(np.asarray(rows), missed[:, 0], missed[:, 1])


def _missed(got: NDArray[np.floating], wanted: NDArray[np.floating]) -> tuple[float, float]:
    cosine = min(1.0, abs(float(got[:4] @ wanted[:4])))
    return float(np.linalg.norm(got[4:] - wanted[4:])), 2.0 * float(np.arccos(cosine))


def _solver(robot: RobotSpec) -> tuple[Any, Any]:
    """Compiled functions: (pose [7], start [J]) -> joints [J], and joints -> pose [7]."""
    pyroki, jaxls, jaxlie, yourdfpy, jax = (
        require(name, "ik", purpose="Retargeting")
        for name in ("pyroki", "jaxls", "jaxlie", "yourdfpy", "jax")
    )
    text = io.BytesIO(robot_urdf(robot).encode())
    model = pyroki.Robot.from_urdf(yourdfpy.URDF.load(text, load_meshes=False))
    link = model.links.names.index(TOOL)

    def solve(pose: Any, start: Any) -> Any:
        joints = model.joint_var_cls(0)
        costs = [
            pyroki.costs.pose_cost_analytic_jac(
                model, joints, jaxlie.SE3(pose), jax.numpy.asarray(link), POSITION, ROTATION
            ),
            pyroki.costs.limit_cost(model, joints, weight=LIMITS),
            pyroki.costs.rest_cost(joints, start, weight=REST),
        ]
        problem = jaxls.LeastSquaresProblem(costs, [joints]).analyze()
        begin = jaxls.VarValues.make([joints.with_value(start)])
        return problem.solve(begin, verbose=False, linear_solver="dense_cholesky")[joints]

    return jax.jit(solve), jax.jit(lambda q: model.forward_kinematics(q)[link])


def robot_urdf(robot: RobotSpec) -> str:
    """Return the kinematics of a robot as URDF, its tool centre as the link `TOOL`."""
    root = ElementTree.Element("robot", name=robot.name)
    for link in robot.links:
        ElementTree.SubElement(root, "link", name=link.name)
    ElementTree.SubElement(root, "link", name=TOOL)
    for i, link in enumerate(robot.links[1:]):
        joint = _joint(root, robot.joint_names[i], "revolute", robot.links[i].name, link.name)
        _place(joint, link.pos, np.asarray(link.quat))
        ElementTree.SubElement(joint, "axis", xyz="0 0 1")
        limits = {
            "lower": robot.q_min[i],
            "upper": robot.q_max[i],
            "velocity": robot.dq_max[i],
            "effort": robot.tau_max[i],
        }
        ElementTree.SubElement(joint, "limit", {k: str(v) for k, v in limits.items()})
    quat, point = np.asarray(robot.ee_quat), np.array([0.0, *robot.ee_pos])
    turned = multiply_quats(multiply_quats(quat, point), quat * [1, -1, -1, -1])[1:]
    fixed = _joint(root, f"{TOOL}_joint", "fixed", robot.links[-1].name, TOOL)
    _place(fixed, np.asarray(robot.flange_pos) + turned, quat)
    return ElementTree.tostring(root, encoding="unicode")


def _joint(
    root: ElementTree.Element, name: str, kind: str, parent: str, child: str
) -> ElementTree.Element:
    joint = ElementTree.SubElement(root, "joint", name=name, type=kind)
    ElementTree.SubElement(joint, "parent", link=parent)
    ElementTree.SubElement(joint, "child", link=child)
    return joint


def _place(
    joint: ElementTree.Element, pos: Sequence[float] | NDArray[np.float64], quat: NDArray
) -> None:
    xyz = " ".join(f"{x:.17g}" for x in pos)
    ElementTree.SubElement(joint, "origin", xyz=xyz, rpy=_euler(quat))


def _euler(quat: NDArray[np.float64]) -> str:
    """Roll, pitch and yaw [rad] as URDF writes them."""
    w, x, y, z = quat / np.linalg.norm(quat)
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return f"{roll:.17g} {pitch:.17g} {yaw:.17g}"
