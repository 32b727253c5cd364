"""The networks of a flow policy, and which of their parameters PPO trains."""

from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.agents.optimizer import paths_of
from mjx_serl.devices import is_split
from mjx_serl.nets import denoising
from mjx_serl.nets.denoising import Chunk
from mjx_serl.nets.encoders import encode_vectors, vector_dim
from mjx_serl.nets.mlp import MLP, forward
from mjx_serl.nets.velocity import TIME_DIM, VelocityNet, time_features
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsField

NET, CRITIC, NOISE = "net", "critic", "noise"  # parts of the parameters
FROZEN = "frozen"  # what PPO leaves alone
_NAMED = 8  # parameters that a message names


def labels_of(params: PyTree, trained: tuple[str, ...]) -> PyTree:
    """Which part each parameter belongs to, `FROZEN` where no pattern matches its path in the net.

    Raises InputError for a pattern that matches none.
    """
    paths = paths_of(params[NET])
    names = jax.tree.leaves(paths)
    for pattern in trained:
        if not any(fnmatch(name, pattern) for name in names):
            more = ", ..." if len(names) > _NAMED else ""
            raise InputError(
                f"agent.trained '{pattern}' is no parameter of the net, allowed: patterns of "
                f"{', '.join(names[:_NAMED])}{more}"
            )

    def label(name: str) -> str:
        return NET if any(fnmatch(name, pattern) for pattern in trained) else FROZEN

    labels = {NET: jax.tree.map(label, paths)}
    labels |= {
        part: jax.tree.map(lambda _, to=to: to, params[part], is_leaf=is_split)
        # The learned noise has the net's step size.
        for part, to in ((CRITIC, CRITIC), (NOISE, NET))
        if part in params
    }
    return labels


def held(params: PyTree, trained: tuple[str, ...]) -> PyTree:
    """The parameters, of which those that are frozen get no gradients."""

    def hold(label: str, x: Array) -> Array:
        return jax.lax.stop_gradient(x) if label == FROZEN else x

    return jax.tree.map(hold, labels_of(params, trained), params)


@dataclass(frozen=True)
class FlowParts:
    """The velocity net, and what reads its features.

    Attributes:
        net: the velocity.
        more: numbers that critics alone see.
        value_hidden, value_detached, noise_hidden, noise_range: as of `FlowPPOConfig`.
    """

    net: VelocityNet
    more: tuple[ObsField, ...]
    value_hidden: tuple[int, ...]
    value_detached: bool
    noise_hidden: tuple[int, ...]
    noise_range: tuple[float, float]

    @property
    def critic_dim(self) -> int:
        """Of what the value network reads."""
        return self.net.feature_dim + vector_dim(self.more)

    @property
    def noise_dim(self) -> int:
        """Of what tells the noise."""
        return self.net.feature_dim + self.net.horizon * self.net.width + TIME_DIM

    @cached_property
    def critic(self) -> MLP:
        """The value network, pi_RL's layers of ReLU."""
        return MLP(self.value_hidden, 1, activation="relu", layer_norm=False)

    @cached_property
    def noise(self) -> MLP:
        """What tells the noise of Flow-Noise."""
        size = self.net.horizon * self.net.width
        return MLP(self.noise_hidden, size, activation="tanh", layer_norm=False)

    @staticmethod
    def blank(dim: int) -> Float[Array, "1 D"]:
        """An input to draw parameters for."""
        return jnp.zeros((1, dim))

    def value(self, params: PyTree, features: Float[Array, "B F"], obs: Obs) -> Float[Array, " B"]:
        """Of the features and what critics alone see."""
        features = features.astype(jnp.float32)
        features = jax.lax.stop_gradient(features) if self.value_detached else features
        if self.more:
            features = jnp.concatenate([features, encode_vectors(obs, self.more)], axis=-1)
        return forward(self.critic, params[CRITIC], features)[:, 0]

    def fields(
        self, params: PyTree, cache: PyTree, features: Float[Array, "B F"]
    ) -> tuple[denoising.Field, denoising.Field]:
        """The velocity and the noise as functions of a point and its time."""
        low, high = self.noise_range
        features = features.astype(jnp.float32)

        def std(x: Chunk, time: Float[Array, " B"]) -> Chunk:
            flat = x.reshape(x.shape[0], -1)
            read = jnp.concatenate([features, flat, time_features(time)], axis=-1)
            out = forward(self.noise, params[NOISE], read)
            return denoising.bounded_std(out.reshape(x.shape), low, high)

        return partial(self.net.velocity, params[NET], cache), std
