"""Classifiers of success from pictures: binary, n-way, or one output per stage of a task.

SERL's and HIL-SERL's layout (reference serl_family.md 1.3): features of every camera, then Dense ->
Dropout -> LayerNorm -> ReLU -> Dense. No proprioception. The features are a frozen reader's, or an
encoder's that is trained with the head.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from mjx_serl.nets.encoders import CameraEncoders, EncoderConfig
from mjx_serl.nets.frozen import Reader, ReaderSpec, read_reader
from mjx_serl.nets.stored import check_network, load_network, save_network
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError

Kind = Literal["binary", "n_way", "stages"]
DROPOUT = 0.1  # of the head in SERL's classifiers


class Head(nn.Module):
    """Dense -> Dropout -> LayerNorm -> activation -> Dense.

    Attributes:
        hidden: width of the first layer [units].
        out: width of the second [units].
        activation: between them; SERL's VICE has a leaky ReLU.
    """

    hidden: int
    out: int
    activation: Callable[[Array], Array] = jax.nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], *, train: bool = False) -> Float[Array, "B O"]:
        """Return logits; with `train` a key "dropout" is needed."""
        x = nn.Dense(self.hidden)(x)
        x = nn.Dropout(DROPOUT, deterministic=not train)(x)
        return nn.Dense(self.out)(self.activation(nn.LayerNorm()(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """What a classifier reads and tells.

    Attributes:
        task: whose success it tells.
        kind: "binary" tells success from all else; "n_way" tells classes apart, of which the last
            is success; "stages" tells of each stage whether it is reached.
        names: of the classes in order, the first of them "none" where nothing is reached; of a
            binary one none and success.
        cameras: names, sorted.
        size: width and height of the pictures [px].
        encoder: of each camera, where no reader is frozen.
        frozen: the reader whose features are used.
        hidden: width of the head [units].
        thresholds: probability from which success, or each stage, counts.
    """

    task: str
    kind: Kind
    names: tuple[str, ...]
    cameras: tuple[str, ...]
    size: int
    encoder: EncoderConfig
    frozen: ReaderSpec | None
    hidden: int
    thresholds: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Logits of the network."""
        return {"binary": 1, "n_way": len(self.names), "stages": len(self.names) - 1}[self.kind]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of what counts, in order; the last one is success."""
        return self.names[1:] if self.kind == "stages" else self.names[-1:]

    def reached(self, label: Int[Array, " B"]) -> Float[Array, "B K"]:
        """Whether each of `stages` is reached, of classes 0 to len(names) - 1."""
        first = len(self.names) - len(self.stages)
        return (label[:, None] >= first + jnp.arange(len(self.stages))).astype(jnp.float32)


class SuccessNet(nn.Module):
    """The network of a spec.

    Attributes:
        spec: what it reads and tells.
    """

    spec: ClassifierSpec

    @nn.compact
    def __call__(self, pictures: Obs, *, train: bool = False) -> Float[Array, "B O"]:
        """Return logits of pictures uint8 [B, H, W, 3] by camera."""
        spec = self.spec
        if spec.frozen is None:
            seen = CameraEncoders(spec.encoder, spec.cameras, name="cameras")(pictures)
        else:
            told = cast(tuple, Reader(spec.frozen, name="reader")(pictures))
            seen = jax.lax.stop_gradient(jnp.concatenate(told, axis=-1))
        return cast(Array, Head(spec.hidden, spec.outputs, name="head")(seen, train=train))

    def blank(self) -> Obs:
        """Black pictures, one of each camera."""
        shape = (1, self.spec.size, self.spec.size, 3)
        return {camera: jnp.zeros(shape, jnp.uint8) for camera in self.spec.cameras}


def probabilities(spec: ClassifierSpec, logits: Float[Array, "B O"]) -> Float[Array, "B K"]:
    """Probability of each of `spec.stages`."""
    if spec.kind == "n_way":
        return jax.nn.softmax(logits)[:, -1:]
    return jax.nn.sigmoid(logits)


@dataclasses.dataclass(frozen=True, eq=False)
class RewardClassifier:
    """A trained classifier, which is only applied.

    Attributes:
        spec: what it expects and tells.
        params: of the `SuccessNet`.
    """

    spec: ClassifierSpec
    params: PyTree

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which each stage counts."""
        return self.spec.thresholds

    def __call__(self, pictures: Obs) -> Float[Array, "N K"]:
        """Return the probability of each stage from pictures uint8 [N, size, size, 3]."""
        return self._apply({name: pictures[name] for name in self.spec.cameras})

    @cached_property
    def _apply(self) -> Callable[[Obs], Float[Array, "N K"]]:
        net, spec = SuccessNet(self.spec), self.spec
        # Where pictures are drawn between compiled calls this is called as it is.
        return jax.jit(
            lambda shown: probabilities(spec, cast(Array, net.apply(self.params, shown)))
        )

    @property
    def digest(self) -> str:
        """Sha256 of what it computes: its spec and weights."""
        found = hashlib.sha256(json.dumps(dataclasses.asdict(self.spec)).encode())
        for name, leaf in sorted(flatten_dict(jax.device_get(self.params), sep="/").items()):
            found.update(name.encode() + np.asarray(leaf).tobytes())
        return found.hexdigest()

    def with_threshold(self, threshold: float | None) -> "RewardClassifier":
        """Return it with another threshold for all stages; None leaves it."""
        if threshold is None:
            return self
        thresholds = (threshold,) * len(self.spec.stages)
        return RewardClassifier(dataclasses.replace(self.spec, thresholds=thresholds), self.params)

    def check(self, task: str, cameras: tuple[str, ...], size: int) -> None:
        """Raise InputError unless a run of this task draws the pictures it was trained on."""
        spec = self.spec
        if task != spec.task:
            raise InputError(
                f"This classifier tells success of '{spec.task}', got task '{task}'. Train one: "
                f"python -m mjx_serl.classifier train FILE --task {task}"
            )
        if not set(spec.cameras) <= set(cameras) or size != spec.size:
            raise InputError(
                f"This classifier reads cameras {' '.join(spec.cameras)} at {spec.size} px, the "
                f"run draws {' '.join(cameras) or 'none'} at {size} px. Allowed: --pixels.cameras "
                f"with all of them and --pixels.size {spec.size}"
            )


