"""From an action in [-1, 1] to actuator controls: end-effector steps, then joint targets."""

import dataclasses
from typing import Literal, Protocol

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.kinematics import hinge_jacobian, quat_to_mat, rotation_error, solve_spd
from mjx_serl.envs.physics import SimState
from scenes.build import Scene
from scenes.contract.policy_contract import FINGERS_DOWN, IkSpec, Pace, advance_command
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

    def build(self, scene: Scene) -> "Controller":
        """The controller for a compiled scene; raises ValueError where the rates do not divide."""
        sim_rate = 1.0 / scene.model.opt.timestep
        for name, slow, fast in (
            ("inner_rate", self.rate, self.inner_rate),
            ("simulation rate", self.inner_rate, sim_rate),
        ):
            if abs(fast / slow - round(fast / slow)) > 1e-6:
                raise ValueError(f"{name} {fast:g} Hz is no multiple of {slow:g} Hz")
        kind = DampedLeastSquares if self.law == "dls" else OperationalSpace
        return kind(self, scene)


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


class _EndEffector:
    """Commands shared by both laws: box-limited steps of the target and the gripper."""

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        robot, arm = scene.spec.robot, scene.arm
        self.config = config
        self.action_spec = config.action_spec()
        self.arm = arm
        self.inner_steps = round(config.inner_rate / config.rate)
        self.n_substeps = round(1.0 / (config.inner_rate * scene.model.opt.timestep))
        self.low = jnp.asarray(robot.workspace_low, jnp.float32)
        self.high = jnp.asarray(robot.workspace_high, jnp.float32)
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
        """Finger position of the closure [m]."""
        return self.ctrl_high[self.arm.gripper_ctrl_id] * (1.0 - command.gripper)

    def assemble(self, arm_ctrl: Float[Array, " J"], command: Command) -> Float[Array, " nu"]:
        """All actuator controls, inside their ranges."""
        ctrl = jnp.zeros(self.nu).at[self.arm.ctrl_ids].set(arm_ctrl)
        ctrl = ctrl.at[self.arm.gripper_ctrl_id].set(self.gripper_ctrl(command))
        return jnp.clip(ctrl, self.ctrl_low, self.ctrl_high)


class DampedLeastSquares(_EndEffector):
    """One damped least-squares step per update, tracked by the joint position actuators.

    dq = J^T (J J^T + damping I)^-1 e   (Nakamura and Hanafusa 1986, eq. 10)
    """

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint targets: the measured position plus a bounded step."""
        jac = self.jacobian(sim)
        gram = jac @ jac.T + self.config.damping * jnp.eye(6)
        dq = jac.T @ solve_spd(gram, self.pose_error(command, sim))
        bound = self.config.max_joint_step
        return self.assemble(sim.qpos[self.arm.qpos_ids] + jnp.clip(dq, -bound, bound), command)


class OperationalSpace(_EndEffector):
    """Operational-space torque control with the gains of SERL's simulator.

    tau = J^T Mx a + (I - J^T Jbar^T) M a_null   (Khatib 1987); the arm is gravity compensated
    in the model, so no bias term is added. Gains: serl_family.md 2.1 (kp 200, damping ratio 1,
    null-space stiffness 0.5 towards home).
    """

    KP = 200.0
    KP_NULL = 0.5

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        super().__init__(config, scene)
        ids, model = self.arm.body_ids, scene.model
        self.home = jnp.asarray(scene.spec.home_q, jnp.float32)
        # Everything behind a joint moves with it; the hand and fingers count as the last link.
        self.mass, self.com, self.inertia = (
            jnp.asarray(x, jnp.float32) for x in _link_inertias(scene)
        )
        self.armature = jnp.asarray(model.dof_armature[self.arm.dof_ids], jnp.float32)
        self.ids = ids

    def mass_matrix(self, sim: SimState) -> Float[Array, "J J"]:
        """Joint-space inertia of the arm [kg m^2], sum of J_i^T I_i J_i over its links."""
        xpos, xmat = sim.xpos[self.ids], quat_to_mat(sim.xquat[self.ids])
        total = jnp.diag(self.armature)
        count = len(self.ids)
        for i in range(count):
            point = xpos[i] + xmat[i] @ self.com[i]
            jac = hinge_jacobian(xpos, sim.xquat[self.ids], self.axes, point)
            jac = jac * (jnp.arange(count) <= i)
            spin = xmat[i] @ self.inertia[i] @ xmat[i].T
            total += self.mass[i] * jac[:3].T @ jac[:3] + jac[3:].T @ spin @ jac[3:]
        return total

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint torques [N m] and the gripper position."""
        jac, mass = self.jacobian(sim), self.mass_matrix(sim)
        q, dq = sim.qpos[self.arm.qpos_ids], sim.qvel[self.arm.dof_ids]
        accel = self.KP * self.pose_error(command, sim) - 2 * np.sqrt(self.KP) * (jac @ dq)
        inv_mass_jt = jnp.linalg.solve(mass, jac.T)
        task_mass = jnp.linalg.inv(jac @ inv_mass_jt + 1e-4 * jnp.eye(6))
        null = self.KP_NULL * (self.home - q) - 2 * np.sqrt(self.KP_NULL) * dq
        projected = null - inv_mass_jt @ (task_mass @ (jac @ null))
        return self.assemble(jac.T @ (task_mass @ accel) + mass @ projected, command)


def _shortened(vector: Float[Array, " 3"], longest: float) -> Float[Array, " 3"]:
    return vector * jnp.minimum(1.0, longest / (jnp.linalg.norm(vector) + 1e-9))


def _link_inertias(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass [kg], centre of mass [m] and inertia [kg m^2] of each arm link in its body frame."""
    model, ids = scene.model, scene.arm.body_ids
    mass, com = np.zeros(len(ids)), np.zeros((len(ids), 3))
    inertia = np.zeros((len(ids), 3, 3))
    for i, link in enumerate(ids):
        for body, rotation, offset in _rigid_group(scene, int(link), i == len(ids) - 1):
            frame = rotation @ _matrix(model.body_iquat[body])
            m, c = model.body_mass[body], offset + rotation @ model.body_ipos[body]
            inertia[i] += frame @ np.diag(model.body_inertia[body]) @ frame.T
            inertia[i] += m * ((c @ c) * np.eye(3) - np.outer(c, c))
            com[i], mass[i] = com[i] + m * c, mass[i] + m
        com[i] /= mass[i]
        inertia[i] -= mass[i] * ((com[i] @ com[i]) * np.eye(3) - np.outer(com[i], com[i]))
    return mass, com, inertia


def _rigid_group(scene: Scene, link: int, last: bool) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Bodies taken to move with `link`: (id, rotation, offset) in its frame."""
    model = scene.model
    group = {link: (np.eye(3), np.zeros(3))}
    for body in range(link + 1, model.nbody if last else link + 1):
        parent = int(model.body_parentid[body])
        if parent in group:
            rotation, offset = group[parent]
            group[body] = (
                rotation @ _matrix(model.body_quat[body]),
                offset + rotation @ model.body_pos[body],
            )
    return [(body, *frame) for body, frame in group.items()]


def _matrix(quat: np.ndarray) -> np.ndarray:
    return np.asarray(quat_to_mat(jnp.asarray(quat)))
