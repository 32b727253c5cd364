"""Environments of SERL, gym-hil and ManiSkill-GS by their own ids, as a table of data.

Spaces, scales and limits: SERL's franka_sim and serl_robot_infra, gym-hil 0.1.14, ManiSkill-GS
(references serl_family.md 2, vla_and_real2sim.md 1). To add one: an entry of `_ENTRIES`.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.adapters.interfaces import Ancestor, Number, Picture, Translation
from mjx_serl.envs.control.kinematics import hinge_jacobian, rotation_vector, tool_quat
from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.readings import object_position
from mjx_serl.tasks.put_cube_on_plate import SAID, third_view
from scenes.contract.specs import CameraSpec
from scenes.layouts import wrist_camera

# Stiffness of SERL's compliance mode [N/m], [N m/rad] (serl_family.md 2.2: K/D, rot).
_STIFF, _STIFF_TURN = 2000.0, 150.0
_GYM_HIL_STEP = 0.025  # [m] of a step of gym-hil's wrapped ids
# ManiSkill-GS: fingers go from -1 cm to 4 cm for -1 to 1; steps of up to 0.1 m and 0.1 rad.
_GS_FINGERS = (-0.01, 0.04)
_GS_STEP = 0.1
_GS_WIDE = 55.8  # [deg] their camera's horizontal view; 43.3 vertically, at 640 x 480


def _position(env: Env, state: EnvState) -> Float[Array, " 3"]:
    return state.sim.site_xpos[env.scene.arm.ee_site_id]


def _pose(env: Env, state: EnvState) -> Float[Array, " 7"]:
    """Position and orientation xyzw, as the robot's server says it."""
    return jnp.append(_position(env, state), jnp.roll(tool_quat(env.scene, state.sim.xquat), -1))


def _velocity(env: Env, state: EnvState) -> Float[Array, " 6"]:
    """Of the tool centre: [m/s], then [rad/s]."""
    arm, sim = env.scene.arm, state.sim
    axes = jnp.asarray(env.scene.model.jnt_axis[arm.joint_ids], jnp.float32)
    joints = sim.xpos[arm.body_ids], sim.xquat[arm.body_ids]
    jacobian = hinge_jacobian(*joints, axes, _position(env, state))
    return jacobian @ sim.qvel[jnp.asarray(arm.dof_ids)]


def _linear_velocity(env: Env, state: EnvState) -> Float[Array, " 3"]:
    return _velocity(env, state)[:3]


def _closure(env: Env, state: EnvState) -> Float[Array, " 1"]:
    """Commanded, 0 open to 1 closed."""
    del env
    return state.command.gripper[None]


def _width(env: Env, state: EnvState) -> Float[Array, " 1"]:
    """Between the fingers [m]."""
    return state.sim.qpos[jnp.asarray(env.scene.arm.finger_qpos_ids)].sum()[None]


def _force(env: Env, state: EnvState) -> Float[Array, " 3"]:
    """On the hand, as an impedance controller would feel it [N]: it lags behind what holds it."""
    return _STIFF * (_position(env, state) - state.command.position)


def _torque(env: Env, state: EnvState) -> Float[Array, " 3"]:
    measured = tool_quat(env.scene, state.sim.xquat)
    return _STIFF_TURN * rotation_vector(state.command.quat, measured)


def _cube(env: Env, state: EnvState) -> Float[Array, " 3"]:
    return object_position(env.scene, state.sim, "cube")


def _agent(env: Env, state: EnvState) -> Float[Array, " 18"]:
    """gym-hil's: joints, their velocities, gripper 0 to 255, tool centre."""
    arm, sim = env.scene.arm, state.sim
    joints = sim.qpos[jnp.asarray(arm.qpos_ids)], sim.qvel[jnp.asarray(arm.dof_ids)]
    return jnp.concatenate([*joints, 255.0 * _closure(env, state), _position(env, state)])


def _box(env: Env, state: EnvState) -> Float[Array, " 3"]:
    """gym-hil shows the first of its boxes."""
    return object_position(env.scene, state.sim, "box1")


def _joints_and_finger(env: Env, state: EnvState) -> Float[Array, " 7"]:
    arm, sim = env.scene.arm, state.sim
    finger = sim.qpos[jnp.asarray(arm.finger_qpos_ids)].mean()
    return jnp.append(sim.qpos[jnp.asarray(arm.qpos_ids)], finger)


def _joints_and_fingers(env: Env, state: EnvState) -> Float[Array, " 9"]:
    arm = env.scene.arm
    return state.sim.qpos[np.append(arm.qpos_ids, arm.finger_qpos_ids)]


def _same(env: Env, state: EnvState, action: Float[Array, " A"]) -> Float[Array, " A"]:
    del env, state
    return action


