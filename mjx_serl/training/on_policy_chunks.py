"""Imitation, then on-policy training of action chunks: one choice is one step of what is learned.

Imitation is over before the first epoch (`teach`). One epoch is then one rollout of all worlds and
the passes over it, one compiled call, as in `on_policy`. A choice is a chunk of actions, all played
before the next: its reward is their sum, and the discount and advantages count choices (RLinf's
`reward_type: chunk_level`). A world whose episode ends on the way waits for the others.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.agents.agent import AGENTS, AgentState, ChunkAgent, require_chunks
from mjx_serl.agents.flow_ppo import FlowPPOConfig
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.data.replay import ReplayBuffer, ReplayState
from mjx_serl.envs.env import EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import (
    VecState,
)
from mjx_serl.training.demonstrations import DemoConfig, Demonstrations
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.rollout_trainer import RolloutTrainer, RolloutWorlds
from mjx_serl.training.rollouts import Played, learn_in_passes
from mjx_serl.training.scan import scan
from mjx_serl.training.state import TrainState
from mjx_serl.training.trainer import METHODS
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, Transition, one_by_one
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.serialize import open_field

_GATHERED = 10  # batches of demonstrations that are gathered at once
_LESSON = 500  # updates between two words about how imitation goes
_IMITATION = 1  # the stream of its keys beside that of the worlds

# Takes updates made, of how many, and the metrics of the last of them.
Tell = Callable[[int, int, dict[str, float]], None]
# Makes of a traced step (agent, *same) -> (agent, metrics) one that several devices take.
Over = Callable[[Callable[..., tuple[AgentState, Metrics]]], Callable[..., Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkLoopConfig:
    """Imitation, rollouts and passes over them.

    Attributes:
        pretrain_updates: steps of imitation before the first epoch; like demonstrations they are
            not among what a run counts. 0 goes on from the run that `--init` names.
        batch_size: chunks of demonstrations per step of imitation.
        rollout_chunks: choices of each world between two times of learning.
        passes: how often each rollout is learned from, in an order of its own each time.
        minibatches: gradient steps of a pass; they have to divide the rollout's choices.
        stagger: spread the first time-outs of the worlds over an episode's length, so that each
            rollout holds all parts of episodes.
        pool: prepared starts per world that ended worlds draw from, drawn anew each epoch; of all
            worlds at most 4096.
        grow: as of `OnPolicyLoopConfig`.
    """

    pretrain_updates: int = ranged(3000, least=0)
    batch_size: int = ranged(256, least=2)
    rollout_chunks: int = ranged(20, least=1)
    passes: int = ranged(2, least=1)
    minibatches: int = ranged(4, least=1)
    stagger: bool = True
    pool: int = ranged(1, least=1)
    grow: float = ranged(0.0, least=0, most=1)


@METHODS.register("on_policy_chunks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPolicyChunksConfig(RolloutWorlds):
    """Imitation, then rollouts of action chunks and an agent that knows their density: flow_ppo.

    Attributes:
        agent: the learner.
        loop: imitation, rollouts and passes over them.
        demos: demonstrations, which are imitated.
    """

    agent: Any = open_field(AGENTS, FlowPPOConfig)
    loop: ChunkLoopConfig = dataclasses.field(default_factory=ChunkLoopConfig)
    demos: DemoConfig = dataclasses.field(default_factory=lambda: DemoConfig(count=50))

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        check_ranges(self)
        require_chunks(self.agent.build(), "on_policy_chunks")
        loop = self.loop
        if loop.pretrain_updates and not (self.demos.count or self.demos.file):
            raise InputError(
                f"loop.pretrain_updates {loop.pretrain_updates} without demonstrations, allowed: "
                "--demos.count above 0, or --demos.file FILE; or 0 with --init RUN"
            )
        rows = loop.rollout_chunks * num_envs
        parts = loop.minibatches * self.agent.accumulate
        if rows % parts:
            raise InputError(
                f"loop.minibatches {loop.minibatches} of agent.accumulate {self.agent.accumulate} "
                f"parts, allowed: what divides {rows}, the choices of a rollout (num_envs "
                f"{num_envs} times loop.rollout_chunks)"
            )

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        return self.agent.label(images=images, demos=True)

    def build(self, observer: Observer, *, num_envs: int) -> "OnPolicyChunks":
        """Return the trainer of an observer's task; InputError for what does not fit it."""
        agent = self.agent.build()
        for wrong, line in (
            (observer.stack > 1, f"--pixels.stack {observer.stack}"),
            (observer.judge is not None, "--reward.classifier, which judges every picture"),
        ):
            if wrong:
                raise InputError(f"{line}, with action chunks, which see one in {agent.horizon}")
        worlds = self.worlds(observer, num_envs=num_envs)
        return OnPolicyChunks(agent, worlds, self.loop, self.demos.build(observer))


