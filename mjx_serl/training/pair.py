"""Two off-policy learners by turns in the same worlds: where one's episode ends the other's begins.

SERL's forward/backward pair (reference serl_family.md 1.1, 2.2), which needs no one to put things
back: here it needs no reset of a simulator. Each part of an `Alternating` task has an agent,
replay, observation statistics and demonstrations of its own, all made of `OffPolicy`'s pieces; the
worlds are shared. Only a world that is lost (`envs.vector.lost`) is put back.

A step of the worlds is written to both rings, valid in the one of the part whose turn it was. An
episode's last row is terminated or truncated, so no transition reaches into the other's turn; the
price is that half of either ring are rows it cannot use.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mjx_serl import devices
from mjx_serl.agents.agent import AGENTS
from mjx_serl.agents.sac import SACConfig
from mjx_serl.envs.env import EnvState, lost
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.vector import VecState, clear_stats, episode_metrics
from mjx_serl.tasks.alternating import Alternating
from mjx_serl.training.by_parts import ByParts, joined
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.off_policy import (
    DEMOS,
    ONLINE,
    LoopConfig,
    OffPolicy,
    OffPolicyConfig,
    require_single_actions,
)
from mjx_serl.training.scan import run_once, scan
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import METHODS, Share
from mjx_serl.types import Metrics, PRNGKey, Transition
from scenes.contract.errors import InputError
from scenes.contract.serialize import open_field


@METHODS.register("pair")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig:
    """A learner for each part of a task by turns; both are configured alike.

    Attributes:
        agent: the learner.
        loop: collection, replay and the number of updates of each; `buffer_size` is of each too.
        demos: demonstrations of both together, about half of them each's.
    """

    agent: Any = open_field(AGENTS, SACConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    demos: DemoConfig = dataclasses.field(default_factory=lambda: DemoConfig(count=40))

    @property
    def one(self) -> OffPolicyConfig:
        """How either part learns."""
        return OffPolicyConfig(agent=self.agent, loop=self.loop, demos=self.demos)

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        self.one.check(num_envs=num_envs)
        require_single_actions(self.agent.build(), "pair")
        if self.loop.pretrain_updates:
            raise InputError(
                f"loop.pretrain_updates {self.loop.pretrain_updates} with --method pair, allowed: 0"
            )

    def cautions(self, observer: Observer) -> list[str]:
        """What is allowed and hardly meant."""
        return self.one.cautions(observer)

    def pool_size(self, num_envs: int) -> int:
        """Prepared starts, which only lost worlds take."""
        return self.one.pool_size(num_envs)

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        return f"{self.one.label(images=images)}_pair"

    def build(self, observer: Observer, *, num_envs: int) -> "Pair":
        """Return the trainer; InputError where the task has no two parts."""
        task = observer.env.task
        if not isinstance(task, Alternating):
            raise InputError(
                f"--method pair with '{observer.env.name}', which is one task; allowed: a task of "
                "two by turns, for example franka/bin_relocation"
            )
        if observer.judge is not None:
            raise InputError("--method pair takes no --reward: one classifier cannot judge both")
        vec_env = self.one.worlds(observer, num_envs=num_envs, autoreset="lost")
        return Pair(self.one.trainer(vec_env, self.demos.build(observer)), task.parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair(ByParts):
    """A Trainer whose state has an agent, a normaliser and rings per part, by its name.

    Attributes:
        one: how either part acts and learns, with the worlds of both.
        parts: names.
    """

    one: OffPolicy

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        return self.one.env_steps_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Critic steps of both in one epoch."""
        return 2 * self.one.updates_per_epoch

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        if self.traceable:
            return jax.eval_shape(self.first_state, jax.random.key(0), self.given_shapes())
        state = self.init(jax.random.key(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, demonstrations and warm-up included."""
        return run_once(self.first_state, key, self.given(key), traceable=self.traceable)

    def part(self, among: int) -> "Pair":
        """The trainer of one of so many devices that share worlds, rows and batches equally."""
        return dataclasses.replace(self, one=self.one.part(among))

    def given(self, key: PRNGKey) -> Transition | None:
        """The demonstrations, which are made or read and not traced."""
        rows = self.one.given(key)
        self.require_all_shown(rows)
        return rows

    def given_shapes(self) -> Transition | None:
        """The same as shapes."""
        return self.one.given_shapes()

    @property
    def pretraining(self) -> None:
        """Nothing is learned before the first epoch."""

    def first_state(self, key: PRNGKey, demos: Transition | None) -> TrainState:
        """The state before the first epoch."""
        k_worlds, key = jax.random.split(jax.random.fold_in(key, TRAIN))
        worlds = self.one.vec_env.reset(k_worlds)
        k_agents, k_warm, key = jax.random.split(key, 3)
        worlds, steps = self.one.warm_up(worlds, k_warm)
        return self._jit_gather(worlds, steps, demos, k_agents, key)

    def _gather(
        self,
        worlds: VecState,
        steps: Transition,
        demos: Transition | None,
        k_agents: PRNGKey,
        key: PRNGKey,
    ) -> TrainState:
        rows = {ONLINE: steps} if demos is None else {ONLINE: steps, DEMOS: demos}
        return self.gathered(self.one, worlds, rows, k_agents, key)

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """`steps_per_epoch` vector steps with the updates of both; metrics of the epoch."""
        worlds = self._jit_begin(state.worlds)
        state, (counts, metrics) = scan(
            self._iteration,
            state.replace(worlds=worlds),
            None,
            length=self.one.config.steps_per_epoch,
            traceable=self.traceable,
        )
        metrics = jax.tree.map(jnp.mean, metrics) | jax.tree.map(jnp.sum, counts)
        metrics |= episode_metrics(state.worlds.stats)
        buffer, rings = self.one.sources[ONLINE].buffer, state.data.values()
        size = sum(buffer.size(ring[ONLINE]) for ring in rings).astype(jnp.float32)
        fill = size / (buffer.capacity_rows * buffer.num_envs)
        metrics |= {"buffer/size": size, "buffer/fill": fill}
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def _iteration(self, state: TrainState, _: None) -> tuple[TrainState, tuple[Metrics, Metrics]]:
        state, step, counts = self._jit_advance(state)
        state = state.replace(worlds=self.one.vec_env.draw(state.worlds))
        state, metrics = self._jit_learn(state, step)
        return state, (counts, metrics)

    # Compiled pieces for what is not traced as a whole; inside another jit they are plain calls.

    @cached_property
    def _jit_gather(self) -> Callable[..., TrainState]:
        return jax.jit(self._gather, inline=True)

    @cached_property
    def _jit_begin(self) -> Callable[[VecState], VecState]:
        vec_env = self.one.vec_env
        return jax.jit(lambda worlds: vec_env.refresh(clear_stats(worlds)), donate_argnums=0)

    @cached_property
    def _jit_advance(self) -> Callable[[TrainState], tuple[TrainState, Transition, Metrics]]:
        return jax.jit(self.advance, donate_argnums=0)

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState, Transition], tuple[TrainState, Metrics]]:
        return jax.jit(self.learn, donate_argnums=0)

    def advance(self, state: TrainState) -> tuple[TrainState, Transition, Metrics]:
        """Act in all worlds, each for the part whose turn it is; also how many episodes ended."""
        key, k_act = jax.random.split(state.key)
        vec_env = self.one.vec_env
        params = PolicyParams(state.agent, state.normalizer)
        chosen = self.choose(params, vec_env.observe(state.worlds), k_act, deterministic=False)
        worlds, step, last = vec_env.advance(state.worlds, chosen)
        return state.replace(worlds=worlds, key=key), step, self._counts(last)

    def _counts(self, last: EnvState) -> Metrics:
        """Episodes and successes of each part, and worlds that were put back, in this step."""
        ended = last.terminated | last.truncated
        counts = {"pair/put_back": lost(last).sum()}
        for i, name in enumerate(self.parts):
            own = ended & (last.task_state.turn == i)
            counts[f"pair/{name}_episodes"] = own.sum()
            counts[f"pair/{name}_successes"] = (own & last.success).sum()
        return {name: count.astype(jnp.float32) for name, count in counts.items()}

    def learn(self, state: TrainState, step: Transition) -> tuple[TrainState, Metrics]:
        """Store a step and make the updates of both."""
        views, metrics = {}, {}
        for i, (name, view) in enumerate(self.views(state).items()):
            before = view.replace(key=jax.random.fold_in(state.key, i))
            after, told = self.one.learn(before, self.own(step, name))
            # Until it was its turn once there is nothing to learn from but meaningless rows.
            some = self.one.sources[ONLINE].buffer.size(after.data[ONLINE]) > 0
            some = devices.all_true(some)
            pick = lambda new, old, some=some: jnp.where(some, new, old)  # noqa: E731
            views[name] = after.replace(agent=jax.tree.map(pick, after.agent, before.agent))
            metrics |= {f"{metric}_{name}": value for metric, value in told.items()}
        key = jax.random.split(state.key, 1)[0]
        return joined(state.replace(key=key), views), metrics

    def memory(self, state: TrainState) -> list[Share]:
        """Replay of both, and worlds."""
        first, second = (
            self.one.memory(view.replace(worlds=state.worlds))
            for view in self.views(state).values()
        )
        both = dataclasses.replace(first[0], nbytes=first[0].nbytes + second[0].nbytes)
        return [both, *first[1:]]
