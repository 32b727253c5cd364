"""Similarities of space, Sim(3), and their fit to pairs of points."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_LEAST_SPREAD = 0.02  # smallest over largest deviation of points that do not lie on a line


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale * rotation x + shift.

    Attributes:
        scale: [1].
        rotation: matrix.
        shift: [m].
    """

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, " 3"]

    def apply(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Return the points moved."""
        return self.scale * points @ self.rotation.T + self.shift


def fit_similarity(
    source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"]
) -> Similarity:
    """Return the least-squares similarity from source to target (Umeyama 1991, equations 40 to 43).

    Raises ValueError for fewer than three pairs, points on one line, or not finite.
    """
    if len(source) < 3:
        raise ValueError(f"got {len(source)} point pairs, needed: at least 3, better 4")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("the points of the pairs must be finite")
    from_source, from_target = source - source.mean(0), target - target.mean(0)
    for name, centred in (("scan", from_source), ("world", from_target)):
        spread = np.linalg.svd(centred, compute_uv=False)
        if spread[1] <= _LEAST_SPREAD * spread[0]:
            raise ValueError(f"the {name} points of the pairs lie on a line; pick one beside it")
    u, singular, vt = np.linalg.svd(from_target.T @ from_source)
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u * mirror @ vt
    scale = float(singular @ mirror / (from_source**2).sum())
    return Similarity(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))
