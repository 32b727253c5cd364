"""What a run says of an evaluation beside its success."""

from typing import Any

import numpy as np

from mjx_serl.run.evaluation import describe
from mjx_serl.run.loop import judged_rates, part_cells
from mjx_serl.training.episodes import EpisodeResult


def result(**more: Any) -> EpisodeResult:
    """Four episodes, of which the first three succeeded."""
    success = np.array([True, True, True, False])
    return EpisodeResult(success, np.ones(4), np.full(4, 5), **more)


def test_success_is_told_by_part():
    played = result(part=np.array([0, 1, 0, 1]), parts=("there", "back"))
    there, back = part_cells(played)
    assert (there.name, there.successes, there.episodes) == ("there", 2, 2)
    assert (back.name, back.successes, back.episodes) == ("back", 1, 2)
    assert part_cells(result()) == ()
    lines = describe(played).splitlines()
    assert lines[0].startswith("success 3/4") and lines[2].startswith("back  success 1/2 = 50.0%")


def test_what_a_classifier_said_is_told_beside_the_truth():
    played = result(judged=np.array([True, False, True, True]))
    rates = {"judged_success_rate": 0.75, "false_positive_rate": 0.25}
    assert judged_rates(played) == rates
    assert judged_rates(result()) == {}
    assert describe(played).endswith("judged success rate 75.0%\nfalse positive rate 25.0%")
