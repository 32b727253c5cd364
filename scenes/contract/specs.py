"""What an action, an observation and a camera are: data with units, stdlib and numpy only.

Quaternions are wxyz. Every pose is given in the frame of its parent body.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from scenes.contract.errors import InputError
from scenes.contract.names import named
from scenes.contract.quaternions import LARGEST_TURN
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.serialize import later_field

ActionMode = Literal[
    "ee_delta", "ee_delta_osc", "wrench", "joint_delta", "ee_delta_legged", "direct"
]
ActionFrame = Literal["world", "tool"]

# What an end-effector action may be made of, in this order: steps [m], turns [rad], closure [1].
STEPS: tuple[str, ...] = ("x", "y", "z")
TURNS: tuple[str, ...] = ("rx", "ry", "rz")
GRIPPER = "gripper"
# What a wrench may be made of, at the tool centre: forces [N], torques [N m].
FORCES: tuple[str, ...] = ("fx", "fy", "fz")
TORQUES: tuple[str, ...] = ("tx", "ty", "tz")
# Of a base that walks: speeds ahead and to the left [m/s], turning [rad/s], a step of height [m].
BASE: tuple[str, ...] = ("base_x", "base_y", "base_yaw", "base_height")
ObsKind = Literal["vector", "image", "depth", "tokens", "maps"]


def require_positive(owner: str, field: str, values: Sequence[float]) -> None:
    """Raise ValueError unless there are values and all are positive and finite."""
    if not values or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(f"{owner}: {field} must be positive and finite, got {tuple(values)}.")


def require_unique(owner: str, kind: str, names: Sequence[str]) -> None:
    """Raise ValueError, with the names, where one stands twice."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{owner}: {kind} names must be unique, got twice: {', '.join(twice)}.")


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """What the numbers of an action in [-1, 1] mean.

    Attributes:
        mode: "ee_delta" (damped least squares to joint targets), "ee_delta_osc" (operational
            space). No bridge drives an arm by the others: "wrench" (forces and torques),
            "joint_delta" (steps of the joints themselves), "ee_delta_legged" (along the axes of a
            base that walks, and where it walks) and "direct" (what another library's world makes
            of it, for no robot of ours).
        names: one per entry, from `STEPS`, `TURNS` (a rotation vector) and `GRIPPER`; what is not
            named stays as it is. Of a wrench, from `FORCES` and `TORQUES`; of "joint_delta" the
            joints' names and `GRIPPER`; of a base that walks also `BASE`; of several arms, the
            role before each: "left/x".
        scale: value of one action unit per step, [m] or [rad] as the name says; gripper [1]; of a
            wrench [N] or [N m]; of `BASE` as said there.
        rate: actions per second [Hz].
        base: steps and turns are added to the last commanded ("target") or the "measured" pose;
            of "joint_delta" those of the joints and of the gripper to theirs.
        frame: whose axes steps and turns are along: the "world"'s (the robot's base), or those of
            the "tool", turned with the pose that they are added to. Both are at the tool centre,
            so that a turn moves nothing (SERL's 6 x 6 adjoint mixed its blocks here: reference
            serl_family.md 7.6).
        turn_limit: furthest that the commanded orientation may be turned away from the one that
            episodes start with [rad]; None lets it turn all the way.
        choices: per entry, how many values it has: 0 is continuous; n is n values evenly spaced
            from -1 to 1. Empty where all are continuous.
        horizon: actions that a policy gives at once.
    """

    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0

    mode: ActionMode
    names: tuple[str, ...]
    scale: tuple[float, ...]
    rate: float
    base: Literal["target", "measured"] = "target"
    frame: ActionFrame = later_field("world")
    turn_limit: float | None = later_field(None)
    choices: tuple[int, ...] = later_field(())
    horizon: int = later_field(1)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.scale):
            raise InputError(
                f"ActionSpec: {len(self.names)} names but {len(self.scale)} scales; "
                "give one scale per name."
            )
        require_positive("ActionSpec", "rate", (self.rate,))
        require_positive("ActionSpec", "horizon", (self.horizon,))
        require_unique("ActionSpec", "action", self.names)
        if self.choices and len(self.choices) != len(self.names):
            raise InputError(
                f"ActionSpec: {len(self.names)} names but {len(self.choices)} choices; give one "
                "per name, 0 where the entry is continuous."
            )
        if any(n < 0 or n == 1 for n in self.choices):
            raise InputError(f"ActionSpec: choices {self.choices}, allowed: 0 or at least 2.")
        self._check_turns()

    def _check_turns(self) -> None:
        turns = [s for n, s in zip(self.names, self.scale, strict=True) if n in TURNS]
        if turns and max(turns) > LARGEST_TURN:
            raise InputError(
                f"ActionSpec: turns of {max(turns):g} rad per action, allowed: up to "
                f"{LARGEST_TURN:g} rad"
            )
        if self.turn_limit is not None and not 0.0 < self.turn_limit <= math.pi:
            raise InputError(f"ActionSpec: turn_limit {self.turn_limit}, allowed: above 0 to pi")

    @property
    def grippers(self) -> tuple[bool, ...]:
        """Which entries open and close a gripper; "left/gripper" where there are several arms."""
        return tuple(name.rpartition("/")[2] == GRIPPER for name in self.names)

    @property
    def turns(self) -> bool:
        """Whether an action can turn the end effector."""
        return any(name in TURNS for name in self.names)

    @property
    def dim(self) -> int:
        """Number of entries of an action."""
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class ObsField:
    """One named array of an observation.

    Attributes:
        name: of the array.
        shape: without batch axes.
        dtype: numpy's name.
        unit: of the values.
        scale: the magnitude a network should see as 1 [unit].
        privileged: known to a simulator only; a policy that has cameras does without it.
        modality: what is not told by dtype and shape: "depth" images [m], "tokens" of text, "maps"
            [K, H, W, C] that a trained trunk makes of the pictures of K cameras.
        critic_only: seen by critics while they learn and not by the policy.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    unit: str = ""
    scale: float = 1.0
    privileged: bool = False
    modality: Literal["depth", "tokens", "maps"] | None = later_field(None)
    critic_only: bool = later_field(False)

    def __post_init__(self) -> None:
        require_positive("ObsField", "scale", (self.scale,))

    @property
    def kind(self) -> ObsKind:
        """Return the modality, else "image" for uint8 and "vector" for the rest."""
        if self.modality is not None:
            return self.modality
        return "image" if self.dtype == "uint8" else "vector"


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """The observation as a set of named arrays."""

    fields: tuple[ObsField, ...]

    def __post_init__(self) -> None:
        require_unique("ObsSpec", "observation", self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    def of_kind(self, *kinds: ObsKind) -> tuple[ObsField, ...]:
        """Return the fields of these kinds, sorted by name."""
        return tuple(sorted((f for f in self.fields if f.kind in kinds), key=lambda f: f.name))

    def stacked(self, names: Collection[str], count: int) -> "ObsSpec":
        """Return it with `count` of these fields side by side on their last axis."""
        return ObsSpec(
            fields=tuple(
                replace(f, shape=(*f.shape[:-1], count * f.shape[-1])) if f.name in names else f
                for f in self.fields
            )
        )

    @property
    def policy(self) -> "ObsSpec":
        """What the policy sees of it."""
        return ObsSpec(fields=tuple(field for field in self.fields if not field.critic_only))

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
        require_positive(owner, "fovy", (self.fovy,))
        require_positive(owner, "width and height", (self.width, self.height))
