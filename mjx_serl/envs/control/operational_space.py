"""Operational-space torque control."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.end_effector import EndEffector
from mjx_serl.envs.control.kinematics import hinge_jacobian, quat_to_mat
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene


class OperationalSpace(EndEffector):
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
