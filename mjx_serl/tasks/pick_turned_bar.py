"""Pick a bar that lies turned: it is longer than the fingers open, so the hand turns with it.

Ours: the sparse pick task (`pick_cube`) with a bar in place of the cube, and actions that turn the
hand, as those of SERL's real tasks do (7 numbers at 10 Hz; their turns are 0.06 to 0.3 rad per
action, reference serl_family.md 2.2 and 2.3).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.kinematics import quat_to_mat
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.pick_cube import OBS, SPARSE, PickCube, PickCubeConfig, PickState
from mjx_serl.types import PRNGKey
from scenes.build import Scene
from scenes.contract.policy_contract import Pace
from scenes.contract.rotations import Vec3
from scenes.contract.specs import ObsField, ObsSpec
from scenes.objects import RED
from scenes.specs import ObjectSpec, SceneSpec

# The expert comes down once the hand is turned to within this across the bar [rad].
FACED = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickTurnedBarConfig(PickCubeConfig):
    """One variant of the task.

    Attributes:
        half_size: of the bar [m]; it is longer than the 8 cm that the fingers open.
        yaw: largest turn of the bar about the vertical when an episode begins [rad].
    """

    half_size: Vec3 = (0.05, 0.018, 0.02)
    yaw: float = math.pi / 2

    def scene(self) -> SceneSpec:
        """The scene of `pick_cube` with the bar, 0.1 kg, in place of the cube."""
        place = (0.5, 0.0, self.half_size[2])
        bar = ObjectSpec(name="bar", half_size=self.half_size, mass=0.1, rgba=RED, pos=place)
        return dataclasses.replace(super().scene(), name="pick_turned_bar", objects=(bar,))

    def build(self, scene: Scene) -> "PickTurnedBar":
        """The task for a compiled scene."""
        return PickTurnedBar(config=self, scene=scene)


_BY_NAME = {field.name: field for field in OBS.fields}
TURNED_OBS = ObsSpec(
    fields=(
        dataclasses.replace(_BY_NAME["cube_position"], name="bar_position"),
        dataclasses.replace(_BY_NAME["cube_from_ee"], name="bar_from_ee"),
        ObsField(name="bar_rotation6d", shape=(6,), unit="1", privileged=True),
        *(_BY_NAME[name] for name in ("ee_position", "ee_target", "ee_lag")),
        ObsField(name="ee_rotation6d", shape=(6,), unit="1"),
        ObsField(name="ee_rotation_lag", shape=(3,), unit="rad", scale=0.1),
        *(_BY_NAME[name] for name in ("gripper_command", "gripper_width")),
        ObsField(name="joint_position", shape=(7,), unit="rad"),
        _BY_NAME["joint_velocity"],
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class PickTurnedBar(PickCube):
    """Turn the hand across the bar, then lift it off the table."""

    config: PickTurnedBarConfig
    obs_spec: ObsSpec = TURNED_OBS
    object: str = "bar"
    across: int = 1

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], PickState]:
        """Arm at home, bar flat on the table anywhere in the spawn box, turned."""
        qpos, state = super().sample(key)
        bound = self.config.yaw
        half = 0.5 * jax.random.uniform(jax.random.fold_in(key, 1), (), minval=-bound, maxval=bound)
        start = self.scene.objects[self.object].qpos_adr + 3
        zero = jnp.zeros(())
        quat = jnp.stack([jnp.cos(half), zero, zero, jnp.sin(half)])
        return qpos.at[start : start + 4].set(quat), state

    def demonstrate(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> Float[Array, " 7"]:
        """Go above the bar and turn across it, down around it, close, lift."""
        site = sim.site_xmat[self.scene.arm.ee_site_id].reshape(3, 3)
        bar = quat_to_mat(sim.xquat[self.scene.objects[self.object].body_id])
        commanded = quat_to_mat(command.target_quat)
        # What the fingers have turns with them: there is nothing left to turn to.
        closed = command.gripper > 0.5
        yaw = jnp.where(closed, 0.0, _across(commanded, bar))
        # The commanded tool axis, crossed with straight down: what noise has tilted.
        turn = jnp.stack([-commanded[1, 2], commanded[0, 2], yaw])
        faced = closed | (jnp.abs(_across(site, bar)) < FACED)
        step = super().demonstrate(sim, command, task_state)
        # Not lower than above the bar before the hand is turned.
        above = self._cube(sim)[2] + 0.1 - command.target[2]
        scale = self.config.control.scale
        z = jnp.where(faced, step[2], jnp.maximum(step[2], jnp.clip(0.6 * above / scale, -1, 1)))
        assert self.config.control.turn_scale is not None
        turns = jnp.clip(0.6 * turn / self.config.control.turn_scale, -1.0, 1.0)
        return jnp.concatenate([step[:2], z[None], turns, step[3:]])


def _across(hand: Float[Array, "3 3"], bar: Float[Array, "3 3"]) -> Float[Array, ""]:
    """Smallest turn about the vertical after which the fingers close across the bar [rad]."""
    fingers, width = (jnp.arctan2(frame[1, 1], frame[0, 1]) for frame in (hand, bar))
    return jnp.mod(width - fingers + 0.5 * math.pi, math.pi) - 0.5 * math.pi


TURNED = PickTurnedBarConfig(
    reward="sparse",
    home=SPARSE.home,
    spawn_low=SPARSE.spawn_low,
    spawn_high=SPARSE.spawn_high,
    leave_margin=SPARSE.leave_margin,
    control=ControlConfig(rate=10.0, inner_rate=40.0, scale=0.025, turn_scale=0.1),
)
# As a bridge will run it, turning included.
TURNED_PACED = dataclasses.replace(TURNED, control=dataclasses.replace(TURNED.control, pace=Pace()))

TASKS.register("franka/pick_turned_bar")(TURNED)
TASKS.register("franka/pick_turned_bar_paced")(TURNED_PACED)
