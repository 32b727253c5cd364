"""Statistics of recorded columns and pictures, as LeRobot datasets carry them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


class ColumnStats:
    """Statistics of a numeric column, over everything that was added: values [N, D] or [N]."""

    def __init__(self) -> None:
        self._rows: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        """Take rows."""
        self._rows.append(values.reshape(len(values), -1).astype(np.float64))

    def summary(self) -> dict[str, list]:
        """Return min, max, mean, std, count and quantiles, one entry per dimension."""
        rows = np.concatenate(self._rows)
        stats = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
        stats |= {name: np.quantile(rows, q, axis=0) for name, q in _QUANTILES.items()}
        return {k: v.tolist() for k, v in stats.items()} | {"count": [len(rows)]}


class PictureStats:
    """Statistics of a camera's colours in [0, 1], exact and without keeping the pictures."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._pictures = 0

    def add(self, pictures: NDArray[np.uint8]) -> None:
        """Take pictures [T, H, W, 3]."""
        for channel in range(3):
            self._counts[channel] += np.bincount(pictures[..., channel].ravel(), minlength=256)
        self._pictures += len(pictures)

    def summary(self) -> dict[str, list]:
        """Return min, max, mean, std, count and quantiles, [3, 1, 1] each but the count."""
        values = np.arange(256) / 255.0
        total = self._counts.sum(1, keepdims=True)
        share = self._counts / total
        mean = share @ values
        stats = {
            "min": [values[np.flatnonzero(row)[0]] for row in self._counts],
            "max": [values[np.flatnonzero(row)[-1]] for row in self._counts],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0)),
        }
        reached = share.cumsum(1)
        for name, q in _QUANTILES.items():
            stats[name] = [values[np.searchsorted(row, q - 1e-12)] for row in reached]
        shaped = {k: np.reshape(v, (3, 1, 1)).tolist() for k, v in stats.items()}
        return shaped | {"count": [self._pictures]}
