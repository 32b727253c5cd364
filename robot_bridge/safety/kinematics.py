"""Where the tool centre is, how it moves with the joints, and which joints put it somewhere.

The pose of a chain of hinges is linear in (1, cos q, sin q) of each joint. Two halves of the chain
are therefore tables of coefficients: poses of many joint positions are two matrix products, and
putting a joint's derivative (0, -sin q, cos q) in its place gives its column of the Jacobian.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3, quat_to_matrix

Array = NDArray[np.float64]

# What a hinge about z adds to its frame: its fixed part, and the parts with cos q and sin q.
_FIXED = np.diag([0.0, 0.0, 1.0, 1.0])
_COS = np.diag([1.0, 1.0, 0.0, 0.0])
_SIN = np.array([[0.0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@dataclass(frozen=True)
class Solution:
    """Joint positions q [J] and how far they miss the pose: position [m], rotation [rad]."""

    q: Array
    position_error: float
    rotation_error: float


class Chain:
    """Kinematics of a robot in its base frame, tool centre as RobotSpec's ee.

    The base frame is the one that `base_pos` and `base_quat` put into the world.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self.num_joints = robot.num_joints
        self.low, self.high = np.asarray(robot.q_min), np.asarray(robot.q_max)
        self._home = np.asarray(robot.home)
        self._base = homogeneous(robot.links[0].pos, robot.links[0].quat)
        self._frames = [homogeneous(link.pos, link.quat) for link in robot.links[1:]]
        flange = homogeneous(robot.flange_pos)
        self._hand = flange @ homogeneous((0.0, 0.0, 0.0), robot.ee_quat)
        tool = self._hand @ homogeneous(robot.ee_pos)
        split = (self.num_joints + 1) // 2
        front = self._base @ _coefficients(self._frames[:split])
        back = _coefficients(self._frames[split:]) @ tool
        self._split = split
        self._joints = np.arange(self.num_joints)
        # The front's own position does not change with a joint of the back.
        self._shift = np.ones((self.num_joints + 1, 1))
        self._shift[split : self.num_joints] = 0.0
        self._front = front[:, :3].reshape(len(front), 12)
        self._back = back[:, :3].reshape(len(back), 12)

    def poses(self, q: Array) -> Array:
        """Rotation matrix and position [m] side by side, [N, 3, 4], of joint positions [N, J]."""
        terms = np.ones((len(q), self.num_joints, 3))
        np.cos(q, out=terms[:, :, 1])
        np.sin(q, out=terms[:, :, 2])
        return self._evaluate(terms)

    def pose_and_jacobian(self, q: Array) -> tuple[Array, Array]:
        """Pose [3, 4] and Jacobian [6, J], linear [m] over angular, at joint positions [J]."""
        count = self.num_joints
        cos, sin = np.cos(q), np.sin(q)
        terms = np.ones((count + 1, count, 3))
        terms[:, :, 1], terms[:, :, 2] = cos, sin
        derivatives = np.zeros((count, 3))
        derivatives[:, 1], derivatives[:, 2] = -sin, cos
        terms[self._joints, self._joints] = derivatives
        rows = self._evaluate(terms, self._shift)
        pose = rows[count]
        # dR R^T is the cross-product matrix of the joint's axis.
        turns = rows[:count, :, :3] @ pose[:, :3].T
        jac = np.empty((count, 6)).T
        jac[:3] = rows[:count, :, 3].T
        jac[3], jac[4], jac[5] = turns[:, 2, 1], turns[:, 0, 2], turns[:, 1, 0]
        return pose, jac

    def forward(self, q: Sequence[float] | Array) -> tuple[Array, Array]:
        """Position [m] and quaternion (wxyz) of the tool centre."""
        pose = self.poses(np.asarray(q, np.float64)[None])[0]
        return pose[:, 3].copy(), matrix_to_quat(pose[:, :3])

    def jacobian(self, q: Sequence[float] | Array) -> Array:
        """Jacobian [6, J] of the tool centre: linear [m/rad] over angular [rad/rad]."""
        return self.pose_and_jacobian(np.asarray(q, np.float64))[1]

    def frames(self, q: Array) -> Array:
        """Homogeneous frames [N, J + 2, 4, 4] of base, links and hand at joint positions [N, J]."""
        turns = (
            _FIXED + np.cos(q)[..., None, None] * _COS + np.sin(q)[..., None, None] * _SIN
        )  # [N, J, 4, 4]
        rows = [np.broadcast_to(self._base, (len(q), 4, 4))]
        for i, frame in enumerate(self._frames):
            rows.append(rows[-1] @ frame @ turns[:, i])
        rows.append(rows[-1] @ self._hand)
        return np.stack(rows, axis=1)

    def solve(
        self,
        position: Array,
        quat: Array,
        *,
        start: Array | None = None,
        damping: float = 1e-5,
        tolerance: float = 1e-8,
        iterations: int = 200,
    ) -> Solution:
        """Damped least squares inside the joint limits (Nakamura and Hanafusa 1986, eq. 10).

        Args:
            position: of the tool centre [m]. quat: wxyz.
            start: joint positions to begin with [rad], home where None. The nearest solution is
                found, or the best place on the way where there is none: look at the errors.
            damping: squared, of the least squares [m^2].
            tolerance: error at which it stops [m and rad].
            iterations: at most; steps are at most 0.3 rad per joint.
        """
        q = np.asarray(self._home if start is None else start, np.float64)
        rotation = quat_to_matrix(quat.tolist())
        best, least = q, math.inf
        for _ in range(iterations):
            pose, jac = self.pose_and_jacobian(q)
            error = pose_error(pose, position, rotation)
            size = float(np.linalg.norm(error))
            if size < least:
                best, least = q, size
            if size < tolerance:
                break
            step = damped_step(jac, error, damping)
            q = np.clip(q + step * min(1.0, 0.3 / np.abs(step).max()), self.low, self.high)
        missed = pose_error(self.poses(best[None])[0], position, rotation)
        return Solution(best, float(np.linalg.norm(missed[:3])), float(np.linalg.norm(missed[3:])))

    def _evaluate(self, terms: Array, shift: Array | float = 1.0) -> Array:
        n = len(terms)
        front = (_products(terms[:, : self._split]) @ self._front).reshape(n, 3, 4)
        back = (_products(terms[:, self._split :]) @ self._back).reshape(n, 3, 4)
        poses = front[:, :, :3] @ back
        poses[:, :, 3] += shift * front[:, :, 3]
        return poses