def _entries(*which: int) -> Translation:
    """Some entries of an action as they are; what the others ask for cannot be done."""

    def translate(env: Env, state: EnvState, action: Float[Array, " A"]) -> Float[Array, " a"]:
        del env, state
        return action[np.array(which)]

    return translate


def _gym_hil_base(env: Env, state: EnvState, action: Float[Array, " 7"]) -> Float[Array, " 4"]:
    """Steps [m], turns that are never done, and the gripper."""
    del env, state
    return jnp.append(action[:3] / _GYM_HIL_STEP, action[6])


def _gym_hil(env: Env, state: EnvState, action: Float[Array, " 4"]) -> Float[Array, " 4"]:
    """Steps [m], and the gripper from 0 (opens) over 1 (stays) to 2 (closes)."""
    del env, state
    return jnp.append(action[:3] / _GYM_HIL_STEP, action[3] - 1.0)


def _serl_bin(env: Env, state: EnvState, action: Float[Array, " 7"]) -> Float[Array, " 5"]:
    """Steps, yaw, and a gripper that is told to close at -0.9 and to open at 0.9."""
    del env, state
    grip = jnp.where(action[6] <= -0.9, 1.0, jnp.where(action[6] >= 0.9, -1.0, 0.0))
    return jnp.append(action[jnp.array([0, 1, 2, 5])], grip)


def _piper(env: Env, state: EnvState, action: Float[Array, " 7"]) -> Float[Array, " 7"]:
    """Joint steps, and a gripper step that opens."""
    del env, state
    return action * jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0])


def _maniskill_gs(env: Env, state: EnvState, action: Float[Array, " 7"]) -> Float[Array, " 7"]:
    """Steps [m], turns [rad], and where the fingers are to be."""
    del env
    low, high = _GS_FINGERS
    finger = low + 0.5 * (action[6] + 1.0) * (high - low)
    closure = jnp.clip(1.0 - finger / high, 0.0, 1.0)
    return jnp.append(action[:6] / _GS_STEP, closure - state.command.gripper)


def _in_front_and_behind(paths: tuple[str, str]) -> tuple[Picture, ...]:
    """Two cameras on the hand, one before it and one behind (ours: SERL does not say where)."""
    camera = wrist_camera()
    x, y, z = camera.pos
    w, qx, qy, qz = camera.quat
    # Turned by half a turn about the hand's axis.
    behind = CameraSpec(
        name="wrist_behind",
        body=camera.body,
        pos=(-x, -y, z),
        quat=(-qz, -qy, qx, w),
        fovy=camera.fovy,
    )
    return Picture(("images", paths[0]), "wrist"), Picture(("images", paths[1]), behind)


_SERL_SIM = functools.partial(
    Ancestor,
    project="SERL",
    task="franka/pick_cube_dense",
    numbers=(
        Number(("state", "panda/tcp_pos"), (3,), _position),
        Number(("state", "panda/tcp_vel"), (3,), _linear_velocity),
        Number(("state", "panda/gripper_pos"), (1,), _closure),
        Number(("state", "block_pos"), (3,), _cube, privileged=True),
    ),
    pictures=(Picture(("images", "front"), "front"), Picture(("images", "wrist"), "wrist")),
    pictures_by_choice=True,
    low=(-1.0,) * 4,
    high=(1.0,) * 4,
    translate=_same,
    differences="Franka Hand for the Robotiq 2F-85; joint targets for torques; the time limit "
    "truncates; `seed` is obeyed",
)
_GYM_HIL = functools.partial(
    Ancestor,
    project="gym-hil",
    task="franka/pick_cube",
    numbers=(
        Number(("agent_pos",), (18,), _agent),
        Number(("environment_state",), (3,), _cube, privileged=True),
    ),
    pictures=(Picture(("pixels", "front"), "front"), Picture(("pixels", "wrist"), "wrist")),
    pictures_by_choice=True,
    image_obs=False,
    success_name="succeed",
)
_GYM_HIL_DIFFERS = (
    "Franka Hand for the Robotiq 2F-85; joint targets for torques; the block always starts "
    "somewhere in its box, never fixed; steps beyond 25 mm are cut; only the sparse reward"
)
_ARRANGE = functools.partial(
    _GYM_HIL,
    task="franka/arrange_boxes",
    numbers=(
        Number(("agent_pos",), (18,), _agent),
        Number(("environment_state",), (3,), _box, privileged=True),
    ),
    # In its own 100 steps of 2.5 cm five boxes cannot be brought over.
    steps=350,
)
_ARRANGE_DIFFERS = (
    "Franka Hand for the Robotiq 2F-85; joint targets for torques; 350 steps for 100, in which it "
    "cannot be done; ends where any box leaves; steps beyond 25 mm are cut; only the sparse reward"
)
_SERL_REAL = functools.partial(
    Ancestor,
    project="SERL",
    numbers=(
        Number(("state", "tcp_pose"), (7,), _pose),
        Number(("state", "tcp_vel"), (6,), _velocity),
        Number(("state", "gripper_pose"), (1,), _width),
        Number(("state", "tcp_force"), (3,), _force),
        Number(("state", "tcp_torque"), (3,), _torque),
    ),
    low=(-1.0,) * 7,
    high=(1.0,) * 7,
)
_INSERTS = functools.partial(
    _SERL_REAL,
    pictures=_in_front_and_behind(("wrist_1", "wrist_2")),
    translate=_entries(0, 1, 2, 5),
    differences="simulated; roll, pitch and gripper entries do nothing; force and torque are what "
    "2,000 N/m and 150 N m/rad make of the hand's lag; the time limit truncates",
)

