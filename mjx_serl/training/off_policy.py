"""Off-policy training: collect, store, sample, learn; one compiled call per epoch."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.agents.agent import Agent, AgentState
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.data.replay import ReplayBuffer, mix
from mjx_serl.envs.vector import VecEnv, VecState, clear_stats, episode_metrics
from mjx_serl.training.collect import rollout
from mjx_serl.training.policies import Policy, random_policy
from mjx_serl.training.scan import scan
from mjx_serl.training.state import TrainState
from mjx_serl.types import Batch, Metrics, Obs, ObsShapes, PRNGKey, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class OffPolicyConfig:
    """The loop around an off-policy agent.

    Attributes:
        batch_size: transitions per critic step.
        updates_per_step: calls of `agent.update` per vector step (each makes the agent's
            `utd_ratio` critic steps).
        demo_fraction: share of each batch drawn from the demonstrations (RLPD: 0.5).
        steps_per_epoch: vector steps per compiled epoch.
        warmup_steps: env steps of uniform actions before learning starts.
        buffer_size: transitions kept.
        normalize_steps: env steps whose statistics scale the observations, frozen afterwards so
            that a trained network's inputs stop moving; 0 uses the scales that the task declares.
    """

    batch_size: int = 256
    updates_per_step: int = 16
    demo_fraction: float = 0.5
    steps_per_epoch: int = 25
    warmup_steps: int = 1000
    buffer_size: int = 200_000
    normalize_steps: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class OffPolicy:
    """Pure functions over TrainState; `epoch` is the one to compile and donate.

    Where the renderer is not `traceable` it is called as it is: its pieces are compiled.

    The demonstrations are a second ReplayBuffer, or None.
    """

    agent: Agent
    vec_env: VecEnv
    buffer: ReplayBuffer
    demo_buffer: ReplayBuffer | None
    config: OffPolicyConfig

    @property
    def traceable(self) -> bool:
        """Whether `epoch` can be one compiled function."""
        return self.vec_env.observer.traceable

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        return self.config.steps_per_epoch * self.vec_env.num_envs

    @property
    def updates_per_epoch(self) -> int:
        """Critic steps in one epoch."""
        return self.config.steps_per_epoch * self.config.updates_per_step * self.agent.utd_ratio

    def init(self, key: PRNGKey, worlds: VecState, demos: Transition | None) -> TrainState:
        """The state before the first epoch, warm-up included.

        Args:
            key: of the whole run.
            worlds: fresh `VecEnv.reset`.
            demos: transitions [T, M, ...] for `demo_buffer`.
        """
        k_agent, k_warm, key = jax.random.split(key, 3)
        obs = self.vec_env.observe(worlds)
        shapes = {k: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for k, x in obs.items()}
        worlds, steps = self._warm_up(worlds, k_warm)
        example = jax.tree.map(lambda x: x[0, 0], steps)
        buffer = self.buffer.add(self.buffer.init(example), steps)
        demo_rows = None
        if demos is not None and self.demo_buffer is not None:
            demo_rows = self.demo_buffer.add(self.demo_buffer.init(example), demos)
        state = TrainState(
            agent=self.agent.init(k_agent, shapes, steps.action.shape[-1]),
            worlds=worlds,
            buffer=buffer,
            demos=demo_rows,
            normalizer=self._first_statistics(shapes, [steps] if demos is None else [steps, demos]),
            key=key,
            epoch=jnp.zeros((), jnp.int32),
        )
        # Not traced, leaves may share an array, which cannot be donated twice.
        return state if self.traceable else jax.tree.map(jnp.copy, state)

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """`steps_per_epoch` vector steps with their updates; metrics of the epoch."""
        worlds = self._jit_begin(state.worlds)
        state, metrics = scan(
            self._iteration,
            state.replace(worlds=worlds),
            None,
            length=self.config.steps_per_epoch,
            traceable=self.traceable,
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics |= episode_metrics(state.worlds.stats)
        metrics["buffer/size"] = self.buffer.size(state.buffer).astype(jnp.float32)
        return state.replace(epoch=state.epoch + 1), metrics

    def policy(
        self, agent: AgentState, statistics: NormalizerState, *, deterministic: bool
    ) -> Policy:
        """The agent as a function of raw observations."""

        def act(obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
            seen = normalize.normalize(statistics, obs)
            return self.agent.act(agent, seen, key, deterministic=deterministic)

        return act

    def _warm_up(self, worlds: VecState, key: PRNGKey) -> tuple[VecState, Transition]:
        length = max(self.agent.n_step + 1, -(-self.config.warmup_steps // self.vec_env.num_envs))
        policy = random_policy(self.vec_env.env.action_dim)
        return rollout(self.vec_env, policy, worlds, key, length)

    def _iteration(self, state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        state, step = self._jit_advance(state)
        return self._jit_learn(state.replace(worlds=self.vec_env.draw(state.worlds)), step)

    # Compiled pieces for an epoch that is not traced as a whole; inside another jit they are
    # plain calls.

    @cached_property
    def _jit_begin(self) -> Callable[[VecState], VecState]:
        return jax.jit(lambda worlds: self.vec_env.refresh(clear_stats(worlds)), donate_argnums=0)

    @cached_property
    def _jit_advance(self) -> Callable[[TrainState], tuple[TrainState, Transition]]:
        return jax.jit(self.advance, donate_argnums=0)

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState, Transition], tuple[TrainState, Metrics]]:
        return jax.jit(self.learn, donate_argnums=0)

    def advance(self, state: TrainState) -> tuple[TrainState, Transition]:
        """Act in all worlds; their pictures are still those of before."""
        key, k_act = jax.random.split(state.key)
        policy = self.policy(state.agent, state.normalizer, deterministic=False)
        action = policy(self.vec_env.observe(state.worlds), k_act)
        worlds, step = self.vec_env.advance(state.worlds, action)
        return state.replace(worlds=worlds, key=key), step

    def learn(self, state: TrainState, step: Transition) -> tuple[TrainState, Metrics]:
        """Store a step and make the updates of one iteration."""
        key, k_sample, k_learn = jax.random.split(state.key, 3)
        row = jax.tree.map(lambda x: x[None], step)
        state = state.replace(
            buffer=self.buffer.add(state.buffer, row),
            normalizer=self._observe(state, step),
            key=key,
        )
        agent, metrics = self._learn(state, k_sample, k_learn)
        return state.replace(agent=agent), metrics

    def _first_statistics(self, shapes: ObsShapes, seen: list[Transition]) -> NormalizerState:
        if self.config.normalize_steps == 0:
            scales = {f.name: f.scale for f in self.vec_env.observer.obs_spec.fields}
            return normalize.init(shapes, scales)
        statistics = normalize.init(shapes)
        for steps in seen:
            statistics = normalize.update(statistics, steps.obs, steps.valid)
        return statistics

    def _observe(self, state: TrainState, step: Transition) -> NormalizerState:
        """Observation statistics, frozen after `normalize_steps`."""
        if self.config.normalize_steps == 0:
            return state.normalizer
        fresh = normalize.update(state.normalizer, step.obs, step.valid)
        done = state.epoch * self.env_steps_per_epoch >= self.config.normalize_steps
        return jax.tree.map(partial(jnp.where, done), state.normalizer, fresh)

    def _learn(
        self, state: TrainState, k_sample: PRNGKey, k_learn: PRNGKey
    ) -> tuple[AgentState, Metrics]:
        updates = self.config.updates_per_step
        # One gather for all updates of the step.
        batches = self._sample(state, k_sample, updates)

        def learn(agent: AgentState, xs: tuple[Batch, PRNGKey]) -> tuple[AgentState, Metrics]:
            return self.agent.update(agent, *xs)

        agent, metrics = jax.lax.scan(
            learn, state.agent, (batches, jax.random.split(k_learn, updates))
        )
        return agent, jax.tree.map(jnp.mean, metrics)

    def _sample(self, state: TrainState, key: PRNGKey, updates: int) -> Batch:
        shape = (updates, self.config.batch_size * self.agent.utd_ratio)
        n_step, gamma = self.agent.n_step, self.agent.gamma
        if self.demo_buffer is None or state.demos is None:
            batch = self.buffer.sample(state.buffer, key, shape, n_step=n_step, gamma=gamma)
        else:
            share = self.config.demo_fraction
            sampler = mix((1 - share, share), (self.buffer, self.demo_buffer))
            states = (state.buffer, state.demos)
            batch = sampler.sample(states, key, shape, n_step=n_step, gamma=gamma)
        scale = partial(normalize.normalize, state.normalizer)
        return batch.replace(obs=scale(batch.obs), next_obs=scale(batch.next_obs))


def buffer_rows(config: OffPolicyConfig, num_envs: int) -> int:
    """Rows of a replay buffer that holds `buffer_size` transitions and the warm-up."""
    return max(config.buffer_size // num_envs, -(-config.warmup_steps // num_envs), 2)
