"""What simulator and bridge must do alike: what a policy observes and what its actions mean.

Each function is written once, in operators and methods that numpy's and JAX's arrays share: the
environment traces it, the bridge, which has no JAX, calls it on numpy. Frames: the robot's base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.specs import ActionSpec, CameraSpec, ObsSpec

# The fingers point straight down throughout: the orientation of the SERL and gym-hil pick tasks
# (mocap quaternion 0 1 0 0, reference serl_family.md 2.1).
FINGERS_DOWN: Quat = (0.0, 1.0, 0.0, 0.0)

Array = Any  # numpy's on a robot, JAX's in a trace


@dataclass(frozen=True, kw_only=True)
class IkSpec:
    """The damped least squares between end-effector targets and joint targets.

    rate: updates per second [Hz]. damping: squared [m^2]. max_joint_step: largest joint lead [rad].
    """

    rate: float
    damping: float
    max_joint_step: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast the arm's target follows the commanded one; what the bridge's governor allows.

    speed [m/s], acceleration [m/s^2], leash: furthest ahead of the measured arm [m]. The defaults
    are the governor's for a Franka (reference robot_bridge.md section 3, rows 4 and 5).
    """

    speed: float = 0.25
    acceleration: float = 1.0
    leash: float = 0.025


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything a policy takes for granted about the arm it commands.

    robot: limits, kinematics, workspace box and home. obs, action: what goes in and comes out.
    cameras: of the observed pictures, in order, in RGB, cut to what `CameraSpec` spans.
    camera_latency: age of the pictures when they were acted on in training [s].
    orientation: of the end effector, held fixed, wxyz. home: joint pose at the start of an episode
    [rad]. episode_steps: time limit [actions].
    pace: at which targets were followed in training, None where they were jumped to.
    A bundle carries its digest (`scenes.contract.serialize.digest`); simulator and bridge must
    agree on it.
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

    @property
    def workspace(self) -> tuple[Vec3, Vec3]:
        """Low and high corner of the box for the end effector's target [m]."""
        return self.robot.workspace_low, self.robot.workspace_high


class Readings(NamedTuple):
    """What an observation is computed from; leading axes are allowed.

    ee_position, ee_target [m] measured and commanded; gripper_command 0 open to 1 closed;
    gripper_width [m] between the pads; joint_velocity [rad/s]; objects: positions by name [m].
    """

    ee_position: Array
    ee_target: Array
    gripper_command: Array
    gripper_width: Array
    joint_velocity: Array
    objects: Mapping[str, Array]


# One line per observation that a task may declare; an object's two are made from its name.
_TERMS = {
    "ee_position": lambda r: r.ee_position,
    "ee_target": lambda r: r.ee_target,
    "ee_lag": lambda r: r.ee_target - r.ee_position,
    "gripper_command": lambda r: r.gripper_command[..., None],
    "gripper_width": lambda r: r.gripper_width[..., None],
    "joint_velocity": lambda r: r.joint_velocity,
}
_OBJECT_TERMS = {
    "_position": lambda r, name: r.objects[name],
    "_from_ee": lambda r, name: r.objects[name] - r.ee_position,
}


def observe(names: Sequence[str], readings: Readings) -> dict[str, Array]:
    """Compute the named observations, e.g. "ee_lag" or, of an object, "cube_from_ee".

    Raises KeyError, naming the allowed ones, for what no reading gives.
    """
    return {name: _observe(name, readings) for name in names}


def _observe(name: str, readings: Readings) -> Array:
    if name in _TERMS:
        return _TERMS[name](readings)
    for suffix, term in _OBJECT_TERMS.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in readings.objects:
            return term(readings, name.removesuffix(suffix))
    objects = (f"{o}{suffix}" for o in readings.objects for suffix in _OBJECT_TERMS)
    raise UnknownNameError(unknown_name("observation", name, (*_TERMS, *objects)))


def objects_observed(spec: ObsSpec) -> tuple[str, ...]:
    """Names of the objects whose position an observation needs, sorted."""
    names = set()
    for entry in spec.fields:
        for suffix in _OBJECT_TERMS:
            if entry.name not in _TERMS and entry.name.endswith(suffix):
                names.add(entry.name.removesuffix(suffix))
    return tuple(sorted(names))


def advance_command(
    spec: ActionSpec,
    workspace: tuple[Array, Array],
    last: tuple[Array, Array],
    measured: Array,
    action: Array,
) -> tuple[Array, Array]:
    """Return the target position [m] and gripper closure (0 open, 1 closed) after an action.

    Rounded to float32 once, as in training: a step of rounding more is another episode once the
    fingers touch something. XLA fuses the multiplication into the addition, which numpy does by
    way of float64.

    Args:
        spec: of the action; position steps and a gripper step.
        workspace: corners of the box for the target [m].
        last: target and closure so far.
        measured: end-effector position [m], added to where `spec.base` is "measured".
        action: [4] in [-1, 1]; what lies outside is clipped.
    """
    wide = np.float64 if isinstance(action, np.ndarray) else np.float32
    scale = np.asarray(spec.scale, np.float32).astype(wide)
    delta = scale * action.astype(np.float32).clip(-1.0, 1.0).astype(wide)
    target, closure = last
    base = target if spec.base == "target" else measured
    moved = (base.astype(wide) + delta[..., :3]).astype(np.float32)
    closed = (closure.astype(wide) + delta[..., 3]).astype(np.float32)
    low, high = (corner.astype(np.float32) for corner in workspace)
    return moved.clip(low, high), closed.clip(0.0, 1.0)
