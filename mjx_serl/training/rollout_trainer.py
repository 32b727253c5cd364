"""What trainers have in common that learn from their own rollouts: one epoch is one of them."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mjx_serl import devices
from mjx_serl.agents.agent import AgentState
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.envs.env import EnvState
from mjx_serl.envs.judge import judged_metrics
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import (
    VecEnv,
    VecState,
    clear_stats,
    episode_metrics,
    growth_metrics,
    vectorize,
)
from mjx_serl.training.one_agent import OneAgent
from mjx_serl.training.rollouts import Played, with_advantages
from mjx_serl.training.scan import run_once, scan
from mjx_serl.training.sharing import check_divides
from mjx_serl.training.state import PolicyParams, TrainState, shapes_of, tree_bytes
from mjx_serl.training.trainer import Share
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, RolloutBatch, Transition
from scenes.contract.errors import InputError

MOST_POOL = 4096


class RolloutWorlds:
    """The part of a MethodConfig that makes worlds; its `loop` has `pool`, `stagger`, `grow`."""

    loop: Any

    def pool_size(self, num_envs: int) -> int:
        """Prepared starts of so many worlds."""
        return min(MOST_POOL, self.loop.pool * num_envs)

    def worlds(self, observer: Observer, *, num_envs: int) -> VecEnv:
        """Return the worlds to act in, not started."""
        return vectorize(
            observer,
            num_envs=num_envs,
            pool_size=self.pool_size(num_envs),
            stagger=self.loop.stagger,
            grow=self.loop.grow,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RolloutTrainer(OneAgent):
    """The part of a Trainer around what it plays (`play`) and what it makes of it (`learn`).

    Its TrainState.data has `episodes`, how many that ended in the epoch had been solved. Where the
    renderer is not `traceable` it is called as it is: its pieces are compiled.

    Attributes:
        config: the loop; it has `passes` and `minibatches`.
    """

    config: Any

    @property
    def length(self) -> int:
        """How often each world is played on in a rollout."""
        raise NotImplementedError

    @property
    def length_option(self) -> str:
        """What says so on the command line."""
        raise NotImplementedError

    def first_state(self, key: PRNGKey, given: None) -> TrainState:
        """The state before the first epoch; traced."""
        raise NotImplementedError

    def play(self, state: TrainState, _: None) -> tuple[TrainState, Played]:
        """Play all worlds on."""
        raise NotImplementedError

    def remembered(self, data: Any) -> Any:
        """What `decide` remembers from one choice to the next, of TrainState.data: [N, ...]."""
        del data
        return ()

    def remembering(self, data: Any, remembered: Any) -> Any:
        """The data with that in its place."""
        del remembered
        return data

    def decide(
        self, agent: AgentState, normalizer: NormalizerState, obs: Obs, memory: Any, key: PRNGKey
    ) -> tuple[Choice, Any]:
        """Choose in worlds that are seen so, raw; the second is what it remembers now.

        With `carry_out` it is `play`, for those who have a policy in one place and worlds in
        another.
        """
        raise NotImplementedError

    def carry_out(
        self, worlds: VecState, data: Any, chosen: Choice
    ) -> tuple[VecState, Any, Transition, EnvState]:
        """Play a choice in worlds, whose pictures stay those of before.

        The third is the row to learn from, without observations and extras; the fourth the worlds
        as the choice left them, ended ones not restarted.
        """
        raise NotImplementedError

    def learn_from(
        self, state: TrainState, played: Played, after: Obs
    ) -> tuple[TrainState, Metrics]:
        """Make the passes over a rollout, `after` which the worlds are seen so; metrics of them.

        It reads no worlds.
        """
        raise NotImplementedError

    def batch_of(
        self, state: TrainState, played: Played, after: Obs
    ) -> tuple[RolloutBatch, Metrics]:
        """The choices of a rollout with their advantages, all on one axis [T * N], and metrics."""
        return with_advantages(self.agent, state.normalizer, played, self.value(state, after))

    def learn(self, state: TrainState, played: Played) -> tuple[TrainState, Metrics]:
        """`learn_from` what the worlds of the state look like."""
        return self.learn_from(state, played, self.vec_env.observe(state.worlds))

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        return self.length * self.horizon * self.vec_env.num_envs

    @property
    def updates_per_epoch(self) -> int:
        """Gradient steps in one epoch where none is left out (`actor/updates`)."""
        return self.config.passes * self.config.minibatches

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        if self.traceable:
            return jax.eval_shape(self.first_state, jax.random.key(0), None)
        # What cannot be traced has to be made to be measured.
        return shapes_of(self.init(jax.random.key(0)))

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch."""
        return run_once(self.first_state, key, None, traceable=self.traceable)

    def part(self, among: int) -> Self:
        """The trainer of one of so many devices that share the worlds, and so each minibatch."""
        check_divides(among, {}, self.vec_env)
        rows = self.length * self.vec_env.num_envs // among
        if rows % self.config.minibatches:
            raise InputError(
                f"--devices {among} with --loop.minibatches {self.config.minibatches}, allowed: "
                f"what divides {rows}, the rows of a rollout on each device"
            )
        return dataclasses.replace(self, vec_env=self.vec_env.part(among))

    def given(self, key: PRNGKey) -> None:
        """Nothing: all of the first state is traced."""
        del key

    @property
    def pretraining(self) -> None:
        """Nothing that is traced is learned before the first epoch."""

    def memory(self, state: TrainState) -> list[Share]:
        """The worlds, and a rollout of them."""
        found = [self.worlds_share(state)]
        if self.traceable:
            played = self.length * tree_bytes(jax.eval_shape(self.play, state, None)[1])
            share = Share("rollout", played, self.length_option, self.length, 1, stored=False)
            found.append(share)
        return found

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """A rollout and what is learned from it; metrics of both."""
        state = self._jit_begin(state)
        state, played = scan(self.play, state, None, length=self.length, traceable=self.traceable)
        state, metrics = self._jit_learn(state, played)
        metrics |= self.told(state.worlds, state.data)
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def told(self, worlds: VecState, data: Any) -> Metrics:
        """What there is to say of the episodes that ended in an epoch."""
        metrics = episode_metrics(worlds.stats) | growth_metrics(worlds.growth)
        return (
            metrics
            | judged_metrics(worlds.judged)
            | {
                "episode/solved_once": data.episodes.astype(jnp.float32),
                "episode/len_sum": metrics["episode/step_sum"],
            }
        )

    def value(self, state: TrainState | PolicyParams, obs: Obs) -> Float[Array, " N"]:
        """The value of raw observations."""
        return self.agent.value(state.agent, normalize.normalize(state.normalizer, obs))

    def cut_value(self, before: TrainState, last: EnvState) -> Float[Array, " N"]:
        """The value of the observations that time-outs cut off, where there is any; else zeros."""

        def ask() -> Float[Array, " N"]:
            return self._jit_value(before, self.vec_env.observe_last(last, before.worlds))

        def nothing() -> Float[Array, " N"]:
            return jnp.zeros(self.vec_env.num_envs)

        cut = jnp.any(last.truncated)
        if devices.has_split(before.agent):  # all gather it, or none
            cut = devices.any_true(cut)
        if self.traceable:
            return jax.lax.cond(cut, ask, nothing)
        return ask() if bool(cut) else nothing()

    # Compiled pieces for what is not traced as a whole; inside another jit they are plain calls.

    @cached_property
    def _jit_begin(self) -> Callable[[TrainState], TrainState]:
        def begin(state: TrainState) -> TrainState:
            worlds: VecState = self.vec_env.refresh(clear_stats(state.worlds))
            return state.replace(worlds=worlds, data=state.data.replace(episodes=jnp.int32(0)))

        return jax.jit(begin, donate_argnums=0)

    @cached_property
    def _jit_value(self) -> Callable[[TrainState, Obs], Float[Array, " N"]]:
        return jax.jit(self.value)

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState, Played], tuple[TrainState, Metrics]]:
        return jax.jit(self.learn, donate_argnums=0)