def save_classifier(path: Path, classifier: RewardClassifier, *, note: dict[str, Any]) -> None:
    """Write weights, with what they are for and how they were measured."""
    save_network(
        path, classifier.params, {"spec": dataclasses.asdict(classifier.spec), "note": note}
    )


def load_classifier(path: Path) -> tuple[RewardClassifier, dict[str, Any]]:
    """Return a classifier and its note; FileNotFoundError, or InputError for another file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No classifier '{path}'; python -m mjx_serl.classifier train {path} makes one"
        )
    params, meta = load_network(path, kind="classifier")
    try:
        spec = _read_spec(meta["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no classifier: {error}") from error
    net = SuccessNet(spec)
    check_network(path, params, jax.eval_shape(net.init, jax.random.key(0), net.blank()))
    return RewardClassifier(spec, params), dict(meta["note"])


def _read_spec(raw: dict[str, Any]) -> ClassifierSpec:
    kind, frozen = raw["kind"], raw["frozen"]
    if kind not in ("binary", "n_way", "stages"):
        raise InputError(f"kind '{kind}'")
    spec = ClassifierSpec(
        task=str(raw["task"]),
        kind=kind,
        names=tuple(map(str, raw["names"])),
        cameras=tuple(map(str, raw["cameras"])),
        size=int(raw["size"]),
        encoder=EncoderConfig(**raw["encoder"]),
        frozen=None if frozen is None else read_reader(frozen),
        hidden=int(raw["hidden"]),
        thresholds=tuple(map(float, raw["thresholds"])),
    )
    if len(spec.thresholds) != len(spec.stages):
        raise InputError(f"{len(spec.thresholds)} thresholds of {len(spec.stages)} stages")
    return spec