@struct.dataclass
class Counts:
    """What is kept of the worlds between choices, beside themselves.

    Attributes:
        solved: whether the present episode has been solved at some step; its end may be later.
        episodes: how many of those that ended since the epoch began had been.
        SUMS: what is summed over all worlds, on whichever device they are.
    """

    SUMS: ClassVar = ("episodes",)

    solved: Bool[Array, " N"]
    episodes: Int[Array, ""]

    def after(self, chunk: "ChunkSteps") -> "Counts":
        """The same after a choice."""
        solved = self.solved | jnp.any(chunk.success & chunk.running, axis=0)
        ended = jnp.any(chunk.ended, axis=0)
        episodes = self.episodes + jnp.sum(ended & solved, dtype=jnp.int32)
        return Counts(solved & ~ended, episodes)


@struct.dataclass
class ChunkSteps:
    """How the control steps of one choice went, [H, N]; nothing counts after an episode's end."""

    reward: Float[Array, "H N"]
    terminated: Bool[Array, "H N"]
    truncated: Bool[Array, "H N"]
    valid: Bool[Array, "H N"]
    success: Bool[Array, "H N"]

    @property
    def ended(self) -> Bool[Array, "H N"]:
        """Whether the episode had ended after the step."""
        return self.terminated | self.truncated

    @property
    def running(self) -> Bool[Array, "H N"]:
        """Whether it had not before."""
        over = jnp.cumsum(self.ended, axis=0) > 0
        return ~jnp.concatenate([jnp.zeros_like(over[:1]), over[:-1]])

    def as_one(self, obs: Obs, chosen: Choice) -> Transition:
        """The choice as one step: rewards summed, ended or invalid where any step was."""
        running, size = self.running, self.reward.shape[1]
        return Transition(
            obs=obs,
            action=chosen.action.reshape(size, -1),
            reward=jnp.sum(jnp.where(running, self.reward, 0.0), axis=0),
            terminated=jnp.any(running & self.terminated, axis=0),
            truncated=jnp.any(running & self.truncated, axis=0),
            valid=jnp.all(~running | self.valid, axis=0),
            expert=jnp.zeros(size, bool),
            extras=chosen.extras,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class OnPolicyChunks(RolloutTrainer):
    """A Trainer whose TrainState.data is `Counts`; a run calls its `teach` before the first epoch.

    Where the renderer is not `traceable` it is called as it is: its pieces are compiled.

    Attributes:
        agent: what learns.
        vec_env: what it acts in.
        config: the loop.
        demos: what is imitated; None without.
    """

    agent: ChunkAgent
    config: ChunkLoopConfig
    demos: Demonstrations | None

    @property
    def length(self) -> int:
        """Choices of each world in a rollout."""
        return self.config.rollout_chunks

    @property
    def length_option(self) -> str:
        """What says so on the command line."""
        return "--loop.rollout-chunks"

    @property
    def least_success(self) -> float:
        """Success rate that imitation must reach."""
        return self.agent.least_success

    def first_state(self, key: PRNGKey, given: None) -> TrainState:
        """The state before imitation."""
        del given
        k_worlds, k_agent, key = jax.random.split(jax.random.fold_in(key, TRAIN), 3)
        worlds, spec = self.vec_env.reset(k_worlds), self.vec_env.observer.obs_spec
        agent = self.agent.init(k_agent, spec, self.vec_env.env.action_spec)
        state = TrainState(
            agent=self.agent.taught(agent),
            worlds=worlds,
            data=Counts(jnp.zeros(self.vec_env.num_envs, bool), jnp.int32(0)),
            normalizer=normalize.init(spec, scaled=True),
            key=key,
            epoch=jnp.zeros((), jnp.int32),
        )
        # Not traced, leaves may share an array, which cannot be donated twice.
        return state if self.traceable else jax.tree.map(jnp.copy, state)

    # -- imitation ---------------------------------------------------------------------------

    def teach(
        self, state: TrainState, key: PRNGKey, tell: Tell, *, over: Over | None = None
    ) -> TrainState:
        """The state after imitation. Actions are scaled as demonstrations have them, observations
        as the task declares: the spread of a few demonstrations makes what is a little beside
        them look far away.

        Args:
            state: from `init`.
            key: of the run, as `init` has it.
            tell: is told how it goes, every `_LESSON` updates.
            over: runs steps of the agent on several devices, each of which draws its share of a
                batch; None on one.
        """
        total = self.config.pretrain_updates
        if self.demos is None or not total:
            return state
        rows = jax.device_put(self.demos.rows(key))
        buffer = ReplayBuffer(*rows.reward.shape)
        ring = buffer.add(buffer.init(jax.tree.map(lambda x: x[0, 0], rows)), rows)
        agent = self._turned(self.agent.pupil, self.agent.shown(state.agent, rows), over)
        lesson = self._lessons(over)
        k_lessons = jax.random.fold_in(jax.random.fold_in(key, TRAIN), _IMITATION)
        for done in range(0, total, _LESSON):
            count = min(_LESSON, total - done)
            k_lesson = jax.random.fold_in(k_lessons, done)
            agent, metrics = lesson(buffer, agent, ring, state.normalizer, k_lesson, count)
            tell(done + count, total, {k: float(x) for k, x in jax.device_get(metrics).items()})
        return state.replace(agent=self._turned(self.agent.taught, agent, over))

    def _turned(
        self, turn: Callable[[AgentState], AgentState], agent: AgentState, over: Over | None
    ) -> AgentState:
        return turn(agent) if over is None else over(lambda agent: (turn(agent), {}))(agent)[0]

    def _lessons(self, over: Over | None) -> Callable[..., tuple[AgentState, Metrics]]:
        """`_lesson`, compiled."""
        if over is None:
            return jax.jit(self._lesson, static_argnums=(0, 5), donate_argnums=1)

        @cache
        def of(buffer: ReplayBuffer, updates: int) -> Callable[..., Any]:
            return over(lambda *given: self._lesson(buffer, *given, updates=updates))

        def lesson(buffer: ReplayBuffer, *given: Any) -> tuple[AgentState, Metrics]:
            return of(buffer, given[-1])(*given[:-1])

        return lesson

    def _lesson(
        self,
        buffer: ReplayBuffer,
        agent: AgentState,
        ring: ReplayState,
        normalizer: NormalizerState,
        key: PRNGKey,
        updates: int,
    ) -> tuple[AgentState, Metrics]:
        """So many updates on demonstrations; the metrics of the last."""
        each, rest = divmod(self.config.batch_size, devices.count())
        if rest:
            raise InputError(
                f"--devices {devices.count()} with --fsdp and --loop.batch-size "
                f"{self.config.batch_size}, allowed: a multiple, which they share in imitation"
            )
        shape, span, key = (_GATHERED, each), self.agent.n_step, devices.own_key(key)

        def update(agent: AgentState, xs: tuple) -> tuple[AgentState, Metrics]:
            return self.agent.update(agent, *xs)

        def block(agent: AgentState, key: PRNGKey) -> tuple[AgentState, Metrics]:
            k_sample, k_learn = jax.random.split(key)
            batch = buffer.sample(ring, k_sample, shape, n_step=span, horizon=span)
            batch = batch.replace(obs=normalize.normalize(normalizer, batch.obs), next_obs={})
            return jax.lax.scan(update, agent, (batch, jax.random.split(k_learn, _GATHERED)))

        agent, metrics = jax.lax.scan(block, agent, jax.random.split(key, -(-updates // _GATHERED)))
        return agent, jax.tree.map(lambda x: x[-1].mean(), metrics)

    # -- one epoch ---------------------------------------------------------------------------

    def play(self, state: TrainState, _: None) -> tuple[TrainState, Played]:
        """One choice of all worlds, played to its end."""
        before = state
        state, obs, chosen = self._jit_choose(state)
        worlds, data, one, last = self.carry_out(state.worlds, state.data, chosen)
        worlds = self.vec_env.draw(worlds)  # once: what comes between two choices nobody sees
        one, cut = one.replace(obs=obs, extras=chosen.extras), self.cut_value(before, last)
        return state.replace(worlds=worlds, data=data), Played(one, cut)

    def choose_all(self, state: TrainState) -> tuple[TrainState, Obs, Choice]:
        """Choose in all worlds; the state has another key."""
        key, k_act = jax.random.split(state.key)
        obs = self.vec_env.observe(state.worlds)
        chosen, _ = self.decide(state.agent, state.normalizer, obs, (), k_act)
        return state.replace(key=key), obs, chosen

    def decide(
        self, agent: AgentState, normalizer: NormalizerState, obs: Obs, memory: tuple, key: PRNGKey
    ) -> tuple[Choice, tuple]:
        """Draw chunks."""
        return self.agent.draw(agent, normalize.normalize(normalizer, obs), key), memory

    def carry_out(
        self, worlds: VecState, data: Counts, chosen: Choice
    ) -> tuple[VecState, Counts, Transition, EnvState]:
        """Play chunks to their end."""
        chosen = chosen.replace(extras={})

        def step(carry: tuple, xs: tuple) -> tuple[tuple, ChunkSteps]:
            return self._jit_advance(carry[0], *xs)

        wait = jnp.arange(self.horizon) < self.horizon - 1
        start, xs = (worlds, worlds.envs), (one_by_one(chosen), wait)
        (worlds, last), steps = scan(step, start, xs, traceable=self.traceable)
        return worlds, data.after(steps), steps.as_one({}, chosen), last

    def advance(
        self, worlds: VecState, chosen: Choice, wait: Bool[Array, ""]
    ) -> tuple[tuple[VecState, EnvState], ChunkSteps]:
        """One control step of a choice; also the worlds as it left them, ended ones as they are."""
        worlds, row, last = self.vec_env.advance(worlds, chosen, wait=wait)
        steps = ChunkSteps(row.reward, row.terminated, row.truncated, row.valid, last.success)
        return (worlds, last), steps

    def learn_from(
        self, state: TrainState, played: Played, after: Obs
    ) -> tuple[TrainState, Metrics]:
        """Make the passes over a rollout [C, N, ...]; metrics of them."""
        key, k_order = jax.random.split(state.key)
        batch, metrics = self.batch_of(state, played, after)
        sizes = {"passes": self.config.passes, "minibatches": self.config.minibatches}
        agent, learned = learn_in_passes(self.agent, state.agent, batch, k_order, **sizes)
        return state.replace(agent=agent, key=key), metrics | learned

    # Compiled pieces for what is not traced as a whole.

    @cached_property
    def _jit_choose(self) -> Callable[[TrainState], tuple[TrainState, Obs, Choice]]:
        return jax.jit(self.choose_all)

    @cached_property
    def _jit_advance(self) -> Callable[..., tuple[tuple[VecState, EnvState], ChunkSteps]]:
        return jax.jit(self.advance)
