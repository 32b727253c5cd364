"""Other numbers for the arrays of an ONNX file, written over those in it.

Replacing arrays in a session does not do: onnxruntime folds some into others before it looks at
what takes their place. An array of the same size stands at the same place of the file, so that
only the way there has to be read: protobuf's wire format, and three messages of onnx.proto.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError

# Numbers of fields in onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.name,
# .raw_data. Wire types: a varint, 8 bytes, a length and as many bytes, 4 bytes.
_GRAPH, _INITIALIZER, _NAME, _RAW = 7, 5, 8, 9
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def weight_places(model: bytes) -> dict[str, slice]:
    """Where in a file the raw bytes of each initializer stand; InputError where it is no model."""
    places = {}
    for number, graph in _fields(model, slice(0, len(model))):
        if number != _GRAPH:
            continue
        for inner, tensor in _fields(model, graph):
            if inner == _INITIALIZER:
                parts = dict(_fields(model, tensor))
                if _NAME in parts and _RAW in parts:
                    places[model[parts[_NAME]].decode(errors="replace")] = parts[_RAW]
    return places


def with_weights(
    model: bytes, places: Mapping[str, slice], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    """The file with other arrays, in C order and little-endian; those it does not use are left out.

    Raises InputError for an array of another size in bytes.
    """
    changed = bytearray(model)
    for name, x in arrays.items():
        place = places.get(name)
        if place is None:
            continue
        data = np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()
        if len(data) != place.stop - place.start:
            raise InputError(f"'{name}' has {len(data)} bytes, allowed: {place.stop - place.start}")
        changed[place] = data
    return bytes(changed)


def _fields(data: bytes, within: slice) -> Iterator[tuple[int, slice]]:
    """Numbers and places of the fields of a message that are strings, bytes or messages."""
    at = within.start
    while at < within.stop:
        tag, at = _varint(data, at, within.stop)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, within.stop)
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        elif kind == _BYTES:
            size, at = _varint(data, at, within.stop)
            if at + size > within.stop:
                raise InputError("No ONNX file: a field is longer than what holds it")
            yield number, slice(at, at + size)
            at += size
        else:
            raise InputError(f"No ONNX file: wire type {kind}")
    if at != within.stop:
        raise InputError("No ONNX file: it ends within a field")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise InputError("No ONNX file: it ends within a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise InputError("No ONNX file: a number is too long")
