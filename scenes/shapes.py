"""What an object looks like and how it is held: shapes and mounts, as data."""

import math
from dataclasses import dataclass

from scenes.contract.errors import InputError
from scenes.contract.robot import Rgba
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3
from scenes.contract.specs import require_positive


@dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        half_size: half extents along x, y, z [m].
    """

    half_size: Vec3

    def __post_init__(self) -> None:
        require_positive("Box", "half_size", self.half_size)


@dataclass(frozen=True)
class Cylinder:
    """A cylinder about its own z.

    MJX (physics "mjx") has no contact of cylinders with boxes, so pads do not touch one there:
    it refuses such a scene; C MuJoCo and Warp play it. A capsule is touched by all three.

    Attributes:
        radius: [m].
        half_height: [m].
    """

    radius: float
    half_height: float

    def __post_init__(self) -> None:
        require_positive("Cylinder", "radius and half_height", (self.radius, self.half_height))


@dataclass(frozen=True)
class Capsule:
    """A capsule about its own z.

    Attributes:
        radius: [m].
        half_height: half the length of the straight part [m].
    """

    radius: float
    half_height: float

    def __post_init__(self) -> None:
        require_positive("Capsule", "radius and half_height", (self.radius, self.half_height))


@dataclass(frozen=True)
class Sphere:
    """A ball.

    Attributes:
        radius: [m].
    """

    radius: float

    def __post_init__(self) -> None:
        require_positive("Sphere", "radius", (self.radius,))


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; it collides as its convex hull.

    Attributes:
        file: path of an .stl, .obj or .msh file.
        scale: of the file's coordinates along x, y, z; (0.001,) * 3 for a file in millimetres.
    """

    file: str
    scale: Vec3 = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        require_positive(f"Mesh '{self.file}'", "scale", self.scale)


Solid = Box | Cylinder | Capsule | Sphere | Mesh


@dataclass(frozen=True, kw_only=True)
class Part:
    """One solid of a compound.

    Attributes:
        shape: the solid.
        pos: its centre in the frame of the object [m].
        quat: its axes in the frame of the object, wxyz.
        mass_share: its part of the object's mass, relative to the other parts'.
        rgba: its colour; None where the object's holds.
        touches: false for a part that has looks and mass and no contacts.
    """

    shape: Solid
    pos: Vec3 = (0.0, 0.0, 0.0)
    quat: Quat = UNIT_QUAT
    mass_share: float = 1.0
    rgba: Rgba | None = None
    touches: bool = True

    def __post_init__(self) -> None:
        require_positive("Part", "mass_share", (self.mass_share,))


@dataclass(frozen=True)
class Compound:
    """Several solids that move as one body: a mug with a handle, a drawer, a peg on a plate.

    Attributes:
        parts: at least one.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("Compound: parts is empty, allowed: one or more Part.")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A cable: capsules in a row along z that bend about x and y where they meet.

    The first link is the object's body, and what its mount holds. Links touch the table and other
    objects, not each other and not a hand.

    Attributes:
        links: how many, two or more.
        length: of each [m].
        radius: [m].
        stiffness: of each bend [N m/rad]: bending stiffness [N m^2] over length.
        damping: of each bend [N m s/rad].
        armature: inertia added to each bend [kg m^2]: light links swing too fast to be stepped.
    """

    links: int
    length: float
    radius: float
    stiffness: float
    damping: float
    armature: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("length", "radius", "stiffness", "damping", "armature"):
            require_positive("Chain", name, (getattr(self, name),))
        if self.links < 2:
            raise InputError(f"Chain: links must be 2 or more, got {self.links}.")

    @property
    def bends(self) -> int:
        """How many numbers of qpos it has."""
        return 2 * (self.links - 1)


Shape = Solid | Compound | Chain


@dataclass(frozen=True)
class FreeMount:
    """The object moves freely: seven numbers of qpos, six of qvel."""


@dataclass(frozen=True)
class FixedMount:
    """The object does not move: a wall, a socket, a shelf."""


@dataclass(frozen=True)
class MarkerMount:
    """A mark, such as a goal: it has no mass, nothing touches it, it is where the task says.

    It is seen and observed as any object; see `Task.markers` of mjx_serl.envs.task.
    """


@dataclass(frozen=True, kw_only=True)
class HingedMount:
    """The object turns about an axis: a door, a lid, a valve.

    Attributes:
        axis: in the frame of the object.
        pos: a point of the axis in the frame of the object [m].
        range: smallest and largest angle [rad]; None turns without end.
        damping: [N m s/rad].
        friction: torque below which it does not move [N m].
    """

    axis: Vec3 = (0.0, 0.0, 1.0)
    pos: Vec3 = (0.0, 0.0, 0.0)
    range: tuple[float, float] | None = None
    damping: float = 0.0
    friction: float = 0.0

    def __post_init__(self) -> None:
        _check_joint("HingedMount", self.axis, self.range, (self.damping, self.friction))


@dataclass(frozen=True, kw_only=True)
class SlidingMount:
    """The object slides along an axis: a drawer, a button, a bolt.

    Attributes:
        axis: in the frame of the object.
        range: smallest and largest shift [m]; None slides without end.
        damping: [N s/m].
        friction: force below which it does not move [N].
    """

    axis: Vec3 = (1.0, 0.0, 0.0)
    range: tuple[float, float] | None = None
    damping: float = 0.0
    friction: float = 0.0

    def __post_init__(self) -> None:
        _check_joint("SlidingMount", self.axis, self.range, (self.damping, self.friction))


@dataclass(frozen=True, kw_only=True)
class HeldMount:
    """A hand holds the object and does not let go: a peg between closed fingers.

    `ObjectSpec.pos` and `quat` are then in the frame of that arm's tool centre. The hand's own
    solids do not touch it, and as the arm itself it is carried without weight.

    Attributes:
        role: of the arm; "" for the only one.
    """

    role: str = ""


Mount = FreeMount | FixedMount | HeldMount | MarkerMount | HingedMount | SlidingMount


def parts_of(shape: Shape) -> tuple[Part, ...]:
    """The solids of a shape: a compound's parts, a chain's links in their own frames, or itself."""
    if isinstance(shape, Chain):
        link = Capsule(shape.radius, shape.length / 2)
        return (Part(shape=link, pos=(0.0, 0.0, shape.length / 2)),) * shape.links
    return shape.parts if isinstance(shape, Compound) else (Part(shape=shape),)


def _check_joint(
    owner: str, axis: Vec3, limits: tuple[float, float] | None, drags: tuple[float, float]
) -> None:
    if math.hypot(*axis) < 1e-6:
        raise InputError(f"{owner}: axis must not be zero, got {axis}.")
    if limits is not None and not limits[0] < limits[1]:
        raise InputError(f"{owner}: range must be low, high with low < high, got {limits}.")
    if min(drags) < 0:
        raise InputError(f"{owner}: damping and friction must not be negative, got {drags}.")
