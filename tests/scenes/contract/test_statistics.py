"""Statistics of columns and pictures, against numpy's of all rows at once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from scenes.contract.statistics import ColumnStats, PictureStats

PICTURES = npst.arrays(np.uint8, st.tuples(st.integers(1, 4), *map(st.just, (3, 5, 3))))


@settings(deadline=None)
@given(PICTURES, PICTURES)
def test_picture_statistics_are_exact(first, second):
    stats = PictureStats()
    stats.add(first)
    stats.add(second)
    pixels = np.concatenate([first, second]).reshape(-1, 3) / 255.0
    said = {name: np.ravel(value) for name, value in stats.summary().items()}
    np.testing.assert_allclose(said["min"], pixels.min(0))
    np.testing.assert_allclose(said["max"], pixels.max(0))
    np.testing.assert_allclose(said["mean"], pixels.mean(0), atol=1e-9)
    np.testing.assert_allclose(said["std"], pixels.std(0), atol=1e-6)
    for name, q in {"q01": 0.01, "q50": 0.5, "q99": 0.99}.items():
        wanted = np.quantile(pixels, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(said[name], wanted)
    assert said["count"] == len(first) + len(second)


def test_column_statistics_of_flags_and_vectors():
    stats = ColumnStats()
    stats.add(np.array([True, False]))
    stats.add(np.array([False, False]))
    assert stats.summary()["mean"] == [0.25] and stats.summary()["count"] == [4]
    stats = ColumnStats()
    stats.add(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    assert stats.summary()["mean"] == [2.0, 4.0] and stats.summary()["q50"] == [2.0, 4.0]
