"""What is measured of one world: every task's observations are computed from it."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.arms import command_of, own_frame
from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.control.kinematics import tool_quat
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.types import Obs
from scenes.build import Scene
from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Readings, observe
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


def read_arms(
    scene: Scene, sim: SimState, command: Command, *, starts: Mapping[str, Quat]
) -> dict[str, Readings]:
    """Return each arm's readings by role, in the frame of its own base.

    Args:
        scene, sim: of the world.
        command: of all arms, in the scene's order.
        starts: by role, the orientation that episodes start with in the base's frame, wxyz.
    """
    readings = {}
    for i, role in enumerate(scene.arms):
        frame = own_frame(scene, role)
        own = command_of(command, i)
        readings[role] = read(frame.scene, frame.seen(sim), own, start=starts[role])
    return readings


def observe_arms(names: Sequence[str], readings: Mapping[str, Readings]) -> Obs:
    """Compute the named observations of arms, the role before each name: "left/ee_lag".

    Raises KeyError, naming the allowed ones, for what no reading gives.
    """
    found: Obs = {}
    for name in names:
        role, _, own = name.partition("/")
        if role not in readings:
            raise UnknownNameError(unknown_name("arm", role, readings))
        found[name] = observe([own], readings[role])[own]
    return found
