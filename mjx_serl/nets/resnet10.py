"""The trunk of SERL's "resnet-pretrained": ResNet-10 with the weights of its file, or drawn ones.

Layers, names and preprocessing are those of serl_launcher `vision/resnet_v1.py` ("resnetv1-10",
reference serl_family.md 1.4). SERL applies it to pictures of 128 px, of which it makes maps of
4 x 4; HIL-SERL enlarges smaller ones to that first, which is done here too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mjx_serl.nets.convolution import Maps
from mjx_serl.nets.pretrained import TRUNKS, Images, Trunk, enlarged
from mjx_serl.types import PyTree
from scenes.contract.errors import InputError
from scenes.contract.plain_pickle import loads

RESNET10 = "resnet10"
MAX_BYTES = 256 << 20  # of SERL's file, which has 20 MB
_WIDTHS = (64, 128, 256, 512)  # channels of the blocks
_SIZE = 128  # of the pictures that it was trained on [px]
# ImageNet's mean and standard deviation of red, green and blue, of 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GROUPS, _EPS = 4, 1e-5  # of the norms


def resnet10_maps(params: PyTree, images: Images) -> list[Maps]:
    """Return the maps [B, H / 32, W / 32, 512] of pictures, small ones as of 128 px."""
    x = (images.astype(jnp.float32) / 255.0 - jnp.array(_MEAN)) / jnp.array(_STD)
    if x.shape[1] < _SIZE:
        x = enlarged(x, _SIZE)
    x = _convolved(x, params["conv_init"], stride=2, padding=[(3, 3), (3, 3)])
    x = jax.nn.relu(_normed(x, params["norm_init"]))
    low = -jnp.inf
    x = jax.lax.reduce_window(x, low, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for i in range(len(_WIDTHS)):
        x = _block(x, params[f"ResNetBlock_{i}"], stride=1 if i == 0 else 2)
    return [x]


def _block(x: Maps, params: PyTree, *, stride: int) -> Maps:
    y = _convolved(x, params["Conv_0"], stride=stride)
    y = jax.nn.relu(_normed(y, params["MyGroupNorm_0"]))
    y = _normed(_convolved(y, params["Conv_1"]), params["MyGroupNorm_1"])
    if "conv_proj" in params:
        x = _normed(_convolved(x, params["conv_proj"], stride=stride), params["norm_proj"])
    return jax.nn.relu(x + y)


def _convolved(x: Maps, layer: PyTree, *, stride: int = 1, padding: Any = "SAME") -> Maps:
    axes = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
        x, layer["kernel"], strides, padding, dimension_numbers=axes
    )


def _normed(x: Maps, layer: PyTree) -> Maps:
    """Group norm (Wu and He 2018, arXiv 1803.08494, eq. 7)."""
    groups = x.reshape(*x.shape[:3], _GROUPS, -1)
    axes = (1, 2, 4)
    mean = jnp.mean(groups, axes, keepdims=True)
    var = jnp.mean(jnp.square(groups - mean), axes, keepdims=True)
    unit = ((groups - mean) * jax.lax.rsqrt(var + _EPS)).reshape(x.shape)
    return unit * layer["scale"] + layer["bias"]


# -- weights ---------------------------------------------------------------------------------------


def resnet10_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by their names in SERL's file, joined by "/"."""
    shapes = {"conv_init/kernel": (7, 7, 3, _WIDTHS[0]), **_norm_shapes("norm_init", _WIDTHS[0])}
    before = _WIDTHS[0]
    for i, width in enumerate(_WIDTHS):
        at = f"ResNetBlock_{i}"
        shapes[f"{at}/Conv_0/kernel"] = (3, 3, before, width)
        shapes[f"{at}/Conv_1/kernel"] = (3, 3, width, width)
        shapes |= _norm_shapes(f"{at}/MyGroupNorm_0", width)
        shapes |= _norm_shapes(f"{at}/MyGroupNorm_1", width)
        if before != width:
            shapes[f"{at}/conv_proj/kernel"] = (1, 1, before, width)
            shapes |= _norm_shapes(f"{at}/norm_proj", width)
        before = width
    return shapes


def _norm_shapes(at: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}/scale": (width,), f"{at}/bias": (width,)}


def resnet10_tree() -> PyTree:
    """All weights as shapes."""
    named = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in resnet10_shapes().items()}
    return unflatten_dict(named, "/")


def read_serl_file(path: Path) -> PyTree:
    """Return the trunk's weights of SERL's `resnet10_params.pkl`; nothing in it is called.

    What else the file holds, such as a classifier's last layer, is left out. Raises
    FileNotFoundError, and InputError in one line for what is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No weights '{path}'")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES} bytes")
    try:
        found = _named(loads(data))
        return unflatten_dict({n: _checked(n, found, s) for n, s in resnet10_shapes().items()}, "/")
    except InputError as error:
        raise InputError(f"{path} holds no ResNet-10 of SERL: {error}") from None


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"got a {type(value).__name__}, allowed: a dict of layers by name")
    return flatten_dict(value.get("params", value), sep="/")


def _checked(name: str, found: dict[str, Any], shape: tuple[int, ...]) -> jax.Array:
    x = found.get(name)
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.shape != shape:
        got = f"{x.dtype}{[*x.shape]}" if isinstance(x, np.ndarray) else "missing"
        raise InputError(f"'{name}' is {got}, allowed: floats {[*shape]}")
    if not np.isfinite(x).all():
        raise InputError(f"'{name}' is not finite")
    return jnp.asarray(x, jnp.float32)


@dataclass(frozen=True)
class FileOnly:
    """Weights that come with no package."""

    def load(self) -> PyTree:
        """Say where they come from."""
        raise InputError(
            f"'{RESNET10}' has no weights of its own: convert SERL's resnet10_params.pkl by "
            "`python -m mjx_serl.pretraining OUT.npz --from-serl resnet10_params.pkl` and give "
            f"OUT.npz, or take {RESNET10}_random"
        )


@dataclass(frozen=True)
class Drawn:
    """Weights that nobody trained, always the same: He-normal (arXiv 1502.01852, eq. 10)."""

    def load(self) -> PyTree:
        """Draw them."""
        draw = np.random.default_rng(0)
        made = {name: _first(draw, name, shape) for name, shape in resnet10_shapes().items()}
        return unflatten_dict(made, "/")


def _first(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> jax.Array:
    if not name.endswith("kernel"):
        return jnp.full(shape, float(name.endswith("scale")))
    spread = np.sqrt(2.0 / np.prod(shape[:-1]))
    return jnp.asarray(spread * draw.standard_normal(shape), jnp.float32)


for _name, _weights in ((RESNET10, FileOnly()), (f"{RESNET10}_random", Drawn())):
    TRUNKS.register(_name)(
        Trunk(
            weights=_weights,
            channels=_WIDTHS[-1],
            least_size=32,
            multiple=1,
            maps=resnet10_maps,
        )
    )
