"""What both laws of end-effector control share."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import (
    hinge_jacobian,
    quat_to_mat,
    rotation_error,
    rotation_vector,
    tool_quat,
)
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.policy_contract import Commanded, Pose, Reach, advance_command
from scenes.contract.quaternions import exponential, normalized, product
from scenes.contract.rotations import quat_to_matrix


class EndEffector:
    """Commands shared by both laws: box-limited steps of the target and the gripper."""

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        arm, corners = scene.arm, scene.spec.arm.workspace
        self.config, self.scene = config, scene
        self.action_spec = config.action_spec()
        self.arm = arm
        self.inner_steps = round(config.inner_rate / config.rate)
        self.n_substeps = round(1.0 / (config.inner_rate * scene.model.opt.timestep))
        self.reach = Reach(*(jnp.asarray(x, jnp.float32) for x in (*corners, config.orientation)))
        # A constant while actions cannot turn: what multiplies zeros and ones is compiled away.
        self.fixed = None if self.action_spec.turns else quat_to_matrix(config.orientation)
        self.axes = jnp.asarray(scene.model.jnt_axis[arm.joint_ids], jnp.float32)
        limits = scene.model.actuator_ctrlrange.astype(np.float32)
        self.ctrl_low, self.ctrl_high = jnp.asarray(limits[:, 0]), jnp.asarray(limits[:, 1])
        self.nu = scene.model.nu

    def start(self, sim: SimState) -> Command:
        """Hold where the arm is, the gripper as the episode begins with it."""
        here = sim.site_xpos[self.arm.ee_site_id]
        still = jnp.zeros_like(here)
        held = self.config.start == "orientation"
        quat = self.reach.orientation if held else tool_quat(self.scene, sim.xquat)
        return Command(
            target=here,
            gripper=jnp.full((), self.config.grip, jnp.float32),
            position=here,
            velocity=still,
            target_quat=quat,
            quat=quat,
            turning=still,
        )

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> Command:
        """Move and turn the target by the action inside its reach; + closes the gripper."""
        measured = Pose(sim.site_xpos[self.arm.ee_site_id], tool_quat(self.scene, sim.xquat))
        state = Commanded(last.target, last.target_quat, last.gripper)
        new = advance_command(self.action_spec, self.reach, state, measured, action)
        return last.replace(target=new.position, target_quat=new.quat, gripper=new.closure)

    def pace(self, command: Command, sim: SimState) -> Command:
        """Go on to the target no faster than the pace lets, and stay near the measured arm."""
        if self.config.pace is None:
            return command.replace(position=command.target, quat=command.target_quat)
        command = self._paced_position(command, sim)
        return command if self.fixed is not None else self._paced_turn(command, sim)

    def _paced_position(self, command: Command, sim: SimState) -> Command:
        pace, dt = self.config.pace, 1.0 / self.config.inner_rate
        assert pace is not None
        way = command.target - command.position
        velocity = _faster(way, command.velocity, pace.speed, pace.acceleration, dt)
        measured = sim.site_xpos[self.arm.ee_site_id]
        ahead = _shortened(command.position + velocity * dt - measured, pace.leash)
        position = measured + ahead
        return command.replace(position=position, velocity=(position - command.position) / dt)

    def _paced_turn(self, command: Command, sim: SimState) -> Command:
        pace, dt = self.config.pace, 1.0 / self.config.inner_rate
        assert pace is not None
        way = rotation_vector(command.quat, command.target_quat)
        turning = _faster(way, command.turning, pace.turn_speed, pace.turn_acceleration, dt)
        measured = tool_quat(self.scene, sim.xquat)
        # No further than the leash, which keeps the turn within what `exponential` is exact for.
        next_quat = product(exponential(turning * dt), command.quat)
        ahead = _shortened(rotation_vector(measured, next_quat), pace.turn_leash)
        quat = normalized(product(exponential(ahead), measured))
        return command.replace(quat=quat, turning=rotation_vector(command.quat, quat) / dt)

    def jacobian(self, sim: SimState) -> Float[Array, "6 J"]:
        """Jacobian of the end-effector site."""
        ids = self.arm.body_ids
        return hinge_jacobian(
            sim.xpos[ids], sim.xquat[ids], self.axes, sim.site_xpos[self.arm.ee_site_id]
        )

    def pose_error(self, command: Command, sim: SimState) -> Float[Array, " 6"]:
        """Position [m] and rotation [rad] from the measured to the commanded pose."""
        site = self.arm.ee_site_id
        wanted = quat_to_mat(command.quat) if self.fixed is None else jnp.asarray(self.fixed)
        rotation = rotation_error(wanted, sim.site_xmat[site].reshape(3, 3))
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


def _faster(
    way: Float[Array, " 3"],
    velocity: Float[Array, " 3"],
    speed: float,
    acceleration: float,
    dt: float,
) -> Float[Array, " 3"]:
    """The velocity after `dt` [s], on the way to where it can still be stopped: sqrt(2 a d)."""
    distance = jnp.linalg.norm(way) + 1e-9
    # Less half an update's acceleration, or it would swing past.
    braking = jnp.sqrt(2.0 * acceleration * distance) - 0.5 * acceleration * dt
    wanted = jnp.clip(braking, 0.0, jnp.minimum(speed, distance / dt))
    change = _shortened(way / distance * wanted - velocity, acceleration * dt)
    return velocity + change


def _shortened(vector: Float[Array, " 3"], longest: float) -> Float[Array, " 3"]:
    return vector * jnp.minimum(1.0, longest / (jnp.linalg.norm(vector) + 1e-9))
