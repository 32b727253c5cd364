"""Encoder, actor and critics for one kind of observation and action."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.nets.distributions import split_mean_std
from mjx_serl.nets.encoders import ObsEncoder
from mjx_serl.nets.ensemble import ensemble_q
from mjx_serl.nets.mlp import MLP, forward
from mjx_serl.types import Obs, PRNGKey, PyTree


@struct.dataclass
class CriticParams:
    """What the critic's loss trains."""

    encoder: PyTree  # of images, {} without; all members share it
    members: PyTree  # every leaf has a leading member axis


@dataclass(frozen=True)
class Networks:
    """The encoder, the actor on its features and the critics on features and action."""

    encoder: ObsEncoder
    actor: MLP
    critic: MLP

    def init_actor(self, key: PRNGKey) -> PyTree:
        """Draw the actor's parameters."""
        return self.actor.init(key, jnp.zeros((1, self.encoder.policy.dim)))

    def init_critic(self, key: PRNGKey, encoder_key: PRNGKey, action_dim: int) -> CriticParams:
        """Draw the critics' parameters; ValueError for images the encoder cannot read."""
        encoder = self.encoder.init(encoder_key)
        blank = jnp.zeros((1, self.encoder.dim + action_dim))
        return CriticParams(encoder, self.critic.init(key, blank))

    def features(self, params: CriticParams, obs: Obs) -> Float[Array, "B D"]:
        """[image features | vectors], by the critic's encoder."""
        return self.encoder(params.encoder, obs)

    def policy_features(self, params: CriticParams, obs: Obs) -> Float[Array, "B D"]:
        """The part of `features` that the policy reads; no more of `obs` need be there."""
        return self.encoder.policy(params.encoder, obs)

    def policy(
        self, params: PyTree, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B A"], Float[Array, "B A"]]:
        """Mean and standard deviation before tanh; what critics alone see is left out."""
        seen = self.encoder.policy.dim
        features = features if seen == features.shape[-1] else features[:, :seen]
        return split_mean_std(forward(self.actor, params, features))

    def q(
        self, members: PyTree, features: Float[Array, "B D"], action: Float[Array, "B A"]
    ) -> Float[Array, "E B"]:
        """Q of every member of `members`."""
        return ensemble_q(self.critic, members, features, action)
