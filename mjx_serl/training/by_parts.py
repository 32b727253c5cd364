"""What trainers have in common that learn a policy for each part of a task by turns.

An observation says whose turn it is (`scenes.contract.policy_contract.TURN`), so that rows and
actions find their part by themselves.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.training.from_actors import FromActors
from mjx_serl.training.off_policy import OffPolicy
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Ring
from mjx_serl.types import Choice, Obs, PRNGKey, PyTree, Transition
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import TURN


@dataclasses.dataclass(frozen=True, eq=False)
class ByParts:
    """The half of a Trainer whose state has an agent, a normaliser and rings per part, by its name.

    Attributes:
        one: how either part acts and learns.
        parts: names.
    """

    one: OffPolicy | FromActors
    parts: tuple[str, ...]

    @property
    def traceable(self) -> bool:
        """Whether `epoch` can be one compiled function."""
        return self.one.traceable

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.one.horizon

    def choose(
        self, params: PolicyParams, obs: Obs, key: PRNGKey, *, deterministic: bool
    ) -> Choice:
        """Choose actions for raw observations, by the policy of the part that they name."""
        return self._by_turn(
            params, obs, lambda own: self.one.choose(own, obs, key, deterministic=deterministic)
        )

    def _by_turn(
        self, params: PolicyParams, obs: Obs, choose: Callable[[PolicyParams], Choice]
    ) -> Choice:
        normalizers: Any = params.normalizer
        one, other = (
            choose(PolicyParams(params.agent[name], normalizers[name])) for name in self.parts
        )
        turn = turn_of(obs)

        def pick(x: Array, y: Array) -> Array:
            return jnp.where(turn.reshape(-1, *[1] * (x.ndim - 1)) == 0, x, y)

        return jax.tree.map(pick, one, other)

    def policy_params(self, state: TrainState) -> PolicyParams:
        """What `choose` reads."""
        return self._params(state, self.one.policy_params)

    def learned_params(self, state: TrainState) -> PolicyParams:
        """What another run may begin with: all parameters and the observation statistics."""
        return self._params(state, self.one.learned_params)

    def _params(
        self, state: TrainState, read: Callable[[TrainState], PolicyParams]
    ) -> PolicyParams:
        found = {name: read(view) for name, view in self.views(state).items()}
        normalizers: Any = {name: own.normalizer for name, own in found.items()}
        return PolicyParams({name: own.agent for name, own in found.items()}, normalizers)

    def begun(self, state: TrainState) -> TrainState:
        """The state after they have been put into it."""
        agent = {name: self.one.begun(view).agent for name, view in self.views(state).items()}
        return state.replace(agent=agent)

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the agents' networks are made of."""
        return self.one.compute_dtype

    def exact(self) -> Self:
        """The same trainer whose agents compute in float32."""
        return dataclasses.replace(self, one=self.one.exact())

    def rings(self, state: TrainState) -> list[Ring]:
        """The rings of all parts."""
        return [
            dataclasses.replace(ring, name=f"{name}, {ring.name}")
            for name, view in self.views(state).items()
            for ring in self.one.rings(view)
        ]

    def views(self, state: TrainState) -> dict[str, TrainState]:
        """By part the state as `one` knows it, without the worlds; they have one key."""
        normalizers: Any = state.normalizer
        return {
            name: state.replace(
                agent=state.agent[name],
                data=state.data[name],
                normalizer=normalizers[name],
                worlds=(),
            )
            for name in self.parts
        }

    def require_all_shown(self, demos: Transition | None) -> None:
        """Raise InputError where demonstrations are of some parts alone."""
        for name in self.parts:
            if demos is not None and not self.own(demos, name).valid.any():
                raise InputError(f"no demonstration is of '{name}'; take more (--demos.count)")

    def gathered(
        self,
        learner: OffPolicy,
        worlds: PyTree,
        rows: Mapping[str, Transition],
        k_agents: PRNGKey,
        key: PRNGKey,
    ) -> TrainState:
        """The state before the first epoch: of rows [T, N, ...] by source each part its own."""
        views = {}
        for i, name in enumerate(self.parts):
            own = {source: self.own(part, name) for source, part in rows.items()}
            views[name] = learner.gather(worlds, own, jax.random.fold_in(k_agents, i), key)
        return joined(views[self.parts[0]], views)

    def own(self, rows: Transition, name: str) -> Transition:
        """Rows [..., N] of which those are valid that belong to a part's episodes."""
        own = turn_of(rows.obs) == self.parts.index(name)
        return rows.replace(valid=rows.valid & own)


def turn_of(obs: Obs) -> Int[Array, "*lead"]:
    """Whose turn it is: 0 or 1."""
    return (obs[TURN][..., 0] < 0).astype("int32")


def joined(state: TrainState, views: Mapping[str, TrainState]) -> TrainState:
    """The state with the agents, rings and statistics of all parts."""

    def of_all(what: str) -> PyTree:
        return {name: getattr(view, what) for name, view in views.items()}

    return state.replace(
        agent=of_all("agent"), data=of_all("data"), normalizer=of_all("normalizer")
    )
