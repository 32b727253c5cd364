"""Put what the hand holds into a hole: SERL's peg and circuit board, HIL-SERL's memory module.

Poses, thresholds, boxes, resets and scales: reference serl_family.md 2.2 and 2.3. There the hole
stands still and the hand begins somewhere above it. Ours: what is held cannot slip; roll and pitch,
which SERL's boxes let move by 0.01 to 0.05 rad, stay as they are. Where sizes and clearances are
from is said at each.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import rotation_vector, tool_quat
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.configured import EndEffectorTask
from mjx_serl.tasks.resets import arm_pose
from mjx_serl.types import PRNGKey
from scenes.build import Scene
from scenes.contract.policy_contract import FINGERS_DOWN, Pace
from scenes.contract.rotations import Vec3, quat_to_matrix
from scenes.contract.specs import TURNS, ObsField, ObsSpec
from scenes.layouts import front_camera, wrist_camera
from scenes.objects import RED, socket
from scenes.robots.panda import soft_panda
from scenes.shapes import HeldMount
from scenes.specs import MountedArm, ObjectSpec, SceneSpec

# Share of what is still to go that the expert commands at once.
_EXPERT_GAIN = 0.8
_SEATED: Any = np.asarray(FINGERS_DOWN, np.float32)
_LEVEL = 0.02  # [rad] what is pitched less goes in


@struct.dataclass
class InsertionState:
    """Nothing to carry on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InsertionConfig:
    """One thing and its hole.

    Attributes:
        held: half size of what is held; z is along the fingers [m].
        tip: how far it reaches beyond the tool centre [m].
        clearance: between it and each wall of the hole along x and y [m].
        depth: of the hole [m].
        target: of the tool centre where it is seated, in the world [m].
        home: joint positions above the target, from which a start is solved [rad].
        near: largest errors along x, y, z that count as seated [m].
        turned: largest error of the rotation about each axis [rad].
        above: height above the target at which episodes begin [m].
        spread: largest distance from there along x and y [m].
        yaw: largest turn about the vertical there [rad].
        pitch: turn about the y axis there [rad].
        low, high: the box around the target that commands stay in [m].
        episode_steps: time limit in control steps.
        control: how actions act.
        expert_noise: on the expert's steps in demonstrations, one deviation [m].
    """

    held: Vec3
    tip: float
    clearance: tuple[float, float]
    depth: float
    target: Vec3
    home: tuple[float, ...]
    near: Vec3
    turned: float
    above: float
    spread: tuple[float, float]
    yaw: float
    pitch: float = 0.0
    low: Vec3
    high: Vec3
    control: ControlConfig
    expert_noise: float
    episode_steps: int = 100

    def scene(self) -> SceneSpec:
        """A soft Panda with the thing in its hand, and the hole in a block on the table."""
        (x, y, z), (a, b, _) = self.target, self.held
        held = ObjectSpec(
            name="held",
            half_size=self.held,
            mass=0.05,
            mount=HeldMount(),
            rgba=RED,
            friction=(0.3, 0.005, 0.0001),
            pos=(0.0, 0.0, self.tip - self.held[2]),
        )
        hole = (a + self.clearance[0], b + self.clearance[1])
        return SceneSpec(
            name="insertion",
            arms=(MountedArm(robot=soft_panda(self.target, self.low, self.high)),),
            objects=(held, socket(hole=hole, depth=self.depth, seat=(x, y, z - self.tip))),
            cameras=(front_camera(), wrist_camera()),
            home=self.home,
            sim_dt=0.0025,
        )

    def build(self, scene: Scene) -> "Insertion":
        """The task for a compiled scene."""
        return Insertion(config=self, scene=scene)


