"""What a training run is told of the person at its page."""

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.training import TrainingPilot
from mjx_serl.viewing.live_world import Outcome
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_wire import Order

pytestmark = pytest.mark.keeps_time


class Kept:
    """A file of demonstrations."""

    def __init__(self) -> None:
        self.episodes: list[Any] = []

    def __len__(self) -> int:
        return len(self.episodes)

    def append(self, rows: Any) -> None:
        """Keep it."""
        self.episodes.append(rows)

    def take_back(self) -> None:
        """Drop the last."""
        self.episodes.pop()


@pytest.fixture
def pilot() -> TrainingPilot:
    """One without a page."""
    made = TrainingPilot()
    made._file, made._stages = Kept(), SimpleNamespace(tell=lambda lines: None)  # pyright: ignore
    return made


def episode(*driven: bool, solved: bool = False) -> EpisodeRows:
    rows, action = EpisodeRows(), np.zeros(2)
    for i, person in enumerate(driven):
        last = solved and i == len(driven) - 1
        outcome = Outcome(float(last), last, False, True, last)
        rows.add({"x": np.zeros(2, np.float32)}, action, action, outcome, person=person)
    return rows


def test_only_what_a_person_had_a_hand_in_is_handed_over(pilot: TrainingPilot) -> None:
    pilot._ended(0, episode(False, False, solved=True))
    pilot._ended(0, episode(False, True))
    pilot._ended(0, episode(False, True, True, solved=True))
    assert [e.driven for e in drained(pilot)] == [1, 2]
    assert len(pilot._file) == 1
    told = pilot.metrics()
    assert told["people/episodes"] == 3 and told["people/solved"] == 2
    assert told["people/share"] == pytest.approx(3 / 7)
    assert "people/share" not in pilot.metrics(), "nothing new"
    pilot._ended(0, episode(False, False))
    assert pilot.metrics()["people/share"] == 0


def test_the_last_episode_is_taken_back_from_where_it_has_gone(pilot: TrainingPilot) -> None:
    pilot._ended(0, episode(True, solved=True))
    drained(pilot)
    pilot._ended(0, episode(False, solved=True))
    pilot._undone(0)
    assert drained(pilot) == [] and len(pilot._file) == 1, "of the policy's own nothing was kept"
    pilot._ended(0, episode(True))
    pilot._undone(0)
    assert drained(pilot)[-1] == "undo" and len(pilot._file) == 1, "it was not solved"
    pilot._ended(0, episode(True, solved=True))
    pilot._undone(0)
    pilot._undone(0)
    assert drained(pilot)[1:] == ["undo"] and len(pilot._file) == 1, "once"


def drained(pilot: TrainingPilot) -> list[Any]:
    found = []
    while not pilot._episodes.empty():
        found.append(pilot._episodes.get())
    return found


def test_what_is_taken_back_is_the_last_of_the_world_that_is_driven(pilot: TrainingPilot) -> None:
    pilot._ended(1, episode(True, solved=True))
    pilot._ended(0, episode(False, solved=True))
    pilot._undone(0)
    assert len(drained(pilot)) == 1 and len(pilot._file) == 1, "it was another world's"
    pilot._undone(1)
    assert drained(pilot) == ["undo"] and len(pilot._file) == 0


def test_epochs_wait_only_while_somebody_moves_and_the_page_says_so(pilot: TrainingPilot) -> None:
    now = time.monotonic()
    stages: Any = pilot._stages
    for pauses, pushed_at, waits in (
        (False, now, False),
        (True, now, True),
        (True, now - 60, False),
        (True, -math.inf, False),
    ):
        pilot._pauses, stages.pushed_at = pauses, pushed_at
        assert pilot.holds() is waits
    pilot._stages = None
    assert not pilot.holds()


def test_what_is_chosen_on_the_page_is_done(pilot: TrainingPilot) -> None:
    pilot._page, told, chosen = BrowserOperator(("x", "gripper")), [], []
    pilot.server = SimpleNamespace(tell=told.append)  # pyright: ignore
    stages: Any = SimpleNamespace(choose=chosen.append)
    for name, number in (("world", 3), ("pause", 1), ("delete", 1)):
        pilot._page.order(Order(name, number))
    pilot._renew(stages)
    assert chosen == [3] and told == [{"pause": True}] and pilot._pauses
    pilot._page.order(Order("pause", 0))
    pilot._renew(stages)
    assert not pilot._pauses
