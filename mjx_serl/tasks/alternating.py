"""Two tasks of one scene by turns: where one ends the other goes on, and nothing is reset.

SERL trains its bin relocation so (reference serl_family.md 1.1, "forward/backward reset-free
pair"). The two are whole tasks; `turn` says whose episode it is, and is observed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.controller import Command, Control
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import Task, TaskFactory, TaskState, expert_noise
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.build import Scene, SceneSource
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import TURN
from scenes.contract.specs import ObsField, ObsSpec
from scenes.specs import SceneSpec


@struct.dataclass
class TurnState:
    """Whose turn it is, 0 or 1, and the state of that task."""

    turn: Int[Array, "*n"]
    inner: TaskState


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlternatingConfig:
    """Two tasks that live in the same scene.

    Attributes:
        parts: what either is called.
        tasks: they.
    """

    parts: tuple[str, str]
    tasks: tuple[TaskFactory, TaskFactory]

    def scene(self) -> SceneSpec | SceneSource:
        """The scene of both; InputError where they are two."""
        one, other = (task.scene() for task in self.tasks)
        if one != other:
            raise InputError(f"tasks by turns: {' and '.join(self.parts)} have different scenes")
        return one

    def build(self, scene: Scene) -> "Alternating":
        """The task for a compiled scene; InputError where the two cannot take turns."""
        one, other = (task.build(scene) for task in self.tasks)
        for name in ("episode_steps", "control", "obs_spec"):
            if getattr(one, name) != getattr(other, name):
                raise InputError(
                    f"tasks by turns: {' and '.join(self.parts)} have another {name} each"
                )
        return Alternating(self.parts, (one, other))


@dataclasses.dataclass(frozen=True, eq=False)
class Alternating:
    """A task whose episodes are those of two others.

    Attributes:
        parts: what either is called.
        tasks: they.
    """

    parts: tuple[str, str]
    tasks: tuple[Task, Task]

    @property
    def episode_steps(self) -> int:
        """Time limit of either in control steps."""
        return self.tasks[0].episode_steps

    @property
    def control(self) -> Control:
        """How actions act."""
        return self.tasks[0].control

    @property
    def obs_spec(self) -> ObsSpec:
        """What both observe, and whose turn it is."""
        turn = ObsField(name=TURN, shape=(1,), unit="1")
        return ObsSpec(fields=(*self.tasks[0].obs_spec.fields, turn))

    @property
    def sparse(self) -> bool:
        """Whether either pays nothing before it is solved."""
        return any(getattr(task, "sparse", False) for task in self.tasks)

    @property
    def expert_noise(self) -> float:
        """Noise that both experts cope with [m]."""
        return min(expert_noise(task) for task in self.tasks)

    def part(self, task_state: TurnState) -> Int[Array, "*n"]:
        """Which of `parts` an episode is of."""
        return task_state.turn

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], TurnState]:
        """A start of either, as likely."""
        k_turn, k_start = jax.random.split(key)
        turn = jax.random.bernoulli(k_turn).astype(jnp.int32)
        qpos, inner = _of(turn, [task.sample(k_start) for task in self.tasks])
        return qpos, TurnState(turn, inner)

    def resume(self, sim: SimState, last: TurnState, key: PRNGKey) -> TurnState:
        """The other task goes on, unless that one is solved as things lie: then the same again.

        So it is where a task timed out and nothing has left its place.
        """
        begun = [self._begun(task, sim, last.inner, key) for task in self.tasks]
        solved = [task.success(sim, state) for task, state in zip(self.tasks, begun, strict=True)]
        other = 1 - last.turn
        turn = jnp.where(_of(other, solved), last.turn, other)
        return TurnState(turn, _of(turn, begun))

    def handed_over(
        self, turn: Int[Array, ""], sim: SimState, last: TurnState, key: PRNGKey
    ) -> TurnState:
        """The state in which the task of a turn goes on, as things lie."""
        begun = [self._begun(task, sim, last.inner, key) for task in self.tasks]
        return TurnState(turn, _of(turn, begun))

    def observe(self, sim: SimState, command: Command, task_state: TurnState) -> Obs:
        """What the task whose turn it is sees, and that it is its turn."""
        seen = [task.observe(sim, command, task_state.inner) for task in self.tasks]
        turn = 1.0 - 2.0 * task_state.turn.astype(jnp.float32)
        return _of(task_state.turn, seen) | {TURN: turn[None]}

    def reward(
        self, sim: SimState, command: Command, task_state: TurnState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """As of the task whose turn it is."""
        paid = [task.reward(sim, command, task_state.inner) for task in self.tasks]
        return _of(task_state.turn, paid)

    def advance(self, sim: SimState, command: Command, task_state: TurnState) -> TurnState:
        """Carry on the state of the task whose turn it is."""
        states = [task.advance(sim, command, task_state.inner) for task in self.tasks]
        return task_state.replace(inner=_of(task_state.turn, states))

    def terminated(self, sim: SimState, task_state: TurnState) -> Bool[Array, ""]:
        """As of the task whose turn it is."""
        return self._judged("terminated", sim, task_state)

    def success(self, sim: SimState, task_state: TurnState) -> Bool[Array, ""]:
        """As of the task whose turn it is."""
        return self._judged("success", sim, task_state)

    def demonstrate(
        self, sim: SimState, command: Command, task_state: TurnState
    ) -> Float[Array, " A"]:
        """The expert of the task whose turn it is."""
        actions = [task.demonstrate(sim, command, task_state.inner) for task in self.tasks]
        return _of(task_state.turn, actions)

    def _judged(self, what: str, sim: SimState, task_state: TurnState) -> Bool[Array, ""]:
        found = [getattr(task, what)(sim, task_state.inner) for task in self.tasks]
        return _of(task_state.turn, found)

    def _begun(self, task: Task, sim: SimState, last: TaskState, key: PRNGKey) -> TaskState:
        resume = getattr(task, "resume", None)
        return last if resume is None else resume(sim, last, key)


def _of(turn: Int[Array, ""], both: list[PyTree]) -> Any:
    """The one whose turn it is."""
    one, other = both
    return jax.tree.map(lambda x, y: jnp.where(turn == 0, x, y), one, other)