OBS = ObsSpec(
    fields=(
        ObsField(name="socket_from_ee", shape=(3,), unit="m", scale=0.05, privileged=True),
        ObsField(name="ee_position", shape=(3,), unit="m", scale=1 / 3),
        ObsField(name="ee_turn", shape=(3,), unit="rad", scale=0.3),
        ObsField(name="ee_lag", shape=(3,), unit="m", scale=0.01),
        ObsField(name="ee_rotation_lag", shape=(3,), unit="rad", scale=0.1),
        ObsField(name="joint_velocity", shape=(7,), unit="rad/s", scale=1.0),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class Insertion(EndEffectorTask):
    """Bring what is held into its hole.

    Attributes:
        config, scene: of the task.
        sparse: nothing is paid before it is seated.
        obs_spec: what is observed.
        stage_names: of `stages`.
    """

    config: InsertionConfig
    scene: Scene
    sparse: bool = True
    obs_spec: ObsSpec = OBS
    stage_names: ClassVar[tuple[str, ...]] = ("inside", "seated")

    @property
    def expert_noise(self) -> float:
        """Of demonstrations [m]: with more the expert hardly ever meets the hole."""
        return self.config.expert_noise

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], InsertionState]:
        """The hand somewhere above the hole, turned a little."""
        cfg, arm = self.config, self.scene.arm
        low = jnp.array([-cfg.spread[0], -cfg.spread[1], -cfg.yaw])
        dx, dy, yaw = jax.random.uniform(key, (3,), minval=low, maxval=-low)
        position = jnp.asarray(cfg.target) + jnp.stack([dx, dy, jnp.float32(cfg.above)])
        position = jnp.clip(position, *jnp.asarray(self.scene.spec.arm.workspace))
        c, s = jnp.cos(yaw), jnp.sin(yaw)
        turn = jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        half = 0.5 * cfg.pitch
        pitched = quat_to_matrix((math.cos(half), 0.0, math.sin(half), 0.0))
        down = jnp.asarray(pitched @ quat_to_matrix(FINGERS_DOWN), jnp.float32)
        qpos = jnp.asarray(self.scene.model.key_qpos[0], jnp.float32)
        qpos = qpos.at[arm.qpos_ids].set(arm_pose(self.scene, position, turn @ down))
        return qpos.at[arm.finger_qpos_ids].set(cfg.held[1]), InsertionState()

    def reward(
        self, sim: SimState, command: Command, task_state: InsertionState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """1 where it is seated."""
        del command
        seated = self.success(sim, task_state).astype(jnp.float32)
        return seated, {"seated": seated}

    def terminated(self, sim: SimState, task_state: InsertionState) -> Bool[Array, ""]:
        """Seated."""
        return self.success(sim, task_state)

    def success(self, sim: SimState, task_state: InsertionState) -> Bool[Array, ""]:
        """Every error of the pose is within its bound."""
        del task_state
        near = jnp.abs(self._way(sim)) < jnp.asarray(self.config.near)
        return near.all() & (jnp.abs(self._turn(sim)) < self.config.turned).all()

    def stages(
        self, sim: SimState, command: Command, task_state: InsertionState
    ) -> Bool[Array, " 2"]:
        """Whether it is in the hole, and whether it is seated."""
        way, clearance = self._way(sim), jnp.asarray(self.config.clearance)
        inside = (-way[2] < self.config.depth) & (jnp.abs(way[:2]) < 2.0 * clearance).all()
        seated = self.success(sim, task_state)
        return jnp.stack([seated | inside, seated])

    def plausible(
        self, sim: SimState, command: Command, task_state: InsertionState
    ) -> Bool[Array, ""]:
        """The tool is deeper than half of the hole."""
        del command, task_state
        return -self._way(sim)[2] < 0.5 * self.config.depth

    def demonstrate(
        self, sim: SimState, command: Command, task_state: InsertionState
    ) -> Float[Array, " A"]:
        """Go above the hole and turn along it, then down; feedback at every step."""
        del task_state
        cfg, way, turn = self.config, self._way(sim), self._turn(sim)
        # Within half of the clearance it goes in; inside it may not be pulled out again.
        wanted = 0.5 * jnp.asarray(cfg.clearance)
        inside = -way[2] < cfg.depth
        longest = math.hypot(cfg.held[0], cfg.held[1])
        aligned = (jnp.abs(way[:2]) < wanted).all()
        aligned &= jnp.abs(turn[2]) < 0.5 * min(cfg.clearance) / longest
        aligned &= jnp.abs(turn[1]) < _LEVEL
        hover = way[2] + cfg.depth + 0.005
        z = jnp.where(aligned | inside, way[2], hover)
        # A proportional law on the commanded target, so that lag is not corrected twice.
        lead = command.target - sim.site_xpos[self.scene.arm.ee_site_id]
        step = _EXPERT_GAIN * (jnp.append(way[:2], z) - lead) / cfg.control.scale
        axes = jnp.asarray([TURNS.index(name) for name in cfg.control.turns])
        still = rotation_vector(command.target_quat, _SEATED)
        turns = _EXPERT_GAIN * still[axes] / (cfg.control.turn_scale or 1.0)
        return jnp.clip(jnp.concatenate([step, turns]), -1.0, 1.0)

    def _way(self, sim: SimState) -> Float[Array, " 3"]:
        """From the tool centre to where it is seated [m]."""
        return jnp.asarray(self.config.target) - sim.site_xpos[self.scene.arm.ee_site_id]

    def _turn(self, sim: SimState) -> Float[Array, " 3"]:
        """Rotation vector from the tool's orientation to the seated one [rad]."""
        return rotation_vector(tool_quat(self.scene, sim.xquat), _SEATED)


def _control(
    held: Vec3, scale: float, turn_scale: float, turns: tuple[str, ...], limit: float
) -> ControlConfig:
    return ControlConfig(
        rate=10.0,
        inner_rate=40.0,
        scale=scale,
        turn_scale=turn_scale,
        turns=turns,
        turn_limit=limit,
        gripper=False,
        grip=1.0 - held[1] / 0.04,
        start="measured",
        # SERL clips how far its target is ahead to 3 to 10 mm and 0.02 rad.
        pace=Pace(leash=0.01, turn_leash=0.05),
    )


# SERL's is one of FMB's 3D-printed pegs in its board (arXiv 2401.08553), whose sizes stand in CAD
# files alone: 2 cm square and 1 mm to each wall are ours, by eye.
_PEG: Vec3 = (0.01, 0.01, 0.03)
PEG = InsertionConfig(
    held=_PEG,
    tip=0.05,
    clearance=(0.001, 0.001),
    depth=0.03,
    target=(0.5906, 0.0777, 0.0938),
    home=(0.0886, 0.3036, 0.0439, -2.0304, -0.0182, 2.3336, 0.9285),
    near=(0.01, 0.01, 0.01),
    turned=0.2,
    above=0.1,
    spread=(0.05, 0.05),
    yaw=math.radians(30),
    low=(-0.05, -0.05, 0.0),
    high=(0.05, 0.05, 0.1),
    control=_control(_PEG, 0.02, 0.1, ("rz",), math.radians(35)),
    expert_noise=0.001,
)
# SERL tells neither board nor connector. Ours: a board as thick as most, 1.6 mm, in an edge
# connector, 0.2 mm to each side. Its threshold, 1 mm in z, is SERL's.
_BOARD: Vec3 = (0.03, 0.0008, 0.02)
PCB = InsertionConfig(
    held=_BOARD,
    tip=0.03,
    clearance=(0.0005, 0.0002),
    depth=0.006,
    target=(0.5669, 0.0021, 0.0536),
    home=(0.0026, 0.4271, 0.0011, -2.1579, -0.0008, 2.585, 0.7897),
    near=(0.003, 0.003, 0.001),
    turned=0.1,
    above=0.04,
    spread=(0.05, 0.05),
    yaw=math.radians(20),
    low=(-0.05, -0.05, -0.005),
    high=(0.05, 0.05, 0.05),
    control=_control(_BOARD, 0.02, 0.2, ("rz",), math.radians(25)),
    expert_noise=0.0003,
)
# A memory module; HIL-SERL does not tell of which generation. 133.35 mm long as all of them, 31.2
# high (31.25 of DDR4, JEDEC MO-309 in Micron's data sheets), and 1.27 thick, which is DDR3's: of
# DDR4 it is 1.4 mm (AKIBA PC Hotline, November 2015). The slot is made around it, so that 0.13 mm
# change nothing. Its clearances, 0.15 mm to each side, are ours: no socket's drawing was found.
_MODULE: Vec3 = (0.066675, 0.000635, 0.0156)
RAM = InsertionConfig(
    held=_MODULE,
    tip=0.03,
    clearance=(0.0003, 0.00015),
    depth=0.006,
    target=(0.55, 0.0, 0.06),
    home=(0.0, 0.3541, 0.0, -2.2233, 0.0, 2.5774, 0.7854),
    near=(0.003, 0.003, 0.0015),
    turned=0.1,
    above=0.05,
    spread=(0.02, 0.02),
    yaw=0.05,
    pitch=0.05,
    low=(-0.03, -0.02, -0.01),
    high=(0.03, 0.02, 0.05),
    control=_control(_MODULE, 0.01, 0.06, ("ry", "rz"), 0.4),
    expert_noise=0.0003,
)

TASKS.register("franka/peg_insertion")(PEG)
TASKS.register("franka/pcb_insertion")(PCB)
TASKS.register("franka/ram_insertion")(RAM)