def _coefficients(frames: Sequence[Array]) -> Array:
    """Frames of a part of the chain, one matrix [4, 4] for each product of its joints' terms."""
    table = np.eye(4)[None]
    for frame in frames:
        hinge = np.stack([frame @ _FIXED, frame @ _COS, frame @ _SIN])
        table = (table[:, None] @ hinge[None]).reshape(-1, 4, 4)
    return table


def _products(terms: Array) -> Array:
    """All products of one term per joint: [N, 3 ** J] of [N, J, 3]."""
    n, count, _ = terms.shape
    table = terms[:, 0]
    for joint in range(1, count):
        table = (table[:, :, None] * terms[:, joint, None, :]).reshape(n, -1)
    return table


def homogeneous(pos: Vec3, quat: Quat = UNIT_QUAT) -> Array:
    """Homogeneous frame [4, 4] of a position [m] and a quaternion (wxyz)."""
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = quat_to_matrix(quat), pos
    return frame


def damped_step(jac: Array, error: Array, damping: float, bias: Array | None = None) -> Array:
    """Joint step [J] that follows an end-effector step [6], else as near to `bias` [J] as it can.

    damping: squared, of the least squares [m^2].
    """
    gram = jac @ jac.T
    gram.flat[:: len(gram) + 1] += damping
    if bias is None:
        return jac.T @ np.linalg.solve(gram, error)
    return bias + jac.T @ np.linalg.solve(gram, error - jac @ bias)


def pose_error(pose: Array, position: Array, rotation: Array) -> Array:
    """Step [6] from a pose [3, 4] to a position [m] and a rotation matrix [3, 3]."""
    return np.concatenate([position - pose[:, 3], rotation_vector(rotation @ pose[:, :3].T)])


def rotation_vector(matrix: Array) -> Array:
    """Axis times angle [rad] of a rotation matrix, angle in [0, pi]."""
    return np.asarray(quat_to_vector(matrix_to_quat(matrix).tolist()))


def quat_to_vector(quat: Sequence[float]) -> tuple[float, float, float]:
    """Axis times angle [rad] of a unit quaternion (wxyz), angle in [0, pi]."""
    w, x, y, z = quat
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < 1e-12:
        return 2.0 * x, 2.0 * y, 2.0 * z
    scale = 2.0 * math.atan2(sine, abs(w)) / math.copysign(sine, w)
    return scale * x, scale * y, scale * z


def vector_to_quat(vector: Array) -> Array:
    """Unit quaternion (wxyz) of an axis times angle [rad]."""
    angle = float(np.linalg.norm(vector))
    return np.concatenate([[math.cos(0.5 * angle)], 0.5 * np.sinc(0.5 * angle / math.pi) * vector])


def matrix_to_quat(matrix: Array) -> Array:
    """Quaternion (wxyz, w >= 0) of a rotation matrix [3, 3], by its largest entry."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    # Four times the squares of w, x, y, z; dividing by the largest keeps all digits (Shepperd).
    squares = (1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i)
    largest = max(squares)
    if largest == squares[0]:
        quat = (largest, h - f, c - g, d - b)
    elif largest == squares[1]:
        quat = (h - f, largest, b + d, c + g)
    elif largest == squares[2]:
        quat = (c - g, b + d, largest, f + h)
    else:
        quat = (d - b, c + g, f + h, largest)
    scale = math.copysign(0.5 / math.sqrt(largest), quat[0])
    return np.array([scale * entry for entry in quat])