_ENTRIES: tuple[Ancestor, ...] = (
    _SERL_SIM(id="PandaPickCube-v0", image_obs=False),
    _SERL_SIM(id="PandaPickCubeVision-v0"),
    _GYM_HIL(
        id="gym_hil/PandaPickCubeBase-v0",
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
        translate=_gym_hil_base,
        differences=_GYM_HIL_DIFFERS,
    ),
    _GYM_HIL(
        id="gym_hil/PandaPickCube-v0",
        low=(*(-_GYM_HIL_STEP,) * 3, 0.0),
        high=(*(_GYM_HIL_STEP,) * 3, 2.0),
        translate=_gym_hil,
        differences=f"{_GYM_HIL_DIFFERS}; no `discrete_penalty` in `info`",
    ),
    _INSERTS(id="FrankaPegInsert-Vision-v0", task="franka/peg_insertion"),
    _INSERTS(id="FrankaPCBInsert-Vision-v0", task="franka/pcb_insertion"),
    _INSERTS(
        id="FrankaCableRoute-Vision-v0",
        task="franka/cable_routing",
        differences="simulated, the cable's other end free; roll, pitch and gripper entries do "
        "nothing; force and torque as of the insertions; the cable's pose judges, no classifier",
    ),
    _SERL_REAL(
        id="FrankaBinRelocation-Vision-v0",
        task="franka/bin_relocation_forward",
        pictures=(Picture(("images", "wrist_1"), "wrist"), Picture(("images", "front"), "front")),
        translate=_serl_bin,
        differences="simulated; forward only, the way back is `franka/bin_relocation_backward`; "
        "roll and pitch entries do nothing; force and torque as of the insertions; the cube's pose "
        "judges, no classifier",
    ),
    _ARRANGE(
        id="gym_hil/PandaArrangeBoxesBase-v0",
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
        translate=_gym_hil_base,
        differences=_ARRANGE_DIFFERS,
    ),
    _ARRANGE(
        id="gym_hil/PandaArrangeBoxes-v0",
        low=(*(-_GYM_HIL_STEP,) * 3, 0.0),
        high=(*(_GYM_HIL_STEP,) * 3, 2.0),
        translate=_gym_hil,
        differences=f"{_ARRANGE_DIFFERS}; no `discrete_penalty` in `info`",
    ),
    Ancestor(
        id="PiperMobileRobot-v0",
        project="3DGS_Vectorized_SERL",
        task="piper/mobile_pick_dense",
        numbers=(Number(("state",), (7,), _joints_and_finger),),
        pictures=(Picture(("rgb",), "3rd"),),
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
        translate=_piper,
        steps=80,
        differences="the reward's gripper term reads the gripper (theirs the base's orientation); "
        "distances are the tool centre's; a bar stands for the banana's mesh; time-outs truncate; "
        "no sleeping in `step`",
    ),
    Ancestor(
        id="GSEnv-PutCubeOnPlate-v0",
        project="ManiSkill-GS",
        task="franka/put_cube_on_plate",
        numbers=(Number(("agent", "qpos"), (9,), _joints_and_fingers),),
        pictures=(
            Picture(
                ("sensor_data", "3rd_view_camera", "rgb"),
                dataclasses.replace(third_view(), name="3rd_view_camera", fovy=_GS_WIDE),
            ),
        ),
        picture_shape=(480, 640),
        low=(*(-_GS_STEP,) * 6, -1.0),
        high=(*(_GS_STEP,) * 6, 1.0),
        translate=_maniskill_gs,
        instruction=SAID.train[0],
        differences="numpy arrays of one world or of N; the declared limits of 0.1 m and 0.1 rad "
        "are enforced; turns are rotation vectors; the pictures' middle is the optical axis; the "
        "reward is 1 on success",
    ),
)

ANCESTORS: dict[str, Ancestor] = {entry.id: entry for entry in _ENTRIES}


def ancestors_table() -> str:
    """Return the table of the README: their id, whose, our task, what differs."""
    rows = ["| id | of | our task | differences |", "|---|---|---|---|"]
    rows += [f"| `{a.id}` | {a.project} | `{a.task}` | {a.differences} |" for a in _ENTRIES]
    return "\n".join(rows)
