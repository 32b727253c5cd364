"""What both laws of end-effector control share."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import DOWN, Command, ControlConfig
from mjx_serl.envs.control.kinematics import hinge_jacobian, rotation_error
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.policy_contract import advance_command


class EndEffector:
    """Commands shared by both laws: box-limited steps of the target and the gripper."""

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        arm, (low, high) = scene.arm, scene.spec.arm.workspace
        self.config = config
        self.action_spec = config.action_spec()
        self.arm = arm
        self.inner_steps = round(config.inner_rate / config.rate)
        self.n_substeps = round(1.0 / (config.inner_rate * scene.model.opt.timestep))
        self.low = jnp.asarray(low, jnp.float32)
        self.high = jnp.asarray(high, jnp.float32)
        self.axes = jnp.asarray(scene.model.jnt_axis[arm.joint_ids], jnp.float32)
        limits = scene.model.actuator_ctrlrange.astype(np.float32)
        self.ctrl_low, self.ctrl_high = jnp.asarray(limits[:, 0]), jnp.asarray(limits[:, 1])
        self.nu = scene.model.nu

    def start(self, sim: SimState) -> Command:
        """Hold where the arm is, gripper open."""
        here = sim.site_xpos[self.arm.ee_site_id]
        return Command(
            target=here, gripper=jnp.zeros(()), position=here, velocity=jnp.zeros_like(here)
        )

    def command(self, last: Command, sim: SimState, action: Float[Array, " 4"]) -> Command:
        """Move the target by `scale * action[:3]` [m] inside the workspace; + closes."""
        measured = sim.site_xpos[self.arm.ee_site_id]
        box, state = (self.low, self.high), (last.target, last.gripper)
        target, gripper = advance_command(self.action_spec, box, state, measured, action)
        return last.replace(target=target, gripper=gripper)

    def pace(self, command: Command, sim: SimState) -> Command:
        """Go on to the target no faster than the pace lets, and stay near the measured arm.

        The speed is that from which the target can still be stopped at: sqrt(2 a d).
        """
        pace, dt = self.config.pace, 1.0 / self.config.inner_rate
        if pace is None:
            return command.replace(position=command.target)
        way = command.target - command.position
        distance = jnp.linalg.norm(way) + 1e-9
        # Less half an update's acceleration, or it would swing past.
        braking = jnp.sqrt(2.0 * pace.acceleration * distance) - 0.5 * pace.acceleration * dt
        speed = jnp.clip(braking, 0.0, jnp.minimum(pace.speed, distance / dt))
        change = _shortened(way / distance * speed - command.velocity, pace.acceleration * dt)
        velocity = command.velocity + change
        measured = sim.site_xpos[self.arm.ee_site_id]
        ahead = _shortened(command.position + velocity * dt - measured, pace.leash)
        position = measured + ahead
        return command.replace(position=position, velocity=(position - command.position) / dt)

    def jacobian(self, sim: SimState) -> Float[Array, "6 J"]:
        """Jacobian of the end-effector site."""
        ids = self.arm.body_ids
        return hinge_jacobian(
            sim.xpos[ids], sim.xquat[ids], self.axes, sim.site_xpos[self.arm.ee_site_id]
        )

    def pose_error(self, command: Command, sim: SimState) -> Float[Array, " 6"]:
        """Position [m] and rotation [rad] from the measured to the commanded pose."""
        site = self.arm.ee_site_id
        rotation = rotation_error(jnp.asarray(DOWN), sim.site_xmat[site].reshape(3, 3))
        return jnp.concatenate([command.position - sim.site_xpos[site], rotation])

    def gripper_ctrl(self, command: Command) -> Float[Array, ""]:
        """Control of the gripper at the closure, [m] where it drives its fingers' position."""
        opened, closed = self.arm.gripper_opened, self.arm.gripper_closed
        return closed + (opened - closed) * (1.0 - command.gripper)

    def assemble(self, arm_ctrl: Float[Array, " J"], command: Command) -> Float[Array, " nu"]:
        """All actuator controls, inside their ranges."""
        ctrl = jnp.zeros(self.nu).at[self.arm.ctrl_ids].set(arm_ctrl)
        if self.arm.gripper_ctrl_id is not None:
            ctrl = ctrl.at[self.arm.gripper_ctrl_id].set(self.gripper_ctrl(command))
        return jnp.clip(ctrl, self.ctrl_low, self.ctrl_high)


def _shortened(vector: Float[Array, " 3"], longest: float) -> Float[Array, " 3"]:
    return vector * jnp.minimum(1.0, longest / (jnp.linalg.norm(vector) + 1e-9))
