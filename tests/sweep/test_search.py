"""Optuna chooses options of trials, and goes on where it was."""

import json
from pathlib import Path

import pytest

from mjx_serl.sweep import __main__ as command
from mjx_serl.sweep.search import open_sweep
from scenes.contract.command_line import BAD_INPUT, FAILED
from scenes.contract.extras import is_installed

SPEC = """
seeds = [0, 1]
[base]
num-envs = 4
[search]
trials = {trials}
[search.space]
agent.lr = {{low = 0.0, high = 0.2}}
agent.hidden = [[64, 64], [128]]
"""
FOLDER = Path("runs/sweep")


@pytest.fixture
def search(sweep, monkeypatch):
    """The command on a search of so many trials, of whose options none is looked at."""
    if not is_installed("optuna"):
        pytest.skip("optuna is not installed: pip install 'mjx-serl[optuna]'")
    planned = lambda spec, folder: {  # noqa: E731
        variant.name: {} for variant in open_sweep(spec, folder=folder).spec.variants
    }
    monkeypatch.setattr(command, "planned_apart", planned)

    def run(trials: int, *words: str, **fake: list[int]) -> int:
        Path("sweep.toml").write_text(SPEC.format(trials=trials))
        return sweep("sweep.toml", *words, **fake)

    return run


def test_a_search_finds_the_best_and_goes_on_where_it_was(search, capsys):
    assert search(3, "--jobs", "4") == 0
    assert "3 of 3 trials, best trial-" in capsys.readouterr().out
    first = [path.read_text() for path in sorted(FOLDER.glob("trial-*/seed-*/config.json"))]
    assert len(first) == 6
    assert json.loads(first[0])["words"][0] == "--num-envs=4"
    # Begun again, with more trials wanted: what was trained is left alone.
    assert search(8, "--jobs", "4") == 0
    said = capsys.readouterr().out
    told = {v["name"]: v for v in json.loads((FOLDER / "report.json").read_text())["variants"]}
    assert len(told) == 8 and "8 of 8 trials" in said
    best = max(told.values(), key=lambda variant: variant["success"])
    assert f"best {best['name']}: final {best['success']:.3g} of agent.lr" in said
    assert best["success"] == pytest.approx(0.65 + best["options"]["agent.lr"])
    # A list of numbers is one value of an option.
    assert all(v["options"]["agent.hidden"] in ([64, 64], [128]) for v in told.values())
    rates = [variant["options"]["agent.lr"] for variant in told.values()]
    assert len(set(rates)) == 8  # it draws anew
    assert [
        path.read_text() for path in sorted(FOLDER.glob("trial-[012]/seed-*/config.json"))
    ] == first


def test_a_trial_that_fails_is_not_tried_again(search, capsys):
    assert search(1, fail=[1]) == FAILED
    assert "1 of 1 trials\n" in capsys.readouterr().out  # and none is best
    assert search(2) == 0
    assert "2 of 2 trials, best trial-1: " in capsys.readouterr().out
    assert search(2, "--slurm") == BAD_INPUT
    assert "--slurm, --retry or --only with [search]" in capsys.readouterr().err
