"""What every reader of a file returns, and the checks that all of them share."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scenes.contract.errors import InputError

MAX_SPLATS = 20_000_000
LEAST_OPACITY, LEAST_SCALE = 1e-7, 1e-12  # whose logit and logarithm are written for 0 and 1


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredSplats:
    """The splats of a file, activated, in 3DGS's axes (x right, y down, z ahead); all float32.

    Attributes:
        means: in the file's unit.
        quats: wxyz, of any norm.
        scales: standard deviations in the file's unit.
        opacities: in [0, 1].
        sh: spherical harmonics of the colour minus 0.5.
        antialiased: whether they were trained for antialiased rendering; None where the file does
            not say.
        faults: what was mended while reading, one sentence each.
    """

    means: Float[np.ndarray, "G 3"]
    quats: Float[np.ndarray, "G 4"]
    scales: Float[np.ndarray, "G 3"]
    opacities: Float[np.ndarray, " G"]
    sh: Float[np.ndarray, "G K 3"]
    antialiased: bool | None = None
    faults: tuple[str, ...] = ()


def check_count(count: int) -> None:
    """Raise InputError for a number of splats that no scan has."""
    if not 1 <= count <= MAX_SPLATS:
        raise InputError(f"says it has {count} splats, allowed: 1 to {MAX_SPLATS}; crop it")


def check_size(present: int, needed: int, what: str) -> None:
    """Raise InputError where a file is shorter or longer than its header says [bytes]."""
    if present != needed:
        fault = "truncated" if present < needed else "followed by other bytes"
        raise InputError(
            f"{what} are {needed} bytes, the file has {present}: it is {fault}; export it again"
        )


def smallest_three(
    largest: Float[np.ndarray, " G"], others: Float[np.ndarray, "G 3"]
) -> Float[np.ndarray, "G 4"]:
    """Return unit quaternions of which all but the largest component were kept, in order."""
    quats = np.empty((len(others), 4), np.float32)
    rest = np.sqrt(np.maximum(0.0, 1.0 - np.sum(others**2, axis=1)))
    for index in range(4):
        rows = np.flatnonzero(largest == index)
        quats[rows[:, None], np.delete(np.arange(4), index)] = others[rows]
        quats[rows, index] = rest[rows]
    return quats
