"""A pair of policies that learns from what arms do by turns.

Each part has a ring of what arms did in its episodes, and each row pays for the updates of its own
part alone: an arm may stay with one part for long, and the other would be trained over and over on
the little that it has.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mjx_serl.agents.agent import AgentState
from mjx_serl.training.by_parts import ByParts, joined, turn_of
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.from_actors import FromActors, from_actors
from mjx_serl.training.off_policy import DEMOS, ONLINE
from mjx_serl.training.pair import Pair
from mjx_serl.training.scan import run_once
from mjx_serl.training.state import PolicyParams, TrainState, shapes_of
from mjx_serl.training.trainer import Share
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, Transition

CREDIT = "credit"  # beside the parts' rings: rows of each that no epoch was trained for, [2]


def pair_from_actors(pair: Pair) -> "PairFromActors":
    """The same pair, fed by arms elsewhere; InputError as of `from_actors`."""
    return PairFromActors(from_actors(pair.one), pair.parts)


@dataclasses.dataclass(frozen=True, eq=False)
class PairFromActors(ByParts):
    """A Trainer as `FromActors`, whose epochs are each of the part that has the most to learn from.

    Attributes:
        one: how either part learns.
        parts: names.
    """

    one: FromActors

    @property
    def env_steps_per_epoch(self) -> int:
        """Rows of the arms that pay for one epoch."""
        return self.one.env_steps_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Critic steps in one epoch."""
        return self.one.updates_per_epoch

    @property
    def first_rows(self) -> int:
        """Rows of the arms before the first epoch."""
        return self.one.first_rows

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        demos = self.one.learner.demos
        if self.traceable or demos is None:
            shapes = None if demos is None else demos.shapes()
            return jax.eval_shape(self._first_state, jax.random.key(0), shapes)
        return shapes_of(self.init(jax.random.key(0)))

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, demonstrations included."""
        demos = self.one.learner.demos
        rows = None if demos is None else demos.rows(key)
        self.require_all_shown(rows)
        return run_once(self._first_state, key, rows, traceable=True)

    def _first_state(self, key: PRNGKey, demos: Transition | None) -> TrainState:
        k_agents, key = jax.random.split(jax.random.fold_in(key, TRAIN))
        blank = self.one.blank
        rows = {ONLINE: blank} if demos is None else {ONLINE: blank, DEMOS: demos}
        state = self.gathered(self.one.learner, (), rows, k_agents, key)
        return state.replace(data=state.data | {CREDIT: jnp.zeros(len(self.parts), jnp.int32)})

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """The updates that `env_steps_per_epoch` rows of one part pay for; their metrics.

        Those of the other part are NaN.
        """
        state, metrics = self._jit_learn(state)
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def _learn(self, state: TrainState) -> tuple[TrainState, Metrics]:
        credit, views = state.data[CREDIT], self.views(state)
        key, k_learn = jax.random.split(state.key)
        turn = jnp.argmax(credit)
        branches = [self._learner_of(name, views) for name in self.parts]
        agents, metrics = jax.lax.switch(turn, branches, k_learn)
        rest = credit.at[turn].add(-self.env_steps_per_epoch)
        size = sum(self.one.size(view) for view in views.values()).astype(jnp.float32)
        fill = size / (len(self.parts) * self.one.learner.config.buffer_size)
        metrics |= {"buffer/size": size, "buffer/fill": fill}
        state = state.replace(agent=agents, key=key, data=state.data | {CREDIT: rest})
        return state, metrics

    def _learner_of(
        self, name: str, views: dict[str, TrainState]
    ) -> Callable[[PRNGKey], tuple[dict[str, AgentState], Metrics]]:
        """An epoch of a part: the agents of all after it, and metrics of all."""

        def learn(key: PRNGKey) -> tuple[dict[str, AgentState], Metrics]:
            before = views[name]
            after, told = self.one.learn(before.replace(key=key))
            # An episode of a row or two may leave nothing that can be learned from.
            some = self.one.size(before) > 0
            agent = jax.tree.map(lambda x, y: jnp.where(some, x, y), after.agent, before.agent)
            agents = {part: view.agent for part, view in views.items()} | {name: agent}
            nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), told)
            metrics = {
                f"{metric}_{part}": value
                for part in self.parts
                for metric, value in (told if part == name else nothing).items()
            }
            return agents, metrics

        return learn

    def receive(self, state: TrainState, rows: Transition) -> TrainState:
        """A state that has stored rows [`BLOCK`, 1, ...] of an episode, as of `FromActors`.

        They go to the part whose turn the first of them says it was.
        """
        part = int(turn_of(rows.obs)[0, 0])
        name = self.parts[part]
        own = self.own(rows, name)
        views = self.views(state)
        views[name] = self.one.receive(views[name], own)
        credit = state.data[CREDIT].at[part].add(int(own.valid.sum()))
        state = joined(state, views)
        return state.replace(data=state.data | {CREDIT: credit})

    def explore(self, params: PolicyParams, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """Choose as in training, with its noise given, by the policy of the part that is named."""
        return self._by_turn(params, obs, lambda own: self.one.explore(own, obs, noise))

    def memory(self, state: TrainState) -> Sequence[Share]:
        """Replay of both."""
        (first,), (second,) = (self.one.memory(view) for view in self.views(state).values())
        return [dataclasses.replace(first, nbytes=first.nbytes + second.nbytes)]

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        # Compiled also where the renderer is not traced; inside another jit it is a plain call.
        return jax.jit(self._learn, donate_argnums=0)
