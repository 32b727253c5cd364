"""Contact forces of a simulator's state, which the environments do not keep: computed anew."""

import mujoco
import numpy as np
from jaxtyping import Float

from mjx_serl.envs.physics.protocol import SimState

# An arrow is this long at 1 N [m], and longer with the cube root of the force, so that those of a
# resting cube and of a closed gripper both leave the bodies that they act on.
_LENGTH = 0.08


class ContactForces:
    """Computes them with C MuJoCo, of the nominal model.

    Args:
        model: of the scene.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self._data = model, mujoco.MjData(model)

    def at(self, sim: SimState) -> tuple[Float[np.ndarray, "C 3"], Float[np.ndarray, "C 3"]]:
        """Return where each contact of one world's state is [m], and its force [N].

        The force is what the body with the lower number does to the one with the higher.
        """
        model, data = self._model, self._data
        data.qpos[:], data.qvel[:], data.ctrl[:] = sim.qpos, sim.qvel, sim.ctrl
        mujoco.mj_forward(model, data)
        forces, own = np.zeros((data.ncon, 3)), np.zeros(6)
        for i in range(data.ncon):
            contact = data.contact[i]
            mujoco.mj_contactForce(model, data, i, own)
            # Along the axes of the contact, from its first to its second shape.
            first, second = model.geom_bodyid[contact.geom]
            sign = 1.0 if first < second else -1.0
            forces[i] = sign * own[:3] @ contact.frame.reshape(3, 3)
        return np.array(data.contact.pos).reshape(-1, 3), forces

    def arrows(self, sim: SimState) -> Float[np.ndarray, "C 2 3"]:
        """Return both ends of an arrow for each contact with a force [m]."""
        places, forces = self.at(sim)
        size = np.linalg.norm(forces, axis=1)
        places, forces, size = (x[size > 0] for x in (places, forces, size))
        ends = places + forces * (_LENGTH * size ** (-2 / 3))[:, None]
        return np.stack([places, ends], axis=1)
