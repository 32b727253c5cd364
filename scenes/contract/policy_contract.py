"""What simulator and bridge must do alike: what a policy observes and what its actions mean.

Each function is written once, in operators and methods that numpy's and JAX's arrays share: the
environment traces it, the bridge, which has no JAX, calls it on numpy. Frames: the robot's base.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.language import INSTRUCTION, Language
from scenes.contract.names import unknown_name
from scenes.contract.quaternions import (
    columns,
    exponential,
    nearer,
    normalized,
    product,
    rotate,
    stacked,
    times,
    turn_between,
    within,
)
from scenes.contract.registry import Registry
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.serialize import later_field
from scenes.contract.specs import GRIPPER, STEPS, TURNS, ActionSpec, CameraSpec, ObsSpec

# The fingers point straight down: the orientation of the SERL and gym-hil pick tasks (mocap
# quaternion 0 1 0 0, reference serl_family.md 2.1), kept throughout where an action cannot turn.
FINGERS_DOWN: Quat = (0.0, 1.0, 0.0, 0.0)

# What says of a task by turns whose turn it is: 1 of the first of its parts, -1 of the second.
TURN = "turn"
MOST_STACKED = 16  # pictures of a camera that a policy is given at once
MOST_DEPTH = 20.0  # that a level of depth may span [m]: 255 levels are 8 cm apart then

Array = Any  # numpy's on a robot, JAX's in a trace


@dataclass(frozen=True, kw_only=True)
class IkSpec:
    """The damped least squares between end-effector targets and joint targets.

    The bridge's governor takes the damping, and keeps joints no further ahead than `max_joint_step`
    where that is tighter than its limits; it decides at a rate of its own.

    Attributes:
        rate: updates per second [Hz].
        damping: squared [m^2].
        max_joint_step: largest joint lead [rad].
    """

    rate: float
    damping: float
    max_joint_step: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast the arm's target follows the commanded one; what the bridge's governor allows.

    The defaults are the governor's for a Franka (reference robot_bridge.md section 3, rows 4, 5).

    Attributes:
        speed: [m/s]. acceleration: [m/s^2].
        leash: furthest ahead of the measured arm [m].
        turn_speed: [rad/s]. turn_acceleration: [rad/s^2].
        turn_leash: furthest turned ahead of the measured arm [rad].
    """

    speed: float = 0.25
    acceleration: float = 1.0
    leash: float = 0.025
    turn_speed: float = later_field(1.0)
    turn_acceleration: float = later_field(4.0)
    turn_leash: float = later_field(0.15)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything a policy takes for granted about the arm it commands.

    A bundle carries its digest (`scenes.contract.serialize.digest`); simulator and bridge must
    agree on it.

    Attributes:
        robot: limits, kinematics, workspace box and home.
        obs, action: what goes in and comes out.
        ik: how end-effector targets became joint targets in training.
        home: joint pose at the start of an episode [rad].
        episode_steps: time limit [actions].
        orientation: of the end effector at the start of an episode, wxyz; kept throughout where
            the action has no turns.
        cameras: of the observed pictures, in order, in RGB, cut to what `CameraSpec` spans.
        camera_latency: age of the pictures when they were acted on in training [s]; the bridge
            shows the policy pictures of this age.
        pace: at which targets were followed in training, None where they were jumped to.
        assets: digest of the scan, room and robot surfaces that the pictures were drawn from; ""
            where all was baked from the scene itself.
        room: that the task was drawn in; "" where it was the scene's own.
        shadows: whether what comes near the table cast a shadow in the pictures.
        latency: shortest and longest delay between an action and what the arm first did of it in
            training [s]; it is told, no bridge acts on it.
        stack: pictures of each camera that the policy is given at once, one per action, oldest
            first along their channels; at the start of an episode the first one is repeated.
        depth: what the fourth channel of a picture says, up to so many metres (`depth_levels`); 0
            where pictures have red, green and blue alone.
        parts: of a task by turns, what its two are called, in the order that `TURN` tells; () of
            any other.
        language: how it is told what to do; None where it is not.
    """

    robot: RobotSpec
    obs: ObsSpec
    action: ActionSpec
    ik: IkSpec
    home: tuple[float, ...]
    episode_steps: int
    orientation: Quat = FINGERS_DOWN
    cameras: tuple[CameraSpec, ...] = ()
    camera_latency: float = 0.0
    pace: Pace | None = None
    assets: str = later_field("")
    room: str = later_field("")
    shadows: bool = later_field(False)
    latency: tuple[float, float] = later_field((0.0, 0.0))
    stack: int = later_field(1)
    depth: float = later_field(0.0)
    parts: tuple[str, ...] = later_field(())
    language: Language | None = later_field(None)

    def __post_init__(self) -> None:
        if not 0.0 <= self.depth <= MOST_DEPTH:
            raise InputError(f"Contract: depth {self.depth:g} m, allowed: 0 to {MOST_DEPTH:g} m")
        if not 1 <= self.stack <= MOST_STACKED:
            raise InputError(f"Contract: stack {self.stack}, allowed: 1 to {MOST_STACKED}")
        if self.parts and (len(self.parts) != 2 or TURN not in self.obs.names):
            raise InputError(
                f"Contract: parts {', '.join(self.parts)}, allowed: two and an observed '{TURN}'"
            )
        told = tuple(field.name for field in self.obs.of_kind("tokens"))
        if told != (() if self.language is None else (INSTRUCTION,)):
            raise InputError(
                f"Contract: words observed as {', '.join(told) or 'nothing'}, allowed: as "
                f"'{INSTRUCTION}', and with the language's tokenizer"
            )

    @property
    def inputs(self) -> ObsSpec:
        """What the policy is given: `obs` with the pictures of `stack` actions in one."""
        names = [camera.name for camera in self.cameras]
        return self.obs if self.stack == 1 else self.obs.stacked(names, self.stack)

    @property
    def workspace(self) -> tuple[Vec3, Vec3]:
        """Low and high corner of the box for the end effector's target [m]."""
        return self.robot.workspace_low, self.robot.workspace_high

    @property
    def reach(self) -> "Reach":
        """Where the end effector may be commanded to, as `advance_command` wants it."""
        low, high = self.workspace
        return Reach(*(np.asarray(x, np.float32) for x in (low, high, self.orientation)))


