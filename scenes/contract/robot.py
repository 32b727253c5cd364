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
from scenes.contract.serialize import later_field
from scenes.contract.specs import require_positive, require_unique

Rgba = tuple[float, float, float, float]
GeomRole = Literal["visual", "arm", "hand", "pad"]


@dataclass(frozen=True, kw_only=True)
class GeomSpec:
    """A primitive of a robot, in the frame of `body`.

    Attributes:
        body: the link, "hand" or "finger" (then it stands on both).
        kind: of the primitive.
        size: as MuJoCo's [m]: half extents of a box, (radius,) of the others.
        pos: of a box or sphere [m].
        start: one end of a capsule or cylinder [m].
        end: its other end [m].
        role: "visual" is only drawn; "arm" touches the table; "hand" and "pad" touch table and
            objects, a pad with the gripper's own friction.
        rgba: colour.
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

    Attributes:
        name: of the body.
        pos: of its frame in the parent [m].
        quat: of its frame in the parent, wxyz.
        mass: [kg].
        com: centre of mass in its frame [m].
        inertia: about the centre of mass in link axes: xx, yy, zz, xy, xz, yz [kg m^2].
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

    Attributes:
        hand: its body.
        finger: the body of either finger; its `name` is ignored, its pos is in the hand frame.
        finger_range: travel of each finger, half the opening [m].
        kp: stiffness of the drive [N/m].
        kd: damping of the drive [N s/m].
        force_max: of the actuator, shared by both fingers [N].
        armature: [kg].
        pad_friction: slide [1], spin [m], roll [m].
        pad_solref: MuJoCo contact softness of the pads.
        pad_solimp: likewise.
        speed_max: how fast the opening changes at most [m/s]; None where nobody states it.
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
    speed_max: float | None = later_field(None)

    @property
    def width_range(self) -> tuple[float, float]:
        """Opening between the pads [m]."""
        return 2 * self.finger_range[0], 2 * self.finger_range[1]


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """An arm, with a gripper or without: the single source for simulator, bridge and bundle.

    Attributes:
        name: of the robot.
        joint_names: of the arm's joints, from the base on; the tuples below follow their order.
        q_min: smallest joint positions [rad].
        q_max: largest joint positions [rad].
        dq_max: largest speeds [rad/s].
        ddq_max: largest accelerations [rad/s^2].
        jerk_max: largest jerks [rad/s^3].
        tau_max: largest torques [N m].
        home: where the arm starts [rad].
        kp: stiffness of the position drives [N m/rad].
        kd: damping of the position drives [N m s/rad].
        armature: rotor inertias [kg m^2].
        damping: of the joints themselves [N m s/rad].
        links: base first, then one per joint.
        gripper: a parallel gripper; None where the arm has none, or one of another kind.
        geoms: primitive shape.
        flange_pos: flange in the frame of the last link [m].
        ee_pos: tool centre in the flange frame turned by `ee_quat` [m].
        ee_quat: tool frame in the flange frame, wxyz.
        workspace_low: low corner of the tool centre's box in the base frame [m].
        workspace_high: its high corner [m].
        base_pos: base in the world [m].
        base_quat: base in the world, wxyz.
        friction_loss: dry friction of the joints [N m], one each; empty where there is none.
        payload: mass at the tool centre that the arm's own controller does not carry [kg].
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
    gripper: GripperSpec | None
    geoms: tuple[GeomSpec, ...]
    flange_pos: Vec3
    ee_pos: Vec3
    ee_quat: Quat
    workspace_low: Vec3
    workspace_high: Vec3
    base_pos: Vec3 = (0.0, 0.0, 0.0)
    base_quat: Quat = UNIT_QUAT
    sources: tuple[tuple[str, str], ...] = ()
    friction_loss: tuple[float, ...] = later_field(())
    payload: float = later_field(0.0)

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
        self._check_losses(owner)
        self.check_pose(self.home, what="home")

    def _check_losses(self, owner: str) -> None:
        if len(self.friction_loss) not in (0, self.num_joints):
            raise InputError(
                f"{owner}: friction_loss has {len(self.friction_loss)} entries, "
                f"allowed {self.num_joints} (one per joint) or none."
            )
        if min((self.payload, *self.friction_loss)) < 0:
            raise InputError(f"{owner}: friction_loss and payload must not be negative.")

    @property
    def num_joints(self) -> int:
        """Number of arm joints, the gripper not counted."""
        return len(self.joint_names)

    @property
    def parallel_gripper(self) -> GripperSpec:
        """The gripper; raises ValueError where the robot has no parallel one."""
        if self.gripper is None:
            raise InputError(f"{self.name}: it has no parallel gripper, which is needed here.")
        return self.gripper

    @property
    def gripper_range(self) -> tuple[float, float]:
        """Finger travel [m], the range of the gripper command."""
        return self.parallel_gripper.finger_range

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
