"""Steps of the joints themselves, tracked by the joint position actuators."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.end_effector import EndEffector
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.specs import GRIPPER


@struct.dataclass
class JointCommand(Command):
    """A command whose arm is told joint positions; `target` is where the tool centre was then.

    Attributes:
        joints: commanded positions of the arm's joints [rad].
    """

    joints: Float[Array, "*n J"]


class JointDelta(EndEffector):
    """Joint positions an action away from the measured or the last commanded ones, then held.

    As the ancestor of `piper/mobile_pick` does it (reference serl_family.md 2.1), the gripper
    included: around a thing, measured fingers press as hard as a step is long.
    """

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        super().__init__(config, scene)
        names = scene.spec.robot.joint_names
        if config.joints != names or len(config.joint_scale) != len(names):
            raise InputError(
                f"Control law 'joint_delta': joints {config.joints} with {len(config.joint_scale)} "
                f"joint_scale, allowed: {names} of the {scene.spec.robot.name}, one each"
            )
        limits = jnp.asarray(scene.model.jnt_range[self.arm.joint_ids], jnp.float32)
        self.q_low, self.q_high = limits[:, 0], limits[:, 1]
        self.scale = jnp.asarray(config.joint_scale, jnp.float32)

    def start(self, sim: SimState) -> JointCommand:
        """Hold where the arm is, the gripper as the episode begins with it."""
        start = super().start(sim)
        return JointCommand(**vars(start), joints=sim.qpos[self.arm.qpos_ids])

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> JointCommand:
        """Step the joints inside their limits, and the gripper; + closes it."""
        assert isinstance(last, JointCommand)
        bounded, measured = jnp.clip(action, -1.0, 1.0), self.config.base == "measured"
        joints = sim.qpos[self.arm.qpos_ids] if measured else last.joints
        closure = self._closure(sim) if measured else last.gripper
        if GRIPPER in self.action_spec.names:
            closure = jnp.clip(closure + self.config.grip_scale * bounded[-1], 0.0, 1.0)
        else:
            closure = last.gripper
        step = self.scale * bounded[: len(self.scale)]
        return last.replace(
            target=sim.site_xpos[self.arm.ee_site_id],
            gripper=closure,
            joints=jnp.clip(joints + step, self.q_low, self.q_high),
        )

    def pace(self, command: Command, sim: SimState) -> Command:
        """Joint targets are jumped to: a step is what it is."""
        del sim
        return command

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """The commanded joint positions."""
        del sim
        assert isinstance(command, JointCommand)
        return self.assemble(command.joints, command)

    def _closure(self, sim: SimState) -> Float[Array, ""]:
        """How far the measured fingers are closed, 0 open to 1 closed."""
        opened, closed = self.arm.gripper_opened, self.arm.gripper_closed
        finger = sim.qpos[jnp.asarray(self.arm.finger_qpos_ids)].mean()
        return (opened - finger) / (opened - closed)
