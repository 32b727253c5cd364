"""benchmarks.before: two checkouts take turns, and what an epoch of each costs is told apart."""

from pathlib import Path

import pytest

from benchmarks import before

# Stands for a checkout's train.py: epochs that cost so many milliseconds of computing.
TRAIN = """
import json, sys, time
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = __import__("pathlib").Path(options["--run.folder"]) / options["--run.name"]
folder.mkdir()
with (folder / "metrics.jsonl").open("w") as file:
    while True:
        end = time.process_time() + {seconds}
        while time.process_time() < end:
            pass
        print(json.dumps({{"kind": "epoch"}}), file=file, flush=True)
"""


def checkout(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "train.py").write_text(text)
    return folder


def test_a_checkout_of_half_the_speed_costs_twice_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(before, "SLICE_S", 0.1)
    pair = {
        "now": checkout(tmp_path / "a", TRAIN.format(seconds=0.04)),
        "before": checkout(tmp_path / "b", TRAIN.format(seconds=0.02)),
    }
    place = tmp_path / "runs"
    place.mkdir()
    seconds = before.one_round(pair, place, before.BeforeConfig(epochs=6))
    assert seconds["now"] / seconds["before"] == pytest.approx(2.0, rel=0.3)


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path):
    broken = checkout(tmp_path / "a", 'raise SystemExit("no such option")')
    place = tmp_path / "runs"
    place.mkdir()
    with pytest.raises(RuntimeError, match="no such option"):
        before.one_round({"now": broken}, place, before.BeforeConfig())


def test_what_is_neither_a_commit_nor_a_checkout_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="'not-a-commit' is no folder with train.py and no commit"),
        before.checked_out("not-a-commit"),
    ):
        pass
