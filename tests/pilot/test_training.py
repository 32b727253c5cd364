"""What a training run is told of the person at its page."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.training import TrainingPilot
from mjx_serl.viewing.live_world import Outcome


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
    made._file, made._stage = Kept(), SimpleNamespace(told=[])  # pyright: ignore
    return made


def episode(*driven: bool, solved: bool = False) -> EpisodeRows:
    rows, action = EpisodeRows(), np.zeros(2)
    for i, person in enumerate(driven):
        last = solved and i == len(driven) - 1
        outcome = Outcome(float(last), last, False, True, last)
        rows.add({"x": np.zeros(2, np.float32)}, action, action, outcome, person=person)
    return rows


def test_only_what_a_person_had_a_hand_in_is_handed_over(pilot: TrainingPilot) -> None:
    pilot._ended(episode(False, False, solved=True))
    pilot._ended(episode(False, True))
    pilot._ended(episode(False, True, True, solved=True))
    assert [e.driven for e in drained(pilot)] == [1, 2]
    assert len(pilot._file) == 1
    told = pilot.metrics()
    assert told["people/episodes"] == 3 and told["people/solved"] == 2
    assert told["people/share"] == pytest.approx(3 / 7)
    assert "people/share" not in pilot.metrics(), "nothing new"
    pilot._ended(episode(False, False))
    assert pilot.metrics()["people/share"] == 0


def test_the_last_episode_is_taken_back_from_where_it_has_gone(pilot: TrainingPilot) -> None:
    pilot._ended(episode(True, solved=True))
    drained(pilot)
    pilot._ended(episode(False, solved=True))
    pilot._undone()
    assert drained(pilot) == [] and len(pilot._file) == 1, "of the policy's own nothing was kept"
    pilot._ended(episode(True))
    pilot._undone()
    assert drained(pilot)[-1] == "undo" and len(pilot._file) == 1, "it was not solved"
    pilot._ended(episode(True, solved=True))
    pilot._undone()
    pilot._undone()
    assert drained(pilot)[1:] == ["undo"] and len(pilot._file) == 1, "once"


def drained(pilot: TrainingPilot) -> list[Any]:
    found = []
    while not pilot._episodes.empty():
        found.append(pilot._episodes.get())
    return found