class Readings(NamedTuple):
    """What an observation is computed from; leading axes are allowed.

    What a robot or a simulator does not measure is None; observing it raises KeyError.

    Attributes:
        ee_position, ee_target: of the end effector, measured and commanded [m].
        gripper_command: 0 open to 1 closed. gripper_width: between the pads [m].
        joint_velocity: [rad/s].
        objects: positions by name [m].
        joint_position: [rad].
        ee_quat, ee_target_quat: orientation of the end effector, measured and commanded, wxyz.
        start_quat: its orientation at the start of an episode, as commanded.
        object_quats: orientations by name, wxyz.
        part: of a task by turns, whose turn it is: 0 or 1.
    """

    ee_position: Array
    ee_target: Array
    gripper_command: Array
    gripper_width: Array
    joint_velocity: Array
    objects: Mapping[str, Array]
    joint_position: Array = None
    ee_quat: Array = None
    ee_target_quat: Array = None
    start_quat: Array = None
    object_quats: Mapping[str, Array] | None = None
    part: Array = None


Term = Callable[[Readings], Array]
ObjectTerm = Callable[[Readings, str], Array]
_TERMS: Registry[Term] = Registry("observation")
_OBJECT_TERMS: Registry[ObjectTerm] = Registry("observation of an object")


def observation(name: str) -> Callable[[Term], Term]:
    """Decorator that files what a task may observe under `name`; ValueError on a duplicate.

    The term is called on numpy's arrays by the bridge and on JAX's by the simulator: it should use
    what both have, and `scenes.contract.quaternions` where it multiplies and adds.
    """
    return _TERMS.register(name)


def object_observation(suffix: str) -> Callable[[ObjectTerm], ObjectTerm]:
    """Like `observation`, for the name of any object followed by `suffix`, e.g. "_position"."""
    return _OBJECT_TERMS.register(suffix)


