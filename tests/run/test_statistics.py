"""The interquartile mean and its interval, by hand."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from mjx_serl.run.statistics import interquartile_mean, iqm_interval


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([0.5], 0.5),
        ([0.0, 0.5, 1.0], 0.5),  # a quarter of three is none
        ([1.0, 0.0, 0.2, 0.4], 0.3),
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0], 0.35),
    ],
)
def test_the_middle_half_is_averaged(scores: list[float], mean: float):
    assert interquartile_mean(np.array(scores)) == pytest.approx(mean)


@pytest.mark.parametrize("runs", range(1, 14))
def test_it_is_what_rliable_computes(runs: int):
    scores = np.random.default_rng(runs).random((3, runs))
    wanted = trim_mean(scores, 0.25, axis=-1)
    np.testing.assert_allclose(interquartile_mean(scores), wanted, rtol=1e-12)


def test_the_interval_of_two_runs_is_their_range():
    """Of the four draws of two, each is a quarter: the ends are those of 2.5 and 97.5 %."""
    assert iqm_interval([np.array([0.2, 0.6])]) == (0.2, 0.6)
    assert iqm_interval([np.array([0.7, 0.7, 0.7])]) == pytest.approx((0.7, 0.7))


def test_runs_are_drawn_within_their_stratum():
    """Constant strata of different size leave nothing to chance; drawn as one they would."""
    strata = [np.full(3, 0.2), np.full(5, 1.0)]
    alone = float(interquartile_mean(np.concatenate(strata)))
    assert iqm_interval(strata) == pytest.approx((alone, alone))
    low, high = iqm_interval([np.concatenate(strata)])
    assert low < alone < high


def test_the_interval_is_that_of_the_bootstrap_and_repeats():
    """Of many runs it is close to the normal one of a trimmed mean."""
    scores = np.random.default_rng(1).normal(0.5, 0.1, 400)
    low, high = iqm_interval([scores])
    assert iqm_interval([scores]) == (low, high)
    cut = np.quantile(scores, [0.25, 0.75])
    error = np.clip(scores, *cut).std() / (0.5 * np.sqrt(len(scores)))
    mean = float(interquartile_mean(scores))
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.002)
