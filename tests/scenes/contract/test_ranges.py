"""Numbers of configs are checked against the ranges beside their fields."""

import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest

from scenes.contract.ranges import check_ranges, ranged


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = ranged(0.5, above=0, most=1)
    widths: tuple[int, ...] = ranged((8,), least=1, filled=True)
    name: str = "any"
    on: bool = False


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    count: int | None = ranged(None, least=0, below=10)
    free: float = 1.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(Inner(rate=0.0)), "inner.rate 0.0, allowed: above 0, at most 1"),
        (Outer(Inner(rate=math.nan)), "inner.rate nan, allowed: above 0, at most 1"),
        (Outer(Inner(widths=())), "inner.widths is empty, allowed: one or more numbers, each"),
        (Outer(Inner(widths=(8, 0))), "inner.widths 0, allowed: at least 1"),
        (Outer(count=10), "count 10, allowed: at least 0, below 10"),
        (Outer(free=math.inf), "free inf, allowed: finite"),
        (Outer(Inner(rate=cast("float", "0.5"))), "inner.rate '0.5', allowed: a number, above 0"),
        (Outer(Inner(widths=(8.5,))), "inner.widths 8.5, allowed: a whole number, at least 1"),
    ],
)
def test_the_first_number_out_of_range_is_named(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ranges(config)


@pytest.mark.parametrize(
    "config", [Outer(), Outer(Inner(rate=1)), Outer(count=0), Outer(Inner(widths=(np.int64(8),)))]
)
def test_what_is_in_range_passes(config: Any) -> None:
    check_ranges(config)


def test_flat_fields_are_no_part_of_the_name() -> None:
    with pytest.raises(ValueError, match=r"^rate 2"):
        check_ranges(Outer(Inner(rate=2)), flat=("inner",))
