"""Arrange five boxes: gym-hil's PandaArrangeBoxes, each box onto the mark of its colour.

Numbers: reference serl_family.md 2.1, and gym-hil's arrange_boxes_scene.xml and environment for
places, colours and the dense reward. What differs: the arm has the Franka Hand (theirs a Robotiq
2F-85); the episode ends where any box leaves the table's area (theirs watches the first one only);
all five boxes are observed (theirs shows the first); and it lasts 350 steps. Theirs ends after
100, in which 2.5 cm per step cannot bring five boxes over: the expert takes about 200.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TASKS
from mjx_serl.tasks.experts import Carry
from mjx_serl.tasks.pick_cube import DENSE, OBS, SPARSE, PickCube, PickCubeConfig, PickState
from mjx_serl.types import PRNGKey
from scenes.build import Scene
from scenes.contract.robot import Rgba
from scenes.contract.specs import ObsField, ObsSpec
from scenes.objects import cube
from scenes.shapes import Box, MarkerMount
from scenes.specs import ObjectSpec, SceneSpec

# What is carried is high above the boxes that lie there; it is let go 2 mm above the table.
CARRY = Carry(height=0.10, near=0.015, rest=0.022, low=0.026)
# The expert takes a box for placed this near to its mark along the table [m].
_PLACED = 0.02
# It deals with the box that is this near to the hand [m].
_AT_HAND = 0.06
_COLORS: tuple[Rgba, ...] = (
    (1.0, 0.0, 0.0, 1.0),
    (0.0, 0.0, 1.0, 1.0),
    (0.1, 0.3, 0.1, 1.0),
    (0.2, 0.66, 0.32, 1.0),
    (0.6, 0.3, 0.6, 1.0),
)
_BOXES = tuple(f"box{i}" for i in range(1, 6))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrangeBoxesConfig(PickCubeConfig):
    """One variant of the task; boxes start in a row from `spawn_low` to `spawn_high`.

    Attributes:
        row: x of the marks, which lie side by side as the boxes do [m].
        near: largest distance of each box's middle from its mark [m].
        lost_low, lost_high: the episode ends where a box is outside [m].
    """

    row: float = 0.5
    near: float = 0.03
    lost_low: tuple[float, float] = (-0.05, -0.5)
    lost_high: tuple[float, float] = (0.85, 0.5)

    def scene(self) -> SceneSpec:
        """The scene of the pick task with five boxes and, opposite, a mark for each."""
        scene, things = super().scene(), []
        for name, y, color in zip(_BOXES, self.ys, _COLORS, strict=True):
            things.append(cube(name, rgba=color, xy=(self.spawn_low[0], y)))
            things.append(_mark(name, (self.row, y), color))
        (arm,) = scene.arms
        # Theirs; the other arms' workspace ends at 0.3 m, where the outer boxes lie.
        robot = dataclasses.replace(
            arm.robot, workspace_low=(0.2, -0.5, 0.0), workspace_high=(0.6, 0.5, 0.5)
        )
        arms = (dataclasses.replace(arm, robot=robot),)
        return dataclasses.replace(scene, name="arrange_boxes", arms=arms, objects=tuple(things))

    @property
    def ys(self) -> tuple[float, ...]:
        """Places along the row, from right to left [m]."""
        return tuple(np.linspace(self.spawn_low[1], self.spawn_high[1], len(_BOXES)).tolist())

    def build(self, scene: Scene) -> "ArrangeBoxes":
        """The task for a compiled scene."""
        return ArrangeBoxes(config=self, scene=scene)


def _mark(box: str, xy: tuple[float, float], color: Rgba) -> ObjectSpec:
    # Theirs are transparent, ours pale; theirs rise 5 mm, which splats draw patchy, ours 10 mm.
    red, green, blue = (0.35 + 0.65 * c for c in color[:3])
    return ObjectSpec(
        name=f"{box}_mark",
        shape=Box((0.05, 0.05, 0.01)),
        mount=MarkerMount(),
        rgba=(red, green, blue, 1.0),
        pos=(*xy, 0.0),
    )


ARRANGE_OBS = ObsSpec(
    fields=(
        *(
            ObsField(name=f"{box}_position", shape=(3,), unit="m", scale=1 / 3, privileged=True)
            for box in _BOXES
        ),
        *(field for field in OBS.fields if not field.privileged),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrangeBoxes(PickCube):
    """Bring every box onto its mark."""

    config: ArrangeBoxesConfig
    obs_spec: ObsSpec = ARRANGE_OBS
    object: str = _BOXES[0]

    @property
    def expert_noise(self) -> float:
        """Of demonstrations [m]: with more, lining up five boxes takes too long."""
        return 0.004

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], PickState]:
        """Arm at home, the boxes' places along their row shuffled."""
        qpos = jnp.asarray(self.scene.model.key_qpos[0], jnp.float32)
        ys = jax.random.permutation(key, jnp.asarray(self.config.ys, jnp.float32))
        starts = jnp.asarray([self.scene.objects[box].qpos_adr for box in _BOXES])
        return qpos.at[starts + 1].set(ys), PickState(start_height=qpos[starts[0] + 2])

    def reward(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Sparse: 1 when all are placed. Dense: the sum of exp(-20 d) over the boxes.

        The sparse one comes once, after five boxes: from 20 demonstrations the preset laptop did
        not learn it in twelve minutes of two cores.
        """
        del command
        terms = {
            "near": jnp.exp(-20.0 * self._distances(sim)).sum(),
            "placed": (self._distances(sim) < self.config.near).astype(jnp.float32).sum(),
        }
        paid = self.success(sim, task_state).astype(jnp.float32)
        return (terms["near"] if self.config.reward == "dense" else paid), terms

    def terminated(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """All are placed, or one has left."""
        xy, cfg = self._boxes(sim)[:, :2], self.config
        low, high = xy < jnp.asarray(cfg.lost_low), xy > jnp.asarray(cfg.lost_high)
        return self.success(sim, task_state) | (low | high).any()

    def success(self, sim: SimState, task_state: PickState) -> Bool[Array, ""]:
        """The middle of every box is near its mark's."""
        del task_state
        return (self._distances(sim) < self.config.near).all()

    def demonstrate(
        self, sim: SimState, command: Command, task_state: PickState
    ) -> Float[Array, " 4"]:
        """One box after the other: grasp as the pick task's expert, carry, let down, open, up."""
        grasp = super().demonstrate(sim, command, task_state)
        box, ee = self._cube(sim), sim.site_xpos[self.scene.arm.ee_site_id]
        mark = self._marks()[self._current(sim)]
        scale, limit = self.config.control.scale, self._longest_step()
        step, low = CARRY.step(box, mark, command.target - ee, limit)
        carry = jnp.append(step / scale, jnp.where(low, -1.0, 1.0))
        held = self._gripped(sim, command) & (jnp.linalg.norm(box - ee) < 0.03)
        # Once let go it is left: up and away, until the next box is nearer.
        left = self._placed(sim)[self._current(sim)] & (command.gripper < 0.5)
        away = jnp.array([0.0, 0.0, limit / scale, -1.0])
        return jnp.where(left, away, jnp.where(held, carry, grasp))

    def _cube(self, sim: SimState) -> Float[Array, " 3"]:
        return self._boxes(sim)[self._current(sim)]

    def _current(self, sim: SimState) -> Int[Array, ""]:
        """Which box the expert deals with: the one at hand, else the first that is not placed."""
        away = jnp.linalg.norm(self._boxes(sim) - sim.site_xpos[self.scene.arm.ee_site_id], axis=1)
        later = jnp.arange(1.0, len(_BOXES) + 1) + 100.0 * self._placed(sim)
        return jnp.argmin(later - 1000.0 * (away < _AT_HAND))

    def _placed(self, sim: SimState) -> Bool[Array, " 5"]:
        aside = jnp.linalg.norm((self._boxes(sim) - self._marks())[:, :2], axis=1)
        return (aside < _PLACED) & (self._distances(sim) < self.config.near)

    def _distances(self, sim: SimState) -> Float[Array, " 5"]:
        return jnp.sqrt(jnp.sum((self._boxes(sim) - self._marks()) ** 2, axis=1) + 1e-12)

    def _boxes(self, sim: SimState) -> Float[Array, "5 3"]:
        return sim.xpos[jnp.asarray([self.scene.objects[box].body_id for box in _BOXES])]

    def _marks(self) -> Float[Array, "5 3"]:
        marks = [self.scene.spec.object(f"{box}_mark").pos for box in _BOXES]
        return jnp.asarray(marks, jnp.float32)


ARRANGE = ArrangeBoxesConfig(
    reward="sparse",
    home=DENSE.home,
    spawn_low=(0.3, -0.3),
    spawn_high=(0.3, 0.3),
    leave_margin=None,
    control=SPARSE.control,
    episode_steps=350,
)

TASKS.register("franka/arrange_boxes")(ARRANGE)
TASKS.register("franka/arrange_boxes_dense")(dataclasses.replace(ARRANGE, reward="dense"))
