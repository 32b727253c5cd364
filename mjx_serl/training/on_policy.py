"""On-policy training: play, estimate advantages, learn from what was played, forget it.

One epoch is one rollout of all worlds and the passes over it, one compiled call. Nothing is stored
between epochs but the worlds themselves, which go on where they were.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.agents.agent import AGENTS, AgentState, OnPolicyAgent, require_on_policy
from mjx_serl.agents.ppo import PPOConfig
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.envs.env import EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import VecState
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.rollout_trainer import RolloutTrainer, RolloutWorlds
from mjx_serl.training.rollouts import Played, learn_in_passes
from mjx_serl.training.state import TrainState
from mjx_serl.training.statistics import observed
from mjx_serl.training.trainer import METHODS
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, RolloutBatch, Transition
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.serialize import open_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPolicyLoopConfig:
    """The loop around an on-policy agent.

    Attributes:
        rollout_steps: control steps of each world between two times of learning.
        passes: how often each rollout is learned from, in an order of its own each time.
        minibatches: gradient steps of a pass; they have to divide the rollout's steps.
        noise_correlation: of a world's exploration noise from one control step to the next [1]: 0
            is white noise, which an arm at 50 Hz averages out; r remembers 1 / (1 - r) steps.
            Densities stay those of each step alone (arXiv 2312.11091).
        gripper_correlation: the same of grippers, which take a while to close.
        normalize_steps: env steps whose statistics scale the observations, frozen afterwards so
            that a trained network's inputs stop moving; 0 uses the scales that the task declares.
        stagger: spread the first time-outs of the worlds over an episode's length, so that each
            rollout holds all parts of episodes.
        pool: prepared starts per world that ended worlds draw from, drawn anew each epoch; of all
            worlds at most 4096.
        grow: step by which the ranges of what the task randomises grow with success, as a share of
            them: from nothing to the whole; 0 draws from the whole from the start.
    """

    rollout_steps: int = ranged(32, least=1)
    passes: int = ranged(4, least=1)
    minibatches: int = ranged(8, least=1)
    noise_correlation: float = ranged(0.0, least=0, below=1)
    gripper_correlation: float = ranged(0.0, least=0, below=1)
    normalize_steps: int = ranged(0, least=0)
    stagger: bool = True
    pool: int = ranged(1, least=1)
    grow: float = ranged(0.0, least=0, most=1)


@METHODS.register("on_policy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(RolloutWorlds):
    """Rollouts and an on-policy agent: PPO.

    Attributes:
        agent: the learner; one that learns from its own rollouts.
        loop: rollouts and passes over them.
        refused: options of other methods that mean nothing here, by how they begin, and why.
    """

    agent: Any = open_field(AGENTS, PPOConfig)
    loop: OnPolicyLoopConfig = dataclasses.field(default_factory=OnPolicyLoopConfig)

    refused: ClassVar[Mapping[str, str]] = {
        "--demos": "which learns from its own rollouts alone; allowed with demonstrations: "
        "off_policy, offline, hg_dagger, pair"
    }

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        check_ranges(self)
        require_on_policy(self.agent.build(), "on_policy")
        rows = self.loop.rollout_steps * num_envs
        if rows % self.loop.minibatches:
            raise InputError(
                f"loop.minibatches {self.loop.minibatches}, allowed: what divides {rows}, the "
                f"steps of a rollout (num_envs {num_envs} times loop.rollout_steps)"
            )

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        return self.agent.label(images=images, demos=False)

    def build(self, observer: Observer, *, num_envs: int) -> "OnPolicy":
        """Return the trainer of an observer's task; InputError for what does not fit it."""
        worlds = self.worlds(observer, num_envs=num_envs)
        return OnPolicy(self.agent.build(), worlds, self.loop)


@struct.dataclass
class Carried:
    """What is kept of the worlds between steps, beside themselves.

    Attributes:
        noise: of the last actions, standard normal.
        solved: whether the present episode has been solved at some step; its end may be later.
        episodes: how many of those that ended since the epoch began had been.
        SUMS: what is summed over all worlds, on whichever device they are.
    """

    SUMS: ClassVar = ("episodes",)

    noise: Float[Array, "N A"]
    solved: Bool[Array, " N"]
    episodes: Int[Array, ""]

    def after(self, noise: Float[Array, "N A"], last: EnvState) -> "Carried":
        """The same after a step with that noise, which led to `last`."""
        ended, solved = last.terminated | last.truncated, self.solved | last.success
        episodes = self.episodes + jnp.sum(ended & solved, dtype=jnp.int32)
        return Carried(noise, solved & ~ended, episodes)


