"""Ranges of a config's numbers, each written beside its field, and one check of them all.

@dataclass(frozen=True)
class LoopConfig:
    batch_size: int = ranged(256, least=2)

check_ranges(config)  # InputError: batch_size 1, allowed: at least 2
"""

import dataclasses
import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from scenes.contract.errors import InputError

MOST_EPISODES = 100_000  # of an evaluation: their worlds, or starts, are all in memory at once
MOST_SEED = 2**32 - 1  # JAX's keys are made of 32 bits: 2^32 would be 0 again
_RANGE = "range"


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; an open end is not one of them.

    Attributes:
        low, high: ends, infinite where there is none.
        low_open, high_open: whether the end itself is left out.
        filled: for tuples, whose every item is in the range: it may not be empty.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    filled: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.high_open else f"at most {self.high:g}"
        if math.isinf(self.low) and math.isinf(self.high):
            return "finite"
        if math.isinf(self.high):
            return low
        if math.isinf(self.low):
            return high
        return f"{low}, {high}" if self.low_open or self.high_open else _span(self.low, self.high)


def ranged(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    filled: bool = False,
) -> Any:
    """Dataclass field of numbers in a range: a number, None, or a tuple of which each is in it.

    Args:
        default: of the field.
        least, above: low end, in the range or left out.
        most, below: high end, likewise.
        filled: a tuple may not be empty.
    """
    allowed = _range(least, above, most, below, filled=filled)
    return dataclasses.field(default=default, metadata={_RANGE: allowed})


def require_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Raise InputError for a number that is no field of a config and out of range.

    Args:
        name: what the message begins with.
        value: the number.
        least, above, most, below: as of `ranged`.
        whole: it counts something.
    """
    _check(name, value, _range(least, above, most, below), whole=whole)


def require_seed(seed: int) -> None:
    """Raise InputError for what is no seed."""
    require_number("seed", seed, least=0, most=MOST_SEED, whole=True)


def require_episodes(episodes: int) -> None:
    """Raise InputError for a number of episodes that cannot be played."""
    require_number("episodes", episodes, least=1, most=MOST_EPISODES, whole=True)


def _range(
    least: float | None,
    above: float | None,
    most: float | None,
    below: float | None,
    *,
    filled: bool = False,
) -> Range:
    low = least if above is None else above
    high = most if below is None else below
    return Range(
        -math.inf if low is None else low,
        math.inf if high is None else high,
        above is not None,
        below is not None,
        filled,
    )


def check_ranges(config: Any, *, path: str = "", flat: Collection[str] = ()) -> None:
    """Raise InputError for the first number of a config, or of the configs in it, out of range.

    Floats without a range have to be finite.

    Args:
        config: a dataclass.
        path: of it, what messages begin with.
        flat: fields whose name is not part of the path.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = path if field.name in flat else f"{path}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            check_ranges(value, path=name)
        else:
            _check(name, value, field.metadata.get(_RANGE), whole=_whole(field.default))


def _check(name: str, value: Any, wanted: Range | None, *, whole: bool) -> None:
    items = value if isinstance(value, tuple) else (value,)
    allowed = wanted or Range()
    if allowed.filled and not items:
        raise InputError(f"{name} is empty, allowed: one or more numbers, each {allowed}")
    for item in items:
        number = float(item) if isinstance(item, Real) and not isinstance(item, bool) else None
        # A command line cannot give anything else; Python can.
        if item is not None and wanted is not None:
            if number is None:
                raise InputError(f"{name} {item!r}, allowed: a number, {allowed}")
            if whole and not isinstance(item, Integral):
                raise InputError(f"{name} {item!r}, allowed: a whole number, {allowed}")
        if number is not None and not allowed.holds(number):
            raise InputError(f"{name} {item}, allowed: {allowed}")


def _whole(default: Any) -> bool:
    """Whether a field counts something, by its default."""
    items = default if isinstance(default, tuple) else (default,)
    return all(isinstance(item, int) for item in items) and bool(items)


def _span(low: float, high: float) -> str:
    # Written in full: 4294967295 rather than 4.29497e+09.
    return " to ".join(f"{end:.17g}" for end in (low, high))
