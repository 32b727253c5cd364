"""Time-optimal tracking: the largest acceleration after which a goal can still be stopped at.

Speed, acceleration and jerk are bounded; the goal stands still as far as one decision knows. The
acceleration is decided for `ticks` control ticks at once and grows linearly over them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

# Halvings of the range of accelerations: 1 % of what the jerk allows.
_HALVINGS = 7
# Share of acceleration and jerk that may be spent on motion across the way to the goal.
_ACROSS = 0.6
# Nearer than this there is no direction to the goal [m or rad].
_THERE = 1e-7


@dataclass(frozen=True)
class Pace:
    """Largest speed, acceleration and jerk, in any unit of length and seconds."""

    speed: float
    acceleration: float
    jerk: float


def braking_distance(speed: float, pace: Pace) -> float:
    """Shortest way to rest from a speed >= 0 without acceleration."""
    if speed * pace.jerk >= pace.acceleration**2:
        ramp = pace.acceleration / pace.jerk
        return 0.5 * speed * (speed / pace.acceleration + ramp)
    return speed * math.sqrt(speed / pace.jerk)


def stopping_distance(velocity: float, acceleration: float, pace: Pace) -> float:
    """Signed way to rest from a velocity and an acceleration along one axis."""
    if velocity < 0.0 or (velocity == 0.0 and acceleration < 0.0):
        return -stopping_distance(-velocity, -acceleration, pace)
    ramp = abs(acceleration) / pace.jerk
    left = velocity + 0.5 * acceleration * ramp
    if acceleration < 0.0 <= left:
        # As if it had begun to brake a while ago, from a higher speed.
        began = velocity - 0.5 * acceleration * ramp
        passed = ramp * (began - pace.jerk * ramp * ramp / 6.0)
        return braking_distance(began, pace) - passed
    ahead = ramp * (velocity + acceleration * ramp / 3.0)
    return ahead + math.copysign(braking_distance(abs(left), pace), left)


class Tracker:
    """Chooses accelerations of a vector, decision by decision.

    Args:
        dt: of a control tick [s].
        ticks: from one decision to the next.
    """

    def __init__(self, *, dt: float, ticks: int) -> None:
        self._dt, self._period = dt, dt * ticks
        # Over one decision: dv = (now, more) . (a, a' - a), dx = v period + the same with _way.
        self._gain = dt * ticks, dt * (ticks + 1) / 2
        self._way = dt * dt * ticks * (ticks + 1) / 2, dt * dt * (ticks + 1) * (ticks + 2) / 6

    def velocity(
        self,
        error: Sequence[float],
        velocity: Sequence[float],
        acceleration: Sequence[float],
        pace: Pace,
    ) -> list[float]:
        """The velocity after the decision; all vectors have the same length.

        Args:
            error: from here to the goal. velocity, acceleration: of the last tick.
            pace: what may be used.
        """
        distance = _norm(error)
        along = [e / distance for e in error] if distance > _THERE else [0.0] * len(error)
        v, a = _dot(velocity, along), _dot(acceleration, along)
        v_off = [x - v * n for x, n in zip(velocity, along, strict=True)]
        a_off = [x - a * n for x, n in zip(acceleration, along, strict=True)]
        across = self._across(v_off, a_off, pace)
        spent = _norm([x - y for x, y in zip(across, a_off, strict=True)])
        reach = math.sqrt(max(0.0, (pace.jerk * self._period) ** 2 - spent**2))
        most = math.sqrt(max(0.0, pace.acceleration**2 - _dot(across, across)))
        # What motion across uses up of the speed is not there along the way.
        speed = math.sqrt(max(0.0, pace.speed**2 - _dot(v_off, v_off)))
        left = Pace(speed, pace.acceleration, pace.jerk)
        chosen = self._along(distance, v, a, left, (max(-most, a - reach), min(most, a + reach)))
        now, more = self._gain
        return [
            x + now * y + more * (n * chosen + c - y)
            for x, y, n, c in zip(velocity, acceleration, along, across, strict=True)
        ]

    def _along(
        self, distance: float, v: float, a: float, pace: Pace, allowed: tuple[float, float]
    ) -> float:
        """The largest acceleration in the range after which the arm still stops at the goal."""
        low, high = allowed
        if low >= high:
            return 0.5 * (low + high)
        if self._stops(high, distance, v, a, pace):
            return high
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            if self._stops(middle, distance, v, a, pace):
                low = middle
            else:
                high = middle
        return low

    def _stops(self, chosen: float, distance: float, v: float, a: float, pace: Pace) -> bool:
        after = v + self._gain[0] * a + self._gain[1] * (chosen - a)
        way = self._period * v + self._way[0] * a + self._way[1] * (chosen - a)
        peak = after + max(0.0, chosen) * chosen / (2.0 * pace.jerk)
        # Ticks are steps: half a tick of the speed is already behind.
        rest = stopping_distance(after, chosen, pace) - 0.5 * self._dt * after
        return peak <= pace.speed and way + rest <= distance

    def _across(self, v: Sequence[float], a: Sequence[float], pace: Pace) -> list[float]:
        """Acceleration that ends motion across the way to the goal."""
        size, step = _norm(a), _ACROSS * pace.jerk * self._period
        ramp = size / pace.jerk
        # Let the acceleration go, and end what speed would then be left.
        change = [
            -y * min(1.0, step / max(size, 1e-30)) - (x + 0.5 * y * ramp) / self._period
            for x, y in zip(v, a, strict=True)
        ]
        shrink = min(1.0, step / max(_norm(change), 1e-30))
        wanted = [y + shrink * c for y, c in zip(a, change, strict=True)]
        shrink = min(1.0, _ACROSS * pace.acceleration / max(_norm(wanted), 1e-30))
        return [shrink * w for w in wanted]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(map(mul, a, b))


def _norm(a: Sequence[float]) -> float:
    return math.hypot(*a)
