"""Encoder, actor and critics for one kind of observation and action."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.nets.distributions import split_mean_std
from mjx_serl.nets.encoders import ENCODERS, EncoderConfig, ObsEncoder
from mjx_serl.nets.ensemble import ensemble_q
from mjx_serl.nets.mlp import (
    ACTIVATIONS,
    COMPUTE_DTYPES,
    MLP,
    Activation,
    ComputeDtype,
    forward,
)
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges
from scenes.contract.specs import ActionSpec, ObsSpec

READ = ("vector", "image", "maps")  # kinds of observations


class NetworksConfig(Protocol):
    """What hyper-parameters say of networks; the fields are those of `SACConfig`."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        ...

    @property
    def activation(self) -> Activation:
        """After each hidden layer."""
        ...

    @property
    def layer_norm(self) -> bool:
        """Whether hidden layers are normalised."""
        ...

    @property
    def compute_dtype(self) -> ComputeDtype:
        """Of the products."""
        ...

    @property
    def encoder(self) -> EncoderConfig:
        """Of images."""
        ...


def check_networks(cfg: NetworksConfig, *messages: str) -> None:
    """Raise InputError for a number out of range, an unknown name, or the first of `messages`."""
    _ = ENCODERS[cfg.encoder.name]
    check_ranges(cfg)
    named: Sequence[tuple[str, Sequence[str]]] = (
        ("activation", [*ACTIVATIONS]),
        ("compute_dtype", [*COMPUTE_DTYPES]),
    )
    unknown = [
        f"{field} '{getattr(cfg, field)}', allowed: {allowed}"
        for field, allowed in named
        if getattr(cfg, field) not in allowed
    ]
    for message in (*unknown, *messages):
        raise InputError(f"{type(cfg).__name__}: {message}")


def check_specs(agent: str, obs: ObsSpec, action: ActionSpec) -> None:
    """Raise InputError for observations of a kind that no network reads, or actions that are not
    one continuous vector at a time.
    """
    unread = [f"'{f.name}' ({f.kind})" for f in obs.fields if f.kind not in READ]
    if unread:
        raise InputError(
            f"{agent} reads vectors, images and maps, got {', '.join(unread)}; allowed: a task "
            "that tells nothing, or a policy that is told (--preset flow_ppo_pixels, docs/vla.md)"
        )
    if any(action.choices) or action.horizon != 1:
        raise InputError(
            f"{agent} gives one continuous action at a time, asked for choices {action.choices} "
            f"and horizon {action.horizon}"
        )


def build_mlp(cfg: NetworksConfig, encoder: ObsEncoder, outputs: int) -> MLP:
    """Return the network on an encoder's features; beside images the vectors are embedded."""
    both = encoder.learned and encoder.vectors
    return MLP(
        cfg.hidden,
        outputs,
        activation=cfg.activation,
        layer_norm=cfg.layer_norm,
        compute_dtype=cfg.compute_dtype,
        embedded=(encoder.image_dim, encoder.dim) if both else None,
    )


def with_zero_head(params: PyTree) -> PyTree:
    """Return a network's parameters with zeros in its last layer: it says zero at first."""

    def zero(path: tuple, x: Array) -> Array:
        return jnp.zeros_like(x) if "head" in jax.tree_util.keystr(path) else x

    return jax.tree_util.tree_map_with_path(zero, params)


@struct.dataclass
class CriticParams:
    """What the critic's loss trains."""

    encoder: PyTree  # of images, {} without; all members share it
    members: PyTree  # every leaf has a leading member axis
    probe: PyTree = ()  # see `Networks.probe_loss`; () without


@dataclass(frozen=True)
class Networks:
    """The encoder, the actor on its features and the critics on features and action.

    Attributes:
        encoder: of everything that is observed.
        actor: reads the part that the policy sees.
        critic: reads all of it.
        probe: reads what the actor reads and says what critics alone see; None where they see no
            more, or no pictures are encoded.
    """

    encoder: ObsEncoder
    actor: MLP
    critic: MLP
    probe: MLP | None = None

    def init_actor(self, key: PRNGKey) -> PyTree:
        """Draw the actor's parameters."""
        return self.actor.init(key, jnp.zeros((1, self.encoder.policy.dim)))

    def init_critic(self, key: PRNGKey, encoder_key: PRNGKey, action_dim: int) -> CriticParams:
        """Draw the critics' parameters; ValueError for images the encoder cannot read."""
        encoder = self.encoder.init(encoder_key)
        blank = jnp.zeros((1, self.encoder.dim + action_dim))
        members = self.critic.init(key, blank)
        if self.probe is None:
            return CriticParams(encoder, members)
        features = jnp.zeros((1, self.encoder.policy.dim))
        return CriticParams(encoder, members, self.probe.init(encoder_key, features))

    def features(self, params: CriticParams, obs: Obs) -> Float[Array, "B D"]:
        """[image features | vectors], by the critic's encoder."""
        return self.encoder(params.encoder, obs)

    def policy_features(self, params: CriticParams, obs: Obs) -> Float[Array, "B D"]:
        """The part of `features` that the policy reads; no more of `obs` need be there."""
        return self.encoder.policy(params.encoder, obs)

    def probe_loss(self, params: CriticParams, features: Float[Array, "B D"]) -> Float[Array, ""]:
        """Mean square error of what critics alone see, told from what the policy sees.

        A critic that is told where things are has no use for pictures, and nothing else trains
        their encoder, which the policy reads too: this does.
        """
        assert self.probe is not None
        seen = self.encoder.policy.dim
        told = forward(self.probe, params.probe, features[:, :seen])
        return jnp.mean(jnp.square(told - features[:, seen:]))

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
