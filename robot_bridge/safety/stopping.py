"""Motions that end at rest: a constant jerk for some ticks, then the quickest stop.

Everything is in ticks: velocity [rad/tick], acceleration [rad/tick^2], jerk [rad/tick^3] are the
differences of successive joint positions. All joints share the shape of the motion, so positions
are linear in velocity, acceleration and jerk at its beginning: one small table per shape.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Shape(NamedTuple):
    """Ticks of a motion: under constant jerk, into braking, braking evenly, out of braking."""

    lead: int
    into: int
    even: int
    out: int


class Table(NamedTuple):
    """What a motion is made of: rows of coefficients of velocity, acceleration and jerk.

    positions [N, 3]: relative to the beginning. velocities [N, 3]. braking [3]: acceleration while
    braking evenly.
    """

    positions: Array
    velocities: Array
    braking: Array


@lru_cache(maxsize=4096)
def table(shape: Shape) -> Table:
    """Coefficients of a shape; the last velocity and acceleration are zero."""
    lead, into, even, out = shape
    led: Array = np.array([0.0, 1.0, 0.0]) + np.outer(np.arange(1, lead + 1), [0.0, 0.0, 1.0])
    acceleration = np.array([0.0, 1.0, lead])
    velocity = np.array([1.0, lead, 0.5 * lead * (lead + 1)])
    # The changes of all ticks add up to minus the velocity.
    weight = 0.5 * (into + 1) + even + 0.5 * (out - 1)
    braking = -(velocity + 0.5 * (into - 1) * acceleration) / weight
    rise = (np.arange(1, into + 1) / into)[:, None]
    fall = (1.0 - np.arange(1, out + 1) / out)[:, None]
    accelerations = np.vstack(
        [
            led,
            acceleration + rise * (braking - acceleration),
            np.repeat(braking[None], even, axis=0),
            fall * braking,
        ]
    )
    velocities: Array = np.array([1.0, 0.0, 0.0]) + np.cumsum(accelerations, axis=0)
    velocities[-1] = 0.0  # exactly, not to rounding
    return Table(np.cumsum(velocities, axis=0, dtype=np.float64), velocities, braking)


@dataclass(frozen=True)
class Bounds:
    """Largest accelerations and jerks [M], per tick, of M quantities linear in the joints."""

    acceleration: Array
    jerk: Array


def quickest(lead: int, velocity: Array, acceleration: Array, bounds: Bounds) -> Shape:
    """The shortest stop within bounds from velocity and acceleration [M] after the lead."""
    ramp = (np.abs(acceleration) / bounds.jerk).max()
    slow = np.abs(velocity) + np.abs(acceleration) * (0.5 * ramp)
    by_jerk = (slow / bounds.jerk).max()
    steepest = (bounds.acceleration / bounds.jerk).max()
    out = max(1, math.ceil(min(steepest, math.sqrt(by_jerk)) - 1e-9))
    into = max(1, math.ceil(out + ramp - 1e-9))
    left = np.abs(velocity + acceleration * (0.5 * (into - 1)))
    weight = max((left / bounds.acceleration).max(), (left / bounds.jerk).max() / out)
    even = math.ceil(weight - 0.5 * (into + out) - 1e-9)
    return Shape(lead, into, max(0, even), out)
