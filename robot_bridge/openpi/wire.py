"""openpi's messages: msgpack maps whose arrays are maps too, read without believing them.

An ndarray is `{b"__ndarray__": True, b"data": bytes, b"dtype": str, b"shape": [...]}`, a numpy
scalar `{b"__npgeneric__": True, b"data": number, b"dtype": str}` (openpi-client 0.1.2).
"""

from typing import Any

import numpy as np

from robot_bridge.network.codec import CodecError
from scenes.contract.arrays import array_of
from scenes.contract.extras import require

PROMPT = "prompt"  # what openpi's clients call the words of an observation
MAX_BYTES = 16 * 2**20  # of a message (reference robot_bridge.md 4.6)
_MAX_DEPTH = 8
_MAX_ITEMS = 10_000


def pack(message: Any) -> bytes:
    """Write plain values and arrays the way openpi does; CodecError names what it cannot be."""
    msgpack = require("msgspec", "bridge").msgpack
    try:
        data = msgpack.encode(_plain(message, _MAX_DEPTH))
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"Cannot write for openpi: {error}") from None
    if len(data) > MAX_BYTES:
        raise CodecError(f"Size of a message: got {len(data)} bytes, allowed: {MAX_BYTES}")
    return data


def unpack(data: bytes) -> Any:
    """Read one message; arrays are read-only views of it. CodecError says what is wrong."""
    if len(data) > MAX_BYTES:
        raise CodecError(f"Size of a message: got {len(data)} bytes, allowed: {MAX_BYTES}")
    msgpack = require("msgspec", "bridge").msgpack
    try:
        value = msgpack.decode(data)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CodecError(f"Not a message of openpi's: {str(error)[:200]}") from None
    return _Reader().read(value, _MAX_DEPTH)


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise CodecError(f"Nesting of a message: allowed: {_MAX_DEPTH} levels")
    if isinstance(value, np.ndarray):
        array = value.astype(value.dtype.newbyteorder("<"), copy=False)
        data, kind, shape = array.tobytes(), array.dtype.str, array.shape
        array_of(data, kind, shape, error=CodecError)
        return {b"__ndarray__": True, b"data": data, b"dtype": kind, b"shape": shape}
    # float64 is a Python float, which their packer writes as one.
    if isinstance(value, np.generic) and not isinstance(value, np.float64):
        kind = value.dtype.newbyteorder("<").str
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": kind}
    if isinstance(value, np.float64):
        return float(value)
    if isinstance(value, dict):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    return value


class _Reader:
    """Turns maps back into arrays, and bounds how much there is to turn."""

    def __init__(self) -> None:
        self._left = _MAX_ITEMS

    def read(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth == 0 or self._left < 0:
            allowed = f"{_MAX_DEPTH} levels, {_MAX_ITEMS} values"
            raise CodecError(f"Nesting or number of values, allowed: {allowed}")
        if isinstance(value, list):
            return [self.read(item, depth - 1) for item in value]
        if not isinstance(value, dict):
            return value
        if b"__ndarray__" in value:
            return _array(value)
        if b"__npgeneric__" in value:
            return _scalar(value)
        if not all(isinstance(key, str) for key in value):
            raise CodecError("Keys of a map: got other than text, allowed: text")
        return {key: self.read(item, depth - 1) for key, item in value.items()}


def _array(fields: dict[Any, Any]) -> np.ndarray:
    data, kind, shape = (fields.get(name) for name in (b"data", b"dtype", b"shape"))
    sizes = isinstance(shape, list) and all(type(length) is int for length in shape)
    if not (
        isinstance(data, bytes) and isinstance(kind, str) and isinstance(shape, list) and sizes
    ):
        raise CodecError("Array: allowed: data as bytes, dtype as text, shape as whole numbers")
    return array_of(data, kind, tuple(shape), error=CodecError)


def _scalar(fields: dict[Any, Any]) -> Any:
    data, kind = fields.get(b"data"), fields.get(b"dtype")
    if not isinstance(data, (bool, int, float)) or not isinstance(kind, str):
        raise CodecError("Scalar: allowed: a number, and its dtype as text")
    dtype = array_of(b"", kind, (0,), error=CodecError).dtype
    try:
        return dtype.type(data)
    except (OverflowError, ValueError) as error:
        raise CodecError(f"Scalar of {kind}: {error}") from None
