"""Put the cube on the plate: ManiSkill-GS's PutCubeOnPlate.

Numbers: reference vla_and_real2sim.md 1.1 and 1.2. Ours: the plate is a flat square (theirs is a
mesh), and the declared limits of an action hold (theirs are not enforced).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.instructions import Instructions
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.experts import Carry
from mjx_serl.tasks.pick_cube import OBS, PickCube, PickCubeConfig, PickState
from mjx_serl.types import PRNGKey
from scenes.build import Scene
from scenes.contract.policy_contract import Pace
from scenes.contract.robot import RobotSpec
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec
from scenes.layouts import wrist_camera
from scenes.objects import RED
from scenes.robots.fr3 import fr3
from scenes.specs import ContactSpec, MountedArm, ObjectSpec, SceneSpec

CARRY = Carry(height=0.10, near=0.02, rest=0.03, low=0.05)
# Their rotation (ahead, left, up as columns) with our axes: x right, y up, looking along -z.
_THIRD_QUAT = (0.7965157, 0.3417005, -0.2420924, -0.4361132)
_OBJECT_FRICTION = (1.0, 0.005, 0.0001)
# Their joint gains [N m/rad], [N m s/rad]: with stiffer ones random actions press the hand through
# plate and table. Their limit of 100 N m is the FR3's own, lower at the wrist, here.
_KP, _KD = (1e3,) * 7, (1e2,) * 7
# Theirs is 2 ms [s].
_SIM_DT = 0.0025
# As hard as that step lets contacts be: time constant [s], damping ratio [1].
_HARD = (2 * _SIM_DT, 1.0)
# Impedance of the pads, whose contacts with an object are the mean of both.
_CONTACT = ContactSpec(solref=_HARD, solimp=(0.99, 0.995, 0.01))
_CUBE = (0.02, 0.02, 0.02)  # half size [m]
_PLATE = (0.07, 0.07, 0.012)  # half size [m]
_BLUE = (0.16, 0.36, 0.80, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutCubeOnPlateConfig(PickCubeConfig):
    """One variant of the task.

    Attributes:
        plate_low, plate_high: box of plate positions on the table [m].
        joint_noise: deviation of the arm's joints from home at the start [rad].
        near: largest distance of the middles along the table [m].
        height: largest height of the cube's middle above the plate's [m].
        released: whether it counts only with the fingers off the cube.
        instructions: what worlds are told in words; None tells them nothing.
    """

    plate_low: tuple[float, float] = (0.40, 0.0)
    plate_high: tuple[float, float] = (0.50, 0.0)
    joint_noise: float = 0.02
    near: float = 0.07
    height: float = 0.07
    released: bool = False
    instructions: Instructions | None = None

    def scene(self) -> SceneSpec:
        """FR3, cube, plate and the camera beside the arm."""
        things = (("cube", _CUBE, (0.40, 0.20), RED), ("plate", _PLATE, (0.45, 0.0), _BLUE))
        return SceneSpec(
            name="put_cube_on_plate",
            arms=(MountedArm(robot=_robot()),),
            objects=tuple(
                ObjectSpec(
                    name=name,
                    half_size=size,
                    mass=0.3,
                    rgba=color,
                    friction=_OBJECT_FRICTION,
                    contact=_CONTACT,
                    pos=(xy[0], xy[1], size[2]),
                )
                for name, size, xy, color in things
            ),
            cameras=(third_view(), wrist_camera()),
            home=self.home,
            sim_dt=_SIM_DT,
        )

    def build(self, scene: Scene) -> "PutCubeOnPlate":
        """The task for a compiled scene."""
        return PutCubeOnPlate(config=self, scene=scene)


def _robot() -> RobotSpec:
    robot = fr3()
    # Fingers of friction 2.0.
    grip = robot.parallel_gripper
    friction = (2.0, *grip.pad_friction[1:])
    gripper = dataclasses.replace(grip, pad_friction=friction, pad_solref=_HARD)
    x, y, _ = robot.workspace_low
    # The pads reach 8 mm beyond the tool centre: lower they would be told into the table.
    low = (x, y, 0.01)
    return dataclasses.replace(robot, gripper=gripper, kp=_KP, kd=_KD, workspace_low=low)


def third_view() -> CameraSpec:
    """Their fixed camera beside the base, 640 x 480 there and square here."""
    return CameraSpec(name="third", pos=(0.075, -0.161, 0.497), quat=_THIRD_QUAT, fovy=43.3)


OBS_PLATE = ObsSpec(
    fields=(
        *OBS.fields,
        ObsField(name="plate_position", shape=(3,), unit="m", scale=1 / 3, privileged=True),
        ObsField(name="ee_rotation6d", shape=(6,), unit="1"),
        ObsField(name="joint_position", shape=(7,), unit="rad"),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class PutCubeOnPlate(PickCube):
    """Pick the cube up, carry it over the plate, let it down."""

    config: PutCubeOnPlateConfig
    obs_spec: ObsSpec = OBS_PLATE
    other: str = "plate"

    @property
    def instructions(self) -> Instructions | None:
        """What worlds are told."""
        return self.config.instructions

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], PickState]:
        """Arm about home, cube and plate each in its box."""
        qpos, state = super().sample(key)
        cfg, arm = self.config, self.scene.arm
        plate = self.scene.objects[self.other].qpos_adr
        place, noise = jax.random.split(jax.random.fold_in(key, 1))
        low, high = jnp.asarray(cfg.plate_low), jnp.asarray(cfg.plate_high)
        xy = jax.random.uniform(place, (2,), minval=low, maxval=high)
        joints = cfg.joint_noise * jax.random.normal(noise, (len(arm.qpos_ids),))
        qpos = qpos.at[plate : plate + 2].set(xy)
        return qpos.at[arm.qpos_ids].add(joints), state

    def success(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """The cube's middle is over the plate's, and not far above it."""
        del task_state
        way = self._cube(sim) - self._plate(sim)
        over = jnp.linalg.norm(way[:2]) < self.config.near
        over &= (way[2] >= 0.0) & (way[2] <= self.config.height)
        if not self.config.released:
            return over
        return over & (self._width(sim) > 2.0 * self._half_width() + 0.005)

    def terminated(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """On the plate."""
        return self.success(sim, task_state)

    def demonstrate(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> Float[Array, " 7"]:
        """Grasp as the pick task's expert; then over the plate, down, open."""
        grasp = super().demonstrate(sim, command, task_state)
        ee, cube, plate = (
            sim.site_xpos[self.scene.arm.ee_site_id],
            self._cube(sim),
            self._plate(sim),
        )
        held = self._gripped(sim, command) & (jnp.linalg.norm(cube - ee) < 0.03)
        scale, limit = self.config.control.scale, self._longest_step()
        step, low = CARRY.step(cube, plate, command.target - ee, limit)
        let_go = low & jnp.bool_(self.config.released)
        carry = jnp.concatenate([step / scale, jnp.where(let_go, -1.0, 1.0)[None]])
        action = jnp.where(held, carry, grasp)
        # Once let go over the plate it stays so: up and away.
        away = jnp.array([0.0, 0.0, limit / scale, -1.0])
        left = low & (command.gripper < 0.5)
        action = jnp.where(left, away, action)
        return jnp.concatenate([action[:3], jnp.zeros(3), action[3:]])

    def _plate(self, sim: SimState) -> Float[Array, " 3"]:
        return sim.xpos[self.scene.objects[self.other].body_id]


