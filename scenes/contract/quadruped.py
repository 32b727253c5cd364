"""What a four-legged base is: a trunk on legs of three joints, as data with units."""

from dataclasses import dataclass, replace
from typing import ClassVar

from scenes.contract.errors import InputError
from scenes.contract.robot import GeomSpec, LinkSpec
from scenes.contract.rotations import Vec3


@dataclass(frozen=True, kw_only=True)
class QuadrupedSpec:
    """A trunk on four legs; x is ahead, y to the left, z up.

    Every leg is a hip that turns about x, a thigh and a calf that turn about y; the joints are
    zero where the leg hangs straight down. Left legs are given, right ones are their mirror image.

    Attributes:
        name: of the robot.
        trunk: the body that carries the legs; its `pos` is not used.
        hip_pos: of the front left hip in the trunk [m]; the others are its mirror images.
        hip, thigh, calf: of the front left leg; `pos` of thigh and calf in what carries them [m].
        foot_pos: middle of the foot in the calf [m].
        foot_radius: [m].
        foot_friction: slide [1], spin [m], roll [m].
        foot_solref: time constant [s] and damping ratio [1] of their contacts.
        q_min, q_max: joint limits of hip, front thigh, rear thigh, calf [rad].
        tau_max: largest torques of hip, thigh, calf [N m].
        armature, damping: of every joint [kg m^2], [N m s/rad].
        kp, kd: of the position drives [N m/rad], [N m s/rad].
        stance: joint pose of every leg at the start: hip, thigh, calf [rad].
        geoms: primitive shape; bodies are "trunk" and, of the front left leg, "hip", "thigh" and
            "calf", which stand on all four.
        sources: (field, where its numbers come from) for every numeric field.
    """

    LEGS: ClassVar[tuple[str, ...]] = ("FL", "FR", "RL", "RR")
    PARTS: ClassVar[tuple[str, ...]] = ("hip", "thigh", "calf")

    name: str
    trunk: LinkSpec
    hip_pos: Vec3
    hip: LinkSpec
    thigh: LinkSpec
    calf: LinkSpec
    foot_pos: Vec3
    foot_radius: float
    foot_friction: Vec3
    foot_solref: tuple[float, float]
    q_min: tuple[float, float, float, float]
    q_max: tuple[float, float, float, float]
    tau_max: Vec3
    armature: float
    damping: float
    kp: float
    kd: float
    stance: Vec3
    geoms: tuple[GeomSpec, ...]
    sources: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for leg in self.LEGS:
            low, high = self.limits(leg)
            for value, least, most in zip(self.stance, low, high, strict=True):
                if not least <= value <= most:
                    raise InputError(
                        f"QuadrupedSpec '{self.name}': stance {value} rad, allowed {least}..{most}."
                    )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Of the twelve joints, leg by leg."""
        return tuple(f"{leg}_{part}" for leg in self.LEGS for part in self.PARTS)

    @property
    def mass(self) -> float:
        """Of trunk and legs [kg]."""
        return self.trunk.mass + 4 * (self.hip.mass + self.thigh.mass + self.calf.mass)

    def side(self, leg: str) -> tuple[float, float]:
        """Signs of x and y of a leg's hip."""
        return (1.0 if leg[0] == "F" else -1.0), (1.0 if leg[1] == "L" else -1.0)

    def limits(self, leg: str) -> tuple[Vec3, Vec3]:
        """Smallest and largest positions of a leg's joints [rad]."""
        thigh = 1 if leg[0] == "F" else 2
        low, high = self.q_min, self.q_max
        return (low[0], low[thigh], low[3]), (high[0], high[thigh], high[3])

    def link(self, leg: str, part: str) -> LinkSpec:
        """A part of a leg, in what carries it: the front left one's mirror image."""
        ahead, left = self.side(leg)
        link: LinkSpec = getattr(self, part)
        pos = link.pos
        if part == "hip":
            pos = (ahead * self.hip_pos[0], self.hip_pos[1], self.hip_pos[2])
        else:  # thighs and calves of all legs bend alike
            ahead = 1.0
        (x, y, z), (xx, yy, zz, xy, xz, yz) = link.com, link.inertia
        return replace(
            link,
            name=f"{leg}_{part}",
            pos=(pos[0], left * pos[1], pos[2]),
            com=(ahead * x, left * y, z),
            inertia=(xx, yy, zz, ahead * left * xy, ahead * xz, left * yz),
        )
