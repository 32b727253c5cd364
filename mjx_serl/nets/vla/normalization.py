"""States and actions as a policy knows them: openpi's statistics, in its file and by its formulas.

`norm_stats.json` is {"norm_stats": {"state": {"mean", "std", "q01", "q99"}, "actions": {...}}}
(reference vla_and_real2sim.md 4.3). pi0 takes mean and deviation, pi0.5 quantiles.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.files import write_atomically

FILE = "norm_stats.json"
MAX_BYTES = 16 << 20
_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class NormStats:
    """Statistics of vectors, each of length D.

    Attributes:
        mean, std: mean and standard deviation.
        q01, q99: what one in a hundred is below, and above; None where a file has none.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    q01: NDArray[np.float64] | None = None
    q99: NDArray[np.float64] | None = None

    def quantiles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (q01, q99); InputError where there are none."""
        if self.q01 is None or self.q99 is None:
            raise InputError("These statistics have no quantiles (q01, q99), which pi0.5 needs")
        return self.q01, self.q99


def measure(rows: Float[NDArray, "N D"]) -> NormStats:
    """Return the statistics of rows."""
    if len(rows) < 2:
        raise InputError(f"Statistics of {len(rows)} rows, allowed: 2 or more")
    rows = np.asarray(rows, np.float64)
    q01, q99 = np.quantile(rows, (0.01, 0.99), axis=0)
    return NormStats(rows.mean(0), rows.std(0), q01, q99)


def normalize(x: Any, stats: NormStats, *, quantile: bool) -> Any:
    """Return vectors [..., D] as a policy reads them; statistics may be of longer ones.

    Args:
        x: arrays of numpy or JAX.
        stats: of what is normalised.
        quantile: map [q01, q99] to [-1, 1], else to mean 0 and deviation 1.
    """
    if quantile:
        low, high = (_first(part, x) for part in stats.quantiles())
        return (x - low) / (high - low + _EPS) * 2.0 - 1.0
    return (x - _first(stats.mean, x)) / (_first(stats.std, x) + _EPS)


def unnormalize(x: Any, stats: NormStats, *, quantile: bool) -> Any:
    """Undo `normalize`, and leave what statistics do not reach: a policy's padded actions."""
    known = stats.mean.shape[-1]
    known, rest = x[..., :known], x[..., known:]
    if quantile:
        low, high = (_first(part, known) for part in stats.quantiles())
        known = (known + 1.0) / 2.0 * (high - low + _EPS) + low
    else:
        known = known * (_first(stats.std, known) + _EPS) + _first(stats.mean, known)
    if not rest.shape[-1]:
        return known
    joined = np.concatenate if isinstance(x, np.ndarray) else jnp.concatenate
    return joined([known, rest], axis=-1)


def _first(part: NDArray, x: Any) -> NDArray:
    if part.shape[-1] < x.shape[-1]:
        raise InputError(f"Vectors of {x.shape[-1]} numbers, statistics of {part.shape[-1]}")
    return part[: x.shape[-1]].astype(x.dtype)


# -- the file --------------------------------------------------------------------------------------


def save_norm_stats(folder: Path, stats: Mapping[str, NormStats]) -> None:
    """Write `norm_stats.json` into a folder, which is made."""
    told = {
        name: {k: v for k, v in _parts(one).items() if v is not None} for name, one in stats.items()
    }
    plain = {name: {k: v.tolist() for k, v in parts.items()} for name, parts in told.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, json.dumps({"norm_stats": plain}, indent=2))


def load_norm_stats(folder: Path) -> dict[str, NormStats]:
    """Read `norm_stats.json` of a folder, such as assets/<id> of a checkpoint.

    Raises InputError where there is none, or other things are in it.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"No {FILE} in {folder}: give a checkpoint's folder assets/<id>")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes, allowed are {MAX_BYTES}")
    try:
        raw = json.loads(path.read_text())["norm_stats"]
        return {name: _read(f"{path}: {name}", parts) for name, parts in raw.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} holds no statistics: {error!r}") from error


def _parts(stats: NormStats) -> dict[str, NDArray | None]:
    return {"mean": stats.mean, "std": stats.std, "q01": stats.q01, "q99": stats.q99}


def _read(where: str, raw: Mapping[str, Any]) -> NormStats:
    names = ("mean", "std", "q01", "q99")
    parts = {name: np.asarray(raw[name], np.float64) for name in names if raw.get(name) is not None}
    shapes = {part.shape for part in parts.values()}
    if not {"mean", "std"} <= parts.keys() or len(shapes) != 1 or len(shapes.pop()) != 1:
        raise InputError(f"{where}: wanted mean and std, perhaps q01 and q99, lists of one length")
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise InputError(f"{where}: not all numbers are finite")
    return NormStats(**parts)
