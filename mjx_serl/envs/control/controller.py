"""From an action in [-1, 1] to actuator controls: end-effector steps, then joint targets."""

import dataclasses
from typing import Literal, Protocol

from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.physics.protocol import SimState
from scenes.contract.policy_contract import FINGERS_DOWN, IkSpec, Pace
from scenes.contract.rotations import quat_to_matrix
from scenes.contract.specs import ActionSpec

DOWN = quat_to_matrix(FINGERS_DOWN)


@struct.dataclass
class Command:
    """What the controller was last told.

    Attributes:
        target: commanded position of the end effector in the world [m].
        gripper: commanded closure, 0 open to 1 closed.
        position, velocity: what the arm is sent, on its way to the target [m], [m/s]; without a
            pace it is the target, at once.
    """

    target: Float[Array, "*n 3"]
    gripper: Float[Array, "*n"]
    position: Float[Array, "*n 3"]
    velocity: Float[Array, "*n 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """End-effector control: xyz steps and a gripper step, fingers down.

    Attributes:
        rate: policy actions per second [Hz].
        inner_rate: inverse-kinematics updates per second [Hz].
        scale: end-effector step of a full action [m].
        base: what a step is added to: the last commanded position or the measured one.
        law: "dls" commands joint positions, "osc" commands torques (`actuation="torque"`).
        damping: damping of the least squares (squared) [m^2].
        max_joint_step: largest commanded joint lead [rad].
        pace: limits on how the target is followed, as on a real arm; None jumps to it.
    """

    rate: float = 10.0
    inner_rate: float = 40.0
    scale: float = 0.025
    base: Literal["target", "measured"] = "target"
    law: Literal["dls", "osc"] = "dls"
    damping: float = 1e-3
    max_joint_step: float = 0.15
    pace: Pace | None = None

    def action_spec(self) -> ActionSpec:
        """The contract that a policy bundle and the bridge share with this controller."""
        return ActionSpec(
            mode="ee_delta" if self.law == "dls" else "ee_delta_osc",
            names=("x", "y", "z", "gripper"),
            scale=(self.scale,) * 3 + (1.0,),
            rate=self.rate,
            base=self.base,
        )

    def ik_spec(self) -> IkSpec:
        """How end-effector targets become joint targets."""
        return IkSpec(
            rate=self.inner_rate, damping=self.damping, max_joint_step=self.max_joint_step
        )


class Controller(Protocol):
    """Turns commands into actuator controls at `inner_steps` updates per action."""

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
