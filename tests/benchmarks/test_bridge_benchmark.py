"""The benchmark of the bridge runs, on what needs no training."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bridge import BridgeConfig, Watcher, run
from benchmarks.results import Recorder


@pytest.mark.slow
def test_a_short_soak_counts_ticks_memory_and_lateness(bundle_folder: Path) -> None:
    recorder = Recorder("bridge")
    run(BridgeConfig(run=bundle_folder, episodes=0, franka_episodes=0, soak=0.05), recorder)
    found = {result.name: result for result in recorder.results}
    assert (found["policy, median"].value or 0.0) > 0
    facts = found["soak"].params
    assert facts["ticks"] > 250 and facts["held_ticks"] < 60 and facts["late_mb"] > 10
    assert 0 < facts["command_ms"] < 100


def test_figures_are_those_of_the_ticks() -> None:
    watcher = Watcher()
    watcher.lateness.extend([0.0, 0.02])
    watcher.errors.extend([0.001, 0.003])
    facts = watcher.facts()
    assert facts["missed_deadlines"] == 1 and facts["lateness_worst_ms"] == pytest.approx(20.0)
    assert facts["error_mean_mm"] == pytest.approx(2.0) and np.isfinite(facts["command_ms"])
