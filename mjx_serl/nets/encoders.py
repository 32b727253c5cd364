"""From an observation dict to one feature vector: images through an encoder, vectors as they are.

An encoder is a flax module from images uint8 [B, H, W, C] to features [B, F]; it needs nothing
but its parameters, so one that is trained can be applied on its own.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mjx_serl.devices import with_whole
from mjx_serl.nets.convolution import Conv, Maps
from mjx_serl.nets.mlp import MLP, ComputeDtype
from mjx_serl.registry import Registry
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged
from scenes.contract.specs import ObsField, ObsSpec

Images: TypeAlias = UInt8[Array, "B H W C"]
Features: TypeAlias = Float[Array, "B F"]
Layer: TypeAlias = tuple[int, int, int]  # channels, kernel size [px], stride [px]


class MakeEncoder(Protocol):
    """How an encoder of a name is made."""

    def __call__(
        self, features: int, compute_dtype: ComputeDtype, *, name: str | None = None
    ) -> nn.Module:
        """Return a module with `features` outputs and a `least_size` [px]."""
        ...


ENCODERS: Registry[MakeEncoder] = Registry("encoder")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """How images become features.

    Attributes:
        name: an entry of `ENCODERS`. "small", three layers for a CPU; "medium", twice as wide;
            "serl_small" and "resnet10", SERL's sizes, trained from scratch.
        shared: one encoder for all cameras instead of one each.
        features: length of one camera's feature vector [units]; SERL's is 256.
    """

    name: str = "small"
    shared: bool = False
    features: int = ranged(64, least=1)

    def build(
        self, *, compute_dtype: ComputeDtype = "float32", name: str | None = None
    ) -> nn.Module:
        """Return one camera's encoder; KeyError on an unknown name, with the nearest one."""
        return ENCODERS[self.name](self.features, compute_dtype, name=name)


class ConvEncoder(nn.Module):
    """Convolutions with ReLU, then Dense -> LayerNorm -> tanh on their maps.

    Attributes:
        layers: of convolution.
        average: whether each map is averaged over the image first, which loses where things are.
        features: as in `EncoderConfig`.
        compute_dtype: as in `SACConfig`.
    """

    layers: tuple[Layer, ...]
    average: bool
    features: int
    compute_dtype: ComputeDtype = "float32"

    @property
    def least_size(self) -> int:
        """Width and height of the smallest image the layers can read [px]."""
        size = 1
        for _, kernel, stride in reversed(self.layers):
            size = (size - 1) * stride + kernel
        return size

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Map images [B, H, W, C] to features [B, features] in [-1, 1]."""
        x = _centred(images)
        for i, (channels, size, stride) in enumerate(self.layers):
            conv = Conv(channels, size, stride, compute_dtype=self.compute_dtype, name=f"conv_{i}")
            x = jax.nn.relu(conv(x))
        x = jnp.mean(x, axis=(1, 2)) if self.average else x.reshape(x.shape[0], -1)
        return _bottleneck(self, x)


@ENCODERS.register("small")
def small(features: int, compute_dtype: ComputeDtype, *, name: str | None = None) -> ConvEncoder:
    """16-32-32 channels, strides 4-2-1, maps flattened: for a learner on CPU cores."""
    layers = ((16, 4, 4), (32, 3, 2), (32, 3, 1))
    return ConvEncoder(layers, False, features, compute_dtype, name=name)


@ENCODERS.register("medium")
def medium(features: int, compute_dtype: ComputeDtype, *, name: str | None = None) -> ConvEncoder:
    """32-64-64 channels, strides 4-2-1, maps flattened: for frozen encoders, trained once."""
    layers = ((32, 4, 4), (64, 3, 2), (64, 3, 1))
    return ConvEncoder(layers, False, features, compute_dtype, name=name)


@ENCODERS.register("serl_small")
def serl_small(
    features: int, compute_dtype: ComputeDtype, *, name: str | None = None
) -> ConvEncoder:
    """32-64-128-256 channels, strides 2, maps averaged (serl_launcher `small_encoders.py`)."""
    layers = ((32, 3, 2), (64, 3, 2), (128, 3, 2), (256, 3, 2))
    return ConvEncoder(layers, True, features, compute_dtype, name=name)


class ResNet10(nn.Module):
    """Four residual blocks of 64-512 channels, spatial learned embeddings, bottleneck.

    The layout of serl_launcher `resnet_v1.py`; unlike its "resnet" it is trained, not cut off
    by a stop_gradient.

    Attributes:
        features: as in `EncoderConfig`.
        compute_dtype: as in `SACConfig`.
    """

    features: int
    compute_dtype: ComputeDtype = "float32"
    least_size = 32  # five halvings down to one pixel

    @nn.compact
    def __call__(self, images: Images) -> Features:
        """Map images [B, H, W, C] to features [B, features] in [-1, 1]."""
        x = Conv(64, 7, 2, padding=3, compute_dtype=self.compute_dtype)(_centred(images))
        x = nn.max_pool(jax.nn.relu(_group_norm()(x)), (3, 3), (2, 2), "SAME")
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            x = ResidualBlock(channels, stride, self.compute_dtype)(x)
        return _bottleneck(self, SpatialEmbeddings()(x))


ENCODERS.register("resnet10")(ResNet10)


class ResidualBlock(nn.Module):
    """relu(shortcut + two 3x3 convolutions with GroupNorm); the second norm starts at zero.

    Attributes:
        channels: of the output.
        stride: of the first convolution and the shortcut [px].
        compute_dtype: as in `SACConfig`.
    """

    channels: int
    stride: int
    compute_dtype: ComputeDtype

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Map [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), channels]."""
        dtype, stride = self.compute_dtype, self.stride
        y = Conv(self.channels, 3, stride, padding=1, compute_dtype=dtype)(x)
        y = jax.nn.relu(_group_norm()(y))
        y = Conv(self.channels, 3, padding=1, compute_dtype=dtype)(y)
        y = _group_norm(nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = _group_norm()(Conv(self.channels, 1, stride, compute_dtype=dtype)(x))
        return jax.nn.relu(x + y)


class SpatialEmbeddings(nn.Module):
    """Sums of each map weighted by learned images, which keep where things are.

    Attributes:
        count: sums per channel.
    """

    count: int = 8

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "B CE"]:
        """Map [B, H, W, C] to [B, C * count]."""
        shape = (*maps.shape[1:], self.count)
        # Each number is a sum over the image alone, so that is its fan.
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1))
        kernel = self.param("kernel", init, shape)
        return jnp.einsum("bhwc,hwce->bce", maps, kernel).reshape(maps.shape[0], -1)