observation("ee_position")(lambda r: r.ee_position)
observation("ee_target")(lambda r: r.ee_target)
observation("ee_lag")(lambda r: r.ee_target - r.ee_position)
observation("gripper_command")(lambda r: r.gripper_command[..., None])
observation("gripper_width")(lambda r: r.gripper_width[..., None])
observation("joint_position")(lambda r: r.joint_position)
observation("joint_velocity")(lambda r: r.joint_velocity)
# A rotation has two quaternions: the one nearer to the start's does not jump.
observation("ee_quat")(lambda r: nearer(_single(r.ee_quat), _single(r.start_quat)))
observation("ee_rotation6d")(lambda r: columns(_single(r.ee_quat)))
# Turned away from the start, and still to be turned: along the axis, 2 sin(angle / 2) long.
observation("ee_turn")(lambda r: turn_between(_single(r.start_quat), _single(r.ee_quat)))
observation("ee_target_rotation6d")(lambda r: columns(_single(r.ee_target_quat)))
observation("ee_rotation_lag")(
    lambda r: turn_between(_single(r.ee_quat), _single(r.ee_target_quat))
)
observation(TURN)(lambda r: 1.0 - 2.0 * r.part[..., None])
object_observation("_position")(lambda r, name: r.objects[name])
object_observation("_from_ee")(lambda r, name: r.objects[name] - r.ee_position)
object_observation("_rotation6d")(lambda r, name: columns(_single((r.object_quats or {})[name])))


def _single(quat: Array) -> Array:
    return quat.astype(np.float32)


def observe(names: Sequence[str], readings: Readings) -> dict[str, Array]:
    """Compute the named observations, e.g. "ee_lag" or, of an object, "cube_from_ee".

    Raises KeyError, naming the allowed ones, for what no reading gives.
    """
    return {name: _observe(name, readings) for name in names}


def _observe(name: str, readings: Readings) -> Array:
    if name in _TERMS:
        return _measured(name, _TERMS[name], readings)
    for suffix, term in _OBJECT_TERMS.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in readings.objects:
            return _measured(name, term, readings, name.removesuffix(suffix))
    objects = (f"{o}{suffix}" for o in readings.objects for suffix in _OBJECT_TERMS)
    raise UnknownNameError(unknown_name("observation", name, (*_TERMS, *objects)))


def _measured(name: str, term: Callable[..., Array], readings: Readings, *of: str) -> Array:
    missing = [field for field, value in readings._asdict().items() if value is None]
    try:
        value = term(readings, *of)
    except (AttributeError, KeyError, TypeError):
        if not missing:
            raise
        value = None
    if value is None:
        raise UnknownNameError(
            f"Nothing measures observation '{name}' here: no {', '.join(missing)}"
        )
    return value


def objects_observed(spec: ObsSpec) -> tuple[str, ...]:
    """Names of the objects whose place an observation needs, sorted."""
    names = set()
    for entry in spec.fields:
        for suffix in _OBJECT_TERMS:
            if entry.name not in _TERMS and entry.name.endswith(suffix):
                names.add(entry.name.removesuffix(suffix))
    return tuple(sorted(names))


def unmeasured(spec: ObsSpec, objects: Collection[str]) -> tuple[str, ...]:
    """Names of the observed numbers that no reading gives where these objects are measured."""
    of_objects = {f"{name}{suffix}" for name in objects for suffix in _OBJECT_TERMS}
    return tuple(
        f.name for f in spec.of_kind("vector") if f.name not in _TERMS and f.name not in of_objects
    )


def depth_levels(depth: Array, far: float) -> Array:
    """Return depth [m] along the camera's axis as uint8: 0 at the lens, 255 from `far` [m] on."""
    shares = (depth.astype(np.float32) / np.float32(far)).clip(0.0, 1.0)
    return (shares * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)


class Pose(NamedTuple):
    """Position [m] and orientation, wxyz."""

    position: Array
    quat: Array


class Commanded(NamedTuple):
    """What the accepted actions add up to.

    Attributes:
        position: of the end effector [m]. quat: its orientation, wxyz.
        closure: of the gripper, 0 open to 1 closed.
    """

    position: Array
    quat: Array
    closure: Array


