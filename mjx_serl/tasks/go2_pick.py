"""Walk up to a low stand and pick a cube off it: a Piper on the back of a Unitree Go2.

Ours: no ancestor has this task. Everything about the pick is the sparse pick task's
(`pick_cube`); the legs are told a speed and a height (`mjx_serl.envs.control.legged`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import quat_to_mat
from mjx_serl.envs.control.legged import LeggedCommand, into, turned
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.readings import read
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import PickCube, PickCubeConfig, PickState
from mjx_serl.types import Obs, PRNGKey
from scenes.bases import Legged
from scenes.build import Scene
from scenes.contract.policy_contract import observe
from scenes.contract.rotations import Vec3
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec
from scenes.layouts import front_camera, wrist_camera
from scenes.objects import GREY, cube
from scenes.robots.go2 import go2
from scenes.robots.piper import LEANING, piper
from scenes.shapes import FixedMount
from scenes.specs import MountedArm, ObjectSpec, SceneSpec, TableSpec

# The arm on the middle of the back, and where its base then is as the legs stand [m].
_MOUNT: Vec3 = (0.0, 0.0, 0.057)
_START: Vec3 = (0.0, 0.0, 0.2884 + 0.057)
_STAND: Vec3 = (0.12, 0.2, 0.1)  # half size [m]
_AT = (0.55, 0.0)  # middle of the stand [m]
_CUBE = 0.02  # half size [m]
# The expert walks until the cube is so far ahead, and this little beside that or to the side [m].
_AHEAD, _THERE = 0.46, 0.05
# Once the hand is this near to the cube it stays where it is [m].
_BUSY = 0.12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Go2PickConfig(PickCubeConfig):
    """One variant of the task.

    Attributes:
        start_low, start_high: box of where the base is [m] and looks [rad] at the start.
    """

    start_low: Vec3 = (-0.3, -0.2, -0.4)
    start_high: Vec3 = (0.0, 0.2, 0.4)

    def scene(self) -> SceneSpec:
        """The dog with its arm on the ground, a stand with the cube, a camera beside and on it."""
        robot = dataclasses.replace(
            piper(), workspace_low=(0.2, -0.2, -0.19), workspace_high=(0.55, 0.2, 0.15)
        )
        base = Legged(robot=go2(), mount=_MOUNT, pos=_START)
        stand = ObjectSpec(
            name="stand",
            half_size=_STAND,
            mass=5.0,
            mount=FixedMount(),
            rgba=GREY,
            pos=(*_AT, _STAND[2]),
        )
        thing = cube(half_size=_CUBE, xy=_AT)
        thing = dataclasses.replace(thing, pos=(*_AT, 2 * _STAND[2] + _CUBE))
        return SceneSpec(
            name="go2_pick",
            # In 5 ms a foot falls several millimetres into the ground before anything stops it.
            sim_dt=0.0025,
            arms=(MountedArm(robot=robot, base=base, home=self.home),),
            table=TableSpec(half_size=(1.2, 1.0), center=(0.3, 0.0), height=0.03),
            objects=(thing, stand),
            cameras=(_front_camera(), wrist_camera()),
        )

    def build(self, scene: Scene) -> "Go2Pick":
        """The task for a compiled scene."""
        return Go2Pick(config=self, scene=scene, near_x=0.0)


def _front_camera() -> CameraSpec:
    """gym-hil's in front of the robot, further away: the dog is longer than an arm (by eye)."""
    return dataclasses.replace(front_camera(), pos=(1.6, 0.0, 0.9))


