"""Who is who in a robot file that is not ours: what its owner names so that tasks can use it."""

from dataclasses import dataclass
from typing import Literal

from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3
from scenes.contract.specs import require_unique

Keepable = Literal["cone", "noslip", "integrator", "solver", "sim_dt", "gravcomp"]


@dataclass(frozen=True, kw_only=True)
class ToolFrame:
    """The tool centre of a file that has no site for it.

    Attributes:
        body: that carries it.
        pos: in the body [m].
        quat: in the body, wxyz; z points where the fingers point, y along their closing.
    """

    body: str
    pos: Vec3 = (0.0, 0.0, 0.0)
    quat: Quat = UNIT_QUAT


@dataclass(frozen=True, kw_only=True)
class PositionDrive:
    """Position actuators for a file that has none (a URDF never has).

    Attributes:
        kp: stiffness per joint [N m/rad], [N/m].
        kd: damping per joint [N m s/rad], [N s/m].
    """

    kp: tuple[float, ...]
    kd: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class JointLimits:
    """What a robot file does not state, per joint; None takes the default that is noted.

    Attributes:
        dq_max: [rad/s]; default 1.
        ddq_max: [rad/s^2]; default 5.
        jerk_max: [rad/s^3]; default 100.
        tau_max: [N m]; default the file's force range, else 100.
    """

    dq_max: tuple[float, ...] | None = None
    ddq_max: tuple[float, ...] | None = None
    jerk_max: tuple[float, ...] | None = None
    tau_max: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GripperRole:
    """The gripper of a robot file.

    Attributes:
        fingers: joints whose positions add up to the opening [m]; a parallel gripper has two
            slides. Empty where nobody reads the opening.
        actuator: by its name in the file; None adds a position drive to the first finger.
        opened: control that opens; None takes the upper end of the actuator's range.
        closed: control that closes; None takes the lower end.
        pads: geoms that grip.
        drive: gains of the added position drive, kp and kd of one joint.
    """

    fingers: tuple[str, ...] = ()
    actuator: str | None = None
    opened: float | None = None
    closed: float | None = None
    pads: tuple[str, ...] = ()
    drive: PositionDrive | None = None


@dataclass(frozen=True, kw_only=True)
class ArmRoles:
    """An arm in a robot file.

    Attributes:
        joints: of the arm, from the base on.
        tool: the tool centre: the name of a site, or a `ToolFrame`.
        role: by which tasks name the arm; "" for the only one.
        actuators: one per joint; empty takes the one that drives each joint.
        drive: gains of position actuators to add where the file has none.
        gripper: None where the arm has none.
        home: joint pose at the start [rad]; None takes the file's keyframe "home", its first
            keyframe, or its reference pose.
        workspace: low and high corner of the tool centre's box in the base frame [m]; None takes
            20 cm around the tool centre at home.
        limits: what the file does not state.
    """

    joints: tuple[str, ...]
    tool: str | ToolFrame
    role: str = ""
    actuators: tuple[str, ...] = ()
    drive: PositionDrive | None = None
    gripper: GripperRole | None = None
    home: tuple[float, ...] | None = None
    workspace: tuple[Vec3, Vec3] | None = None
    limits: JointLimits = JointLimits()

    def __post_init__(self) -> None:
        owner = f"ArmRoles '{self.role}'"
        if not self.joints:
            raise ValueError(f"{owner}: joints is empty; name the arm's joints from the base on.")
        require_unique(owner, "joint", self.joints)
        self._check_length("actuators", self.actuators)
        if self.home is not None:
            self._check_length("home", self.home)
        for field in ("dq_max", "ddq_max", "jerk_max", "tau_max"):
            self._check_length(f"limits.{field}", getattr(self.limits, field) or ())
        if self.drive is not None:
            self._check_length("drive.kp", self.drive.kp)
            self._check_length("drive.kd", self.drive.kd)

    def _check_length(self, field: str, values: tuple[object, ...]) -> None:
        if values and len(values) != len(self.joints):
            raise ValueError(
                f"ArmRoles '{self.role}': {field} has {len(values)} entries, "
                f"allowed {len(self.joints)} (one per joint)."
            )