class Reach(NamedTuple):
    """Where the end effector may be commanded to.

    Attributes:
        low, high: corners of the box for its position [m].
        orientation: that `ActionSpec.turn_limit` is counted from, wxyz.
    """

    low: Array
    high: Array
    orientation: Array


def advance_command(
    spec: ActionSpec, reach: Reach, last: Commanded, measured: Pose, action: Array
) -> Commanded:
    """Return what is commanded after an action.

    Rounded alike on both sides, as in training: a step of rounding more is another episode once
    the fingers touch something.

    Args:
        spec: of the action.
        reach: limits of the target.
        last: what was commanded so far.
        measured: pose of the end effector, added to where `spec.base` is "measured".
        action: [A] in [-1, 1]; what lies outside is clipped. KeyError for a name that says
            neither a step, nor a turn, nor the gripper.
    """
    _check_names(spec)
    bounded = action.astype(np.float32).clip(-1.0, 1.0)
    base = Pose(last.position, last.quat) if spec.base == "target" else measured
    if spec.turns or spec.frame == "tool":
        moved, closed = _exact_steps(spec, base, last.closure, bounded)
    else:
        moved, closed = _fused_steps(spec, base, last.closure, bounded)
    quat = _turned(spec, reach, base, bounded) if spec.turns else last.quat
    low, high = reach.low.astype(np.float32), reach.high.astype(np.float32)
    return Commanded(moved.clip(low, high), quat, closed.clip(0.0, 1.0))


def _fused_steps(
    spec: ActionSpec, base: Pose, closure: Array, bounded: Array
) -> tuple[Array, Array]:
    """Position and closure after an action, as they were before actions could turn.

    XLA fuses the multiplication into the addition and rounds once, which numpy does by way of
    float64.
    """
    wide = np.float64 if isinstance(bounded, np.ndarray) else np.float32
    delta = np.asarray(spec.scale, np.float32).astype(wide) * bounded.astype(wide)
    moved = (base.position.astype(wide) + _entries(spec, delta, STEPS)).astype(np.float32)
    closed = closure.astype(wide) + _gripper_entry(spec, delta, closure)
    return moved, closed.astype(np.float32)


def _exact_steps(
    spec: ActionSpec, base: Pose, closure: Array, bounded: Array
) -> tuple[Array, Array]:
    """The same, along the axes of any frame, with nothing left to fuse."""
    delta = times(np.asarray(spec.scale, np.float32), bounded)
    step = _entries(spec, delta, STEPS)
    if spec.frame == "tool":
        step = rotate(_single(base.quat), step)
    closed = closure.astype(np.float32) + _gripper_entry(spec, delta, closure)
    return base.position.astype(np.float32) + step, closed


def _turned(spec: ActionSpec, reach: Reach, base: Pose, bounded: Array) -> Array:
    """The commanded orientation after an action whose entries are in [-1, 1]."""
    scale, start = np.asarray(spec.scale, np.float32), _single(base.quat)
    turn = exponential(_entries(spec, times(scale, bounded), TURNS))
    # About the tool's own axes the turn comes first.
    turned = product(start, turn) if spec.frame == "tool" else product(turn, start)
    quat = normalized(turned)
    if spec.turn_limit is None:
        return quat
    return within(quat, _single(reach.orientation), spec.turn_limit)


def _entries(spec: ActionSpec, values: Array, wanted: tuple[str, ...]) -> Array:
    """The entries [..., 3] of an action with the wanted names, 0 for those that it lacks."""
    if spec.names[: len(wanted)] == wanted:
        return values[..., : len(wanted)]
    names = spec.names
    parts = [
        values[..., names.index(name)] if name in names else 0.0 * values[..., 0] for name in wanted
    ]
    return stacked(*parts)


def _gripper_entry(spec: ActionSpec, values: Array, closure: Array) -> Array:
    """The gripper's entry [...] of an action, 0 where it has none."""
    return values[..., spec.names.index(GRIPPER)] if GRIPPER in spec.names else 0.0 * closure


def _check_names(spec: ActionSpec) -> None:
    allowed = (*STEPS, *TURNS, GRIPPER)
    for name in spec.names:
        if name not in allowed:
            raise UnknownNameError(unknown_name("entry of an action", name, allowed))
