"""Recorded motions of an arm: what was sent, what was measured, cut to where it moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from scenes.contract.errors import InputError

# Shorter than this a motion says little beyond its first, unknown moments [s].
SHORTEST = 3.0
# A longer one is simulated in pieces, and more than so much in all takes too much memory [s].
LONGEST, MOST = 60.0, 600.0
# A joint that moves less than this moves by its noise [rad].
STILL = 0.01
# Targets further apart belong to two motions [s].
GAP = 0.1
# Of a motion that is alone, the last part of its time is kept to validate by.
VALIDATION = 0.25


@dataclass(frozen=True, eq=False, kw_only=True)
class Motion:
    """One uninterrupted motion; T measurements, K commands, J joints.

    Attributes:
        name: for people.
        t: of the measurements [s].
        q: measured positions [rad].
        dq: measured velocities [rad/s].
        sent: when commands were sent, from before the first measurement on [s].
        target: joint positions that were sent [rad].
        width: opening of the gripper [m].
    """

    name: str
    t: Float[np.ndarray, " T"]
    q: Float[np.ndarray, "T J"]
    dq: Float[np.ndarray, "T J"]
    sent: Float[np.ndarray, " K"]
    target: Float[np.ndarray, "K J"]
    width: float

    @property
    def seconds(self) -> float:
        """Its length [s]."""
        return float(self.t[-1] - self.t[0])

    def between(self, begin: float, end: float, *, name: str) -> "Motion":
        """The part between two times [s], with all commands, since they act later."""
        rows = (self.t >= begin) & (self.t <= end)
        return replace(self, name=name, t=self.t[rows], q=self.q[rows], dq=self.dq[rows])


def cut_motions(log: Motion) -> list[Motion]:
    """The motions of a log whose targets are NaN where none was sent, T = K.

    Long ones are cut into pieces; what is too short or stands still is left out.
    """
    sent = np.flatnonzero(np.isfinite(log.target).all(axis=1))
    breaks = np.flatnonzero(np.diff(log.sent[sent]) > GAP) + 1
    whole = [_rows(log, rows) for rows in np.split(sent, breaks) if len(rows) > 1]
    pieces = [piece for motion in whole for piece in _pieces(motion)]
    kept = [m for m in pieces if m.seconds >= SHORTEST and np.ptp(m.q, axis=0).max() > STILL]
    return [replace(m, name=f"{log.name} #{i}") for i, m in enumerate(kept, 1)]


def _rows(log: Motion, rows: Int[np.ndarray, " N"]) -> Motion:
    # Measurements are repeated where an arm's readings come slower than ticks.
    fresh = rows[np.append(True, np.diff(log.t[rows]) > 0)]
    return replace(
        log,
        t=log.t[fresh],
        q=log.q[fresh],
        dq=log.dq[fresh],
        sent=log.sent[rows],
        target=log.target[rows],
    )


def _pieces(motion: Motion) -> list[Motion]:
    """Equal parts of a motion, none longer than `LONGEST`."""
    count = max(1, math.ceil(motion.seconds / LONGEST))
    ends = np.linspace(motion.t[0], motion.t[-1], count + 1)
    return [motion.between(*pair, name=motion.name) for pair in pairwise(ends.tolist())]


def split_motions(motions: Sequence[Motion]) -> tuple[list[Motion], list[Motion]]:
    """Motions to fit and others to validate by: the last of several, else the last part of time.

    Raises InputError where there is nothing to fit, or too much.
    """
    if not motions:
        raise InputError(
            f"No recording holds a motion: allowed are {SHORTEST:g} s or more without a break in "
            f"which a joint moves more than {STILL:g} rad; make one with `mjx-serl excite`"
        )
    seconds = sum(motion.seconds for motion in motions)
    if seconds > MOST:
        raise InputError(
            f"The recordings hold {seconds:.0f} s of motion, allowed are {MOST:g}: name fewer"
        )
    if len(motions) > 1:
        held_out = max(1, round(VALIDATION * len(motions)))
        return list(motions[:-held_out]), list(motions[-held_out:])
    only = motions[0]
    begin, end = float(only.t[0]), float(only.t[-1])
    middle = end - VALIDATION * only.seconds
    fitted = only.between(begin, middle, name=f"{only.name} (first part)")
    return [fitted], [only.between(middle, end, name=f"{only.name} (last part)")]


def delayed(
    motion: Motion, grid: Float[np.ndarray, " S"], step: float, delay: float
) -> Float[np.ndarray, "S J"]:
    """The mean of what drives are told in each physics step, `delay` [s] after it was sent.

    A command holds until the next; means make the result continuous in the delay, and exact for
    one of whole steps. The first command is taken to have held before.
    """
    sent, target = motion.sent, motion.target
    told = np.vstack([np.zeros(target.shape[1]), np.diff(sent)[:, None] * target[:-1]]).cumsum(0)

    def integral(t: np.ndarray) -> np.ndarray:
        row = np.clip(np.searchsorted(sent, t, side="right") - 1, 0, len(sent) - 1)
        return told[row] + (t - sent[row])[:, None] * target[row]

    begin = grid - delay
    return (integral(begin + step) - integral(begin)) / step
