"""One world: scene, physics, controller and task make reset and step."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.controller import Command, Controller
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.physics.protocol import Physics, SimState
from mjx_serl.envs.physics.registry import PHYSICS, default_physics
from mjx_serl.envs.task import TASKS, Task, TaskFactory, TaskIn, TaskState
from mjx_serl.types import Metrics, Obs, PRNGKey, PyTree
from scenes.build import Scene, SceneSource, build_scene
from scenes.contract.errors import InputError
from scenes.contract.specs import ActionSpec, ObsSpec
from scenes.specs import SceneSpec


@struct.dataclass
class EnvState:
    """Everything about one world between two steps.

    Attributes:
        carry: of the physics.
        sim: what tasks and controllers may read.
        command: of the controller.
        task_state: of the task.
        obs: the task's own observation.
        reward: of the step that led here.
        terminated: the episode ended by itself; never together with `truncated`.
        truncated: the time limit ended the episode.
        success: whether the task is solved.
        valid: false where the action or the state was not finite: the step must not be learned
            from and the world must be reset.
        t: control steps since the start.
        metrics: unscaled terms of the reward.
    """

    carry: PyTree
    sim: SimState
    command: Command
    task_state: TaskState
    obs: Obs
    reward: Float[Array, "*n"]
    terminated: Bool[Array, "*n"]
    truncated: Bool[Array, "*n"]
    success: Bool[Array, "*n"]
    valid: Bool[Array, "*n"]
    t: Int[Array, "*n"]
    metrics: Metrics


_Loop = tuple[PyTree, SimState, Command]


@dataclasses.dataclass(frozen=True, eq=False)
class Env:
    """reset and step of one world; `vectorize` makes it many.

    Attributes:
        name: of the task in the registry.
        scene: compiled.
        physics: steps the scene.
        controller: makes controls of actions.
        task: starts, observations, rewards and ends.
    """

    name: str
    scene: Scene
    physics: Physics
    controller: Controller
    task: Task

    @property
    def action_dim(self) -> int:
        """Number of action entries, each in [-1, 1]."""
        return self.action_spec.dim

    @property
    def action_spec(self) -> ActionSpec:
        """Names, scales, rate and base of the action."""
        return self.task.control.action_spec()

    @property
    def obs_spec(self) -> ObsSpec:
        """Names, shapes and units of the observation."""
        return self.task.obs_spec

    @property
    def ctrl_dt(self) -> float:
        """Simulated seconds per step."""
        return 1.0 / self.task.control.rate

    def reset(self, key: PRNGKey) -> EnvState:
        """Return the start of an episode drawn with `key`."""
        return self._traced_reset(key)

    def step(self, state: EnvState, action: Float[Array, " A"]) -> EnvState:
        """Return the world after `action` in [-1, 1] was held for one control period."""
        return self._traced_step(state, action)

    # A run makes several programs of the same step, and tracing it is most of what MJX costs to
    # start. `inline` puts it into each as if it had been traced there.

    @cached_property
    def _traced_reset(self) -> Callable[[PRNGKey], EnvState]:
        return jax.jit(self._reset, inline=True)

    @cached_property
    def _traced_step(self) -> Callable[[EnvState, Float[Array, " A"]], EnvState]:
        return jax.jit(self._step, inline=True)

    def _reset(self, key: PRNGKey) -> EnvState:
        qpos, task_state = self.task.sample(key)
        carry, sim = self.physics.reset(qpos, jnp.zeros(self.scene.model.nv))
        sim = self.marked(sim, task_state)
        command = self.controller.start(sim)
        _, terms = self.task.reward(sim, command, task_state)
        return EnvState(
            carry=carry,
            sim=sim,
            command=command,
            task_state=task_state,
            obs=self.task.observe(sim, command, task_state),
            reward=jnp.zeros(()),
            terminated=jnp.zeros((), bool),
            truncated=jnp.zeros((), bool),
            success=jnp.zeros((), bool),
            valid=jnp.ones((), bool),
            t=jnp.zeros((), jnp.int32),
            metrics=jax.tree.map(jnp.zeros_like, terms),
        )

    def carry_on(self, state: EnvState, key: PRNGKey) -> EnvState:
        """Begin an episode where the last one ended: what moved stays where it is.

        A task that draws a goal or remembers the start says so in `resume(sim, key)`.
        """
        resume = getattr(self.task, "resume", None)
        task_state = state.task_state if resume is None else resume(state.sim, key)
        sim = self.marked(state.sim, task_state)
        _, terms = self.task.reward(sim, state.command, task_state)
        no = jnp.zeros((), bool)
        return state.replace(
            sim=sim,
            task_state=task_state,
            obs=self.task.observe(sim, state.command, task_state),
            reward=jnp.zeros(()),
            terminated=no,
            truncated=no,
            success=no,
            t=jnp.zeros((), jnp.int32),
            metrics=jax.tree.map(jnp.zeros_like, terms),
        )

    def marked(self, sim: SimState, task_state: TaskState) -> SimState:
        """Return a state of the physics with the markers where the task says; KeyError for others.

        Physics knows nothing of them: what is drawn, observed and judged is this state.
        """
        markers = getattr(self.task, "markers", None)
        if markers is None:
            return sim
        for name, (position, quat) in markers(sim, task_state).items():
            body = self.scene.marker(name).body_id
            sim = sim.replace(
                xpos=sim.xpos.at[body].set(position), xquat=sim.xquat.at[body].set(quat)
            )
        return sim

    def _step(self, state: EnvState, action: Float[Array, " A"]) -> EnvState:
        command = self.controller.command(state.command, state.sim, action)
        carry, sim, command = self.hold(state.carry, state.sim, command)
        return self._judge(state, action, carry, sim, command)

    def hold(
        self, carry: PyTree, sim: SimState, command: Command
    ) -> tuple[PyTree, SimState, Command]:
        """Return carry, SimState and command after one control period under a command."""

        def inner(loop: _Loop, _: None) -> tuple[_Loop, None]:
            carry, sim, command = loop
            command = self.controller.pace(command, sim)
            ctrl = self.controller.ctrl(command, sim)
            return (*self.physics.step(carry, ctrl, self.controller.n_substeps), command), None

        loop, _ = jax.lax.scan(
            inner, (carry, sim, command), None, length=self.controller.inner_steps
        )
        return loop

    def _judge(
        self,
        state: EnvState,
        action: Float[Array, " A"],
        carry: PyTree,
        sim: SimState,
        command: Command,
    ) -> EnvState:
        sim = self.marked(sim, state.task_state)
        task_state = self.task.advance(sim, command, state.task_state)
        sim = self.marked(sim, task_state)
        obs = self.task.observe(sim, command, task_state)
        reward, terms = self.task.reward(sim, command, task_state)
        # MuJoCo takes a non-finite control for zeros, which would hide a non-finite action.
        valid = _finite((action, sim.qpos, sim.qvel, obs, reward))
        # A world with a non-finite state ends here; zeros stand for what it would earn and show.
        obs, reward, terms = jax.tree.map(
            lambda x: jnp.where(valid, x, jnp.zeros_like(x)), (obs, reward, terms)
        )
        success = valid & self.task.success(sim, task_state)
        terminated = ~valid | self.task.terminated(sim, task_state)
        t = state.t + 1
        return state.replace(
            carry=carry,
            sim=sim,
            command=command,
            task_state=task_state,
            obs=obs,
            reward=reward,
            terminated=terminated,
            truncated=(t >= self.task.episode_steps) & ~terminated,
            success=success,
            valid=valid,
            t=t,
            metrics=terms,
        )


def _finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def _require_plain_jax() -> None:
    config: Any = jax.config
    strict = [
        f"{name} is {got} (allowed: {plain})"
        for name, got, plain in (
            ("jax_enable_x64", config.jax_enable_x64, False),
            ("jax_numpy_rank_promotion", config.jax_numpy_rank_promotion, "allow"),
        )
        if got != plain
    ]
    if strict:
        raise InputError(
            f"{', '.join(strict)}: worlds are 32 bits and MJX broadcasts. Hint: call "
            "mjx_serl.prepare_platform() before jax is imported, or set it back"
        )


def make_env(
    name: str,
    *,
    physics: str | None = None,
    max_worlds: int = 1,
    scene: Callable[[SceneSpec | SceneSource], SceneSpec] | None = None,
) -> Env:
    """Return one world of a registered task.

    Args:
        name: for example "franka/pick_cube"; raises KeyError with the allowed names.
        physics: "native", "mjx" or "warp"; None picks native on a CPU, MJX on an accelerator.
        max_worlds: the most worlds that will be stepped at once (sizes Warp's contact buffers).
        scene: changes the task's, for example `scenes.fitted.fitted_scene` of a fit.
    """
    task = TASKS[name]
    if scene is not None:
        task = TaskIn(task, scene(task.scene()))
    return build_env(task, name=name, physics=physics, max_worlds=max_worlds)


def build_env(
    factory: TaskFactory, *, name: str, physics: str | None = None, max_worlds: int = 1
) -> Env:
    """Build a task that need not be registered, for example one in a scene of the user's own.

    Args:
        factory: the task and its scene.
        name: what it is called.
        physics, max_worlds: as of `make_env`.

    Raises ValueError where JAX is set to something that no world works under.
    """
    _require_plain_jax()
    scene = build_scene(factory.scene())
    task = factory.build(scene)
    return Env(
        name=name,
        scene=scene,
        physics=PHYSICS[physics or default_physics()](scene.model, max_worlds),
        controller=build_controller(task.control, scene),
        task=task,
    )
