"""A trained image encoder that is only applied: pictures in, a short vector out.

Stored features are what the learner then works on, at the speed of a state observation. It is a
reader of ours, trained on what a simulator knows, or a trunk that others trained (`pretrained`). A
file of ours is an .npz of plain arrays and a line of JSON, never a pickle.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.nets.encoders import CameraEncoders, EncoderConfig
from mjx_serl.nets.mlp import MLP
from mjx_serl.nets.pretrained import TRUNKS, Readout, TrunkSpec
from mjx_serl.nets.resnet10 import RESNET10, resnet10_tree
from mjx_serl.nets.stored import check_network, load_network, save_network
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError

SHIPPED = Path(__file__).parent / "data"
_TRUNK = "trunk"  # what a file of a trunk's weights says it is of


class EncoderSpec(Protocol):
    """A frozen encoder without its parameters.

    Attributes:
        cameras: names.
        size: width and height of the pictures [px].
    """

    @property
    def cameras(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    def shape(self, params: PyTree) -> tuple[int, ...]:
        """Return the shape of the output for one picture of each camera."""
        ...

    def apply(self, params: PyTree, pictures: Obs) -> Float[Array, "B ..."]:
        """Return the features of pictures uint8 [B, size, size, 3] by camera."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderSpec:
    """What a reader reads and from what.

    Attributes:
        cameras: names.
        size: width and height of the pictures [px].
        encoder: of each camera.
        hidden: width of the layer that joins the cameras [units].
        targets: names, lengths and scales of what it was trained to tell.
    """

    cameras: tuple[str, ...]
    size: int
    encoder: EncoderConfig
    hidden: int
    targets: tuple[tuple[str, int, float], ...]

    @property
    def target_dim(self) -> int:
        """Length of all targets."""
        return sum(length for _, length, _ in self.targets)

    def shape(self, params: PyTree) -> tuple[int, ...]:
        """Shape of the output: the joint features and the targets' estimates."""
        del params
        return (self.hidden + self.target_dim,)

    def apply(self, params: PyTree, pictures: Obs) -> Float[Array, "B D"]:
        """Return [features | estimates] of pictures uint8 [B, size, size, 3] by camera."""
        features, targets = cast(tuple, Reader(self).apply(params, pictures))
        return jnp.concatenate([features, targets], axis=-1)


class Reader(nn.Module):
    """Tells from pictures what the simulator knows.

    Attributes:
        spec: what it reads and tells.
    """

    spec: ReaderSpec

    @nn.compact
    def __call__(self, pictures: Obs) -> tuple[Float[Array, "B H"], Float[Array, "B T"]]:
        """Return joint features in [-1, 1] and the targets in units of their scales."""
        spec = self.spec
        seen = CameraEncoders(spec.encoder, spec.cameras, name="cameras")(pictures)
        joint = cast(Array, MLP((spec.hidden,), None, name="joint")(seen))
        return joint, cast(Array, nn.Dense(spec.target_dim, name="targets")(joint))


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """A trained network that is only applied.

    Attributes:
        spec: what it expects and does.
        params: of it.
    """

    spec: EncoderSpec
    params: PyTree

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is returned, [D], or [cameras, H, W, C] of maps."""
        return self.spec.shape(self.params)

    def __call__(self, pictures: Obs) -> Float[Array, "N ..."]:
        """Return features of pictures uint8 [N, size, size, 3] by camera."""
        return self.spec.apply(self.params, pictures)

    def check(self, cameras: tuple[str, ...], size: int) -> None:
        """Raise ValueError unless it was trained on these cameras and this size [px]."""
        if (tuple(sorted(cameras)), size) != (tuple(sorted(self.spec.cameras)), self.spec.size):
            raise InputError(
                f"This frozen encoder reads cameras {self.spec.cameras} at {self.spec.size} px, "
                f"got {cameras} at {size} px. Use those or train another: "
                "python -m mjx_serl.pretraining --help"
            )


def save_encoder(path: Path, spec: ReaderSpec, params: PyTree, *, note: Mapping[str, Any]) -> None:
    """Write a reader's weights as float16, with what they are for and how they were made."""
    meta = {"spec": dataclasses.asdict(spec), "note": dict(note)}
    save_network(path, params, meta, dtype=np.float16)


def save_resnet10(path: Path, params: PyTree, *, note: Mapping[str, Any]) -> None:
    """Write the trunk's weights as they are, with where they came from."""
    save_network(path, params, {_TRUNK: RESNET10, "note": dict(note)})


def load_encoder(
    name: str, *, cameras: tuple[str, ...], size: int, readout: Readout = "places"
) -> FrozenEncoder:
    """Return the encoder of some cameras: a shipped one or a pretrained trunk by name, or a file.

    `readout` is that of a trunk (`TrunkSpec`).

    Raises:
        FileNotFoundError: there is none; the message names those that there are.
        MissingPackageError: the package with the trunk's weights is not installed.
        ValueError: the file is no encoder, is too large, holds other shapes than it says, or reads
            other cameras or another size [px].
    """
    if name in TRUNKS:
        spec = TrunkSpec(name=name, cameras=cameras, size=size, readout=readout)
        return FrozenEncoder(spec, TRUNKS[name].weights.load())
    path, params, meta = _load_file(name)
    if meta.get(_TRUNK) == RESNET10:
        check_network(path, params, resnet10_tree())
        spec = TrunkSpec(name=RESNET10, cameras=cameras, size=size, readout=readout)
        return FrozenEncoder(spec, params)
    if readout != "places":
        raise InputError(
            f"Frozen encoder '{name}' tells numbers and shows no maps, allowed: pixels.readout "
            f"places, or one of {', '.join(TRUNKS)}"
        )
    encoder = _reader(path, params, meta)
    encoder.check(cameras, size)
    return encoder


def _load_file(name: str) -> tuple[Path, PyTree, dict[str, Any]]:
    path = Path(name) if name.endswith(".npz") else SHIPPED / f"{name}.npz"
    if not path.is_file():
        shipped = sorted(p.stem for p in SHIPPED.glob("*.npz"))
        raise FileNotFoundError(
            f"No frozen encoder '{name}'. Shipped: {', '.join(shipped) or 'none'}; trunks: "
            f"{', '.join(TRUNKS)}; or give a .npz."
        )
    return path, *load_network(path, kind="frozen encoder")


def _reader(path: Path, params: PyTree, meta: dict[str, Any]) -> FrozenEncoder:
    try:
        spec = read_reader(meta["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no frozen encoder: {error}") from error
    blank = {c: jnp.zeros((1, spec.size, spec.size, 3), jnp.uint8) for c in spec.cameras}
    check_network(path, params, jax.eval_shape(Reader(spec).init, jax.random.key(0), blank))
    return FrozenEncoder(spec, params)


def read_reader(raw: dict[str, Any]) -> ReaderSpec:
    """Return what `dataclasses.asdict` made of a reader, from JSON."""
    return ReaderSpec(
        cameras=tuple(raw["cameras"]),
        size=int(raw["size"]),
        encoder=EncoderConfig(**raw["encoder"]),
        hidden=int(raw["hidden"]),
        targets=tuple((str(n), int(k), float(s)) for n, k, s in raw["targets"]),
    )