@dataclasses.dataclass(frozen=True, eq=False)
class OnPolicy(RolloutTrainer):
    """A Trainer whose TrainState.data is `Carried`.

    Where the renderer is not `traceable` it is called as it is: its pieces are compiled.

    Attributes:
        agent: what learns.
        vec_env: what it acts in.
        config: the loop.
    """

    agent: OnPolicyAgent
    config: OnPolicyLoopConfig

    @property
    def length(self) -> int:
        """Steps of each world in a rollout."""
        return self.config.rollout_steps

    @property
    def length_option(self) -> str:
        """What says so on the command line."""
        return "--loop.rollout-steps"

    def first_state(self, key: PRNGKey, given: None) -> TrainState:
        """The state before the first epoch."""
        del given
        k_worlds, k_agent, k_noise, key = jax.random.split(jax.random.fold_in(key, TRAIN), 4)
        worlds, num = self.vec_env.reset(k_worlds), self.vec_env.num_envs
        obs_spec, dim = self.vec_env.observer.obs_spec, self.vec_env.env.action_dim
        noise = jax.random.normal(devices.own_key(k_noise), (num, dim))
        state = TrainState(
            agent=self.agent.init(k_agent, obs_spec, self.vec_env.env.action_spec),
            worlds=worlds,
            data=Carried(noise, jnp.zeros(num, bool), jnp.int32(0)),
            # Not of nothing: the first rollout is scaled too.
            normalizer=normalize.init(obs_spec, scaled=True),
            key=key,
            epoch=jnp.zeros((), jnp.int32),
        )
        # Not traced, leaves may share an array, which cannot be donated twice.
        return state if self.traceable else jax.tree.map(jnp.copy, state)

    # -- playing -----------------------------------------------------------------------------

    def play(self, state: TrainState, _: None) -> tuple[TrainState, Played]:
        """One step of all worlds."""
        before = state
        state, step, last = self._jit_advance(state)
        cut_value = self.cut_value(before, last)
        state = state.replace(worlds=self.vec_env.draw(state.worlds))
        return state, Played(step, cut_value)

    def advance(self, state: TrainState) -> tuple[TrainState, Transition, EnvState]:
        """Act in all worlds; their pictures are still those of before."""
        key, k_act = jax.random.split(state.key)
        obs = self.vec_env.observe(state.worlds)
        memory = self.remembered(state.data)
        chosen, memory = self.decide(state.agent, state.normalizer, obs, memory, k_act)
        data = self.remembering(state.data, memory)
        worlds, data, step, last = self.carry_out(state.worlds, data, chosen)
        state = state.replace(worlds=worlds, key=key, data=data)
        # As observed, not as it would be stored: with the earlier pictures of a stack.
        return state, step.replace(obs=obs, extras=chosen.extras), last

    def remembered(self, data: Carried) -> Float[Array, "N A"]:
        """The noise."""
        return data.noise

    def remembering(self, data: Carried, remembered: Float[Array, "N A"]) -> Carried:
        """The data with other noise."""
        return data.replace(noise=remembered)

    def decide(
        self,
        agent: AgentState,
        normalizer: NormalizerState,
        obs: Obs,
        memory: Float[Array, "N A"],
        key: PRNGKey,
    ) -> tuple[Choice, Float[Array, "N A"]]:
        """Sample actions, with noise that resembles the last."""
        noise = self._next_noise(memory, key)
        return self.agent.sample(agent, normalize.normalize(normalizer, obs), noise), noise

    def carry_out(
        self, worlds: VecState, data: Carried, chosen: Choice
    ) -> tuple[VecState, Carried, Transition, EnvState]:
        """Take one step."""
        worlds, step, last = self.vec_env.advance(worlds, chosen)
        return worlds, data.after(data.noise, last), step.replace(obs={}, extras={}), last

    def _next_noise(self, noise: Float[Array, "N A"], key: PRNGKey) -> Float[Array, "N A"]:
        """Standard normal noise that resembles the last as much as it is told to."""
        of = (self.config.noise_correlation, self.config.gripper_correlation)
        kept = jnp.array([of[gripper] for gripper in self.vec_env.env.action_spec.grippers])
        return kept * noise + jnp.sqrt(1.0 - kept**2) * devices.drawn(
            partial(jax.random.normal, key), noise.shape
        )

    # -- learning ----------------------------------------------------------------------------

    def learn_from(
        self, state: TrainState, played: Played, after: Obs
    ) -> tuple[TrainState, Metrics]:
        """Make the passes over a rollout [T, N, ...]; metrics of them."""
        key, k_order = jax.random.split(state.key)
        batch, metrics = self.batch_of(state, played, after)
        agent, learned = self._passes(state.agent, batch, k_order)
        step = played.step
        normalizer = observed(
            state,
            step.obs,
            step.valid,
            steps=self.config.normalize_steps,
            steps_per_epoch=self.env_steps_per_epoch * devices.count(),
        )
        return state.replace(agent=agent, normalizer=normalizer, key=key), metrics | learned

    def _passes(
        self, agent: AgentState, batch: RolloutBatch, key: PRNGKey
    ) -> tuple[AgentState, Metrics]:
        passes, minibatches = self.config.passes, self.config.minibatches
        return learn_in_passes(
            self.agent, agent, batch, key, passes=passes, minibatches=minibatches
        )

    @cached_property
    def _jit_advance(self) -> Callable[..., tuple[TrainState, Transition, EnvState]]:
        # A piece that is compiled where a step is not traced as a whole.
        return jax.jit(self.advance)
