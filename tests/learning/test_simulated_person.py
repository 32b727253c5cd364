"""The expert as the person at a simulated arm: when it helps, and with what."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from mjx_serl.learning.simulated_person import HALF_LIFE, WHEN, SimulatedPerson

LIMIT = 10.0
EXPERT = [0.1, 0.2, 0.3, 0.5]


class Arm:
    """Of which the expert answers with where it was asked about."""

    episode_seconds = LIMIT

    def expert_action(self, position: Any, quat: Any, closure: float, key: Any) -> np.ndarray:
        return np.array([*position, closure])


def tick(action: Any, *, person: bool = False) -> Any:
    """The policy wants `action`; where a person drives the arm does what the expert says."""
    goal = SimpleNamespace(position=np.array(EXPERT[:3]), quat=np.ones(4), closure=EXPERT[3])
    chosen = None if action is None else np.array(action)
    done, wanted = (np.array(EXPERT), chosen) if person else (chosen, None)
    return SimpleNamespace(goal=goal, action=done, policy_action=wanted, intervened=person)


def person(**options: Any) -> SimulatedPerson:
    arm: Any = Arm()
    made = SimulatedPerson(arm, **options)
    made.open()
    made.see(tick(EXPERT))
    return made


def test_it_waits_while_all_goes_well_and_then_drives_from_what_is_wanted() -> None:
    helper, begun = person(), 100.0
    patience = WHEN.patience * LIMIT
    assert helper.poll(begun) is None
    for later in (patience - 0.01, patience + 0.01, patience + WHEN.reaction):
        assert helper.poll(begun + later) is None
    for later in (patience + WHEN.reaction + 0.02, LIMIT):
        found = helper.poll(begun + later)
        assert found is not None and found.enabled
        np.testing.assert_allclose(found.action, EXPERT)
    helper.close()
    assert helper.poll(begun + LIMIT) is None


def test_it_takes_over_where_the_policy_strays_and_gives_back() -> None:
    helper, far = person(), [0.1, 0.2, 0.3, 0.5 + 1.01 * WHEN.far]
    assert helper.poll(0.0) is None
    helper.see(tick(far))
    helper.see(tick(None))  # between two actions
    assert helper.poll(0.1) is None, "it has not reacted"
    helper.see(tick(EXPERT))
    assert helper.poll(0.2) is None
    helper.see(tick(far))
    assert helper.poll(0.3) is None and helper.poll(0.5) is None, "a need that ended is forgotten"
    assert helper.poll(0.6 + 1e-6) is not None
    helper.see(tick(far, person=True))
    assert helper.poll(1.0) is not None, "what the policy would have done still strays"
    helper.see(tick(EXPERT, person=True))
    assert helper.poll(1.0 + 0.9 * WHEN.hold) is not None
    assert helper.poll(1.0 + 1.1 * WHEN.hold) is None


def test_it_watches_less_and_less() -> None:
    helper = person(seed=1)
    watched = []
    for _ in range(8 * HALF_LIFE):
        helper.open()
        helper.poll(0.0)
        helper.poll(LIMIT)
        watched.append(helper.poll(LIMIT + 1.0) is not None)
        helper.close()
    shares = np.reshape(watched, (8, HALF_LIFE)).mean(axis=1)
    assert shares[0] > 0.5
    assert 0.15 < shares[2] < 0.5
    assert shares[5:].mean() < 0.06
