"""From an action in [-1, 1] to actuator controls: end-effector steps, then joint targets."""

import dataclasses
from typing import Any, Literal, Protocol, TypeVar

import jax
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.physics.protocol import SimState
from scenes.contract.policy_contract import FINGERS_DOWN, IkSpec, Pace
from scenes.contract.rotations import Quat
from scenes.contract.specs import BASE, GRIPPER, STEPS, TURNS, ActionFrame, ActionMode, ActionSpec

Law = Literal["dls", "osc", "joint_delta", "legged"]
_MODES: dict[Law, ActionMode] = {
    "dls": "ee_delta",
    "osc": "ee_delta_osc",
    "joint_delta": "joint_delta",
    "legged": "ee_delta_legged",
}


@struct.dataclass
class Command:
    """What the controller was last told.

    Attributes:
        target, target_quat: commanded pose of the end effector in the world [m], wxyz.
        gripper: commanded closure, 0 open to 1 closed.
        position, quat: what the arm is sent, on its way to the target [m], wxyz; without a pace it
            is the target, at once.
        velocity, turning: at which it goes there [m/s], [rad/s].
    """

    target: Float[Array, "*n 3"]
    gripper: Float[Array, "*n"]
    position: Float[Array, "*n 3"]
    velocity: Float[Array, "*n 3"]
    target_quat: Float[Array, "*n 4"]
    quat: Float[Array, "*n 4"]
    turning: Float[Array, "*n 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """End-effector control: steps along x, y and z, turns about them, and a gripper step.

    Attributes:
        rate: policy actions per second [Hz].
        inner_rate: inverse-kinematics updates per second [Hz].
        scale: end-effector step of a full action [m].
        turn_scale: end-effector turn of a full action about each axis [rad]; None leaves actions
            without turns, and the end effector keeps its orientation.
        turns: the axes that actions turn about, of "rx", "ry" and "rz".
        gripper: whether an action opens and closes the gripper.
        grip: closure of the gripper at the start of an episode, 0 open to 1 closed.
        base: what a step is added to: the last commanded pose or the measured one.
        frame: whose axes steps and turns are along, the "world"'s or the "tool"'s.
        turn_limit: furthest that the end effector may be turned from `orientation` [rad].
        orientation: of the end effector at the start of an episode, wxyz; fingers down.
        start: what is held at the start of an episode: that orientation, or the one in which the
            arm then is ("measured").
        law: "dls" commands joint positions, "osc" commands torques (`actuation="torque"`),
            "joint_delta" takes steps of the joints themselves and commands their positions,
            "legged" is "dls" on a base that walks.
        joints: names of the arm's joints, in their order, where the law takes steps of them.
        joint_scale: step of a full action of each [rad]; `scale` then only says what the noise of
            demonstrations is a share of.
        grip_scale: step of a full action of the gripper, 1 being all of its way.
        base_scale: speed of the base that a full action asks for, ahead and to the left [m/s],
            turning [rad/s], and its step of the base's height [m]; where the law is "legged".
        damping: damping of the least squares (squared) [m^2].
        max_joint_step: largest commanded joint lead [rad].
        pace: limits on how the target is followed, as on a real arm; None jumps to it.
    """

    rate: float = 10.0
    inner_rate: float = 40.0
    scale: float = 0.025
    turn_scale: float | None = None
    turns: tuple[str, ...] = TURNS
    gripper: bool = True
    grip: float = 0.0
    base: Literal["target", "measured"] = "target"
    frame: ActionFrame = "world"
    turn_limit: float | None = None
    orientation: Quat = FINGERS_DOWN
    start: Literal["orientation", "measured"] = "orientation"
    law: Law = "dls"
    joints: tuple[str, ...] = ()
    joint_scale: tuple[float, ...] = ()
    grip_scale: float = 1.0
    base_scale: tuple[float, ...] = ()
    damping: float = 1e-3
    max_joint_step: float = 0.15
    pace: Pace | None = None

    def action_spec(self) -> ActionSpec:
        """The contract that a policy bundle and the bridge share with this controller."""
        turns = () if self.turn_scale is None else self.turns
        names, scale = (
            (*STEPS, *turns),
            (*(self.scale,) * 3, *(self.turn_scale or 0.0,) * len(turns)),
        )
        if self.law == "joint_delta":
            names, scale = self.joints, self.joint_scale
        grip = ((GRIPPER,), (self.grip_scale,)) if self.gripper else ((), ())
        walks = (BASE, self.base_scale) if self.law == "legged" else ((), ())
        return ActionSpec(
            mode=_MODES[self.law],
            names=(*names, *grip[0], *walks[0]),
            scale=(*scale, *grip[1], *walks[1]),
            rate=self.rate,
            base=self.base,
            frame=self.frame,
            turn_limit=self.turn_limit,
        )

    def ik_spec(self) -> IkSpec:
        """How end-effector targets become joint targets."""
        return IkSpec(
            rate=self.inner_rate, damping=self.damping, max_joint_step=self.max_joint_step
        )


class Control(Protocol):
    """How actions act, as data: what `build_controller` takes and an environment asks for."""

    @property
    def law(self) -> str:
        """Name of the control law."""
        ...

    @property
    def rate(self) -> float:
        """Policy actions per second [Hz]."""
        ...

    @property
    def inner_rate(self) -> float:
        """Updates of the law per second [Hz]."""
        ...

    @property
    def scale(self) -> float:
        """What `expert_noise` is a share of: the end-effector step of a full action [m]."""
        ...

    def action_spec(self) -> ActionSpec:
        """What the numbers of an action mean."""
        ...


CommandT = TypeVar("CommandT", bound=Command)

# What the arm's side of a command holds of its own; the rest is what the policy's side says.
_ARMS_OWN = ("position", "velocity", "quat", "turning")


def followed(told: CommandT, own: CommandT) -> CommandT:
    """The command that the arm's side follows: what it was told, on from where it is itself."""

    def pick(path: Any, old: Array, new: Array) -> Array:
        return new if getattr(path[-1], "name", "") in _ARMS_OWN else old

    return jax.tree_util.tree_map_with_path(pick, told, own)


class Controller(Protocol):
    """Turns commands into actuator controls at `inner_steps` updates per action.

    Where its commands change on their way to the arm in more than `followed` knows, it has a
    method of that name, which is used where commands come late.
    """

    inner_steps: int
    n_substeps: int

    def start(self, sim: SimState) -> Command:
        """The command that holds a freshly reset world still."""
        ...

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> Command:
        """The command after an action."""
        ...

    def pace(self, command: Command, sim: SimState) -> Command:
        """One inner update of what the arm is sent, towards the target."""
        ...

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Actuator controls towards what the arm is sent, from the measured state."""
        ...
