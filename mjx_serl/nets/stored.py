"""Networks on disk: an .npz of plain arrays and a line of JSON, never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from mjx_serl.types import PyTree
from scenes.contract.errors import InputError
from scenes.contract.files import new_file

MAX_BYTES = 256 << 20  # of a file of weights
_META = "meta"


def save_network(
    path: Path, params: PyTree, meta: Mapping[str, Any], *, dtype: DTypeLike = np.float32
) -> None:
    """Write weights, as `dtype`, with what they are for as JSON values."""
    flat = flatten_dict(jax.device_get(params), sep="/")
    arrays = {name: np.asarray(leaf, dtype) for name, leaf in flat.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays, **{_META: np.array(json.dumps(meta))})  # pyright: ignore


def load_network(path: Path, *, kind: str) -> tuple[PyTree, dict[str, Any]]:
    """Return the weights as float32, and what was said of them.

    `kind` is what the file should hold, for the message of the ValueError where it is too large or
    no such file.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path} has {size} bytes, allowed are {MAX_BYTES}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        meta = json.loads(str(arrays.pop(_META)))
        params = {key: jnp.asarray(value, jnp.float32) for key, value in arrays.items()}
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no {kind}: {error}") from error
    return unflatten_dict(params, sep="/"), meta


def check_network(path: Path, params: PyTree, wanted: PyTree) -> None:
    """Raise InputError unless weights are finite and of the shapes of `wanted`."""
    want, got = (jax.tree.map(lambda x: x.shape, tree) for tree in (wanted, params))
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    if want != got or not finite:
        raise InputError(f"{path} does not hold the finite weights of the network it describes")
