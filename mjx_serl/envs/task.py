"""What a task is: where episodes start, what is seen, what is rewarded, when it ends."""

import dataclasses
from typing import Any, Protocol

import jax
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.control.controller import Command, Control
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.registry import Registry
from mjx_serl.types import Obs, PRNGKey
from scenes.build import Scene, SceneSource
from scenes.contract.specs import ObsSpec
from scenes.specs import SceneSpec

EXPERT_NOISE = 0.0075  # on the end-effector steps of demonstrations, one deviation [m]

TaskState = Any  # each task declares its own flax.struct.dataclass
# Position [m] and orientation (wxyz), in the world, by the name of an object on a `MarkerMount`.
Markers = dict[str, tuple[Float[Array, " 3"], Float[Array, " 4"]]]


class Task(Protocol):
    """Pure functions of one world; a frozen object holds the constants.

    Rewards come with their unscaled terms by name, for the logs. `demonstrate` raises
    NotImplementedError where no scripted expert exists. One with a true property `sparse` pays
    nothing before it is solved, which a run without demonstrations warns of. One lists what differs
    between worlds in `randomize`, `noise` and `latency` (`mjx_serl.envs.randomize`), and says in
    `raised(task_state, rise)` what changes where objects, by name, lie higher [m] than `sample` put
    them. Six more are asked for where a task has them: `resume(sim, last, key)`, the task state
    of an episode that goes on where one ended whose task state was `last`; `markers(sim,
    task_state)`, where the scene's markers are (`Markers`); `expert_noise` [m], where the expert
    must not be disturbed by `EXPERT_NOISE`; `instructions`, what its worlds are told in words
    (`mjx_serl.envs.instructions`); `stages(sim, command, task_state)`, flags of what is
    reached in order, the last of them success, named by `stage_names`; and `plausible(sim,
    command, task_state)`, whether what the arm itself can measure speaks for success, against
    which a classifier's verdict is held.
    """

    @property
    def episode_steps(self) -> int:
        """Time limit in control steps."""
        ...

    @property
    def control(self) -> Control:
        """How actions act."""
        ...

    @property
    def obs_spec(self) -> ObsSpec:
        """Names, shapes and units of the observation."""
        ...

    def sample(self, key: PRNGKey) -> tuple[Float[Array, " nq"], TaskState]:
        """Initial joint positions and task state of a new episode."""
        ...

    def observe(self, sim: SimState, command: Command, task_state: TaskState) -> Obs:
        """What the policy sees; keys and shapes as in `obs_spec`."""
        ...

    def reward(
        self, sim: SimState, command: Command, task_state: TaskState
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Reward of the state just reached, and its unscaled terms."""
        ...

    def advance(self, sim: SimState, command: Command, task_state: TaskState) -> TaskState:
        """Task state after a step (counters, stages)."""
        ...

    def terminated(self, sim: SimState, task_state: TaskState) -> Bool[Array, ""]:
        """Whether nothing is left to gain; a time-out is not a termination."""
        ...

    def success(self, sim: SimState, task_state: TaskState) -> Bool[Array, ""]:
        """Whether the task is solved in this state."""
        ...

    def demonstrate(
        self, sim: SimState, command: Command, task_state: TaskState
    ) -> Float[Array, " A"]:
        """Action of the scripted expert, before exploration noise."""
        ...


class TaskFactory(Protocol):
    """What the registry files: a scene and the task that lives in it.

    One of another library's worlds, which are neither, has `whole_env(name, physics, max_worlds)`
    instead, which returns what has the interface of `Env`.
    """

    def scene(self) -> SceneSpec | SceneSource:
        """The scene to compile."""
        ...

    def build(self, scene: Scene) -> Task:
        """The task, with the compiled scene's indices and constants."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskIn:
    """A task in another scene than its own, for example one of the user's own robot.

    Attributes:
        task: speaks of roles: the arm, its gripper, objects by name.
        world: has them; it says where the arm starts.
    """

    task: TaskFactory
    world: SceneSpec | SceneSource

    def scene(self) -> SceneSpec | SceneSource:
        """The scene to compile."""
        return self.world

    def build(self, scene: Scene) -> Task:
        """The task, with the compiled scene's indices and constants."""
        return self.task.build(scene)


TASKS: Registry[TaskFactory] = Registry("task", found_in="mjx_serl.tasks")


def expert_noise(task: Task) -> float:
    """Return the deviation of the noise on an expert's steps in demonstrations [m]."""
    return getattr(task, "expert_noise", EXPERT_NOISE)


def describe_tasks() -> str:
    """The registered tasks with the cameras of their scenes, a line each."""
    lines = []
    for name, task in TASKS.items():
        cameras = [camera.name for camera in getattr(task.scene(), "cameras", ())]
        lines.append(f"  {name:<30} {' '.join(cameras)}".rstrip())
    return "Tasks, with their cameras:\n" + "\n".join(lines)


def split_keys(key: PRNGKey, num: int) -> jax.Array:
    """Per-world keys by world id, so that a larger `num` does not reshuffle the first worlds."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jax.numpy.arange(num))
