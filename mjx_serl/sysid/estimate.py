"""From motions to parameters with intervals, by least squares of `mujoco.sysid`.

First the delay, then gains, friction and payload at the nominal inertias, which give all of them
their scale, then all that the motions show; what they do not show is held at its nominal value and
named. Where gains and delay leave more than noise, they are fitted from other delays too.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from mjx_serl.sysid.arm_model import ArmModel
from mjx_serl.sysid.identifiability import dependents, hidden_directions, intervals
from mjx_serl.sysid.motion import Motion
from mjx_serl.sysid.parameters import DELAY, PAYLOAD, Candidate, candidates, to_sysid
from mjx_serl.sysid.prediction import Predictor
from mjx_serl.sysid.toolbox import Squares, toolbox

Values = dict[str, float]
Say = Callable[[str], None]

# What is fitted before inertias are.
_DRIVES = (DELAY, "kp", "kd", "friction_loss", PAYLOAD)
# Delays that are tried before anything else is fitted [s].
_DELAYS = np.arange(0.0, 0.205, 0.005)
# Share of an error that follows from the one before, above which it is no noise, and how far from
# the found delay others are then tried [s].
_NOISE, _SHIFTS = 0.5, (-0.01, 0.01)
# Step of finite differences in units of `Candidate.scale`. A longer one hides the last joint's
# scale, in which four columns cancel up to a thousandth; the converged solver is smooth there.
_STEP = 1e-4
# How far from nominal a value that the motions do not show may end, in the same units. It moves one
# that they show to a twentieth of that by 0.1 %.
_PRIOR = 2.0
# Readings are weighed anew until no weight changes by more than this share, but not for ever.
_SAME_WEIGHTS, _WEIGHINGS = 0.1, 5
# The fit has converged where nothing moves by more than this, in the same units.
_SETTLED = 3e-3


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The estimate of one parameter.

    Attributes:
        candidate: which one.
        value: found, or nominal where it is held.
        half_width: of its 95 % interval; of one that is held, what is assumed of its error.
        held: why it was not fitted; "" where it was.
    """

    candidate: Candidate
    value: float
    half_width: float
    held: str = ""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Root mean square of predicted minus measured.

    Attributes:
        position: [rad].
        velocity: [rad/s].
    """

    position: float
    velocity: float


@dataclass
class _Search:
    """What the fit knows so far."""

    predictor: Predictor
    all_of: tuple[Candidate, ...]
    values: Values
    weights: Float[np.ndarray, " C"]
    held: dict[str, str] = field(default_factory=dict)

    @property
    def free(self) -> list[Candidate]:
        return [c for c in self.all_of if c.name not in self.held]


def untuned(all_of: Sequence[Candidate]) -> Values:
    """What the simulator believes before anything is fitted."""
    return {c.name: c.nominal for c in all_of}


def estimate(arm: ArmModel, motions: Sequence[Motion], *, say: Say) -> list[Fitted]:
    """Fit all parameters of an arm to motions; `say` hears how it goes on."""
    all_of = candidates(arm.robot)
    begin = {c.name: c.begin for c in all_of}
    joints = arm.robot.num_joints
    # A first guess of what is measured how well; it is measured below [rad], [rad/s].
    weights = 1.0 / np.repeat([1e-4, 1e-2], joints)
    blank = _Search(Predictor(arm, all_of, motions), all_of, begin, weights)
    delay = _first_delay(blank)
    say(f"delay    about {delay * 1e3:.0f} ms")
    found = [_fit_drives(blank, delay, say)]
    # Where more than noise is left, the wrong mixture of a late command and soft drives, which look
    # alike, may have been found.
    middle = found[0].values[DELAY]
    for other in (middle + shift for shift in _SHIFTS if middle + shift >= 0.0):
        if _correlation(found[-1]) <= _NOISE:
            break
        say(f"again    from {other * 1e3:.0f} ms of delay, as more than noise is left")
        found.append(_fit_drives(blank, other, say))
    search = min(found, key=_misfit)
    _fit_all(search, say)
    return _with_intervals(search)


def _fit_drives(blank: _Search, delay: float, say: Say) -> _Search:
    """Return a fit of what `_DRIVES` names that begins with a delay [s]."""
    search = replace(blank, values=blank.values | {DELAY: delay})
    _fit(search, [c for c in search.all_of if c.field in _DRIVES], iterations=8)
    say(f"drives   position error {_position_error(search) * 1e3:.3g} mrad")
    return search


def _fit_all(search: _Search, say: Say) -> None:
    _hold(search, dependents(search.all_of, _jacobian(search, search.all_of)), say)
    _fit(search, search.free, iterations=12)
    say(f"all      position error {_position_error(search) * 1e3:.3g} mrad")
    for _ in range(_WEIGHINGS):
        if _weigh(search) < _SAME_WEIGHTS:
            break
        _fit(search, search.free, iterations=12)
    while hidden := hidden_directions(search.free, _jacobian(search, search.free)):
        _hold(search, hidden, say)
        _fit(search, search.free, iterations=12)


def _correlation(search: _Search) -> float:
    """Return how much of each position error follows from the one before, of all joints [-1, 1]."""
    joints = len(search.weights) // 2
    errors = [e[0, :, :joints] for e in search.predictor.errors([search.values])]
    follow = sum(float((e[1:] * e[:-1]).sum()) for e in errors)
    return follow / max(sum(float((e**2).sum()) for e in errors), 1e-30)


def _misfit(search: _Search) -> float:
    """Return what is lowest where errors are small whatever each reading's noise is."""
    errors = np.concatenate([e[0] for e in search.predictor.errors([search.values])])
    return float(np.log(np.maximum((errors**2).mean(axis=0), 1e-30)).sum())