def _centred(images: Images) -> Maps:
    return images.astype(jnp.float32) / 127.5 - 1.0


def _group_norm(scale: Callable = nn.initializers.ones) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=4, epsilon=1e-5, scale_init=scale)


def _bottleneck(
    encoder: "ConvEncoder | ResNet10 | MapsEncoder", x: Float[Array, "B D"]
) -> Features:
    net = MLP((encoder.features,), None, compute_dtype=encoder.compute_dtype, name="bottleneck")
    return cast(Array, net(x))


# -- a whole observation -------------------------------------------------------------------------


class MapsEncoder(nn.Module):
    """Spatial learned embeddings and bottleneck of the maps that a frozen trunk makes.

    The learned part of serl_launcher's "resnet-pretrained", without its dropout.

    Attributes:
        features: as in `EncoderConfig`.
        compute_dtype: as in `SACConfig`.
    """

    features: int
    compute_dtype: ComputeDtype = "float32"

    @nn.compact
    def __call__(self, maps: Maps) -> Features:
        """Map [B, H, W, C] to features [B, features] in [-1, 1]."""
        return _bottleneck(self, SpatialEmbeddings()(maps))


class CameraEncoders(nn.Module):
    """The encoders of all cameras side by side.

    Attributes:
        config: of each; one encoder for all where it is `shared`.
        cameras: names.
        compute_dtype: as in `SACConfig`.
        maps: names of fields that hold maps of several cameras.
    """

    config: EncoderConfig
    cameras: tuple[str, ...]
    compute_dtype: ComputeDtype = "float32"
    maps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, obs: Obs) -> Float[Array, "B D"]:
        """Concatenate the features of `cameras`, images [B, H, W, C], in their order, and of maps.

        Maps are [B, K, H, W, C], of K cameras.
        """
        return jnp.concatenate([*self._pictures(obs), *self._maps(obs)], axis=-1)

    def _maps(self, obs: Obs) -> list[Features]:
        each = [(name, k) for name in self.maps for k in range(obs[name].shape[1])]
        names = ["all"] * len(each) if self.config.shared else [f"{n}_{k}" for n, k in each]
        size, dtype = self.config.features, self.compute_dtype
        encoders = {n: MapsEncoder(size, dtype, name=f"maps_{n}") for n in dict.fromkeys(names)}
        return [encoders[n](obs[name][:, k]) for n, (name, k) in zip(names, each, strict=True)]

    def _pictures(self, obs: Obs) -> list[Features]:
        if not self.cameras:
            return []
        names = ("all",) if self.config.shared else self.cameras
        encoders = [
            self.config.build(compute_dtype=self.compute_dtype, name=f"camera_{name}")
            for name in names
        ]
        seen = zip(self.cameras, itertools.cycle(encoders), strict=False)
        return [encoder(obs[camera]) for camera, encoder in seen]


