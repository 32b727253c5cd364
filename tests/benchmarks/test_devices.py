"""benchmarks.devices: what is exchanged is added up, and differences of seeds are judged."""

import numpy as np
import pytest

from benchmarks import devices, exchange, scale_page
from benchmarks.results import load


def test_what_an_epoch_exchanges_is_added_up():
    found = {
        "updates": 100,
        "env_steps": 400,
        "inside": [["all-reduce", 4000, 100], ["all-reduce", 2000, 50]],
        "outside": [["all-reduce", 28]],
    }
    told = devices.summary(found)
    assert told["all_reduces_per_update"] == 1.5 and told["bytes_per_update"] == 5000
    assert told["outside_per_epoch"] == 1 and told["bytes_outside"] == 28


def test_what_an_exchange_is_predicted_to_cost():
    one, fast, slow = exchange.predicted(1.5, 5000).values()
    # In a box of eight 1.75 times what is reduced is moved.
    in_box = 1.5 * exchange.LATENCY_US + 1.75 * 5000 / 475e9 * 1e6
    assert one["exchange_us"] == pytest.approx(in_box)
    assert one["100 us"] == pytest.approx(100 / (100 + in_box))
    # Each GPU's eighth goes between eight boxes, in a tree three hops up and three down.
    between = 1.5 * 6 * exchange.HOP_US + 1.75 * 5000 / 8 / 46e9 * 1e6
    assert fast["exchange_us"] == pytest.approx(in_box + between)
    # 100 Gb/s for eight GPUs in place of 400 for each.
    more = 1.75 * 5000 / 8 / 46e9 * 1e6 * 31
    assert slow["exchange_us"] == pytest.approx(fast["exchange_us"] + more)


def test_seeds_that_differ_are_told_from_seeds_that_do_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    assert devices.p_value(a, b) > 0.05
    # Of all 924 ways to divide them only this one and its mirror image differ as much.
    assert devices.p_value(a, b + 100.0) == pytest.approx(2 / 924)
    rows = {"learner/q": [[9.0, x, x + 0.2] for x in a]}
    told = devices.compared(rows, rows)["learner/q"]
    assert told["p"] == 1.0 and told["one"] == pytest.approx(a.mean() + 0.1)


def test_the_page_of_devices_is_as_the_results_have_it():
    text = scale_page.PAGE.read_text()
    assert scale_page.page(text, load()) == text
    with pytest.raises(ValueError, match="has no <!-- exchanged"):
        scale_page.page("", [])
