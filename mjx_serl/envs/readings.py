"""What is measured of one world: every task's observations are computed from it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.control.kinematics import tool_quat
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.policy_contract import Readings
from scenes.contract.rotations import Quat


def read(scene: Scene, sim: SimState, command: Command, *, start: Quat) -> Readings:
    """Return the readings of the scene's arm and of its objects.

    Args:
        scene, sim: of the world.
        command: what the controller was last told.
        start: orientation of the end effector that episodes start with, wxyz.
    """
    arm = scene.arm
    return Readings(
        ee_position=sim.site_xpos[arm.ee_site_id],
        ee_target=command.target,
        gripper_command=command.gripper,
        gripper_width=sim.qpos[jnp.asarray(arm.finger_qpos_ids)].sum(),
        joint_velocity=sim.qvel[jnp.asarray(arm.dof_ids)],
        objects={name: object_position(scene, sim, name) for name in scene.objects},
        joint_position=sim.qpos[jnp.asarray(arm.qpos_ids)],
        ee_quat=tool_quat(scene, sim.xquat),
        ee_target_quat=command.target_quat,
        start_quat=jnp.asarray(np.asarray(start, np.float32)),
        object_quats={name: sim.xquat[entry.body_id] for name, entry in scene.objects.items()},
    )


def object_position(scene: Scene, sim: SimState, name: str) -> Float[Array, " 3"]:
    """Where an object is in the world [m]."""
    return sim.xpos[scene.objects[name].body_id]
