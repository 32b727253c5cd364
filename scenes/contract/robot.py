"""What a robot is: joints, limits, links, gripper and shape, the single source of its numbers.

Shared by the simulator, the bundle and the robot bridge. Quaternions are wxyz.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.rotations import UNIT_QUAT, Inertia, Quat, Vec3, quat_to_matrix
from scenes.contract.specs import require_positive, require_unique

Rgba = tuple[float, float, float, float]
GeomRole = Literal["visual", "arm", "hand", "pad"]


@dataclass(frozen=True, kw_only=True)
class GeomSpec:
    """A primitive of a robot, in the frame of `body`.

    size as MuJoCo's: half extents of a box, (radius,) of a sphere, (radius,) of a capsule or
    cylinder whose ends are `start` and `end` [m]. role: "visual" is only drawn; "arm" touches the
    table; "hand" and "pad" touch table and objects, a pad with the gripper's own friction.
    """

    body: str
    kind: Literal["box", "sphere", "capsule", "cylinder"]
    size: tuple[float, ...]
    pos: Vec3 = (0.0, 0.0, 0.0)
    start: Vec3 | None = None
    end: Vec3 | None = None
    role: GeomRole = "visual"
    rgba: Rgba = (0.92, 0.93, 0.95, 1.0)

    def __post_init__(self) -> None:
        require_positive(f"GeomSpec on '{self.body}'", "size", self.size)
        if self.kind in ("capsule", "cylinder") and (self.start is None or self.end is None):
            raise InputError(f"GeomSpec on '{self.body}': a {self.kind} needs start and end.")


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """A rigid body of the chain; its joint turns about its own z.

    pos [m], quat: frame in the parent. mass [kg], com [m]; inertia [kg m^2] about the centre of
    mass in link axes: xx, yy, zz, xy, xz, yz.
    """

    name: str
    pos: Vec3 = (0.0, 0.0, 0.0)
    quat: Quat = UNIT_QUAT
    mass: float
    com: Vec3
    inertia: Inertia


@dataclass(frozen=True, kw_only=True)
class GripperSpec:
    """A parallel gripper: two coupled slides, one command = finger position [m].

    hand, finger: bodies (finger's `name` is ignored; its pos is in the hand frame).
    finger_range [m] travel of each finger, width = 2 x travel. kp [N/m], kd [N s/m],
    force_max [N] of the actuator (shared by both fingers), armature [kg], pad_friction (slide,
    spin, roll), pad_solref / pad_solimp: MuJoCo contact softness of the pads.
    """

    hand: LinkSpec
    finger: LinkSpec
    finger_range: tuple[float, float]
    kp: float
    kd: float
    force_max: float
    armature: float
    pad_friction: Vec3
    pad_solref: tuple[float, float]
    pad_solimp: tuple[float, float, float]

    @property
    def width_range(self) -> tuple[float, float]:
        """Opening between the pads [m]."""
        return 2 * self.finger_range[0], 2 * self.finger_range[1]


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """An arm with a gripper: the single source for simulator, bridge and bundle.

    Per joint, in order: q_min, q_max, home [rad], dq_max [rad/s], ddq_max [rad/s^2],
    jerk_max [rad/s^3], tau_max [N m], kp [N m/rad], kd [N m s/rad] of the position drive,
    armature [kg m^2], damping [N m s/rad] of the joint itself.
    links: base first, then one per joint. ee_pos [m], ee_quat: tool centre in the flange frame,
    which is the last link moved by flange_pos [m]. workspace_low/high: box for the tool centre in
    the base frame [m]. base_pos [m], base_quat: base in the world.
    sources: (field, where its numbers come from) for every numeric field.
    """

    name: str
    joint_names: tuple[str, ...]
    q_min: tuple[float, ...]
    q_max: tuple[float, ...]
    dq_max: tuple[float, ...]
    ddq_max: tuple[float, ...]
    jerk_max: tuple[float, ...]
    tau_max: tuple[float, ...]
    home: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    armature: tuple[float, ...]
    damping: tuple[float, ...]
    links: tuple[LinkSpec, ...]
    gripper: GripperSpec
    geoms: tuple[GeomSpec, ...]
    flange_pos: Vec3
    ee_pos: Vec3
    ee_quat: Quat
    workspace_low: Vec3
    workspace_high: Vec3
    base_pos: Vec3 = (0.0, 0.0, 0.0)
    base_quat: Quat = UNIT_QUAT
    sources: tuple[tuple[str, str], ...] = ()

    JOINT_FIELDS: ClassVar[tuple[str, ...]] = (
        *("q_min", "q_max", "dq_max", "ddq_max", "jerk_max", "tau_max"),
        *("home", "kp", "kd", "armature", "damping"),
    )

    def __post_init__(self) -> None:
        owner = f"RobotSpec '{self.name}'"
        require_unique(owner, "joint", self.joint_names)
        for field in self.JOINT_FIELDS:
            if len(getattr(self, field)) != self.num_joints:
                raise InputError(
                    f"{owner}: {field} has {len(getattr(self, field))} entries, "
                    f"allowed {self.num_joints} (one per joint)."
                )
        for field in ("dq_max", "ddq_max", "jerk_max", "tau_max", "kp", "kd"):
            require_positive(owner, field, getattr(self, field))
        self.check_pose(self.home, what="home")

    @property
    def num_joints(self) -> int:
        """Number of arm joints, the gripper not counted."""
        return len(self.joint_names)

    @property
    def gripper_range(self) -> tuple[float, float]:
        """Finger travel [m], the range of the gripper command."""
        return self.gripper.finger_range

    @property
    def T_flange_ee(self) -> NDArray[np.float64]:
        """Pose of the tool centre in the flange frame, 4x4 homogeneous [m]."""
        pose = np.eye(4)
        pose[:3, :3] = quat_to_matrix(self.ee_quat)
        pose[:3, 3] = self.ee_pos
        return pose

    def check_pose(self, q: Sequence[float], *, what: str) -> None:
        """Raise ValueError, naming the joint, unless q [rad] has the right size and limits."""
        if len(q) != self.num_joints:
            raise InputError(f"{self.name}: {what} has {len(q)} joints, allowed {self.num_joints}.")
        for name, low, value, high in zip(self.joint_names, self.q_min, q, self.q_max, strict=True):
            if not low <= value <= high:
                raise InputError(
                    f"{self.name}: {what} of {name} is {value} rad, allowed {low}..{high}."
                )