@dataclass(frozen=True)
class ObsEncoder:
    """The map from observations to [image features | vectors], and where the parts lie.

    Without images or maps it has no parameters ({}) and joins the vectors.

    Attributes:
        config: of the cameras' encoders.
        shapes: of the observations, by name.
        compute_dtype: as in `SACConfig`.
    """

    config: EncoderConfig
    obs: ObsSpec
    compute_dtype: ComputeDtype = "float32"

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(field.name for field in self.obs.of_kind("image"))

    @property
    def maps(self) -> tuple[ObsField, ...]:
        """The fields that hold maps of frozen trunks, sorted by name."""
        return self.obs.of_kind("maps")

    @property
    def learned(self) -> bool:
        """Whether it has parameters."""
        return bool(self.cameras or self.maps)

    @property
    def vectors(self) -> tuple[ObsField, ...]:
        """The fields that are numbers, sorted by name; those of critics alone come last."""
        return tuple(sorted(self.obs.of_kind("vector"), key=lambda field: field.critic_only))

    @property
    def image_dim(self) -> int:
        """Length of the image features, which come first."""
        seen = len(self.cameras) + sum(field.shape[0] for field in self.maps)
        return seen * self.config.features

    @property
    def dim(self) -> int:
        """Length of the whole vector."""
        return self.image_dim + vector_dim(self.vectors)

    @property
    def policy(self) -> "ObsEncoder":
        """The same encoder of what the policy sees: the first entries of the whole vector."""
        return replace(self, obs=self.obs.policy)

    def init(self, key: PRNGKey) -> PyTree:
        """Draw parameters; ValueError where the encoder cannot read an image."""
        if not self.learned:
            return {}
        self._check()
        blank = {n: jnp.zeros((1, *self.obs[n].shape), jnp.uint8) for n in self.cameras}
        blank |= {field.name: jnp.zeros((1, *field.shape)) for field in self.maps}
        return self._net.init(key, blank)

    def __call__(self, params: PyTree, obs: Obs) -> Float[Array, "B D"]:
        """Return the feature vectors of observations with leading axis [B]."""
        parts = [encode_vectors(obs, self.vectors)] if self.vectors else []
        if self.learned:
            parts.insert(0, cast(Array, with_whole(self._net.apply, params, obs)))
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    @property
    def _net(self) -> CameraEncoders:
        maps = tuple(field.name for field in self.maps)
        return CameraEncoders(self.config, self.cameras, self.compute_dtype, maps)

    def _check(self) -> None:
        least = self.config.build().least_size
        for name in self.cameras:
            shape = self.obs[name].shape
            if len(shape) != 3:
                raise InputError(f"Image '{name}' has shape {[*shape]}, allowed: [H, W, C].")
            if min(shape[:2]) < least:
                raise InputError(
                    f"Image '{name}' has {shape[1]}x{shape[0]} px, allowed for encoder "
                    f"'{self.config.name}': at least {least}x{least}. Render larger images."
                )


def vector_dim(fields: Sequence[ObsField]) -> int:
    """Return the length of `encode_vectors` for these fields."""
    return sum(math.prod(field.shape) for field in fields)


def encode_vectors(obs: Obs, fields: Sequence[ObsField]) -> Float[Array, "*lead D"]:
    """Concatenate the entries [*lead, *shape], flattened, in the order of `fields`."""
    flat = []
    for field in fields:
        value = obs[field.name]
        lead = value.shape[: value.ndim - len(field.shape)]
        flat.append(value.reshape(*lead, math.prod(field.shape)).astype(jnp.float32))
    return jnp.concatenate(flat, axis=-1)
