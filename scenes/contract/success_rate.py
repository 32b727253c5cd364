"""How sure a success rate is, and how it is said."""

import math

from scenes.contract.errors import InputError

_Z95 = 1.959963984540054  # standard normal quantile of 0.975


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a success probability (Wilson 1927), (0, 1) for n = 0.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise InputError(f"successes must lie in [0, n={n}], got {successes}")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = successes / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends the bound is exact in theory; rounding must not push it past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def success_line(successes: int, n: int) -> str:
    """Successes of `n` > 0 episodes, their share and its 95 % interval, for people."""
    low, high = wilson_interval(successes, n)
    return f"success {successes}/{n} = {successes / n:.1%} (95 % interval {low:.1%} to {high:.1%})"
