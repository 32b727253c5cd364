"""Pick a cube: gym-hil's sparse PandaPickCube, SERL's dense PandaPickCube-v0, HIL-SERL-sim's.

Numbers: reference serl_family.md 2.1. Their arms have a Robotiq 2F-85, ours has the Franka Hand.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.randomize import ON_TIME, Delay, Latency, Noise, Randomize
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.configured import EndEffectorTask
from mjx_serl.tasks.rewards import distance, lift, reach
from mjx_serl.types import PRNGKey
from scenes import layouts as worlds
from scenes.build import Scene
from scenes.contract.policy_contract import Pace
from scenes.contract.specs import ObsField, ObsSpec
from scenes.specs import SceneSpec, TouchSpec

# The expert's fastest step along an axis [m/s]: the arm follows it within 2 cm.
EXPERT_SPEED = 0.5
# Of a Franka: above what is nearer its folded arm meets the limit of the fourth joint [m].
NEAR_X = 0.3


@struct.dataclass
class PickState:
    """Height of the cube when the episode began [m]."""

    start_height: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickCubeConfig:
    """One variant of the task.

    Attributes:
        reward: "sparse" pays 1 on success and ends, "dense" pays SERL's shaping at every step.
        home: joint positions at the start [rad].
        spawn_low, spawn_high: box of cube positions on the table [m].
        leave_margin: the episode ends where the cube is this far outside the box [m]; None never.
        lift_height: height above the start that counts as picked [m].
        episode_steps: time limit in control steps.
        control: how actions act.
        randomize, noise, latency: what differs between worlds, see `mjx_serl.envs.randomize`.
    """

    reward: Literal["sparse", "dense"]
    home: tuple[float, ...]
    spawn_low: tuple[float, float]
    spawn_high: tuple[float, float]
    leave_margin: float | None
    control: ControlConfig
    lift_height: float = 0.1
    episode_steps: int = 100
    randomize: tuple[Randomize, ...] = ()
    noise: tuple[Noise, ...] = ()
    latency: Latency = ON_TIME

    def scene(self) -> SceneSpec:
        """Franka, table, cube, front and wrist camera."""
        actuation = "position" if self.control.law == "dls" else "torque"
        spec = worlds.pick_cube(actuation=actuation)
        return dataclasses.replace(spec, home=self.home)

    def build(self, scene: Scene) -> "PickCube":
        """The task for a compiled scene."""
        return PickCube(config=self, scene=scene, obs_spec=obs_of(scene.spec.robot.num_joints))


OBS = ObsSpec(
    fields=(
        ObsField(name="cube_position", shape=(3,), unit="m", scale=1 / 3, privileged=True),
        ObsField(name="cube_from_ee", shape=(3,), unit="m", scale=0.2, privileged=True),
        ObsField(name="ee_position", shape=(3,), unit="m", scale=1 / 3),
        ObsField(name="ee_target", shape=(3,), unit="m", scale=1 / 3),
        ObsField(name="ee_lag", shape=(3,), unit="m", scale=0.1),
        ObsField(name="gripper_command", shape=(1,), unit="1"),
        ObsField(name="gripper_width", shape=(1,), unit="m", scale=0.08),
        ObsField(name="joint_velocity", shape=(7,), unit="rad/s", scale=3.0),
    )
)


def obs_of(num_joints: int) -> ObsSpec:
    """The observation of an arm with so many joints."""
    sized = (
        dataclasses.replace(f, shape=(num_joints,)) if f.name == "joint_velocity" else f
        for f in OBS.fields
    )
    return ObsSpec(fields=tuple(sized))


@dataclasses.dataclass(frozen=True, eq=False)
class PickCube(EndEffectorTask):
    """Lift the cube off the table.

    Attributes:
        config, scene: of the task.
        obs_spec: what is observed.
        object: name of what is picked.
        across: axis of the object that the fingers close along (0 x, 1 y).
        near_x: nearer to the base than this [m] the hand cannot come down from above.
        stage_names: of `stages`.
    """

    config: PickCubeConfig
    scene: Scene
    obs_spec: ObsSpec = OBS
    object: str = "cube"
    across: int = 0
    near_x: float = NEAR_X
    stage_names: ClassVar[tuple[str, ...]] = ("grasped", "lifted")

    @property
    def sparse(self) -> bool:
        """Whether nothing is paid before the task is solved."""
        return self.config.reward == "sparse"

    @property
    def randomize(self) -> tuple[Randomize, ...]:
        """What differs between worlds."""
        return self.config.randomize

    @property
    def noise(self) -> tuple[Noise, ...]:
        """Noise on the observation."""
        return self.config.noise

    @property
    def latency(self) -> Latency:
        """How late commands and observations come."""
        return self.config.latency

    def raised(self, task_state: PickState, rise: dict[str, Float[Array, ""]]) -> PickState:
        """The task state where objects lie higher than `sample` put them [m]."""
        return PickState(task_state.start_height + rise.get(self.object, 0.0))

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], PickState]:
        """Arm at home, cube flat on the table anywhere in the spawn box."""
        cube = self.scene.objects[self.object]
        low, high = jnp.asarray(self.config.spawn_low), jnp.asarray(self.config.spawn_high)
        xy = jax.random.uniform(key, (2,), minval=low, maxval=high)
        qpos = jnp.asarray(_home(self.scene), jnp.float32)
        qpos = qpos.at[cube.qpos_adr : cube.qpos_adr + 2].set(xy)
        return qpos, PickState(start_height=qpos[cube.qpos_adr + 2])

    def reward(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Sparse: 1 when picked. Dense: 0.3 exp(-20 d) + 0.7 clip(h / 0.2, 0, 1)."""
        del command
        ee = sim.site_xpos[self.scene.arm.ee_site_id]
        terms = {
            "reach": reach(ee, self._cube(sim), rate=20.0),
            "lift": lift(self._height(sim, task_state), full=0.2),
            "picked": self.success(sim, task_state).astype(jnp.float32),
        }
        dense = 0.3 * terms["reach"] + 0.7 * terms["lift"]
        return (dense if self.config.reward == "dense" else terms["picked"]), terms

    def terminated(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """Sparse: picked, or the cube left its box. Dense: never."""
        if self.config.reward == "dense":
            return jnp.zeros((), bool)
        return self.success(sim, task_state) | self._lost(sim)

    def success(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """The cube is `lift_height` above its start."""
        return self._height(sim, task_state) > self.config.lift_height

    def stages(self, sim: SimState, command: Command, task_state: PickState) -> Bool[Array, " 2"]:
        """Whether the hand has closed on the cube, and whether it is lifted."""
        near = distance(sim.site_xpos[self.scene.arm.ee_site_id], self._cube(sim)) < 0.03
        lifted = self.success(sim, task_state)
        return jnp.stack([lifted | (self._gripped(sim, command) & near), lifted])

    def plausible(self, sim: SimState, command: Command, task_state: PickState) -> Bool[Array, ""]:
        """The hand is as high as one that holds it, and has closed on something as wide."""
        height = sim.site_xpos[self.scene.arm.ee_site_id][2] - task_state.start_height
        wide = self._width(sim) > 1.5 * self._half_width()
        return self._gripped(sim, command) & wide & (height > self.config.lift_height - 0.03)

    def demonstrate(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> Float[Array, " 4"]:
        """Go above the cube, down around it, close, lift; feedback at every step."""
        del task_state
        ee, cube = sim.site_xpos[self.scene.arm.ee_site_id], self._cube(sim)
        offset = cube - ee
        gripped = self._gripped(sim, command)
        # What the fingers have is not let go because noise moved the hand meanwhile.
        aligned = jnp.linalg.norm(offset[:2]) < jnp.where(gripped, 0.03, 0.015)
        around = aligned & (offset[2] > -0.015)
        held = around & gripped
        lane, down = _approach(offset, cube, self.near_x)
        # A proportional law on the commanded target, so that lag is not corrected twice.
        lead = command.target - ee
        z = jnp.where(aligned | down, offset[2], offset[2] + 0.1) - lead[2]
        scale, limit = self.config.control.scale, self._longest_step()
        step = jnp.clip(0.6 * jnp.append(lane - lead[:2], z), -limit, limit)
        step = step.at[2].set(jnp.where(held, limit, step[2]))
        return jnp.clip(jnp.append(step / scale, jnp.where(around, 1.0, -1.0)), -1.0, 1.0)

    def _cube(self, sim: SimState) -> Float[Array, " 3"]:
        return sim.xpos[self.scene.objects[self.object].body_id]

    def _gripped(self, sim: SimState, command: Command) -> Bool[Array, ""]:
        """Closed around a cube the fingers stop at its width."""
        return (command.gripper > 0.5) & (self._width(sim) < 2.2 * self._half_width())

    def _width(self, sim: SimState) -> Float[Array, ""]:
        return sim.qpos[jnp.asarray(self.scene.arm.finger_qpos_ids)].sum()

    def _longest_step(self) -> float:
        """Of the expert [m]."""
        control = self.config.control
        return min(control.scale, EXPERT_SPEED / control.rate)

    def _half_width(self) -> float:
        geom = self.scene.objects[self.object].geom_id
        return float(self.scene.model.geom_size[geom, self.across])

    def _height(self, sim: SimState, task_state: PickState) -> Float[Array, ""]:
        return self._cube(sim)[2] - task_state.start_height

    def _lost(self, sim: SimState) -> Bool[Array, ""]:
        if self.config.leave_margin is None:
            return jnp.zeros((), bool)
        xy, margin = self._cube(sim)[:2], self.config.leave_margin
        low = xy < jnp.asarray(self.config.spawn_low) - margin
        high = xy > jnp.asarray(self.config.spawn_high) + margin
        return (low | high).any()


def _approach(
    offset: Float[Array, " 3"], cube: Float[Array, " 3"], near_x: float
) -> tuple[Float[Array, " 2"], Bool[Array, ""]]:
    """Where the expert goes sideways [m from the hand] and whether it may be low there.

    A cube nearer than `near_x` is entered from the front at table height: above it the folded
    arm meets the limit of its fourth joint.
    """
    near = cube[0] < near_x
    low = (offset[2] > -0.04) & (jnp.abs(offset[1]) < 0.015)
    front = jnp.append(near_x - cube[0] + offset[0], offset[1])
    lane = jnp.where(near & ~low, front, offset[:2])
    return lane, near & (low | (jnp.linalg.norm(front) < 0.015))


def _home(scene: Scene) -> np.ndarray:
    return scene.model.key_qpos[0]


class FeltPickCubeConfig(PickCubeConfig):
    """With readings of how hard the pads are pressed, for critics alone."""

    def scene(self) -> SceneSpec:
        """The same with touch readings of both pads."""
        sides = ("left", "right")
        touch = (TouchSpec(name=f"{side}_touch", geom=f"{side}_finger_pad") for side in sides)
        return dataclasses.replace(super().scene(), touch=tuple(touch))


SPARSE = PickCubeConfig(
    reward="sparse",
    home=(0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785),
    spawn_low=(0.3, -0.15),
    spawn_high=(0.5, 0.15),
    leave_margin=0.05,
    control=ControlConfig(rate=10.0, inner_rate=40.0, scale=0.025),
)
DENSE = PickCubeConfig(
    reward="dense",
    home=(0.0, -0.785, 0.0, -2.35, 0.0, 1.57, 0.785),
    spawn_low=(0.25, -0.25),
    spawn_high=(0.55, 0.25),
    leave_margin=None,
    control=ControlConfig(rate=50.0, inner_rate=50.0, scale=0.1),
)
# Torques are computed anew at every physics substep, as in SERL (its substep is 2 ms, ours 5).
OSC = dataclasses.replace(
    DENSE, control=dataclasses.replace(DENSE.control, law="osc", inner_rate=200.0)
)
# HIL-SERL-sim: SERL's task, paid once and ended where the cube's middle is at 0.11 m. Its seven
# actions count four (roll, pitch and yaw are not read), which are ours.
SIM = dataclasses.replace(DENSE, reward="sparse", lift_height=0.09, episode_steps=500)
# As a bridge will run it: targets followed at the pace that a real arm's governor keeps.
PACED = dataclasses.replace(SPARSE, control=dataclasses.replace(SPARSE.control, pace=Pace()))
# Issue 11's grid of extremes: what a grasp needs to survive on a real arm. Friction is that of all
# that touches, since MuJoCo takes the pads' for a grasp and the larger of cube and table below it.
_RANDOMIZED = {
    "randomize": (
        Randomize(
            field="friction",
            selector=("gripper", "cube", "table"),
            range=(0.4, 1.5),
            operation="abs",
            distribution="log_uniform",  # the slippery end is the hard one
        ),
        Randomize(field="mass", selector=("cube",), range=(0.5, 2.0), distribution="log_uniform"),
    ),
    "latency": Latency(action=Delay(high=0.06)),
}
RANDOMIZED = FeltPickCubeConfig(**(vars(SPARSE) | _RANDOMIZED))

TASKS.register("franka/pick_cube")(SPARSE)
TASKS.register("franka/pick_cube_randomized")(RANDOMIZED)
TASKS.register("franka/pick_cube_paced")(PACED)
TASKS.register("franka/pick_cube_sim")(SIM)
TASKS.register("franka/pick_cube_dense")(DENSE)
TASKS.register("franka/pick_cube_dense_osc")(OSC)
