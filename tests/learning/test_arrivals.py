"""Batches of actors put together: whole episodes, and what becomes of those that are not."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mjx_serl.learning.arrivals import Arrivals
from robot_bridge.network.transitions import Arrived
from scenes.contract.specs import ObsField, ObsSpec

CONTRACT: Any = SimpleNamespace(
    obs=ObsSpec(fields=(ObsField(name="x", shape=(2,), unit="m"),)), action=SimpleNamespace(dim=3)
)


def arrays(start: int, rows: int, *, ending: str = "") -> dict[str, np.ndarray]:
    last = np.arange(rows) == rows - 1
    return {
        "obs/x": np.full((rows, 2), start, np.float32),
        "action": np.zeros((rows, 3), np.float32),
        "reward": (last & (ending == "success")).astype(np.float32),
        "terminated": last & (ending == "success"),
        "truncated": last & (ending == "timeout"),
        "expert": np.zeros(rows, bool),
        "step": np.arange(start, start + rows, dtype=np.int32),
    }


def batch(number: int, *args: int, run: bytes = b"a", **options: str) -> Arrived:
    return Arrived(run, number, arrays(*args, **options))


def test_an_episode_is_given_when_it_is_whole() -> None:
    arrivals = Arrivals(CONTRACT)
    assert arrivals.take([batch(0, 0, 4), batch(1, 4, 4)]) == []
    (episode,) = arrivals.take([batch(2, 8, 2, ending="success")])
    assert (episode.id, len(episode), episode.cut) == (2, 10, False)
    assert episode.arrays["step"].tolist() == [*range(10)]
    assert episode.arrays["obs/x"][:, 0].tolist() == [0] * 4 + [4] * 4 + [8] * 2


def test_episodes_of_two_actors_do_not_mix() -> None:
    arrivals = Arrivals(CONTRACT)
    arrivals.take([batch(0, 0, 2), batch(0, 0, 3, run=b"b")])
    found = arrivals.take(
        [batch(1, 3, 1, run=b"b", ending="timeout"), batch(1, 2, 5, ending="success")]
    )
    assert [(episode.run, len(episode)) for episode in found] == [(b"b", 4), (b"a", 7)]


def test_an_episode_whose_end_never_comes_is_cut_and_kept() -> None:
    arrivals = Arrivals(CONTRACT)
    arrivals.take([batch(0, 0, 4)])
    cut, whole = arrivals.take([batch(1, 0, 2, ending="success")])
    assert (len(cut), cut.cut, cut.id) == (4, True, 0)
    assert cut.arrays["truncated"].tolist() == [False] * 3 + [True]
    assert (len(whole), whole.cut, whole.id) == (2, False, 1)


def test_rows_after_a_gap_are_not_stitched_to_those_before() -> None:
    arrivals = Arrivals(CONTRACT)
    arrivals.take([batch(0, 0, 4)])
    (cut,) = arrivals.take([batch(1, 8, 2, ending="success")])
    assert cut.cut
    assert arrivals.refused == 1
    assert len(arrivals.take([batch(2, 0, 1, ending="success")])) == 1


def test_an_episode_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mjx_serl.learning.arrivals.LONGEST", 8)
    arrivals = Arrivals(CONTRACT)
    (episode,) = arrivals.take([batch(0, 0, 4), batch(1, 4, 4), batch(2, 8, 4)])
    assert (len(episode), episode.id) == (8, 1)
    assert episode.arrays["truncated"].tolist() == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"obs/x": np.zeros((4, 3), np.float32)}, r"'obs/x' is float32\[4, 3\]"),
        ({"obs/x": np.full((4, 2), np.nan, np.float32)}, "'obs/x' is not finite"),
        ({"action": np.full((4, 3), 1.5, np.float32)}, r"'action' leaves \[-1, 1\]"),
        ({"reward": np.zeros(4)}, r"'reward' is float64\[4\]"),
        ({"more": np.zeros(4, bool)}, "'more' is bool.*, allowed: none such"),
    ],
)
def test_what_the_contract_does_not_say_is_dropped(
    changes: dict[str, np.ndarray], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrivals = Arrivals(CONTRACT)
    assert arrivals.take([Arrived(b"a", 0, arrays(0, 4, ending="success") | changes)]) == []
    assert arrivals.refused == 1
    assert re.search(line, capsys.readouterr().err)
