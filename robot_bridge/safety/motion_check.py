"""Is a motion inside all limits, every tick of it? The judge of what the governor plans."""

import math

import numpy as np

from robot_bridge.reasons import Reason
from robot_bridge.safety.collision import CollisionModel
from robot_bridge.safety.kinematics import Array, Chain
from robot_bridge.safety.limits import Limits
from robot_bridge.safety.stopping import Shape, table
from scenes.contract.robot import RobotSpec

# Rounding that is no violation: relative of differences, [m] or [rad] of places.
_SLACK = 1e-9
# Third differences of rotation matrices differ from those of rotation vectors by terms in the
# turning speed and acceleration; this share of the limit leaves room for them.
TURN_JERK_SHARE = 0.9
# Places along a motion at which the distance of the arm to itself and the table is computed.
_SAMPLES = 5


class Guard:
    """Checks motions against limits of place, speed, acceleration, jerk and separation.

    Distances between bodies are dear, so those computed also vouch for their neighbourhood: each
    changes by at most `CollisionModel.reach` per radian of each joint, so that near enough to a
    checked place nothing can touch.

    Args:
        robot, chain: shape and kinematics. limits: to be kept. dt: between ticks [s].
    """

    def __init__(self, robot: RobotSpec, chain: Chain, limits: Limits, *, dt: float) -> None:
        self._chain, self._limits = chain, limits
        self._collision = CollisionModel(robot, chain)
        self._speed = np.asarray(limits.joint_speed) * dt * (1 + _SLACK)
        self._acceleration = np.asarray(limits.joint_acceleration) * dt**2 * (1 + _SLACK)
        self._jerk = np.asarray(limits.joint_jerk) * dt**3 * (1 + _SLACK)
        self._q_low, self._q_high = limits.q_low, limits.q_high
        self._dt = dt
        # Speeds that are allowed up to the margins.
        low, high = limits.speed_range(np.stack([self._q_low, self._q_high]))
        self._anywhere = np.minimum(-low[0], high[1]) * dt
        height = limits.clearance - robot.base_pos[2]
        nowhere = np.full(3, -np.inf)
        nowhere[2] = height
        self._roam = nowhere, np.full(3, np.inf)
        low = np.maximum(limits.workspace_low, nowhere)
        self.box = low, np.asarray(limits.workspace_high, np.float64)
        self._cone = -math.cos(limits.orientation_cone)
        self._keep_outs = [(np.asarray(k.low), np.asarray(k.high)) for k in limits.keep_outs]
        self._differences: dict[int, tuple[Array, Array]] = {}
        self._least = np.full(len(self._collision.reach), limits.separation)
        self._centers, self._rooms = np.zeros((0, chain.num_joints)), np.zeros((0, 1))

    def anchor(self, q: Array) -> None:
        """Begin at joint positions [J]; what is nearer than allowed there may not come nearer."""
        distances = self._collision.distances(q[None])
        self._least = np.minimum(self._limits.separation, distances[0] - _SLACK)
        self._centers, self._rooms = q[None], distances - self._least

    def verify(
        self, past: Array, q: Array, start: Array, shape: Shape, *, roaming: bool
    ) -> tuple[Reason, Array, Array]:
        """Judge a motion; return why it is refused, its joint positions [N, J] and poses.

        Args:
            past: the last three poses sent [3, 3, 4], the newest last.
            q: the last joint positions sent [J].
            start: velocity, acceleration and jerk of the motion [3, J], per tick.
            shape: of the motion.
            roaming: without workspace box and orientation cone.
        """
        path = q + table(shape).positions @ start
        reasons = self._joints(q, path, start, shape)
        if reasons:
            return reasons, path, past
        poses = self._chain.poses(path)
        reasons = self._tool(past, poses) or self._place(past[2], poses, roaming)
        if not reasons and not self._apart(path):
            reasons = Reason.COLLISION
        return reasons, path, poses

    def _joints(self, q: Array, path: Array, start: Array, shape: Shape) -> Reason:
        rows = table(shape)
        lead, braking = start[1] + shape.lead * start[2], rows.braking @ start
        jerks = np.array((start[2], (braking - lead) / shape.into, braking / shape.out))
        if (np.abs(jerks) > self._jerk).any():
            return Reason.JOINT_JERK
        if (np.abs(np.array((lead, braking))) > self._acceleration).any():
            return Reason.JOINT_ACCELERATION
        steps = rows.velocities @ start
        if (np.abs(steps) > self._speed).any() or not self._below_curve(path, steps):
            return Reason.JOINT_SPEED
        low, high = path.min(axis=0), path.max(axis=0)
        inside = (low >= np.minimum(self._q_low, q) - _SLACK) & (
            high <= np.maximum(self._q_high, q) + _SLACK
        )
        return Reason.NONE if inside.all() else Reason.JOINT_LIMIT

    def _below_curve(self, path: Array, steps: Array) -> bool:
        """Whether the speeds are those that the robot allows near its joint limits."""
        if (np.abs(steps) <= self._anywhere).all():
            return True
        # If the highest speed were allowed at the end nearest to the limit, all are.
        low, high = self._limits.speed_range(np.stack([path.min(axis=0), path.max(axis=0)]))
        least, most = steps.min(axis=0) / self._dt, steps.max(axis=0) / self._dt
        if (least >= low[0]).all() and (most <= high[1]).all():
            return True
        low, high = self._limits.speed_range(path)
        speeds = steps / self._dt
        return bool((speeds >= low - _SLACK).all() and (speeds <= high + _SLACK).all())

    def _tool(self, past: Array, poses: Array) -> Reason:
        """Judge the differences of positions and rotation matrices of successive poses."""
        count = len(poses)
        if count not in self._differences:
            self._differences[count] = self._difference_table(count)
        operator, bounds = self._differences[count]
        rows = operator @ np.concatenate([past, poses]).reshape(count + 3, 12)
        excess = (rows * rows) @ _BLOCKS > bounds
        if not excess.any():
            return Reason.NONE
        row = int(np.argmax(excess.any(axis=1)))
        return _RATES[row // count][int(np.argmax(excess[row]))]

    def _difference_table(self, count: int) -> tuple[Array, Array]:
        """Operator [3 count, count + 3] for first, second, third differences; squared bounds."""
        first = np.eye(count + 2, count + 3, k=1) - np.eye(count + 2, count + 3)
        second = np.diff(first, axis=0)
        operator = np.vstack([first[2:], second[1:], np.diff(second, axis=0)])
        limits, dt = self._limits, self._dt
        bounds = [
            (limits.tcp_speed * dt, limits.turn_speed * dt),
            (limits.tcp_acceleration * dt**2, limits.turn_acceleration * dt**2),
            (limits.tcp_jerk * dt**3, TURN_JERK_SHARE * limits.turn_jerk * dt**3),
        ]
        return operator, np.repeat(np.square(bounds), count, axis=0) * (1 - 1e-4)

    def _place(self, now: Array, poses: Array, roaming: bool) -> Reason:
        """Judge where the tool centre goes; from outside a limit it may not go further out."""
        points, here = poses[:, :, 3], now[:, 3]
        low, high = self._roam if roaming else self.box
        low, high = np.minimum(low, here) - _SLACK, np.maximum(high, here) + _SLACK
        if (points < low).any() or (points > high).any():
            return Reason.WORKSPACE
        for corner, opposite in self._keep_outs:
            deep = _depth(points, corner, opposite).max()
            if deep > max(0.0, _depth(here[None], corner, opposite)[0]) + _SLACK:
                return Reason.WORKSPACE
        if not roaming and poses[:, 2, 2].max() > max(self._cone, now[2, 2]) + _SLACK:
            return Reason.ORIENTATION
        return Reason.NONE

    def _apart(self, path: Array) -> bool:
        """Whether the arm keeps its separation all along joint positions [N, J]."""
        if self._vouched(path):
            return True
        # The end of the motion vouches for the way to it, where nothing is near.
        for places in (path[-1:], path[np.linspace(0, len(path) - 1, _SAMPLES).astype(int)]):
            rooms = self._collision.distances(places) - self._least
            if rooms.min() < 0.0:
                return False
            self._centers, self._rooms = places, rooms
            if self._vouched(path):
                return True
        return False

    def _vouched(self, path: Array) -> bool:
        """Whether every place is near enough to one that was checked."""
        away = np.abs(path[:, None] - self._centers) @ self._collision.reach.T
        by_center = np.all(away <= self._rooms, axis=2)
        return bool(np.all(np.any(by_center, axis=1)))


# Of first, second, third differences: of the position, of the rotation.
_RATES = (
    (Reason.TCP_SPEED, Reason.TURN_SPEED),
    (Reason.TCP_ACCELERATION, Reason.TURN_ACCELERATION),
    (Reason.TCP_JERK, Reason.TURN_JERK),
)

# Sums the squares of a pose's entries [12]: the position's, and half of the rotation's, which for
# a small turn is its angle squared.
_BLOCKS = np.zeros((12, 2))
_BLOCKS[3::4, 0] = 1.0
_BLOCKS[[0, 1, 2, 4, 5, 6, 8, 9, 10], 1] = 0.5


def _depth(points: Array, low: Array, high: Array) -> Array:
    """How deep points [N, 3] are inside a box [N], negative outside [m]."""
    return np.minimum(points - low, high - points).min(axis=1)
