"""What a scene is: arms at a table, objects, cameras and sensors, as data with units.

Stdlib and numpy only; `scenes.build` compiles it. Quaternions are wxyz. Every pose is given in the
frame of its parent body.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

import numpy as np

from scenes.bases import Base, Fixed
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import named, unknown_name
from scenes.contract.robot import Rgba, RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3, quat_to_matrix
from scenes.contract.specs import CameraSpec, require_positive, require_unique
from scenes.shapes import (
    Box,
    Chain,
    FixedMount,
    FreeMount,
    HeldMount,
    MarkerMount,
    Mount,
    Shape,
)

Actuation = Literal["position", "torque"]
Entry = TypeVar("Entry")
_FREE, _BOLTED = FreeMount(), Fixed()


@dataclass(frozen=True, kw_only=True)
class ContactSpec:
    """How hard the contacts of an object are, in MuJoCo's terms, whatever it touches.

    The object's friction then holds too, not the larger of both as elsewhere.

    With MuJoCo's own (0.02, 1; 0.9, 0.95, 0.001) 25 N press a cube of 0.1 kg 1.3 mm into the table,
    with the default here 0.3 mm.

    Attributes:
        solref: time constant, at least two physics steps [s], and damping ratio [1].
        solimp: impedance at the surface and inside [1], and how deep that is [m].
    """

    solref: tuple[float, float] = (0.01, 1.0)
    solimp: Vec3 = (0.95, 0.99, 0.001)

    def __post_init__(self) -> None:
        require_positive("ContactSpec", "solref", self.solref)
        require_positive("ContactSpec", "solimp", self.solimp)


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """A rigid object.

    Attributes:
        name: of the body and its first geom.
        half_size: of a box [m], the short way to `shape=Box(half_size)`.
        mass: of the whole object [kg]; None for a `MarkerMount` only.
        shape: "box" with a `half_size`, or a shape of `scenes.shapes`.
        mount: whether and how it moves.
        rgba: colour.
        friction: slide [1], spin [m], roll [m].
        contact: how hard it is; None for MuJoCo's default.
        pos: at the start, in the world [m].
        quat: at the start, in the world, wxyz.
    """

    name: str
    half_size: Vec3 | None = None
    mass: float | None = None
    shape: Shape | Literal["box"] = "box"
    mount: Mount = _FREE
    rgba: Rgba = (0.8, 0.2, 0.2, 1.0)
    friction: Vec3 = (1.0, 0.005, 0.0001)
    contact: ContactSpec | None = None
    pos: Vec3 = (0.5, 0.0, 0.0)
    quat: Quat = UNIT_QUAT

    def __post_init__(self) -> None:
        owner = f"ObjectSpec '{self.name}'"
        self._check_shape(owner)
        if self.mass is not None:
            require_positive(owner, "mass", (self.mass,))
        elif not isinstance(self.mount, MarkerMount):
            raise InputError(f"{owner}: give its mass [kg]; only a MarkerMount has none.")
        if min(self.friction) < 0:
            raise InputError(f"{owner}: friction must not be negative, got {self.friction}.")

    def _check_shape(self, owner: str) -> None:
        if isinstance(self.shape, str) and self.shape != "box":
            raise InputError(
                f"{owner}: shape must be 'box', got '{self.shape}'. "
                "Others are values of scenes.shapes: Cylinder, Capsule, Sphere, Mesh, Compound or "
                "Chain."
            )
        if (self.shape == "box") == (self.half_size is None):
            raise InputError(f"{owner}: give either half_size or a shape of scenes.shapes.")
        if self.half_size is not None:
            require_positive(owner, "half_size", self.half_size)
        if isinstance(self.shape, Chain) and not isinstance(self.mount, HeldMount | FixedMount):
            raise InputError(
                f"{owner}: a Chain is held at one end: mount must be a HeldMount or a FixedMount, "
                f"got {type(self.mount).__name__}."
            )

    @property
    def solid(self) -> Shape:
        """The shape, a box of `half_size` where that was given."""
        if self.half_size is not None:
            return Box(self.half_size)
        assert not isinstance(self.shape, str)  # checked when it was made
        return self.shape


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table, its top surface at z = 0.

    For contacts it is an infinite plane, so nothing falls off.

    Attributes:
        half_size: half extents of what is drawn [m].
        center: of what is drawn [m].
        height: distance of the drawn floor below the top [m].
        friction: slide [1], spin [m], roll [m].
        rgba: colour.
    """

    half_size: tuple[float, float] = (0.5, 0.6)
    center: tuple[float, float] = (0.32, 0.0)
    height: float = 0.75
    friction: Vec3 = (1.0, 0.005, 0.0001)
    rgba: Rgba = (0.80, 0.70, 0.57, 1.0)

    def __post_init__(self) -> None:
        require_positive("TableSpec", "half_size", self.half_size)
        require_positive("TableSpec", "height", (self.height,))


