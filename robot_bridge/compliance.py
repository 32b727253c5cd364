"""How far an arm yields to what it touches, for the arms whose own control can be told."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from scenes.contract.ranges import check_ranges, ranged

# When an arm takes a compliance: never, once when it is armed, or whenever it stands.
Settable = Literal["never", "arming", "standing"]


@dataclass(frozen=True, kw_only=True)
class Compliance:
    """The impedance of SERL's controller, whose defaults and ranges these are (reference
    serl_family.md 3.2).

    The clips are how far the reference may run ahead of the arm: with the stiffness they bound the
    force on what blocks it, 20 N and 7.5 N m here.

    Attributes:
        translational_stiffness: [N/m]. rotational_stiffness: [N m/rad].
        translational_damping: [N s/m]. rotational_damping: [N m s/rad].
        translational_clip: along x, y, z [m], either way.
        rotational_clip: about them [rad], either way.
    """

    translational_stiffness: float = ranged(2000.0, above=0, most=6000)
    rotational_stiffness: float = ranged(150.0, above=0, most=300)
    translational_damping: float = ranged(89.0, above=0, most=400)
    rotational_damping: float = ranged(7.0, above=0, most=30)
    translational_clip: tuple[float, float, float] = ranged((0.01, 0.01, 0.01), above=0, most=0.1)
    rotational_clip: tuple[float, float, float] = ranged((0.05, 0.05, 0.05), above=0, most=0.1)

    def __post_init__(self) -> None:
        check_ranges(self)

    def describe(self) -> str:
        """In a line: stiffness, and the force that it can come to along each axis."""
        forces = [self.translational_stiffness * clip for clip in self.translational_clip]
        along = ", ".join(f"{force:.3g}" for force in forces)
        return f"{self.translational_stiffness:g} N/m, up to {along} N along x, y, z"


@runtime_checkable
class Compliant(Protocol):
    """A driver that takes a compliance, as often as its `ArmInfo.compliance` says."""

    def comply(self, compliance: Compliance) -> None:
        """Yield so from the next arming on, or at once while armed; returns at once."""
        ...
