"""Operational-space torque control."""

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.end_effector import EndEffector
from mjx_serl.envs.control.kinematics import (
    damped_gram,
    factorize,
    quat_to_mat,
    solve_spd,
    substitute,
)
from mjx_serl.envs.physics.protocol import SimState, TorqueLaw
from scenes.build import Scene

_MOST_JOINTS = 8  # of the law in C++, see `native_ffi/operational_space.h`


class OperationalSpace(EndEffector):
    """Operational-space torque control with the gains of SERL's simulator.

    tau = J^T Mx a + (I - J^T Jbar^T) M a_null   (Khatib 1987); the arm is gravity compensated
    in the model, so no bias term is added. Gains: serl_family.md 2.1 (kp 200, damping ratio 1,
    null-space stiffness 0.5 towards home).
    """

    KP = 200.0
    KP_NULL = 0.5
    DAMPING = 1e-4  # of the mobility, where the arm is stretched out

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        super().__init__(config, scene)
        ids, model = self.arm.body_ids, scene.model
        self.home = jnp.asarray(scene.spec.home_q, jnp.float32)
        # Everything behind a joint moves with it; the hand and fingers count as the last link.
        mass, com, inertia = _link_inertias(scene)
        self.mass, self.com = jnp.asarray(mass, jnp.float32), jnp.asarray(com, jnp.float32)
        # Of all that each joint moves.
        self.carried = np.cumsum(mass.astype(np.float32)[::-1])[::-1].copy()
        factors = np.swapaxes(np.linalg.cholesky(inertia), -1, -2)
        self.inertia_factors = jnp.asarray(factors, jnp.float32)
        self.armature = jnp.asarray(model.dof_armature[self.arm.dof_ids], jnp.float32)
        self.ids = ids

    def torque_law(self) -> TorqueLaw | None:
        """This law as numbers; None where its command changes between updates, or it is too large.

        Its twin in C++ takes the same steps as `ctrl`, which are explained here.
        """
        arm, ids = self.arm, self.ids
        explicit = self.scene.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        if self.config.pace is not None or len(ids) > _MOST_JOINTS or explicit:
            return None
        grip = -1 if arm.gripper_ctrl_id is None else arm.gripper_ctrl_id
        places = (ids, arm.qpos_ids, arm.dof_ids, arm.ctrl_ids)
        own = (self.axes, self.mass, self.com, self.inertia_factors, self.armature, self.home)
        links = [np.asarray(x).reshape(len(ids), -1) for x in own]
        numbers = [[self.KP, self.KP_NULL, self.DAMPING], np.concatenate(links, -1).ravel()]
        return TorqueLaw(
            places=np.concatenate([[len(ids), arm.ee_site_id, grip], *places]).astype(np.int64),
            numbers=np.concatenate(numbers).astype(np.float32),
            n_updates=self.inner_steps,
            n_substeps=self.n_substeps,
        )

    def aim(self, command: Command) -> Float[Array, " 8"]:
        """What `torque_law` follows: position [m], orientation (wxyz), control of the gripper."""
        quat = command.quat if self.fixed is None else self.reach.orientation
        return jnp.concatenate([command.position, quat, self.gripper_ctrl(command)[None]])

    def mass_matrix(self, sim: SimState) -> Float[Array, "J J"]:
        """Joint-space inertia of the arm [kg m^2], by composite rigid bodies.

        Featherstone, Rigid Body Dynamics Algorithms (2008), table 6.2, with all that a joint moves
        gathered about the tool centre: short vectors that a batch of worlds fills, where a sum of
        J_i^T I_i J_i over the links multiplies many small matrices.
        """
        ids, origin = self.ids, sim.site_xpos[self.arm.ee_site_id]
        jac, turned = self.jacobian(sim), quat_to_mat(sim.xquat[ids])
        speed, axis = jac[:3].T, jac[3:].T
        com = sim.xpos[ids] - origin + _times(turned, self.com)
        # R I R^T = (R F^T) (R F^T)^T, where I = F^T F.
        factors = (turned[:, :, None, :] * self.inertia_factors[:, None, :, :]).sum(-1)
        spin = (factors[:, :, None, :] * factors[:, None, :, :]).sum(-1)
        outer = com[:, :, None] * com[:, None, :]
        square = (com * com).sum(-1)[:, None, None] * jnp.eye(3)
        spin = _behind(spin + self.mass[:, None, None] * (square - outer))
        moment = _behind(self.mass[:, None] * com)
        # Momentum of all that joint k moves at unit speed, then how much of it joint j feels.
        linear = self.carried[:, None] * speed + jnp.cross(axis, moment)
        angular = _times(spin, axis) + jnp.cross(moment, speed)
        shared = (axis[:, None] * angular[None]).sum(-1) + (speed[:, None] * linear[None]).sum(-1)
        above = jnp.triu(shared)
        return above + jnp.triu(shared, 1).T + jnp.diag(self.armature)

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint torques [N m] and the gripper position."""
        jac, mass = self.jacobian(sim), self.mass_matrix(sim)
        q, dq = sim.qpos[self.arm.qpos_ids], sim.qvel[self.arm.dof_ids]
        accel = self.KP * self.pose_error(command, sim) - 2 * np.sqrt(self.KP) * (jac @ dq)
        null = self.KP_NULL * (self.home - q) - 2 * np.sqrt(self.KP_NULL) * dq
        # Mx^-1 = J M^-1 J^T = Y^T D^-1 Y, where M = L D L^T and L Y = J^T.
        low, diag = factorize(mass)
        halves = substitute(low, jac.T)
        mobility = damped_gram(halves.T, self.DAMPING, 1.0 / diag)
        # M (I - Jbar J) a_null = M a_null - J^T Mx J a_null: one system of equations for both.
        force = solve_spd(mobility, accel - jac @ null)
        return self.assemble(jac.T @ force + mass @ null, command)


def _times(matrices: Float[Array, "J 3 3"], vectors: Float[Array, "J 3"]) -> Float[Array, "J 3"]:
    return (matrices * vectors[:, None, :]).sum(-1)


def _behind(links: Float[Array, "J *n"]) -> Float[Array, "J *n"]:
    """The sum over each link and those behind it."""
    sums = [links[-1]]
    for i in range(len(links) - 2, -1, -1):
        sums.append(sums[-1] + links[i])
    return jnp.stack(sums[::-1])


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
