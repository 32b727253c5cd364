"""What trainers have in common that learn by an `OffPolicy` and step no worlds of their own."""

import dataclasses
from typing import Self

from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.training.off_policy import OffPolicy
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Ring
from mjx_serl.types import Choice, Obs, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class OverLearner:
    """The part of a Trainer that its learner does.

    Attributes:
        learner: knows how to learn from its rings; it is never asked to step its worlds.
    """

    learner: OffPolicy

    @property
    def traceable(self) -> bool:
        """Whether evaluations can be compiled; an epoch draws nothing and always is."""
        return self.learner.traceable

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.learner.horizon

    @property
    def updates_per_epoch(self) -> int:
        """Critic steps in one epoch."""
        return self.learner.updates_per_epoch

    def policy_params(self, state: TrainState) -> PolicyParams:
        """What `choose` reads."""
        return self.learner.policy_params(state)

    def learned_params(self, state: TrainState) -> PolicyParams:
        """What another run may begin with."""
        return self.learner.learned_params(state)

    def begun(self, state: TrainState) -> TrainState:
        """The state after they have been put into it."""
        return self.learner.begun(state)

    def choose(
        self, params: PolicyParams, obs: Obs, key: PRNGKey, *, deterministic: bool
    ) -> Choice:
        """Choose actions for raw observations."""
        return self.learner.choose(params, obs, key, deterministic=deterministic)

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the networks are made of."""
        return self.learner.compute_dtype

    def exact(self) -> Self:
        """The same trainer whose agent computes in float32."""
        return dataclasses.replace(self, learner=self.learner.exact())

    def rings(self, state: TrainState) -> list[Ring]:
        """The rings, to be looked at."""
        return self.learner.rings(state)
