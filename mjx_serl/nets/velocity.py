"""Velocity fields of action chunks by name, and a small one of plain layers.

Time runs as in openpi, whose networks fit the same interface: t = 1 is noise and t = 0 the action,
x_t = t eps + (1 - t) a, and the field learns eps - a (reference vla_and_real2sim.md 3). `nets.flow`
runs the other way.

An observation is read once per choice (`encode_prefix`), the field is asked once per step of
denoising (`velocity`): of a transformer the first is its prefix with the keys and values that the
second attends to.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.mlp import MLP, Activation, ComputeDtype, forward
from mjx_serl.registry import Registry
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged
from scenes.contract.specs import ObsSpec

# Of the sines and cosines that stand for a time: periods as in openpi's `posemb_sincos`.
SHORTEST, LONGEST = 4e-3, 4.0
TIME_DIM = 16


class VelocityNet(Protocol):
    """A velocity field over chunks x [B, H, D], given what is observed; parameters are a pytree.

    H may be more than the actions that are played, D more than the entries of an action: what is
    beyond them is predicted and left alone.
    """

    @property
    def horizon(self) -> int:
        """H, actions of a chunk [control steps]."""
        ...

    @property
    def width(self) -> int:
        """D, entries of each."""
        ...

    @property
    def feature_dim(self) -> int:
        """Length of the features that a value network reads."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the images that it reads."""
        ...

    def init(self, key: PRNGKey) -> PyTree:
        """Draw parameters, a dict; InputError for what it cannot read."""
        ...

    def encode_prefix(self, params: PyTree, obs: Obs) -> tuple[PyTree, Float[Array, "B F"]]:
        """Return what `velocity` needs of observations [B, ...], and features for a value network.

        Of the observation it reads what the policy may see.
        """
        ...

    def velocity(
        self, params: PyTree, cache: PyTree, x: Float[Array, "B H D"], time: Float[Array, " B"]
    ) -> Float[Array, "B H D"]:
        """Return eps - a as the field believes it at points x of times in [0, 1]; float32."""
        ...


class VelocityNetConfig(Protocol):
    """Sizes of a velocity net: a frozen dataclass that is registered under its name."""

    @property
    def compute_dtype(self) -> ComputeDtype:
        """Of the products."""
        ...

    def build(self, obs: ObsSpec, *, horizon: int, dim: int) -> VelocityNet:
        """Return the net for observations and chunks of `horizon` actions of `dim` entries.

        Raises InputError for what it cannot read, or chunks that are larger than its own.
        """
        ...

    def exact(self) -> Self:
        """The same net with float32 products, as a robot computes them."""
        ...


# Config classes by name.
VELOCITY_NETS: Registry[type[VelocityNetConfig]] = Registry(
    "velocity net", found_in="mjx_serl.nets"
)


@VELOCITY_NETS.register("mlp")
@dataclass(frozen=True, kw_only=True)
class MLPVelocityConfig:
    """A velocity net of plain layers; images pass an encoder that the same loss trains.

    Attributes:
        hidden: widths of the hidden layers [units].
        activation: "tanh", "relu" or "swish", after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        encoder: of images, where the observation has any.
        compute_dtype: as of `SACConfig`.
    """

    hidden: tuple[int, ...] = ranged((256, 256, 256), least=1, filled=True)
    activation: Activation = "swish"
    layer_norm: bool = False
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    compute_dtype: ComputeDtype = "float32"

    def build(self, obs: ObsSpec, *, horizon: int, dim: int) -> "MLPVelocity":
        """Return the net; InputError for observations that are neither numbers nor pictures."""
        unread = [f"'{f.name}' ({f.kind})" for f in obs.policy.fields if f.kind in UNREAD]
        if unread:
            raise InputError(
                f"velocity net 'mlp' reads vectors, images and maps, got {', '.join(unread)}; "
                "allowed: another net (agent.net)"
            )
        return MLPVelocity(self, obs.policy, horizon, dim)

    def exact(self) -> "MLPVelocityConfig":
        """The same with float32 products."""
        return replace(self, compute_dtype="float32")


UNREAD = ("depth", "tokens")  # kinds of observations that plain layers make nothing of


@dataclass(frozen=True)
class MLPVelocity:
    """[features | x | time] to the velocity; see `VelocityNet`. The cache is the features."""

    cfg: MLPVelocityConfig
    obs: ObsSpec
    horizon: int
    width: int

    @property
    def feature_dim(self) -> int:
        """Length of the features."""
        return self._encoder.dim

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the images."""
        return self._encoder.cameras

    def init(self, key: PRNGKey) -> PyTree:
        """Draw parameters."""
        size = self.feature_dim + self.horizon * self.width + TIME_DIM
        blank = jnp.zeros((1, size))
        return {"encoder": self._encoder.init(key), "layers": self._layers.init(key, blank)}

    def encode_prefix(self, params: PyTree, obs: Obs) -> tuple[PyTree, Float[Array, "B F"]]:
        """Return the features twice."""
        features = self._encoder(params["encoder"], obs)
        return features, features

    def velocity(
        self, params: PyTree, cache: PyTree, x: Float[Array, "B H D"], time: Float[Array, " B"]
    ) -> Float[Array, "B H D"]:
        """Return the velocity at points x of times in [0, 1]."""
        flat = x.reshape(x.shape[0], -1)
        read = jnp.concatenate([cache, flat, time_features(time)], axis=-1)
        return forward(self._layers, params["layers"], read).reshape(x.shape)

    @property
    def _encoder(self) -> ObsEncoder:
        return ObsEncoder(self.cfg.encoder, self.obs, self.cfg.compute_dtype)

    @property
    def _layers(self) -> MLP:
        return MLP(
            self.cfg.hidden,
            self.horizon * self.width,
            activation=self.cfg.activation,
            layer_norm=self.cfg.layer_norm,
            compute_dtype=self.cfg.compute_dtype,
        )


def time_features(time: Float[Array, " B"], dim: int = TIME_DIM) -> Float[Array, "B T"]:
    """Sines and cosines of times in [0, 1], as openpi's `posemb_sincos`."""
    share = np.linspace(0.0, 1.0, dim // 2, dtype=np.float32)
    period = SHORTEST * (LONGEST / SHORTEST) ** share
    angle = time[:, None] * (2.0 * np.pi / period)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
