"""Inverse kinematics by damped least squares, tracked by joint position actuators."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.control.end_effector import EndEffector
from mjx_serl.envs.control.kinematics import damped_gram, solve_spd
from mjx_serl.envs.physics.protocol import SimState


class DampedLeastSquares(EndEffector):
    """One damped least-squares step per update, tracked by the joint position actuators.

    dq = J^T (J J^T + damping I)^-1 e   (Nakamura and Hanafusa 1986, eq. 10)
    """

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint targets: the measured position plus a bounded step."""
        jac = self.jacobian(sim)
        gram = damped_gram(jac, self.config.damping)
        dq = jac.T @ solve_spd(gram, self.pose_error(command, sim))
        bound = self.config.max_joint_step
        return self.assemble(sim.qpos[self.arm.qpos_ids] + jnp.clip(dq, -bound, bound), command)
