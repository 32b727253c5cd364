"""The expert as the person at a simulated arm: when it helps, and with what."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from mjx_serl.learning.simulated_person import HALF_LIFE, PATIENCE, SimulatedPerson

LIMIT = 10.0


class Arm:
    """Of which the expert answers with where it was asked about."""

    episode_seconds = LIMIT

    def expert_action(self, position: Any, quat: Any, closure: float, key: Any) -> np.ndarray:
        return np.array([*position, closure])


def person(**options: Any) -> SimulatedPerson:
    arm: Any = Arm()
    made = SimulatedPerson(arm, **options)
    goal = SimpleNamespace(position=np.array([0.1, 0.2, 0.3]), quat=np.ones(4), closure=0.5)
    tick: Any = SimpleNamespace(goal=goal)
    made.see(tick)
    return made


def test_it_waits_and_then_drives_to_the_end_from_what_is_wanted() -> None:
    helper = person()
    helper.open()
    begun = 100.0
    assert helper.poll(begun) is None
    assert helper.poll(begun + PATIENCE * LIMIT - 0.01) is None
    for later in (PATIENCE * LIMIT + 0.01, LIMIT):
        found = helper.poll(begun + later)
        assert found is not None and found.enabled
        np.testing.assert_allclose(found.action, [0.1, 0.2, 0.3, 0.5])
    helper.close()
    assert helper.poll(begun + LIMIT) is None


def test_it_watches_less_and_less() -> None:
    helper = person(seed=1)
    watched = []
    for _ in range(8 * HALF_LIFE):
        helper.open()
        helper.poll(0.0)
        watched.append(helper.poll(LIMIT) is not None)
        helper.close()
    shares = np.reshape(watched, (8, HALF_LIFE)).mean(axis=1)
    assert shares[0] > 0.5
    assert 0.15 < shares[2] < 0.5
    assert shares[5:].mean() < 0.06
