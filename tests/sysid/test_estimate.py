"""What is done where a fit leaves more than noise."""

from types import SimpleNamespace

import numpy as np
import pytest

from mjx_serl.sysid import estimate as module
from mjx_serl.sysid.estimate import _correlation, _misfit, _Search, estimate
from mjx_serl.sysid.parameters import DELAY
from scenes.robots import robot_named


def search(*errors: np.ndarray) -> _Search:
    """One that leaves errors [T, 2 joints] in each motion."""
    predictor = SimpleNamespace(errors=lambda sets: [e[None] for e in errors])
    return _Search(predictor, (), {}, np.ones(errors[0].shape[1]))


def test_noise_and_what_lasts_are_told_apart():
    draw = np.random.default_rng(0)
    noise = 1e-5 * draw.standard_normal((2000, 4))
    slow = 1e-4 * np.sin(np.arange(2000) / 30)[:, None].repeat(4, 1)
    assert abs(_correlation(search(noise, noise))) < 0.1
    assert _correlation(search(noise, noise + slow)) > 0.9
    assert _misfit(search(noise)) < _misfit(search(noise + slow))
    # In whatever units a reading is.
    units = np.array([1.0, 1.0, 100.0, 100.0])
    gap = _misfit(search(noise + slow)) - _misfit(search(noise))
    assert _misfit(search((noise + slow) * units)) - _misfit(
        search(noise * units)
    ) == pytest.approx(gap)


@pytest.mark.parametrize(
    ("left", "tried", "kept"),
    [
        ({30: 0.1}, [30], 30),  # noise: nothing else is tried
        ({30: 0.9, 20: 0.1}, [30, 20], 20),
        ({30: 0.9, 20: 0.95, 40: 0.8}, [30, 20, 40], 40),
        ({30: 0.9, 20: 0.95, 40: 0.97}, [30, 20, 40], 30),  # the first was the best
        ({5: 0.9, 15: 0.1}, [5, 15], 15),  # no delay is negative
    ],
)
def test_other_delays_are_tried_where_more_than_noise_is_left(
    monkeypatch: pytest.MonkeyPatch, left: dict[int, float], tried: list[int], kept: int
):
    """Delays in ms; fits leave as much misfit as correlation."""
    begun = []

    def fit_drives(blank: _Search, delay: float, say: object) -> SimpleNamespace:
        begun.append(round(delay * 1e3))
        return SimpleNamespace(values={DELAY: delay})

    def rest(fit: SimpleNamespace) -> float:
        return left[round(fit.values[DELAY] * 1e3)]

    monkeypatch.setattr(module, "Predictor", lambda *_: None)
    monkeypatch.setattr(module, "_first_delay", lambda _: tried[0] * 1e-3)
    monkeypatch.setattr(module, "_fit_drives", fit_drives)
    monkeypatch.setattr(module, "_fit_all", lambda fit, say: None)
    monkeypatch.setattr(module, "_correlation", rest)
    monkeypatch.setattr(module, "_misfit", rest)
    monkeypatch.setattr(module, "_with_intervals", lambda fit: [fit])
    said: list[str] = []
    arm = SimpleNamespace(robot=robot_named("piper"))
    (found,) = estimate(arm, [], say=said.append)
    assert begun == tried and round(found.values[DELAY] * 1e3) == kept
    assert sum("more than noise" in line for line in said) == len(tried) - 1
