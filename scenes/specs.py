"""What a robot, a scene, an action and an observation are: data with units, stdlib and numpy only.

Shared by the simulator (`scenes.build`), the environments and the robot bridge, which has no JAX.
Quaternions are wxyz. Every pose is given in the frame of its parent body.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scenes.rotations import UNIT_QUAT, Inertia, Quat, Vec3, quat_to_matrix

Rgba = tuple[float, float, float, float]
ActionMode = Literal["ee_delta", "ee_delta_osc"]
Actuation = Literal["position", "torque"]
GeomRole = Literal["visual", "arm", "hand", "pad"]


class HasName(Protocol):
    """Anything looked up by name."""

    @property
    def name(self) -> str:
        """The name it is looked up by."""
        ...


Named = TypeVar("Named", bound=HasName)


def named(entries: Iterable[Named], name: str, *, kind: str) -> Named:
    """Return the entry whose `name` is `name`; raises KeyError naming the allowed ones."""
    table = {entry.name: entry for entry in entries}
    if name not in table:
        raise KeyError(unknown_name(kind, name, table))
    return table[name]


def unknown_name(kind: str, got: str, allowed: Iterable[str]) -> str:
    """One line: what was asked for, what is allowed, what was probably meant."""
    options = sorted(allowed)
    close = difflib.get_close_matches(got, options, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{got}'.{hint} Allowed: {', '.join(options) or 'none'}."


def _require_positive(owner: str, field: str, values: Sequence[float]) -> None:
    if not values or not all(math.isfinite(v) and v > 0 for v in values):
        raise ValueError(f"{owner}: {field} must be positive and finite, got {tuple(values)}.")


def _require_unique(owner: str, kind: str, names: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{owner}: {kind} names must be unique, got twice: {', '.join(twice)}.")


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """What the numbers of an action in [-1, 1] mean.

    mode: "ee_delta" (damped least squares to joint targets) or "ee_delta_osc" (operational space).
    names: one per entry, e.g. ("dx", "dy", "dz", "gripper").
    scale: value of one action unit per step, [m] or [rad] as the name says; gripper [1].
    rate: actions per second [Hz].
    base: the delta is added to the last commanded ("target") or the "measured" pose.
    """

    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    mode: ActionMode
    names: tuple[str, ...]
    scale: tuple[float, ...]
    rate: float
    base: Literal["target", "measured"] = "target"

    def __post_init__(self) -> None:
        if len(self.names) != len(self.scale):
            raise ValueError(
                f"ActionSpec: {len(self.names)} names but {len(self.scale)} scales; "
                "give one scale per name."
            )
        _require_positive("ActionSpec", "rate", (self.rate,))
        _require_unique("ActionSpec", "action", self.names)

    @property
    def dim(self) -> int:
        """Number of entries of an action."""
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class ObsField:
    """One named array of an observation.

    name, shape: without batch axes. dtype: numpy's name. unit: of the values.
    scale: the magnitude a network should see as 1 [unit].
    privileged: known to a simulator only; a policy that has cameras does without it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    unit: str = ""
    scale: float = 1.0
    privileged: bool = False

    def __post_init__(self) -> None:
        _require_positive("ObsField", "scale", (self.scale,))


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """The observation as a set of named arrays."""

    fields: tuple[ObsField, ...]

    def __post_init__(self) -> None:
        _require_unique("ObsSpec", "observation", self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    def __getitem__(self, name: str) -> ObsField:
        return named(self.fields, name, kind="observation")


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A pinhole camera that looks along its own -z with +y up (MuJoCo, OpenGL).

    body: parent body, None for the world. pos [m], quat wxyz, fovy [deg] vertical,
    width and height [px].
    """

    name: str
    body: str | None = None
    pos: Vec3
    quat: Quat
    fovy: float
    width: int = 128
    height: int = 128

    def __post_init__(self) -> None:
        owner = f"CameraSpec '{self.name}'"
        _require_positive(owner, "fovy", (self.fovy,))
        _require_positive(owner, "width and height", (self.width, self.height))


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """A free rigid box. half_size [m], mass [kg], friction (slide [1], spin [m], roll [m])."""

    name: str
    half_size: Vec3
    mass: float
    shape: Literal["box"] = "box"
    rgba: Rgba = (0.8, 0.2, 0.2, 1.0)
    friction: Vec3 = (1.0, 0.005, 0.0001)
    pos: Vec3 = (0.5, 0.0, 0.0)
    quat: Quat = UNIT_QUAT

    def __post_init__(self) -> None:
        owner = f"ObjectSpec '{self.name}'"
        if self.shape != "box":
            raise ValueError(f"{owner}: shape must be 'box', got '{self.shape}'.")
        _require_positive(owner, "half_size", self.half_size)
        _require_positive(owner, "mass", (self.mass,))
        if min(self.friction) < 0:
            raise ValueError(f"{owner}: friction must not be negative, got {self.friction}.")


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table, its top surface at z = 0.

    For contacts it is an infinite plane, so nothing falls off; half_size [m] and center [m] only
    say what is drawn. height [m]: distance of the drawn floor below the top.
    """

    half_size: tuple[float, float] = (0.5, 0.6)
    center: tuple[float, float] = (0.32, 0.0)
    height: float = 0.75
    friction: Vec3 = (1.0, 0.005, 0.0001)
    rgba: Rgba = (0.80, 0.70, 0.57, 1.0)

    def __post_init__(self) -> None:
        _require_positive("TableSpec", "half_size", self.half_size)
        _require_positive("TableSpec", "height", (self.height,))


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
        _require_positive(f"GeomSpec on '{self.body}'", "size", self.size)
        if self.kind in ("capsule", "cylinder") and (self.start is None or self.end is None):
            raise ValueError(f"GeomSpec on '{self.body}': a {self.kind} needs start and end.")


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
        _require_unique(owner, "joint", self.joint_names)
        for field in self.JOINT_FIELDS:
            if len(getattr(self, field)) != self.num_joints:
                raise ValueError(
                    f"{owner}: {field} has {len(getattr(self, field))} entries, "
                    f"allowed {self.num_joints} (one per joint)."
                )
        for field in ("dq_max", "ddq_max", "jerk_max", "tau_max", "kp", "kd"):
            _require_positive(owner, field, getattr(self, field))
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
            raise ValueError(f"{self.name}: {what} has {len(q)} joints, allowed {self.num_joints}.")
        for name, low, value, high in zip(self.joint_names, self.q_min, q, self.q_max, strict=True):
            if not low <= value <= high:
                raise ValueError(
                    f"{self.name}: {what} of {name} is {value} rad, allowed {low}..{high}."
                )


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """A robot at a table with objects and cameras; `scenes.build.build_scene` compiles it.

    home: joint pose of the keyframe [rad], None = the robot's. sim_dt [s] physics step.
    actuation: "position" (joint impedance with the robot's gains) or "torque" (motors [N m]).
    solver_iterations, line_search_iterations: Newton's, fixed because MJX unrolls to the worst
    world.
    """

    name: str
    robot: RobotSpec
    table: TableSpec = TableSpec()
    objects: tuple[ObjectSpec, ...] = ()
    cameras: tuple[CameraSpec, ...] = ()
    sim_dt: float = 0.005
    home: tuple[float, ...] | None = None
    actuation: Actuation = "position"
    solver_iterations: int = 8
    line_search_iterations: int = 8

    def __post_init__(self) -> None:
        owner = f"SceneSpec '{self.name}'"
        _require_positive(owner, "sim_dt", (self.sim_dt,))
        _require_positive(owner, "solver_iterations", (self.solver_iterations,))
        _require_positive(owner, "line_search_iterations", (self.line_search_iterations,))
        _require_unique(owner, "object", [entry.name for entry in self.objects])
        _require_unique(owner, "camera", [entry.name for entry in self.cameras])
        if self.actuation not in ("position", "torque"):
            raise ValueError(
                f"{owner}: actuation must be 'position' or 'torque', got '{self.actuation}'."
            )
        self.robot.check_pose(self.home_q, what=f"home of scene '{self.name}'")

    @property
    def home_q(self) -> tuple[float, ...]:
        """Joint pose of the keyframe "home" [rad]."""
        return self.robot.home if self.home is None else self.home

    def object(self, name: str) -> ObjectSpec:
        """Return the object called `name`; raises KeyError naming the allowed ones."""
        return named(self.objects, name, kind="object")

    def camera(self, name: str) -> CameraSpec:
        """Return the camera called `name`; raises KeyError naming the allowed ones."""
        return named(self.cameras, name, kind="camera")
