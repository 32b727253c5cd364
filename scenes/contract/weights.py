"""Arrays as a safetensors file, and back with every claim of its header checked first.

Eight bytes little-endian: length of the header; the header: JSON, for each tensor its dtype,
shape and first and last + 1 byte in what follows; then the numbers (the format's description in
the safetensors package). Only float32 is read: parameters of a policy are nothing else.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError

MAX_HEADER = 1 << 20  # [bytes]; a tensor takes about 100
MAX_NDIM = 8
_METADATA = "__metadata__"
_ITEM = 4  # [bytes] of a float32


def write_safetensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return the file of float32 arrays by name, in the order of their names.

    Raises ValueError, naming it, for an array of another type.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype != np.float32:
            raise InputError(f"tensor '{name}' is {tensor.dtype}, allowed: float32")
        start, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # The numbers begin at a multiple of 8 bytes, so that they can be mapped.
    text += b" " * (-len(text) % 8)
    body = b"".join(tensor.astype("<f4").tobytes() for _, tensor in sorted(tensors.items()))
    return len(text).to_bytes(8, "little") + text + body


def read_safetensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the tensors by name, as views of `data`.

    Raises ValueError, in one line, unless the header describes all of the bytes, each once, as
    finite float32 numbers.
    """
    header, body = _split(data)
    tensors: dict[str, NDArray[np.float32]] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _first_byte(*item)):
        shape, start, stop = _read_entry(name, entry)
        if start != end:
            raise InputError(f"tensor '{name}' starts at byte {start}, allowed: {end}")
        if stop > len(body):
            raise InputError(f"truncated: tensor '{name}' ends at byte {stop} of {len(body)}")
        tensors[name] = np.frombuffer(body[start:stop], "<f4").reshape(shape)
        end = stop
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"tensor '{name}' is not finite")
    if end != len(body):
        raise InputError(f"{len(body) - end} bytes after the last tensor")
    return tensors


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER, len(data) - 8):
        room = max(0, min(MAX_HEADER, len(data) - 8))
        raise InputError(
            f"truncated or no safetensors: header of {size} bytes, allowed: 2 to {room}"
        )
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"the header is a {type(header).__name__}, allowed: an object")
    header.pop(_METADATA, None)
    return header, memoryview(data)[8 + size :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError("a name is there twice")
    return found


def _first_byte(name: str, entry: Any) -> tuple[int, int]:
    _, start, stop = _read_entry(name, entry)
    return start, stop


def _read_entry(name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """Shape, first and last + 1 byte of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"tensor '{name}': got {str(entry)[:60]}, allowed: dtype, shape, offsets")
    if entry["dtype"] != "F32":
        raise InputError(f"tensor '{name}' has dtype {str(entry['dtype'])[:20]}, allowed: F32")
    shape, offsets = _whole(name, entry["shape"]), _whole(name, entry["data_offsets"])
    if len(shape) > MAX_NDIM or len(offsets) != 2:
        raise InputError(f"tensor '{name}': shape {shape[:9]}, offsets {offsets[:3]}")
    start, stop = offsets
    if stop - start != _ITEM * math.prod(shape):
        raise InputError(f"tensor '{name}' of shape {shape} cannot have {stop - start} bytes")
    return shape, start, stop


def _whole(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise InputError(f"tensor '{name}': got {str(values)[:60]}, allowed: whole numbers")
    return tuple(values)
