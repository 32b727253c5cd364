"""What an arm stands on: bolted down, driven in a plane, floating freely, or on legs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from scenes.contract.errors import InputError
from scenes.contract.quadruped import QuadrupedSpec
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.specs import require_positive


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A base that does not move.

    Attributes:
        pos: of the base in the world [m]; None where the robot's own `base_pos` holds.
        quat: of the base in the world, wxyz; None where the robot's own `base_quat` holds.
    """

    joints: ClassVar[tuple[str, ...]] = ()

    pos: Vec3 | None = None
    quat: Quat | None = None


@dataclass(frozen=True, kw_only=True)
class Planar:
    """A base that drives over the floor: two slides and a turn, each with an actuator.

    Per joint, in the order x [m], y [m], yaw [rad], in the frame of `pos` and `quat`.

    Attributes:
        pos: where the joints are zero, in the world [m]; None where the robot's own holds.
        quat: the frame that the joints move in, wxyz; None where the robot's own holds.
        drive: what the actuators are told: a speed or a place.
        low: smallest joint values [m], [m], [rad].
        high: largest joint values [m], [m], [rad].
        speed_max: range of a commanded speed [m/s], [m/s], [rad/s].
        force_max: strongest drive [N], [N], [N m].
        kp: stiffness of the position drive [N/m], [N/m], [N m/rad].
        kd: damping of either drive, the gain of a commanded speed [N s/m], [N s/m], [N m s/rad].
    """

    joints: ClassVar[tuple[str, ...]] = ("base_x", "base_y", "base_yaw")

    pos: Vec3 | None = None
    quat: Quat | None = None
    drive: Literal["velocity", "position"] = "velocity"
    low: Vec3 = (-2.0, -2.0, -6.283)
    high: Vec3 = (2.0, 2.0, 6.283)
    speed_max: Vec3 = (0.5, 0.5, 1.0)
    force_max: Vec3 = (500.0, 500.0, 200.0)
    kp: Vec3 = (4000.0, 4000.0, 1500.0)
    kd: Vec3 = (1500.0, 1500.0, 400.0)

    def __post_init__(self) -> None:
        for field in ("speed_max", "force_max", "kp", "kd"):
            require_positive("Planar", field, getattr(self, field))
        if self.drive not in ("velocity", "position"):
            raise InputError(f"Planar: drive must be 'velocity' or 'position', got '{self.drive}'.")
        if not all(a <= 0.0 <= b for a, b in zip(self.low, self.high, strict=True)):
            raise InputError(f"Planar: low..high must hold zero, got {self.low}..{self.high}.")


@dataclass(frozen=True, kw_only=True)
class Floating:
    """A base that nothing holds: a free joint without an actuator.

    Its arm carries its own weight (as every arm here), so it drifts and does not fall.

    Attributes:
        pos: where it starts in the world [m]; None where the robot's own `base_pos` holds.
        quat: how it starts in the world, wxyz; None where the robot's own `base_quat` holds.
    """

    joints: ClassVar[tuple[str, ...]] = ("base_free",)

    pos: Vec3 | None = None
    quat: Quat | None = None


@dataclass(frozen=True, kw_only=True)
class Legged:
    """A base that walks: four legs under a trunk, on whose back the arm's base is bolted.

    The arm's base is the body that floats; the trunk hangs on it. The arm is not carried by
    anything else, so its weight is on the legs and its own drives.

    Attributes:
        robot: trunk and legs.
        mount: of the arm's base in the trunk, its axes the trunk's [m].
        pos: where the arm's base starts in the world [m]; None where the robot's own holds.
        quat: how it starts in the world, wxyz; None where the robot's own holds.
    """

    robot: QuadrupedSpec
    mount: Vec3
    pos: Vec3 | None = None
    quat: Quat | None = None

    @property
    def joints(self) -> tuple[str, ...]:
        """The free one, then those of the legs."""
        return "base_free", *self.robot.joint_names

    @property
    def home(self) -> tuple[float, ...]:
        """Joint positions of the legs in the keyframe [rad]."""
        return self.robot.stance * len(self.robot.LEGS)


Base = Fixed | Planar | Floating | Legged
