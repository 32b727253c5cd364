"""benchmarks.devices: what is exchanged is added up, and differences of seeds are judged."""

import numpy as np
import pytest

from benchmarks import devices


def test_what_an_epoch_exchanges_is_added_up():
    found = {
        "updates": 100,
        "env_steps": 400,
        "inside": [["all-reduce", 4000, 100], ["all-reduce", 2000, 50]],
        "outside": [["all-reduce", 28]],
    }
    told = devices.summary(found, 8)
    assert told["all_reduces_per_update"] == 1.5 and told["bytes_per_update"] == 5000
    assert told["outside_per_epoch"] == 1 and told["bytes_outside"] == 28
    # 1.75 times what is reduced is moved.
    moved_us = 1.75 * 5000 / devices.BUS_GB * 1e-3
    exchange = 1.5 * devices.LATENCY_US + moved_us
    assert told["predicted_us_per_update"] == pytest.approx(exchange)
    assert told["predicted_efficiency"]["100 us"] == pytest.approx(100 / (100 + exchange))


def test_seeds_that_differ_are_told_from_seeds_that_do_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    assert devices.p_value(a, b) > 0.05
    # Of all 924 ways to divide them only this one and its mirror image differ as much.
    assert devices.p_value(a, b + 100.0) == pytest.approx(2 / 924)
    rows = {"learner/q": [[9.0, x, x + 0.2] for x in a]}
    told = devices.compared(rows, rows)["learner/q"]
    assert told["p"] == 1.0 and told["one"] == pytest.approx(a.mean() + 0.1)