def _first_delay(search: _Search) -> float:
    sets = [search.values | {DELAY: float(delay)} for delay in _DELAYS]
    found = search.predictor.errors(sets)
    cost = sum(((errors * search.weights) ** 2).sum(axis=(1, 2)) for errors in found)
    return float(_DELAYS[int(np.argmin(cost))])


def _fit(search: _Search, chosen: Sequence[Candidate], *, iterations: int) -> None:
    sysid = toolbox()
    parameters = to_sysid(sysid, chosen, search.values)
    nominal = np.array([[c.nominal / c.scale] for c in chosen])

    def residual(x: np.ndarray, *_: object, **__: object) -> tuple[list[np.ndarray], None, None]:
        columns = x.reshape(len(chosen), -1)
        rows = np.concatenate([_residuals(search, chosen, columns), (columns - nominal) / _PRIOR])
        return [rows if x.ndim > 1 else rows[:, 0]], None, None

    _, result = sysid.optimize(
        parameters,
        residual,
        optimizer="mujoco",
        verbose=False,
        max_iters=iterations,
        eps=_STEP,
        xtol=_SETTLED,
        x_scale="jac",
        norm=Squares(),
        output=io.StringIO(),
    )
    found = np.asarray(result.x).ravel()
    search.values |= {c.name: float(x * c.scale) for c, x in zip(chosen, found, strict=True)}


def _residuals(
    search: _Search, chosen: Sequence[Candidate], columns: Float[np.ndarray, "P N"]
) -> Float[np.ndarray, "R N"]:
    """Weighted errors of all motions, a column per set of parameters in units of their scales."""
    sets: list[Mapping[str, float]] = [
        search.values | {c.name: float(x * c.scale) for c, x in zip(chosen, column, strict=True)}
        for column in columns.T
    ]
    errors = search.predictor.errors(sets)
    return np.concatenate([(e * search.weights).reshape(len(sets), -1) for e in errors], axis=1).T


def _jacobian(search: _Search, chosen: Sequence[Candidate]) -> Float[np.ndarray, "R P"]:
    """By differences to both sides, in units of the scales; to one side at a bound."""
    x = np.array([search.values[c.name] / c.scale for c in chosen])
    low = np.maximum(x - _STEP, [c.low / c.scale for c in chosen])
    columns = np.repeat(x[:, None], 2 * len(chosen), axis=1)
    index = np.arange(len(chosen))
    columns[index, index], columns[index, len(chosen) + index] = low, x + _STEP
    rows = _residuals(search, chosen, columns)
    return (rows[:, len(chosen) :] - rows[:, : len(chosen)]) / (x + _STEP - low)


def _position_error(search: _Search) -> float:
    joints = len(search.weights) // 2
    errors = [e[0, :, :joints].ravel() for e in search.predictor.errors([search.values])]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def _weigh(search: _Search) -> float:
    """Weigh each reading by how well it is predicted now; return the largest change, a share."""
    errors = np.concatenate([e[0] for e in search.predictor.errors([search.values])])
    before = search.weights
    search.weights = 1.0 / np.maximum(np.sqrt((errors**2).mean(axis=0)), 1e-9)
    return float(np.abs(search.weights / before - 1.0).max())


def _hold(search: _Search, reasons: Mapping[str, str], say: Say) -> None:
    for name, why in reasons.items():
        say(f"held     {name}: {why}")
    search.held |= reasons
    search.values |= {c.name: c.nominal for c in search.all_of if c.name in reasons}


def _with_intervals(search: _Search) -> list[Fitted]:
    free = search.free
    names = {c.name for c in free}
    held = [c for c in search.all_of if c.name not in names]
    jacobian = _jacobian(search, [*free, *held])
    errors = [e[0] * search.weights for e in search.predictor.errors([search.values])]
    widths = intervals(jacobian[:, : len(free)], jacobian[:, len(free) :], errors)
    half = {c.name: w * c.scale for c, w in zip(free, widths, strict=True)}
    return [
        Fitted(
            candidate=c,
            value=search.values[c.name],
            half_width=float(half.get(c.name, c.scale)),
            held=search.held.get(c.name, ""),
        )
        for c in search.all_of
    ]


def errors_of(arm: ArmModel, motions: Sequence[Motion], values: Mapping[str, float]) -> Errors:
    """How far the simulated arm is from the measured one."""
    joints = arm.robot.num_joints
    found = Predictor(arm, candidates(arm.robot), motions).errors([values])
    rows = np.concatenate([e[0] for e in found])
    q, dq = (float(np.sqrt(np.mean(x**2))) for x in (rows[:, :joints], rows[:, joints:]))
    return Errors(position=q, velocity=dq)