PUT = PutCubeOnPlateConfig(
    reward="sparse",
    home=(0.0, 0.259358403, 0.0, -2.28914773, 0.0, 2.51473323, 0.785539902),
    spawn_low=(0.30, 0.15),
    spawn_high=(0.50, 0.25),
    leave_margin=None,
    control=ControlConfig(rate=10.0, inner_rate=40.0, scale=0.1, turn_scale=0.1),
)

# As a bridge will run it: their step is four times as long as a governor lets an arm go in 0.1 s.
# Turns are a fourth too, or the noise of demonstrations, a share of both, tilts the hand.
PUT_PACED = dataclasses.replace(
    PUT,
    control=dataclasses.replace(PUT.control, scale=0.025, turn_scale=0.025, pace=Pace()),
    episode_steps=150,
)

# The first is theirs, which they never vary; the others are ours.
SAID = Instructions(
    train=(
        "pick up the cube and put it on the plate",
        "put the cube on the plate",
        "place the cube on the plate",
        "pick the cube up and place it on the plate",
        "grasp the cube and set it down on the plate",
        "move the cube onto the plate",
        "take the cube and put it onto the plate",
        "the cube should be on the plate",
    ),
    held_out=(
        "set the cube on the plate",
        "lift the cube and lay it on the plate",
        "bring the cube to the plate",
        "could you put that cube onto the plate please",
    ),
)

TASKS.register("franka/put_cube_on_plate")(PUT)
TASKS.register("franka/put_cube_on_plate_released")(dataclasses.replace(PUT, released=True))
TASKS.register("franka/put_cube_on_plate_instructed")(dataclasses.replace(PUT, instructions=SAID))
TASKS.register("franka/put_cube_on_plate_paced")(PUT_PACED)
TASKS.register("franka/put_cube_on_plate_paced_instructed")(
    dataclasses.replace(PUT_PACED, instructions=SAID)
)
