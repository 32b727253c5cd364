"""Whether an arm touches the table, told from where it is: the table is a plane at z = 0."""

import dataclasses

import mujoco
import numpy as np
from jaxtyping import Array, Float, Int

from mjx_serl.envs.control.kinematics import quat_to_mat
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.rotations import quat_to_matrix


@dataclasses.dataclass(frozen=True, eq=False)
class Colliders:
    """What of the arm can meet the table: points in the frames of their bodies, and radii [m]."""

    bodies: Int[np.ndarray, " P"]
    points: Float[np.ndarray, "P 3"]
    radii: Float[np.ndarray, " P"]

    def lowest(self, sim: SimState) -> Float[Array, ""]:
        """Height of the lowest of all over the table's top [m]; below zero MuJoCo has a contact."""
        turns = quat_to_mat(sim.xquat[self.bodies])
        heights = sim.xpos[self.bodies][:, 2] + (turns[:, 2] * self.points).sum(-1)
        return (heights - self.radii).min()


def table_colliders(scene: Scene) -> Colliders:
    """Those of the scene's arm and hand, the base not counted."""
    model, arm = scene.model, scene.arm
    bodies = [*arm.body_ids, arm.hand_body_id, *arm.finger_body_ids]
    table = model.geom_contype[model.geom("table").id]
    found = []
    for geom in np.flatnonzero(
        np.isin(model.geom_bodyid, bodies) & (model.geom_conaffinity & table)
    ):
        size, turn = model.geom_size[geom], quat_to_matrix(model.geom_quat[geom])
        box = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
        signs = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
        ends = signs * size if box else np.array([[0, 0, size[1]], [0, 0, -size[1]]])
        for point in ends @ turn.T + model.geom_pos[geom]:
            found.append((model.geom_bodyid[geom], point, 0.0 if box else size[0]))
    where, points, radii = zip(*found, strict=True)
    return Colliders(np.array(where), np.array(points, np.float32), np.array(radii, np.float32))
