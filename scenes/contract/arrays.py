"""Arrays out of bytes that somebody else sent or wrote."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError

DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)


def array_of(
    data: bytes | memoryview,
    kind: str,
    shape: tuple[int, ...],
    *,
    error: type[InputError] = InputError,
) -> NDArray[Any]:
    """View bytes as an array of a dtype of DTYPES.

    Args:
        data: as many bytes as the array has.
        kind: numpy's name of the dtype.
        shape: of the array.
        error: raised, with one line, unless dtype, length and booleans are right.
    """
    if kind not in DTYPES:
        raise error(f"Dtype of an array: got {kind!r}, allowed: {', '.join(sorted(DTYPES))}")
    wanted = math.prod(shape) * np.dtype(kind).itemsize
    if any(length < 0 for length in shape) or wanted != len(data):
        raise error(f"Array {shape} of {kind}: got {len(data)} bytes, allowed: {wanted}")
    array = np.frombuffer(data, kind).reshape(shape) if wanted else np.empty(shape, kind)
    if kind == "|b1" and array.view(np.uint8).max(initial=0) > 1:
        raise error("Array of booleans: got a byte above 1, allowed: 0 | 1")
    return array
