"""One world: scene, physics, controller and task make reset and step."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.control.controller import Command, Controller, followed
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.encoder_bias import measured
from mjx_serl.envs.fit_variation import fit_latency, fit_terms
from mjx_serl.envs.instructions import Instructions, Told, build_told
from mjx_serl.envs.physics.protocol import Physics, SimState, TorqueLaw, VariedPhysics
from mjx_serl.envs.physics.registry import PHYSICS, default_physics
from mjx_serl.envs.randomization import Drawn
from mjx_serl.envs.randomize import ON_TIME, Latency, Noise, Randomize
from mjx_serl.envs.task import TASKS, Task, TaskFactory, TaskIn, TaskState
from mjx_serl.envs.variation import (
    Variation,
    build_variation,
    require_jacobian,
    require_raised,
)
from mjx_serl.types import Metrics, Obs, PRNGKey, PyTree
from scenes.build import Scene, SceneSource, build_scene
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.robot_fit import RobotFit
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
        varied: `Varied`, what the world has drawn and what is on its way; () where the task
            randomises nothing.
        told: which of its `Env.told.texts` it is told; () where the task says nothing in words.
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
    varied: PyTree = ()
    told: PyTree = ()


def lost(after: EnvState) -> Bool[Array, " N"]:
    """Which worlds ended by themselves without being solved; those whose physics failed too."""
    return after.terminated & ~after.success


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
        variation: what the task randomises; None where that is nothing.
        told: what its worlds are told in words; None where that is nothing.
    """

    name: str
    scene: Scene
    physics: Physics | VariedPhysics
    controller: Controller
    task: Task
    variation: Variation | None = None
    told: Told | None = None

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
        if self.told is None:
            return self.task.obs_spec
        return ObsSpec(fields=(*self.task.obs_spec.fields, self.told.field))

    @property
    def held_out(self) -> "Env":
        """The same worlds, told what nobody is trained with."""
        return self if self.told is None else dataclasses.replace(self, told=self.told.held_out)

    @property
    def ctrl_dt(self) -> float:
        """Simulated seconds per step."""
        return 1.0 / self.task.control.rate

    def reset(self, key: PRNGKey, drawn: Drawn | None = None) -> EnvState:
        """Return the start of an episode drawn with `key`.

        Args:
            key: of all that is random in it.
            drawn: of what the task randomises; None draws it too.
        """
        return self._traced_reset(key) if drawn is None else self._traced_reset(key, drawn)

    def step(
        self, state: EnvState, action: Float[Array, " A"], running: Bool[Array, ""] | None = None
    ) -> EnvState:
        """Return the world after `action` in [-1, 1] was held for one control period.

        Args:
            state: of the world.
            action: what to do.
            running: where false, physics leaves the world alone, and what is returned means
                nothing; for worlds that `can_pause`. None steps every world.
        """
        return self._traced_step(state, action, *(() if running is None else (running,)))

    @property
    def can_pause(self) -> bool:
        """Whether physics can leave some worlds alone while it steps others."""
        return getattr(self.physics, "can_pause", False)

    # A run makes several programs of the same step, and tracing it is most of what MJX costs to
    # start. `inline` puts it into each as if it had been traced there.

    @cached_property
    def _traced_reset(self) -> Callable[..., EnvState]:
        return jax.jit(self._reset, inline=True)

    @cached_property
    def _traced_step(self) -> Callable[..., EnvState]:
        return jax.jit(self._step, inline=True)

    def _reset(self, key: PRNGKey, drawn: Drawn | None = None) -> EnvState:
        qpos, task_state = self.task.sample(key)
        qvel = jnp.zeros(self.scene.model.nv)
        own: tuple[Array, ...] = ()
        if self.variation is not None:
            drawn = self.variation.draw(key) if drawn is None else drawn
            qpos, task_state, own = self._placed(qpos, task_state, drawn)
        physics: Any = self.physics
        carry, sim = physics.reset(qpos, qvel, *own)
        sim = self.marked(sim, task_state)
        command = self.controller.start(self._measured(sim, self._bias(drawn)))
        _, terms = self.task.reward(sim, command, task_state)
        obs, varied = self._look(sim, command, task_state, drawn), ()
        if self.variation is not None and drawn is not None:
            obs, varied = self.variation.begin(key, drawn, obs=obs, command=command, sim=sim)
        told = () if self.told is None else self.told.draw(key)
        return EnvState(
            carry=carry,
            sim=sim,
            command=command,
            task_state=task_state,
            obs=self._with_words(obs, told),
            reward=jnp.zeros(()),
            terminated=jnp.zeros((), bool),
            truncated=jnp.zeros((), bool),
            success=jnp.zeros((), bool),
            valid=jnp.ones((), bool),
            t=jnp.zeros((), jnp.int32),
            metrics=jax.tree.map(jnp.zeros_like, terms),
            varied=varied,
            told=told,
        )

    def _with_words(self, obs: Obs, told: PyTree) -> Obs:
        """The observation with what the world is told; words come neither late nor noisy."""
        return obs if self.told is None else obs | self.told.observe(told)

    def _placed(
        self, qpos: Float[Array, " nq"], task_state: TaskState, drawn: Drawn
    ) -> tuple[Float[Array, " nq"], TaskState, tuple[Array, ...]]:
        """Start and task state as drawn; the world's own values in its model, if it has any."""
        assert self.variation is not None
        drawing = self.variation.randomization
        qpos, rise = drawing.place(qpos, drawn.numbers)
        if rise:
            task_state = cast(Any, self.task).raised(task_state, rise)
        return qpos, task_state, () if drawing.entries is None else (drawing.values(drawn.numbers),)

    def _bias(self, drawn: Drawn | None) -> Float[Array, " J"] | None:
        """What the arm's encoders read too much; None where they do not."""
        if drawn is None or self.variation is None:
            return None
        return self.variation.randomization.bias(drawn.numbers)

    def _measured(self, sim: SimState, bias: Float[Array, " J"] | None) -> SimState:
        """The state as the arm's encoders say it is."""
        if bias is None:
            return sim
        jacobian = cast(Any, self.controller).jacobian(sim)
        return measured(self.scene, sim, jacobian, bias)

    def _look(
        self, sim: SimState, command: Command, task_state: TaskState, drawn: Drawn | None
    ) -> Obs:
        """What the task observes of the state as the encoders say it is."""
        return self.task.observe(self._measured(sim, self._bias(drawn)), command, task_state)

    def carry_on(self, state: EnvState, key: PRNGKey) -> EnvState:
        """Begin an episode where the last one ended: what moved stays where it is.

        A task that draws a goal or remembers the start says so in `resume(sim, last, key)`. What
        it is told is drawn anew.
        """
        resume = getattr(self.task, "resume", None)
        last = state.task_state
        task_state = last if resume is None else resume(state.sim, last, key)
        sim = self.marked(state.sim, task_state)
        _, terms = self.task.reward(sim, state.command, task_state)
        no = jnp.zeros((), bool)
        drawn, varied = self._drawn(state), state.varied
        obs = self._look(sim, state.command, task_state, drawn)
        if self.variation is not None:
            obs, varied = self.variation.observe(varied, obs, sim, state.t)
        told = () if self.told is None else self.told.draw(key)
        return state.replace(
            sim=sim,
            task_state=task_state,
            told=told,
            obs=self._with_words(obs, told),
            varied=varied,
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

    def advanced(
        self, sim: SimState, command: Command, task_state: TaskState
    ) -> tuple[SimState, TaskState]:
        """Return a state that a step has just led to, with its markers, and the task's own."""
        sim = self.marked(sim, task_state)
        task_state = self.task.advance(sim, command, task_state)
        return self.marked(sim, task_state), task_state

    def _drawn(self, state: EnvState) -> Drawn | None:
        return None if self.variation is None else state.varied.drawn

    def _step(
        self, state: EnvState, action: Float[Array, " A"], running: Bool[Array, ""] | None = None
    ) -> EnvState:
        drawn, varied, heard = self._drawn(state), state.varied, None
        sim = self._measured(state.sim, self._bias(drawn))
        command = self.controller.command(state.command, sim, action)
        if self.variation is not None:
            varied = self.variation.send(varied, command, state.t)
            heard = self.variation.heard(varied)
        carry, sim, command = self.hold(
            state.carry, state.sim, command, heard=heard, drawn=drawn, running=running
        )
        return self._judge(state.replace(varied=varied), action, carry, sim, command)

    def hold(
        self,
        carry: PyTree,
        sim: SimState,
        command: Command,
        *,
        heard: Command | None = None,
        drawn: Drawn | None = None,
        running: Bool[Array, ""] | None = None,
    ) -> tuple[PyTree, SimState, Command]:
        """Return carry, SimState and command after one control period under a command.

        Args:
            carry, sim: of the world.
            command: what is followed.
            heard: what the arm follows at each update instead [K, ...], where commands come late.
            drawn: by the world, where its encoders may read too much.
            running: as of `step`.
        """
        bias, physics = self._bias(drawn), cast(Any, self.physics)
        pausing = {} if running is None else {"running": running}
        law = self._torque_law
        if law is not None and heard is None and bias is None:
            controller = cast(Any, self.controller)
            command = controller.pace(command, sim)
            return (*physics.follow(carry, controller.aim(command), law, **pausing), command)
        advance = partial(physics.step, **pausing)
        merge = getattr(self.controller, "followed", followed)

        def inner(loop: _Loop, told: Command | None) -> tuple[_Loop, None]:
            carry, sim, command = loop
            command = command if told is None else merge(told, command)
            seen = self._measured(sim, bias)
            command = self.controller.pace(command, seen)
            ctrl = self.controller.ctrl(command, seen)
            if bias is not None and self.scene.spec.actuation == "position":
                # The servo's encoder is the one that reads too much.
                ctrl = ctrl.at[self.scene.arm.ctrl_ids].add(-bias)
            return (*advance(carry, ctrl, self.controller.n_substeps), command), None

        (carry, sim, last), _ = jax.lax.scan(
            inner, (carry, sim, command), heard, length=self.controller.inner_steps
        )
        return carry, sim, last if heard is None else merge(command, last)

    @cached_property
    def _torque_law(self) -> TorqueLaw | None:
        """The control law as the physics evaluates it itself, where both can."""
        law = getattr(self.controller, "torque_law", None)
        return law() if law is not None and hasattr(self.physics, "follow") else None

    def _judge(
        self,
        state: EnvState,
        action: Float[Array, " A"],
        carry: PyTree,
        sim: SimState,
        command: Command,
    ) -> EnvState:
        sim, task_state = self.advanced(sim, command, state.task_state)
        obs = self._look(sim, command, task_state, self._drawn(state))
        varied, truth = state.varied, ()
        if self.variation is not None:
            obs, varied = self.variation.observe(varied, obs, sim, state.t)
            truth = varied.truth
        reward, terms = self.task.reward(sim, command, task_state)
        # MuJoCo takes a non-finite control for zeros, which would hide a non-finite action.
        valid = _finite((action, sim.qpos, sim.qvel, obs, reward))
        # A world with a non-finite state ends here; zeros stand for what it would earn and show.
        obs, reward, terms, truth = jax.tree.map(
            lambda x: jnp.where(valid, x, jnp.zeros_like(x)), (obs, reward, terms, truth)
        )
        success = valid & self.task.success(sim, task_state)
        terminated = ~valid | self.task.terminated(sim, task_state)
        t = state.t + 1
        return state.replace(
            carry=carry,
            sim=sim,
            command=command,
            task_state=task_state,
            obs=self._with_words(obs, state.told),
            reward=reward,
            terminated=terminated,
            truncated=(t >= self.task.episode_steps) & ~terminated,
            success=success,
            valid=valid,
            t=t,
            metrics=terms,
            varied=varied.replace(truth=truth) if self.variation is not None else varied,
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
    fit: RobotFit | None = None,
    tokenizer: TokenizerConfig = BYTES,
) -> Env:
    """Return one world of a registered task.

    Args:
        name: for example "franka/pick_cube"; raises KeyError with the allowed names.
        physics: "native", "mjx" or "warp"; None picks native on a CPU, MJX on an accelerator.
        max_worlds: the most worlds that will be stepped at once (sizes Warp's contact buffers).
        scene: changes the task's, for example `scenes.fitted.fitted_scene` of a fit.
        fit, tokenizer: as of `build_env`.
    """
    factory = TASKS[name]
    whole: Callable[..., Env] | None = getattr(factory, "whole_env", None)
    if whole is not None:
        _require_plain_jax()
        if scene is not None or fit is not None:
            raise InputError(f"'{name}' is another library's world: its scene stays as it is")
        return whole(name, physics=physics, max_worlds=max_worlds)
    if scene is not None:
        factory = TaskIn(factory, scene(factory.scene()))
    return build_env(
        factory, name=name, physics=physics, max_worlds=max_worlds, fit=fit, tokenizer=tokenizer
    )


def build_env(
    factory: TaskFactory,
    *,
    name: str,
    physics: str | None = None,
    max_worlds: int = 1,
    fit: RobotFit | None = None,
    tokenizer: TokenizerConfig = BYTES,
) -> Env:
    """Build a task that need not be registered, for example one in a scene of the user's own.

    Args:
        factory: the task and its scene.
        name: what it is called.
        physics, max_worlds: as of `make_env`.
        fit: each world draws an arm from its intervals and gets actions as late as it says, beside
            what the task randomises.
        tokenizer: of the words of a task that has any.

    Raises ValueError where JAX is set to something that no world works under.
    """
    _require_plain_jax()
    scene = build_scene(factory.scene())
    task = factory.build(scene)
    instructions: Instructions | None = getattr(task, "instructions", None)
    env = Env(
        name=name,
        scene=scene,
        physics=PHYSICS[physics or default_physics()](scene.model, max_worlds),
        controller=build_controller(task.control, scene),
        task=task,
        told=None if instructions is None else build_told(instructions, tokenizer),
    )
    terms: Sequence[Randomize] = getattr(task, "randomize", ())
    latency: Latency = getattr(task, "latency", ON_TIME)
    if fit is not None:
        terms, latency = (*terms, *fit_terms(scene, fit)), fit_latency(latency, fit)
    return vary(env, terms=terms, noise=getattr(task, "noise", ()), latency=latency)


def vary(
    env: Env, *, terms: Sequence[Randomize], noise: Sequence[Noise] = (), latency: Latency
) -> Env:
    """Return a world that randomises these things, or nothing, in place of nothing.

    Raises InputError for what does not fit its scene, its task or its physics.

    Args:
        env: that randomises nothing yet.
        terms, noise, latency: see `mjx_serl.envs.randomize`.
    """
    task = env.task
    require_raised(task, terms)
    variation = build_variation(
        env.scene,
        terms=terms,
        noise=noise,
        latency=latency,
        control=task.control,
        obs=task.obs_spec,
        episode_steps=task.episode_steps,
    )
    if variation is None:
        return env
    require_jacobian(env.controller, terms)
    entries = variation.randomization.entries
    physics = env.physics if entries is None else env.physics.varied(entries)
    return dataclasses.replace(env, physics=physics, variation=variation)
