"""Does the arm come too near itself or the table? Spheres that cover it, compared at once."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.safety.kinematics import Chain, homogeneous
from scenes.contract.robot import GeomSpec, RobotSpec
from scenes.contract.rotations import quat_to_matrix

Array = NDArray[np.float64]

# Largest distance between the centres of a capsule's spheres, in radii: 12 % larger than the
# capsule at most, and half as many as at half the distance.
_SPACING = 1.0


@dataclass(frozen=True)
class Capsule:
    """Everything within `radius` of the segment from `start` to `end` [m], in a body's frame."""

    start: Array
    end: Array
    radius: float

    def spheres(self) -> tuple[Array, float]:
        """Centres [n, 3] and the radius of spheres that cover the capsule [m]."""
        length = float(np.linalg.norm(self.end - self.start))
        pieces = math.ceil(length / (_SPACING * self.radius))
        places = np.linspace(0.0, 1.0, pieces + 1)[:, None]
        half = 0.5 * length / max(1, pieces)
        return self.start + places * (self.end - self.start), math.hypot(self.radius, half)


def covering_capsule(geom: GeomSpec) -> Capsule:
    """A capsule that contains the geom."""
    center = np.asarray(geom.pos, np.float64)
    if geom.kind == "sphere":
        return Capsule(center, center, geom.size[0])
    if geom.kind == "box":
        longest = int(np.argmax(geom.size))
        axis = np.zeros(3)
        axis[longest] = geom.size[longest]
        return Capsule(center - axis, center + axis, math.hypot(*np.delete(geom.size, longest)))
    # The rim of a cylinder's end lies on the sphere about the centre of that end.
    return Capsule(np.asarray(geom.start), np.asarray(geom.end), geom.size[0])


class CollisionModel:
    """Distances within an arm and to the table, from the geoms of its RobotSpec.

    Bodies are the links, and the hand with its fingers at any opening. Compared are bodies at
    least `_APART` places away from each other: nearer ones cannot meet inside the joint limits,
    and their covers overlap. The table is the plane z = 0 of the world; the base and the first
    link stand on it, and the fingers may come near it (the tool centre's clearance bounds them).
    """

    _APART = 3

    def __init__(self, robot: RobotSpec, chain: Chain) -> None:
        self._chain = chain
        bodies = [link.name for link in robot.links]
        centers, radii, owner, finger = [], [], [], []
        for geom in robot.geoms:
            for capsule in _placed(geom, robot):
                points, radius = capsule.spheres()
                body = len(bodies) if geom.body in ("hand", "finger") else bodies.index(geom.body)
                centers.append(points)
                radii += [radius] * len(points)
                owner += [body] * len(points)
                finger += [geom.body == "finger"] * len(points)
        self._centers = np.vstack(centers)
        self._radii, self._owner = np.asarray(radii), np.asarray(owner)
        first, second = np.triu_indices(len(radii), 1)
        apart = self._owner[second] - self._owner[first] >= self._APART
        first, second = first[apart], second[apart]
        # Sorted by the two bodies, so that each two have a run of their own.
        both = np.stack([self._owner[first], self._owner[second]])
        order = np.lexsort(both[::-1])
        self._first, self._second = first[order], second[order]
        self._pair_radii = self._radii[self._first] + self._radii[self._second]
        pairs, self._runs = np.unique(both[:, order], axis=1, return_index=True)
        over = np.flatnonzero((self._owner >= 2) & ~np.asarray(finger, np.bool_))
        self._over_table = over[np.argsort(self._owner[over], kind="stable")]
        bodies_over, self._table_runs = np.unique(self._owner[self._over_table], return_index=True)
        self._up = quat_to_matrix(robot.base_quat)[2]
        self._height = robot.base_pos[2]
        self.reach = self._reaches([(a, b) for a, b in pairs.T.tolist()], bodies_over.tolist())

    def distances(self, q: Array) -> Array:
        """Distances [N, D] of D pairs of bodies [m], < 0 inside, at joint positions [N, J]."""
        frames = self._chain.frames(q)[:, self._owner]
        points = (frames[..., :3, :3] @ self._centers[:, :, None])[..., 0] + frames[..., :3, 3]
        # One coordinate after the other: thousands of pairs, each of three numbers.
        xyz = np.ascontiguousarray(np.moveaxis(points, 2, 0))
        gaps = xyz.take(self._first, axis=2)
        gaps -= xyz.take(self._second, axis=2)
        gaps *= gaps
        apart = np.sqrt(gaps[0] + gaps[2] + gaps[1]) - self._pair_radii
        above = points[:, self._over_table] @ self._up + self._height
        above -= self._radii[self._over_table]
        within = np.minimum.reduceat(apart, self._runs, axis=1)
        return np.hstack([within, np.minimum.reduceat(above, self._table_runs, axis=1)])

    def _reaches(self, pairs: list[tuple[int, int]], over_table: list[int]) -> Array:
        """How fast each distance can change with each joint [D, J], in metres per radian.

        Only joints between two bodies move them against each other, and no joint moves a point
        faster than the length of the chain from the joint to the point.
        """
        count = self._chain.num_joints
        frames = self._chain.frames(np.zeros((1, count)))[0]
        steps = np.linalg.norm(np.diff(frames[:, :3, 3], axis=0), axis=1)
        size = np.linalg.norm(self._centers, axis=1) + self._radii
        sizes = [size[self._owner == body].max(initial=0.0) for body in range(len(frames))]
        reach = np.zeros((len(pairs) + len(over_table), count))
        for row, (near, far) in enumerate([*pairs, *((0, body) for body in over_table)]):
            for joint in range(near + 1, min(far, count) + 1):
                reach[row, joint - 1] = steps[joint:far].sum() + sizes[far]
        if abs(frames[1, :3, 2] @ self._up) > 1.0 - 1e-9:
            reach[len(pairs) :, 0] = 0.0  # turning about the vertical changes no height
        return reach


def _placed(geom: GeomSpec, robot: RobotSpec) -> list[Capsule]:
    """The geom's capsule in its body; a finger's for both fingers, from closed to open."""
    capsule = covering_capsule(geom)
    if geom.body != "finger":
        return [capsule]
    finger, (closed, opened) = robot.parallel_gripper.finger, robot.gripper_range
    frame = homogeneous(finger.pos, finger.quat)
    ends = [frame[:3, :3] @ p + frame[:3, 3] for p in (capsule.start, capsule.end)]
    along_y = np.array([0.0, 1.0, 0.0])
    middle, half = 0.5 * (ends[0] + ends[1]), 0.5 * np.linalg.norm(ends[1] - ends[0])
    radius = capsule.radius + float(half)
    mirror = np.array([-1.0, -1.0, 1.0])
    return [
        Capsule(side * (middle + closed * along_y), side * (middle + opened * along_y), radius)
        for side in (np.ones(3), mirror)
    ]
