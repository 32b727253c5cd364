"""What trainers have in common that spread one trainer over devices: all that it does as well."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.training.trainer import Share, Trainer
from mjx_serl.types import Choice, Obs, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevices:
    """The part of a Trainer that is that of one device.

    Attributes:
        whole: the trainer as it is on one device.
    """

    whole: Any

    @property
    def env_steps_per_epoch(self) -> int:
        """Control steps of all worlds in one epoch."""
        return self.whole.env_steps_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Gradient steps in one epoch, each of all devices."""
        return self.whole.updates_per_epoch

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.whole.horizon

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the networks are made of."""
        return self.whole.compute_dtype

    @property
    def least_success(self) -> float:
        """Success rate that the untrained policy must have."""
        return getattr(self.whole, "least_success", 0.0)

    def exact(self) -> Trainer:
        """The trainer of one device whose `choose` computes in float32."""
        return self.whole.exact()

    def choose(
        self, params: PolicyParams, obs: Obs, key: PRNGKey, *, deterministic: bool
    ) -> Choice:
        """Choose actions for raw observations."""
        return self.whole.choose(params, obs, key, deterministic=deterministic)

    def policy_params(self, state: TrainState) -> PolicyParams:
        """What `choose` reads."""
        return self.whole.policy_params(state)

    def learned_params(self, state: TrainState) -> PolicyParams:
        """What another run may begin with."""
        found = self.whole
        return getattr(found, "learned_params", found.policy_params)(state)

    def memory(self, state: TrainState) -> Sequence[Share]:
        """The parts of a state that options shrink."""
        return self.whole.memory(state)
