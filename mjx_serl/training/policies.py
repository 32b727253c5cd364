"""What maps observations to actions."""

from typing import Protocol

import jax
from jaxtyping import Array, Float

from mjx_serl.training.state import PolicyParams
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import Actions, Obs, PRNGKey


class Policy(Protocol):
    """Anything that maps observations [N, ...] to actions."""

    def __call__(self, obs: Obs, key: PRNGKey) -> Actions:
        """Choose actions in [-1, 1]."""
        ...


def random_policy(action_dim: int) -> Policy:
    """Uniform actions."""

    def act(obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        num = jax.tree.leaves(obs)[0].shape[0]
        return jax.random.uniform(key, (num, action_dim), minval=-1.0, maxval=1.0)

    return act


def trained_policy(trainer: Trainer, params: PolicyParams, *, deterministic: bool = True) -> Policy:
    """The policy of a trainer's `policy_params`: [N, A], or [N, H, A] of its `horizon`."""

    def act(obs: Obs, key: PRNGKey) -> Actions:
        actions = trainer.choose(params, obs, key, deterministic=deterministic).action
        return actions[:, 0] if trainer.horizon == 1 else actions

    return act
