"""Versions of a policy's parameters as bytes: arrays by name, and nothing that could run."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from robot_bridge.network.codec import CodecError, pack_array, unpack_array

Arrays = Mapping[str, NDArray[Any]]
MAX_PARAMETERS = 256 * 2**20  # of all of a version [bytes]; SERL's ResNet-10 actor is 20 MB
PART = 256 * 1024  # of a version, sent at once [bytes]


@dataclass(frozen=True)
class Parameters:
    """A policy's parameters.

    Attributes:
        version: grows with each.
        arrays: by name.
        published: when, on the learner's clock since the epoch [s].
    """

    version: int
    arrays: Arrays
    published: float = 0.0


def pack_parameters(arrays: Arrays) -> bytes:
    """Arrays by name, each as length and name, length and `codec.pack_array`; sorted by name."""
    pieces: list[bytes] = []
    for name in sorted(arrays):
        text, data = name.encode(), pack_array(arrays[name])
        pieces += [struct.pack("<HI", len(text), len(data)), text, data]
    blob = b"".join(pieces)
    if len(blob) > MAX_PARAMETERS:
        raise CodecError(f"Parameters: got {len(blob)} bytes, allowed: {MAX_PARAMETERS}")
    return blob


def unpack_parameters(blob: bytes) -> dict[str, NDArray[Any]]:
    """Read what `pack_parameters` wrote; CodecError says what is wrong."""
    arrays: dict[str, NDArray[Any]] = {}
    at, view = 0, memoryview(blob)
    while at < len(blob):
        if at + 6 > len(blob):
            raise CodecError(f"Parameters: truncated at {at}")
        text, data = struct.unpack_from("<HI", blob, at)
        at += 6
        if at + text + data > len(blob):
            raise CodecError(f"Parameters: truncated at {at}")
        name = bytes(view[at : at + text]).decode(errors="replace")
        arrays[name] = unpack_array(view[at + text : at + text + data])
        at += text + data
    return arrays
