"""What motions say of parameters: which ones they do not show, and how well they show the rest.

All Jacobians are in units of `Candidate.scale`, one being a likely error, and of the noise.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mjx_serl.sysid.parameters import FREEZE_ORDER, Candidate
from mjx_serl.sysid.toolbox import product, toolbox

# Cosine between what two parameters do from which on nothing tells them apart.
_ALIKE = 0.999999
# A direction of which the motions leave a standard deviation of more than its likely error, one,
# is known as well without them.
_KNOWN = 1.0
# Entries of a direction smaller than this share of its largest do not belong to it.
_PART = 0.3
# Correlation of errors below which they count as independent.
_INDEPENDENT = 0.05
_NORMAL_95 = 1.96


def dependents(all_of: Sequence[Candidate], jacobian: Float[np.ndarray, "R P"]) -> dict[str, str]:
    """Parameters that do what another one does, and why each is held."""
    unit = jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
    alike = np.abs(product(unit, unit)) > _ALIKE
    held: dict[str, str] = {}
    for i, j in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
        first, second = sorted((all_of[i], all_of[j]), key=lambda c: FREEZE_ORDER.index(c.field))
        held[first.name] = f"does what {second.name} does"
    return held


def hidden_directions(
    free: Sequence[Candidate], jacobian: Float[np.ndarray, "R P"]
) -> dict[str, str]:
    """Parameters whose values, alone or together with others, the motions do not show."""
    rows, held = list(range(len(free))), dict[str, str]()
    gram = product(jacobian, jacobian)
    while rows:
        values, directions = np.linalg.eigh(gram[np.ix_(rows, rows)])
        if values[0] >= _KNOWN**2:
            break
        entries = np.abs(directions[:, 0])
        parts = [free[rows[i]] for i in np.flatnonzero(entries >= _PART * entries.max())]
        first = min(parts, key=lambda c: FREEZE_ORDER.index(c.field))
        others = ", ".join(c.name for c in parts if c is not first)
        shown = f"the motions show it only together with {others}"
        held[first.name] = shown if others else "the motions do not show it"
        rows = [i for i in rows if free[i] is not first]
    return held


def intervals(
    jacobian: Float[np.ndarray, "R P"],
    held: Float[np.ndarray, "R H"],
    errors: Sequence[Float[np.ndarray, "T C"]],
) -> Float[np.ndarray, " P"]:
    """Half widths of 95 % intervals, in units of the scales.

    Those of `mujoco.sysid`, which takes errors for independent, are widened by how long errors
    last, and by what values that are held at a wrong value would do to those that are fitted.

    Args:
        jacobian: of the parameters that are fitted.
        held: of those that are not.
        errors: weighted, of each motion.
    """
    sysid = toolbox()
    _, half = sysid.calculate_intervals([e.ravel() for e in errors], jacobian)
    lasting = np.mean([lasting_errors(e) for e in errors], axis=0)
    rows = np.concatenate([np.tile(lasting, len(e)) for e in errors])
    squares = jacobian**2
    factor = (squares * rows[:, None]).sum(axis=0) / np.maximum(squares.sum(axis=0), 1e-30)
    moved = np.linalg.lstsq(product(jacobian, jacobian), product(jacobian, held), rcond=None)[0]
    return np.sqrt(half**2 * factor + ((_NORMAL_95 * moved) ** 2).sum(axis=1))


def lasting_errors(errors: Float[np.ndarray, "T C"]) -> Float[np.ndarray, " C"]:
    """How many measurements in a row say the same: 1 + 2 times the sum of correlations, >= 1."""
    centred = errors - errors.mean(axis=0)
    size = 2 * len(centred)
    spectrum = np.abs(np.fft.rfft(centred, size, axis=0)) ** 2
    lags = np.fft.irfft(spectrum, size, axis=0)[: len(centred) // 2]
    correlation = lags / np.maximum(lags[0], 1e-30)
    # Only up to where errors are forgotten first: beyond it is noise.
    lasts = np.logical_and.accumulate(correlation > _INDEPENDENT, axis=0)
    return np.maximum(1.0, 2.0 * np.where(lasts, correlation, 0.0).sum(axis=0) - 1.0)