@dataclass(frozen=True, kw_only=True)
class MountedArm:
    """One arm of a scene.

    Attributes:
        robot: the arm.
        role: by which tasks and operators name it, for example "left"; "" for the only one.
        base: what it stands on.
        home: its joint pose in the keyframe [rad]; None = the robot's.
        force_torque: whether a force and torque sensor sits between flange and hand.
    """

    robot: RobotSpec
    role: str = ""
    base: Base = _BOLTED
    home: tuple[float, ...] | None = None
    force_torque: bool = False

    def __post_init__(self) -> None:
        whose = f"arm '{self.role}'" if self.role else "the arm"
        self.robot.check_pose(self.home_q, what=f"home of {whose}")

    @property
    def home_q(self) -> tuple[float, ...]:
        """Joint pose in the keyframe [rad]."""
        return self.robot.home if self.home is None else self.home

    @property
    def prefix(self) -> str:
        """What stands before every name of this arm in the model."""
        return f"{self.role}/" if self.role else ""

    @property
    def base_pos(self) -> Vec3:
        """Position of the base in the world [m]."""
        return self.robot.base_pos if self.base.pos is None else self.base.pos

    @property
    def base_quat(self) -> Quat:
        """Orientation of the base in the world, wxyz."""
        return self.robot.base_quat if self.base.quat is None else self.base.quat

    @property
    def workspace(self) -> tuple[Vec3, Vec3]:
        """Low and high corner of the box around the robot's workspace, in the world [m].

        Exact where the base is turned by quarter turns; else the box is larger than the workspace.
        """
        box = self.robot.workspace_low, self.robot.workspace_high
        corners = np.array(list(product(*zip(*box, strict=True))))
        placed = corners @ quat_to_matrix(self.base_quat).T + np.asarray(self.base_pos)
        (a, b, c), (d, e, f) = placed.min(0).tolist(), placed.max(0).tolist()
        return (a, b, c), (d, e, f)


@dataclass(frozen=True, kw_only=True)
class TouchSpec:
    """A reading of how hard something presses on a geom.

    Attributes:
        name: of the reading: one number, the sum of the normal forces [N].
        geom: whose contacts are summed, by its name in the model: "left_finger_pad", "cube".
    """

    name: str
    geom: str


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """Arms at a table with objects, cameras and sensors; `scenes.build.build_scene` compiles it.

    Attributes:
        name: of the scene.
        arms: one or several, each with its role.
        table: what they stand at.
        objects: what they handle.
        cameras: what sees them; a camera's body is named as in the model, "left/hand" where the
            arm has a role.
        touch: contact readings.
        sim_dt: physics step [s].
        home: joint pose of the only arm in the keyframe [rad]; None = what the arm says.
        actuation: "position" (joint impedance with the robot's gains) or "torque" (motors [N m]).
        solver_iterations: Newton's, fixed because MJX unrolls to the worst world.
        line_search_iterations: likewise.
    """

    name: str
    arms: tuple[MountedArm, ...]
    table: TableSpec = TableSpec()
    objects: tuple[ObjectSpec, ...] = ()
    cameras: tuple[CameraSpec, ...] = ()
    touch: tuple[TouchSpec, ...] = ()
    sim_dt: float = 0.005
    home: tuple[float, ...] | None = None
    actuation: Actuation = "position"
    solver_iterations: int = 8
    line_search_iterations: int = 8

    def __post_init__(self) -> None:
        owner = f"SceneSpec '{self.name}'"
        require_positive(owner, "sim_dt", (self.sim_dt,))
        require_positive(owner, "solver_iterations", (self.solver_iterations,))
        require_positive(owner, "line_search_iterations", (self.line_search_iterations,))
        require_unique(owner, "object", [entry.name for entry in self.objects])
        require_unique(owner, "camera", [entry.name for entry in self.cameras])
        require_unique(owner, "touch sensor", [entry.name for entry in self.touch])
        require_unique(owner, "arm", [arm.role for arm in self.arms])
        if self.actuation not in ("position", "torque"):
            raise InputError(
                f"{owner}: actuation must be 'position' or 'torque', got '{self.actuation}'."
            )
        self._check_arms(owner)

    def _check_arms(self, owner: str) -> None:
        if not self.arms:
            raise InputError(f"{owner}: arms is empty, allowed: one or more MountedArm.")
        if self.home is None:
            return
        if len(self.arms) > 1:
            raise InputError(f"{owner}: home is for one arm; give each MountedArm its own home.")
        self.robot.check_pose(self.home, what=f"home of scene '{self.name}'")

    @property
    def arm(self) -> MountedArm:
        """The only arm; raises KeyError naming the roles where there are several."""
        return only(self.arms, [arm.role for arm in self.arms], where="spec.arm_of(role)")

    @property
    def robot(self) -> RobotSpec:
        """The robot of the only arm; raises KeyError naming the roles where there are several."""
        return self.arm.robot

    @property
    def home_q(self) -> tuple[float, ...]:
        """Joint pose of the only arm in the keyframe "home" [rad]."""
        return self.home_of(self.arm)

    def arm_of(self, role: str) -> MountedArm:
        """Return the arm with a role; raises KeyError naming the allowed ones."""
        table = {arm.role: arm for arm in self.arms}
        if role not in table:
            raise UnknownNameError(unknown_name("arm", role, table))
        return table[role]

    def home_of(self, arm: MountedArm) -> tuple[float, ...]:
        """Joint pose of an arm in the keyframe "home" [rad]."""
        return arm.home_q if self.home is None else self.home

    def object(self, name: str) -> ObjectSpec:
        """Return the object called `name`; raises KeyError naming the allowed ones."""
        return named(self.objects, name, kind="object")

    def camera(self, name: str) -> CameraSpec:
        """Return the camera called `name`; raises KeyError naming the allowed ones."""
        return named(self.cameras, name, kind="camera")


def only(entries: tuple[Entry, ...], roles: list[str], *, where: str) -> Entry:
    """Return the only entry; raises KeyError naming the roles where there are several."""
    if len(entries) != 1:
        raise UnknownNameError(
            f"The scene has {len(entries)} arms: {', '.join(roles)}. Use {where}."
        )
    return entries[0]
