"""Means of runs that one bad seed does not move far, and how sure they are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

SAMPLES = 10_000
_LEVEL = 0.95

Scores = Float[np.ndarray, " runs"]


def interquartile_mean(scores: Float[np.ndarray, "*rest runs"]) -> Float[np.ndarray, "*rest"]:
    """Return the mean of the middle half: a quarter of the runs, rounded down, is cut at each end.

    As rliable's `aggregate_iqm` (arXiv 2108.13264), which is SciPy's `trim_mean(scores, 0.25)`. Of
    fewer than four runs it is the mean.
    """
    runs = scores.shape[-1]
    return np.sort(scores, axis=-1)[..., runs // 4 : runs - runs // 4].mean(axis=-1)


def iqm_interval(
    strata: Sequence[Scores], *, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the stratified bootstrap's 95 % interval of the interquartile mean of all scores.

    Runs are drawn again with replacement within each stratum, the interval lies between percentiles
    of the means of what was drawn.

    Args:
        strata: the runs' scores, one array for each task.
        samples: drawn.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [runs[rng.integers(len(runs), size=(samples, len(runs)))] for runs in strata]
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
