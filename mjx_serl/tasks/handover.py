"""Hand a stick from one arm to the other: HIL-SERL's object handover.

Numbers: reference serl_family.md 2.3 and the ancestor's `object_handover/config.py` (the boxes'
pitch). There a gripper reads 1 where it is open and success asks for more than 0.5 of the left one,
so the left hand gives and the right one takes. Roll and yaw, which the boxes let move by 0.01 rad,
stay as they are.

Ours: the object (a stick along the line of both hands), where the arms stand, how the stick lies in
the hand, that it varies, and that geometry judges in place of a classifier.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.arms import ArmsConfig, command_of, own_frame
from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import quat_to_mat, rotation_vector
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.readings import observe_arms, read_arms
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.configured import ConfiguredTask
from mjx_serl.types import Obs, PRNGKey
from scenes.build import Scene
from scenes.contract.policy_contract import FINGERS_DOWN, Pace
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import Quat, Vec3, quat_to_matrix
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec
from scenes.layouts import two_arms
from scenes.objects import RED
from scenes.robots.panda import panda
from scenes.specs import ContactSpec, ObjectSpec, SceneSpec

LEFT, RIGHT = "left", "right"
APART = 1.1  # of the bases [m]: the boxes of both hands then overlap by 24 cm
# Half a turn about the vertical, then fingers down: the right hand in its own base's frame.
_TURNED: Quat = (0.0, 0.0, 1.0, 0.0)
# Joint poses at the starts below, solved by `tasks.resets.arm_pose` [rad].
_HOMES = {
    LEFT: (-0.0242, 0.1196, -0.0097, -1.6793, 0.0012, 1.799, 0.7513),
    RIGHT: (0.0, -0.4908, 0.0, -2.1203, 0.0, 1.6295, -2.3562),
}
_MIDDLE = -0.01  # [m] along y: where both boxes end
_HIGHER = 0.06  # [m] the taking hand clears the stick by this much
# A little softer at the surface than the pads, within a tenth of the depth: with their impedance a
# touch throws the pad off the stick, and less than a micrometre decides whether the closing force
# then moves the finger by 1.2 mm in a control step, so that C MuJoCo and MJX part. Softer still the
# stick slips out of the hands.
_CONTACT = ContactSpec(solref=(0.01, 1.0), solimp=(0.98, 0.995, 0.001))
_EXPERT_GAIN = 0.6  # share of what is still to go that the expert commands at once


@struct.dataclass
class HandoverState:
    """For how many control steps so far only the right hand has had the stick."""

    taken: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandoverConfig:
    """The task.

    Attributes:
        stick: half size, x along it, y between the fingers [m].
        mass: of the stick [kg].
        grip: how far from its middle a hand takes the stick [m].
        slid: largest shift of the stick in the left hand when an episode begins [m].
        starts: of both tool centres, each in its own base's frame [m].
        control: of both arms.
        hold_steps: control steps for which the right hand alone must have the stick.
        lowest: height of the stick below which it is dropped, which ends the episode [m].
        fallen: so far below both tools it is dropped as well; hanging by its end it is not [m].
        episode_steps: time limit in control steps.
    """

    control: ArmsConfig
    stick: Vec3 = (0.11, 0.015, 0.012)
    mass: float = 0.05
    grip: float = 0.06
    slid: float = 0.02
    starts: tuple[Vec3, Vec3] = ((0.6, -0.02, 0.42), (0.4, 0.0, 0.5))
    hold_steps: int = 3
    lowest: float = 0.28
    fallen: float = 0.09
    episode_steps: int = 200

    def scene(self) -> SceneSpec:
        """Two Pandas that face each other, the stick, a camera beside them and one on each hand."""
        boxes = {
            LEFT: ((0.4, -0.03, 0.3), (0.67, -0.01, 0.42)),
            RIGHT: ((0.32, -0.01, 0.36), (0.67, 0.01, 0.5)),
        }
        base = two_arms(*(_boxed(*boxes[role]) for role in (LEFT, RIGHT)), apart=APART)
        x, y, z = self.starts[0]
        stick = ObjectSpec(
            name="stick",
            half_size=self.stick,
            mass=self.mass,
            rgba=RED,
            contact=_CONTACT,
            pos=(x + self.grip, y, z),
        )
        _, *wrists = base.cameras
        return dataclasses.replace(
            base,
            name="handover",
            arms=tuple(dataclasses.replace(arm, home=_HOMES[arm.role]) for arm in base.arms),
            objects=(stick,),
            cameras=(side_camera(), *wrists),
        )

    def build(self, scene: Scene) -> "Handover":
        """The task for a compiled scene."""
        return Handover(config=self, scene=scene)


def _boxed(low: Vec3, high: Vec3) -> RobotSpec:
    return dataclasses.replace(panda(), workspace_low=low, workspace_high=high)


def side_camera() -> CameraSpec:
    """A camera beside the arms, level with their hands (ours, by eye)."""
    c, s = math.cos(math.radians(40)), math.sin(math.radians(40))
    return CameraSpec(name="side", pos=(APART / 2, -0.85, 0.6), quat=(c, s, 0.0, 0.0), fovy=50)


def _fields(role: str) -> tuple[ObsField, ...]:
    fields = (
        ObsField(name="stick_from_ee", shape=(3,), unit="m", scale=0.1, privileged=True),
        ObsField(name="stick_rotation6d", shape=(6,), unit="1", privileged=True),
        ObsField(name="ee_position", shape=(3,), unit="m", scale=1 / 3),
        ObsField(name="ee_turn", shape=(3,), unit="rad", scale=0.3),
        ObsField(name="ee_lag", shape=(3,), unit="m", scale=0.02),
        ObsField(name="ee_rotation_lag", shape=(3,), unit="rad", scale=0.1),
        ObsField(name="gripper_command", shape=(1,), unit="1"),
        ObsField(name="gripper_width", shape=(1,), unit="m", scale=0.08),
        ObsField(name="joint_velocity", shape=(7,), unit="rad/s", scale=1.0),
    )
    return tuple(dataclasses.replace(field, name=f"{role}/{field.name}") for field in fields)


OBS = ObsSpec(fields=(*_fields(LEFT), *_fields(RIGHT)))


@dataclasses.dataclass(frozen=True, eq=False)
class Handover(ConfiguredTask[ArmsConfig]):
    """Bring the stick from the left hand into the right one.

    Attributes:
        config, scene: of the task.
        sparse: nothing is paid before it is done.
        obs_spec: what is observed.
    """

    config: HandoverConfig
    scene: Scene
    sparse: bool = True
    obs_spec: ObsSpec = OBS

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], HandoverState]:
        """Both hands where the ancestor's are, the stick somewhere along itself in the left one."""
        cfg, scene = self.config, self.scene
        qpos = jnp.asarray(scene.model.key_qpos[0], jnp.float32)
        slide = jax.random.uniform(key, (), minval=-cfg.slid, maxval=cfg.slid)
        place = scene.objects["stick"].qpos_adr
        qpos = qpos.at[place].add(slide)
        fingers = scene.arms[LEFT].finger_qpos_ids
        qpos = qpos.at[fingers].set(cfg.stick[1])
        return qpos, self._nothing_yet()

    def observe(self, sim: SimState, command: Command, task_state: HandoverState) -> Obs:
        """Of each arm in its own frame: stick, end effector, lag, gripper, joint velocities."""
        del task_state
        starts = {role: control.orientation for role, control in self.control.arms}
        readings = read_arms(self.scene, sim, command, starts=starts)
        return observe_arms(self.obs_spec.names, readings)

    def reward(
        self, sim: SimState, command: Command, task_state: HandoverState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """1 where it is done."""
        del command
        terms = {
            "taken": self._taken(sim).astype(jnp.float32),
            "done": self.success(sim, task_state).astype(jnp.float32),
        }
        return terms["done"], terms

    def advance(self, sim: SimState, command: Command, task_state: HandoverState) -> HandoverState:
        """Count on."""
        del command
        return HandoverState(jnp.where(self._taken(sim), task_state.taken + 1, 0))

    def resume(self, sim: SimState, last: HandoverState, key: PRNGKey) -> HandoverState:
        """Nothing is counted yet."""
        del sim, last, key
        return self._nothing_yet()

    def terminated(self, sim: SimState, task_state: HandoverState) -> Bool[Array, ""]:
        """Done, or dropped: no hand comes so low, or none has it."""
        height, cfg = self._stick(sim)[2], self.config
        tools = jnp.stack([self._tool(role, sim)[2] for role in (LEFT, RIGHT)])
        dropped = (height < cfg.lowest) | (height < tools.min() - cfg.fallen)
        return self.success(sim, task_state) | dropped

    def success(self, sim: SimState, task_state: HandoverState) -> Bool[Array, ""]:
        """The right hand has it, and the left has let go of it, long enough not to be falling."""
        del sim
        return task_state.taken >= self.config.hold_steps

    def demonstrate(
        self, sim: SimState, command: Command, task_state: HandoverState
    ) -> Float[Array, " A"]:
        """The right hand goes over its end of the stick, down, closes; then the left opens."""
        del task_state
        turned = quat_to_mat(sim.xquat[self.scene.objects["stick"].body_id])
        end = self._stick(sim) + turned @ jnp.array([self.config.grip, 0.0, 0.0])
        way = end - self._tool(RIGHT, sim)
        gripped = self._width(RIGHT, sim) < 2.2 * self.config.stick[1]
        gripped &= command_of(command, 1).gripper > 0.9
        over = jnp.abs(way[:2]) < jnp.array([0.015, 0.008])
        around = over.all() & (jnp.abs(way[2]) < 0.008)
        goal = way + jnp.array([0.0, 0.0, 1.0]) * jnp.where(over.all(), 0.0, _HIGHER)
        # The left hand brings the stick where the right one may be: beside its own start.
        x, _, z = self.config.starts[0]
        middle = jnp.array([x, _MIDDLE, z]) - self._tool(LEFT, sim)
        return jnp.concatenate(
            [
                self._go(LEFT, sim, command, jnp.where(gripped, jnp.zeros(3), middle)),
                jnp.where(gripped, -1.0, 1.0)[None],
                self._go(RIGHT, sim, command, jnp.where(gripped, jnp.zeros(3), goal)),
                jnp.where(around | gripped, 1.0, -1.0)[None],
            ]
        )

    def _go(
        self, role: str, sim: SimState, command: Command, way: Float[Array, " 3"]
    ) -> Float[Array, " 4"]:
        """Steps and turn of an arm that goes a way given in the world [m], its fingers down."""
        index = list(self.scene.arms).index(role)
        frame, own = own_frame(self.scene, role), command_of(command, index)
        control = self.control.of(role)
        at = frame.seen(sim).site_xpos[self.scene.arms[role].ee_site_id]
        # A proportional law on the commanded target, so that lag is not corrected twice.
        goal = way @ jnp.asarray(quat_to_matrix(frame.quat), jnp.float32) - (own.target - at)
        still = rotation_vector(own.target_quat, jnp.asarray(control.orientation))
        step, turn = goal / control.scale, still[1:2] / (control.turn_scale or 1.0)
        return jnp.clip(_EXPERT_GAIN * jnp.concatenate([step, turn]), -1.0, 1.0)

    def _nothing_yet(self) -> HandoverState:
        return HandoverState(jnp.zeros((), jnp.int32))

    def _taken(self, sim: SimState) -> Bool[Array, ""]:
        """The right fingers are closed on the stick, the left ones are off it."""
        half = jnp.asarray(self.config.stick)
        turned = quat_to_mat(sim.xquat[self.scene.objects["stick"].body_id])
        at = (self._tool(RIGHT, sim) - self._stick(sim)) @ turned
        held = (jnp.abs(at) < half + jnp.array([0.0, 0.0, 0.005])).all()
        held &= self._width(RIGHT, sim) < 2.0 * self.config.stick[1] + 0.003
        return held & (self._width(LEFT, sim) > 2.0 * self.config.stick[1] + 0.01)

    def _stick(self, sim: SimState) -> Float[Array, " 3"]:
        return sim.xpos[self.scene.objects["stick"].body_id]

    def _tool(self, role: str, sim: SimState) -> Float[Array, " 3"]:
        return sim.site_xpos[self.scene.arms[role].ee_site_id]

    def _width(self, role: str, sim: SimState) -> Float[Array, ""]:
        return sim.qpos[jnp.asarray(self.scene.arms[role].finger_qpos_ids)].sum()


def _control(*, orientation: Quat, grip: float) -> ControlConfig:
    return ControlConfig(
        scale=0.04,
        turn_scale=0.2,
        turns=("ry",),
        turn_limit=0.3,
        orientation=orientation,
        grip=grip,
        start="measured",
        # The ancestor clips how far its target is ahead to 5 to 10 mm and 0.02 to 0.03 rad.
        pace=Pace(leash=0.01, turn_leash=0.03),
    )


HANDOVER = HandoverConfig(
    control=ArmsConfig(
        arms=(
            (LEFT, _control(orientation=FINGERS_DOWN, grip=1.0)),
            (RIGHT, _control(orientation=_TURNED, grip=0.0)),
        )
    )
)

TASKS.register("dual_franka/handover")(HANDOVER)
