"""Lift a thing off the table with one arm of a two-armed robot on wheels: PiperMobileRobot-v0.

Numbers: reference serl_family.md 2.1, and the ancestor's mobile_robot_env.py, scene.xml and
mobile_ai.xml (3DGS_Vectorized_SERL 02c103e). The top of the table is z = 0 here, 0.74115 m there.
As there the wheels are told to stand still: the base is held, and only its left arm acts.

Not as there: the gripper's term of the reward reads the gripper (theirs a number of the base's
orientation); distances are the tool centre's (theirs the flange's, 14 cm behind it, from where
nothing within 4.5 cm can be grasped); a yellow bar stands for the mesh of a banana; and the table
goes on beyond its edges, where what has left it counts as fallen.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import (
    damped_gram,
    hinge_jacobian,
    rotation_error,
    solve_spd,
)
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.configured import EndEffectorTask
from mjx_serl.tasks.rewards import distance, lift
from mjx_serl.tasks.table_contact import Colliders, table_colliders
from mjx_serl.types import PRNGKey
from scenes.bases import Planar
from scenes.build import Scene
from scenes.contract.rotations import Vec3
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec
from scenes.layouts import wrist_camera
from scenes.robots.mobile_piper import (
    THIRD_POS,
    THIRD_QUAT,
    left_base,
    mobile_piper,
    over_the_floor,
)
from scenes.specs import MountedArm, ObjectSpec, SceneSpec, TableSpec, TouchSpec

THING = "banana"
_TABLE_TOP = 0.73 + 0.01115  # over the floor [m]
_TOUCH = ("left_touch", "right_touch")
_MASS = 0.015  # [kg] of the bar with the banana's density there, 100 kg/m^3
_YELLOW = (0.93, 0.78, 0.18, 1.0)
# The expert's hand leans forward as at home [rad]: straight down it does not reach far enough.
_LEAN = 0.53
# Of a step from the measured joints the drives have done about a third when the next is taken.
_GAIN = 3.0
_HOVER, _GRIP, _RISE = 0.05, 0.004, 0.06  # above the thing before, at and after the grasp [m]
# How much a radian of lean counts beside a metre; little once it is held and only has to go up.
_LEANS, _LIFTS = 0.3, 0.03


_CONTROL = ControlConfig(
    rate=1 / 0.03,
    inner_rate=1 / 0.03,
    law="joint_delta",
    base="measured",
    joints=mobile_piper().joint_names,
    joint_scale=(0.05, 0.03, 0.03, 0.03, 0.03, 0.05),
    grip_scale=0.005 / 0.035,
    # What one joint moves the hand by at arm's length; see `ControlConfig.joint_scale`.
    scale=0.015,
)


@struct.dataclass
class MobileState:
    """Steps in a row in which a link of the arm has touched the table."""

    streak: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobilePickConfig:
    """One variant of the task.

    Attributes:
        reward: "sparse" pays 1 on success; "dense" is the ancestor's, which pays more for holding
            the thing just below `height` to the end (4.5 a step) than for lifting it (14 once).
        half_size: of the thing; its long side is along x, as the arm reaches [m].
        center: of the disc that it starts in, on the table [m].
        radius: of that disc [m].
        height: of its middle over the table that counts as lifted [m].
        near: of the tool centre to its middle, that counts as there [m].
        below: it has fallen where its middle is this far under the table's top [m].
        streak: contacts with the table in a row after which the episode ends.
        episode_steps: time limit in control steps.
        control: how actions act: joint steps from the measured pose, at 33 Hz.
    """

    reward: Literal["sparse", "dense"] = "sparse"
    half_size: Vec3 = (0.05, 0.0175, 0.02)
    center: tuple[float, float] = (0.7, 0.15)
    radius: float = 0.1
    height: float = 0.1
    near: float = 0.045
    below: float = 0.05
    streak: int = 30
    episode_steps: int = 80
    control: ControlConfig = _CONTROL

    def scene(self) -> SceneSpec:
        """The robot at its table, the thing, the camera above it and one on the hand."""
        x, y, z = left_base()
        thing = ObjectSpec(
            name=THING,
            half_size=self.half_size,
            mass=_MASS,
            rgba=_YELLOW,
            pos=(*self.center, self.half_size[2]),
        )
        return SceneSpec(
            name="piper_mobile_pick",
            arms=(MountedArm(robot=mobile_piper(), base=Planar(pos=(x, y, z - _TABLE_TOP))),),
            table=TableSpec(half_size=(0.3, 0.6), center=(0.7, 0.0), height=_TABLE_TOP),
            objects=(thing,),
            cameras=(_third(), wrist_camera()),
            touch=tuple(
                TouchSpec(name=name, geom=f"{name.removesuffix('_touch')}_finger_pad")
                for name in _TOUCH
            ),
        )

    def build(self, scene: Scene) -> "MobilePick":
        """The task for a compiled scene."""
        return MobilePick(config=self, scene=scene, links=table_colliders(scene))


def _third() -> CameraSpec:
    """The ancestor's camera "3rd" on the mast; the base is held, so it is fixed in the world."""
    x, y, z = over_the_floor(THIRD_POS)
    return CameraSpec(name="3rd", pos=(x, y, z - _TABLE_TOP), quat=THIRD_QUAT, fovy=65)