OBS = ObsSpec(
    fields=(
        ObsField(name="cube_from_base", shape=(3,), unit="m", scale=0.5, privileged=True),
        ObsField(name="cube_from_tool", shape=(3,), unit="m", scale=0.2, privileged=True),
        ObsField(name="tool_from_base", shape=(3,), unit="m", scale=0.3),
        ObsField(name="target_from_tool", shape=(3,), unit="m", scale=0.1),
        ObsField(name="base_velocity", shape=(3,), unit="m/s", scale=0.3),
        ObsField(name="base_up", shape=(3,), unit="1", scale=0.2),
        ObsField(name="base_height", shape=(1,), unit="m", scale=0.3),
        ObsField(name="gripper_command", shape=(1,), unit="1"),
        ObsField(name="gripper_width", shape=(1,), unit="m", scale=0.08),
        ObsField(name="joint_position", shape=(6,), unit="rad"),
        ObsField(name="joint_velocity", shape=(6,), unit="rad/s", scale=3.0),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class Go2Pick(PickCube):
    """Walk there, pick the cube up. What is seen is along the base's heading.

    Attributes:
        expert_noise: of demonstrations [m]: with more, on the speed too, the dog never stands.
    """

    config: Go2PickConfig
    obs_spec: ObsSpec = OBS
    expert_noise: float = 0.002

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], PickState]:
        """The cube anywhere in its box on the stand, the dog in its own, looking about ahead."""
        qpos, state = super().sample(key)
        low, high = jnp.asarray(self.config.start_low), jnp.asarray(self.config.start_high)
        x, y, yaw = jax.random.uniform(jax.random.fold_in(key, 1), (3,), minval=low, maxval=high)
        base = self.scene.arm.base_qpos_ids
        quat = turned(jnp.array([1.0, 0.0, 0.0, 0.0]), yaw)
        return qpos.at[base[:2]].set(jnp.stack([x, y])).at[base[3:7]].set(quat), state

    def observe(self, sim: SimState, command: Command, task_state: PickState) -> Obs:
        """Cube, tool, its target, the base, gripper and joints."""
        del task_state
        assert isinstance(command, LeggedCommand)
        arm, here = self.scene.arm, command.seen
        readings = read(self.scene, sim, command, start=self.control.orientation)
        cube, tool, target = (
            into(here, p) for p in (self._cube(sim), readings.ee_position, readings.ee_target)
        )
        root = quat_to_mat(sim.xquat[self.scene.model.jnt_bodyid[self._free()]])
        speed = sim.qvel[arm.base_dof_ids[:6]]
        along = into(here.at[:2].set(0.0), speed[:3])
        measured = observe(
            ("gripper_command", "gripper_width", "joint_position", "joint_velocity"), readings
        )
        return measured | {
            "cube_from_base": cube,
            "cube_from_tool": cube - tool,
            "tool_from_base": tool,
            "target_from_tool": target - tool,
            "base_velocity": along.at[2].set(speed[5]),
            # The vertical as the base sees it: level it is (0, 0, 1).
            "base_up": root[2],
            "base_height": sim.qpos[arm.base_qpos_ids[2:3]],
        }

    def terminated(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """As the pick task's, or the dog has lain down or tipped over."""
        base = self.scene.arm.base_qpos_ids
        _, x, y, _ = sim.qpos[base[3:7]]
        # 1 - 2 (x^2 + y^2) is the cosine of its tilt.
        down = (sim.qpos[base[2]] < 0.2) | (x * x + y * y > 0.15)
        return super().terminated(sim, task_state) | down

    def demonstrate(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> Float[Array, " 8"]:
        """Walk until the cube is ahead in the arm's reach, then stand and pick it."""
        assert isinstance(command, LeggedCommand)
        here, cfg = command.seen, self.control
        ahead, aside, _ = into(here, self._cube(sim))
        way = jnp.stack([ahead - _AHEAD, aside, 2.0 * jnp.arctan2(aside, ahead)])
        there = (jnp.abs(way[:2]) < _THERE).all()
        tool = sim.site_xpos[self.scene.arm.ee_site_id]
        busy = jnp.linalg.norm(self._cube(sim) - tool) < _BUSY
        grasp = super().demonstrate(sim, command, task_state)
        # The pick task's steps are along the world's axes.
        step = into(jnp.append(jnp.zeros(2), here[2]), grasp[:3])
        picks = there | busy
        arm = jnp.where(picks, jnp.append(step, grasp[3]), jnp.array([0.0, 0.0, 0.0, -1.0]))
        speed = jnp.where(picks, 0.0, 2.0 * way / jnp.asarray(cfg.base_scale[:3]))
        action = jnp.concatenate([arm, speed, jnp.zeros(1)])
        return jnp.clip(action, -1.0, 1.0)

    def _free(self) -> int:
        """Id of the joint that the base floats on."""
        return int(self.scene.model.joint(f"{self.scene.spec.arm.prefix}base_free").id)


SPARSE = Go2PickConfig(
    reward="sparse",
    # The tool 0.32 m ahead of the arm's base and 0.1 m above it, leaning.
    home=(0.0, 1.4674, -0.9068, 0.0, 0.7483, 0.0),
    spawn_low=(_AT[0] - 0.06, _AT[1] - 0.14),
    spawn_high=(_AT[0] + 0.04, _AT[1] + 0.14),
    leave_margin=0.05,
    episode_steps=150,
    control=ControlConfig(
        rate=10.0,
        inner_rate=50.0,
        scale=0.025,
        law="legged",
        orientation=LEANING,
        # Ahead and aside as fast as the trot keeps its feet under it; ours.
        base_scale=(0.25, 0.15, 0.5, 0.02),
    ),
)

TASKS.register("go2_piper/pick")(SPARSE)