OBS = ObsSpec(
    fields=(
        ObsField(name=f"{THING}_position", shape=(3,), unit="m", scale=1 / 3, privileged=True),
        ObsField(name=f"{THING}_from_ee", shape=(3,), unit="m", scale=0.2, privileged=True),
        ObsField(name="ee_position", shape=(3,), unit="m", scale=1 / 3),
        ObsField(name="ee_rotation6d", shape=(6,), unit="1"),
        ObsField(name="joint_position", shape=(6,), unit="rad"),
        ObsField(name="joint_velocity", shape=(6,), unit="rad/s", scale=3.0),
        ObsField(name="gripper_width", shape=(1,), unit="m", scale=0.07),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class MobilePick(EndEffectorTask):
    """Lift the thing.

    Attributes:
        config, scene: of the task.
        links: what of the arm can meet the table.
        obs_spec: what is observed; the ancestor's `state` is joint_position and gripper_width / 2.
        expert_noise: of demonstrations: a fifth of a full action, see `ControlConfig.scale`.
    """

    config: MobilePickConfig
    scene: Scene
    links: Colliders
    obs_spec: ObsSpec = OBS
    expert_noise: float = 0.003

    @property
    def sparse(self) -> bool:
        """Whether nothing is paid before it is lifted."""
        return self.config.reward == "sparse"

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], MobileState]:
        """Arm at home, the thing anywhere in its disc."""
        cfg = self.config
        angle, share = jax.random.uniform(key, (2,)) * jnp.array([2 * jnp.pi, 1.0])
        away = cfg.radius * jnp.sqrt(share) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        qpos = jnp.asarray(self.scene.model.key_qpos[0], jnp.float32)
        at = self.scene.objects[THING].qpos_adr
        xy = jnp.asarray(cfg.center) + away
        return qpos.at[at : at + 2].set(xy), MobileState(streak=jnp.zeros((), jnp.int32))

    def reward(
        self, sim: SimState, command: Command, task_state: MobileState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Sparse: 1 when lifted. Dense, of stages that begin where the one before is reached:

        1 - tanh(5 d); within `near` 1 and half of how far the gripper is closed; with both fingers
        on it 1 and the share of the lift; lifted 10; less 5 fallen, less 5 where the arm touches
        the table and 10 more where it has done so for too long. So the dense one, as the
        ancestor's, pays more for holding it below `height` to the end (up to 4.5 a step) than for
        lifting it (14 once, and the episode is over): what maximises it does not lift. Of `train.py
        --preset=laptop --task=piper/mobile_pick_dense --seed=0` no check up to 24,000 env steps saw
        it lifted, while their return rose from 30 to 160.
        """
        del command
        near, held = self._near(sim), self._held(sim)
        terms = {
            "reach": 1.0 - jnp.tanh(5.0 * distance(self._tool(sim), self._thing(sim))),
            "near": near.astype(jnp.float32),
            "closed": near * self._closed(sim),
            "held": held.astype(jnp.float32),
            "lift": held * lift(self._thing(sim)[2], full=self.config.height),
            "lifted": self.success(sim, task_state).astype(jnp.float32),
            "fallen": self._fallen(sim).astype(jnp.float32),
            "touches": (task_state.streak > 0).astype(jnp.float32),
            "presses": self._presses(task_state).astype(jnp.float32),
        }
        weights = {"closed": 0.5, "lifted": 10.0, "fallen": -5.0, "touches": -5.0, "presses": -10.0}
        dense = jnp.stack([weights.get(name, 1.0) * x for name, x in terms.items()]).sum()
        return (terms["lifted"] if self.sparse else dense), terms

    def advance(self, sim: SimState, command: Command, task_state: MobileState) -> MobileState:
        """Count on while the arm touches the table."""
        del command
        touches = self.links.lowest(sim) < 0.0
        return MobileState(streak=jnp.where(touches, task_state.streak + 1, 0))

    def terminated(self, sim: SimState, task_state: MobileState) -> Bool[Array, ""]:
        """Lifted, fallen, or pressed on the table for too long."""
        return self.success(sim, task_state) | self._fallen(sim) | self._presses(task_state)

    def success(self, sim: SimState, task_state: MobileState) -> Bool[Array, ""]:
        """It is as high as wanted, between both fingers."""
        del task_state
        return self._held(sim) & (self._thing(sim)[2] >= self.config.height)

    def demonstrate(
        self, sim: SimState, command: Command, task_state: MobileState
    ) -> Float[Array, " 7"]:
        """Lean the hand, go above the thing, down around it, close, lift."""
        del command, task_state
        way = self._thing(sim) - self._tool(sim)
        # Not by touch, which comes and goes while it is carried.
        width = sim.qpos[jnp.asarray(self.scene.arm.finger_qpos_ids)].sum()
        held = width < 2.2 * self.config.half_size[1]
        aside = jnp.linalg.norm(way[:2])
        around = (aside < jnp.where(held, 0.03, 0.015)) & (way[2] + _GRIP > -0.01)
        # Down along a funnel, so that the last centimetres are straight.
        before = jnp.clip(3.0 * (aside - 0.01), _GRIP, _HOVER)
        up = jnp.where(around, jnp.where(held, _RISE - way[2], _GRIP), before)
        way = way + jnp.array([0.0, 0.0, 1.0]) * up
        joints = _joint_step(self.scene, sim, way, jnp.where(around & held, _LIFTS, _LEANS))
        action = _GAIN * joints / jnp.asarray(self.control.joint_scale)
        # All joints slower where one would be too fast, so that the hand goes straight.
        action = action / jnp.maximum(1.0, jnp.abs(action).max())
        return jnp.append(action, jnp.where(around, 1.0, -1.0))

    def _tool(self, sim: SimState) -> Float[Array, " 3"]:
        return sim.site_xpos[self.scene.arm.ee_site_id]

    def _thing(self, sim: SimState) -> Float[Array, " 3"]:
        return sim.xpos[self.scene.objects[THING].body_id]

    def _near(self, sim: SimState) -> Bool[Array, ""]:
        return distance(self._tool(sim), self._thing(sim)) < self.config.near

    def _closed(self, sim: SimState) -> Float[Array, ""]:
        """How far the gripper is closed, 0 to 1."""
        arm = self.scene.arm
        finger = sim.qpos[jnp.asarray(arm.finger_qpos_ids)].mean()
        return jnp.clip(1.0 - finger / arm.gripper_opened, 0.0, 1.0)

    def _held(self, sim: SimState) -> Bool[Array, ""]:
        """It is near, and both fingers touch something: that is it where they are off the table."""
        pressed = [(sim.sensordata[self.scene.sensor(name)] > 0.0).all() for name in _TOUCH]
        return self._near(sim) & pressed[0] & pressed[1]

    def _fallen(self, sim: SimState) -> Bool[Array, ""]:
        table = self.scene.spec.table
        away = jnp.abs(self._thing(sim)[:2] - jnp.asarray(table.center))
        outside = (away > jnp.asarray(table.half_size)).any()
        return outside | (self._thing(sim)[2] < -self.config.below)

    def _presses(self, task_state: MobileState) -> Bool[Array, ""]:
        return task_state.streak > self.config.streak


def _joint_step(
    scene: Scene, sim: SimState, way: Float[Array, " 3"], leans: Float[Array, ""]
) -> Float[Array, " J"]:
    """Joint step [rad] that moves the tool by `way` [m] and leans it, by damped least squares.

    Args:
        leans: how much a radian of lean counts beside a metre.
    """
    arm, model = scene.arm, scene.model
    ids, site = arm.body_ids, arm.ee_site_id
    axes = jnp.asarray(model.jnt_axis[arm.joint_ids], jnp.float32)
    weights = jnp.append(jnp.ones(3), jnp.full(3, leans))
    jac = hinge_jacobian(sim.xpos[ids], sim.xquat[ids], axes, sim.site_xpos[site])
    jac = weights[:, None] * jac
    c, s = np.cos(_LEAN), np.sin(_LEAN)
    leaning = jnp.asarray([[c, 0.0, s], [0.0, -1.0, 0.0], [s, 0.0, -c]], jnp.float32)
    turn = rotation_error(leaning, sim.site_xmat[site].reshape(3, 3))
    gram = damped_gram(jac, 1e-3)
    return jac.T @ solve_spd(gram, weights * jnp.concatenate([way, turn]))


SPARSE = MobilePickConfig()

TASKS.register("piper/mobile_pick")(SPARSE)
TASKS.register("piper/mobile_pick_dense")(dataclasses.replace(SPARSE, reward="dense"))
