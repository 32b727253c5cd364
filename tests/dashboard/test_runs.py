"""What is told of runs: their state, their curves, what is wrong with their folders."""

import itertools
import json
from pathlib import Path

import pytest
from run_folders import rows, write_episodes, write_run

from mjx_serl.dashboard.runs import KEPT, POINTS, Runs
from mjx_serl.run.remote import note_pause
from mjx_serl.run.run_lock import locked


def append(path: Path, more: list[dict]) -> None:
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in more)


def test_a_line_says_what_a_run_is_at(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", epochs=20)
    runs = Runs(tmp_path)
    line = runs.line("a")
    assert (line["state"], line["task"], line["agent"]) == ("stopped", "franka/pick_cube", "sac")
    assert line["success"] == 1.0 and line["env_steps"] == 8000
    assert line["steps_per_s"] == pytest.approx(200) and line["left_s"] == pytest.approx(60)
    with locked(path):
        assert runs.line("a")["state"] == "training"
        note_pause(path, paused=True)
        assert runs.line("a")["state"] == "paused"
    assert runs.line("a")["state"] == "stopped"
    append(path, [{**rows(5)[-1], "kind": "final", "success_rate": 0.5}])
    (path / "summary.json").write_text(json.dumps({"agent": "rlpd"}))
    line = runs.line("a")
    assert (line["state"], line["success"], line["agent"]) == ("finished", 0.5, "rlpd")


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("config.json", '{"task": ', "not JSON"),
        ("config.json", "[1, 2]", "config.json"),
        ("metrics.jsonl", "\x00\x00\n{}\nnonsense\n", "metrics.jsonl: 2 lines are none"),
    ],
)
def test_a_damaged_folder_is_shown_as_such(tmp_path: Path, file: str, text: str, why: str) -> None:
    path = write_run(tmp_path, "a")
    write_run(tmp_path, "b")
    (path / file).write_text(text)
    runs = Runs(tmp_path)
    line = runs.line("a")
    assert line["state"] == "damaged" and why in line["why"]
    assert runs.line("b")["state"] == "stopped"
    assert set(runs.curve("a")) == {"epochs", "evals"}


def test_a_run_that_has_only_begun_is_there(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", epochs=0)
    (path / "metrics.jsonl").unlink()
    runs = Runs(tmp_path)
    assert runs.line("a")["state"] == "stopped" and runs.curve("a")["epochs"] == []


def test_seeds_have_a_name_each(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "seeds.json").write_text("{}")
    for seed in (0, 1):
        write_run(tmp_path / "group", f"seed-{seed}")
    assert sorted(Runs(tmp_path).names()) == ["group/seed-0", "group/seed-1"]
    assert Runs(tmp_path / "group" / "seed-1").names() == ["seed-1"]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.toml").touch()
    (tmp_path / "group").rename(tmp_path / "sweep" / "a")
    assert sorted(Runs(tmp_path).names()) == ["sweep/a/seed-0", "sweep/a/seed-1"]


def test_curves_go_on_and_stay_small(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", epochs=10)
    runs = Runs(tmp_path)
    first = runs.curve("a")
    assert [row["epoch"] for row in first["epochs"]] == list(range(1, 11))
    append(path, rows(4000, first=11))
    curve = runs.curve("a")
    epochs = [row["epoch"] for row in curve["epochs"]]
    assert POINTS / 2 <= len(epochs) <= POINTS and epochs[0] == 1 and epochs[-1] > 3900
    assert len({b - a for a, b in itertools.pairwise(epochs)}) == 1, "evenly thinned"
    assert len(curve["evals"]) == 2 + 800
    again = Runs(tmp_path).curve("a")
    assert again == curve, "read at once or as it grew"


def test_a_line_that_is_still_written_waits(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", epochs=3)
    runs = Runs(tmp_path)
    row = json.dumps(rows(4)[3])
    with (path / "metrics.jsonl").open("a") as file:
        file.write(row[:20])
        file.flush()
        assert len(runs.curve("a")["epochs"]) == 3
        file.write(row[20:] + "\n")
    assert len(runs.curve("a")["epochs"]) == 4


def test_a_resumed_run_drops_what_it_repeats(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", epochs=10)
    runs = Runs(tmp_path)
    runs.curve("a")
    new = path / "new"
    new.write_text("".join(json.dumps(row) + "\n" for row in rows(6)))
    new.rename(path / "metrics.jsonl")
    assert [row["epoch"] for row in runs.curve("a")["epochs"]] == list(range(1, 7))


def test_memory_is_bounded(tmp_path: Path) -> None:
    for i in range(KEPT + 5):
        write_run(tmp_path, f"run-{i}", epochs=2)
    runs = Runs(tmp_path)
    for name in runs.names():
        runs.curve(name)
    assert len(runs._curves) == KEPT


def test_only_what_is_a_run_can_be_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    (tmp_path / "runs" / "notes").mkdir()
    runs = Runs(tmp_path / "runs")
    assert runs.names() == ["a"]
    for name in ("../secret", "/etc", "a/..", "notes", ""):
        with pytest.raises(LookupError, match="Unknown run"):
            runs.path(name)
    with pytest.raises(LookupError, match="Unknown file"):
        runs.file("a", "../config.json")


def test_options_have_dotted_names(tmp_path: Path) -> None:
    write_run(tmp_path, "a", lr=6e-4)
    config = Runs(tmp_path).config("a")
    assert config["method.agent.lr"] == 6e-4 and config["seed"] == 0


def test_a_line_says_what_there_is_to_see(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a")
    write_episodes(path)
    line = Runs(tmp_path).line("a")
    assert line["files"] == {} and line["nan"] is None and list(line["replay"]) == ["episodes.npz"]
    for name in ("worlds.png", "nan_world.npz", "mine.npz"):
        (path / name).touch()
    line = Runs(tmp_path).line("a")
    assert line["files"] == {"worlds.png": (path / "worlds.png").stat().st_mtime}
    assert line["nan"] == str(path / "nan_world.npz")
    assert list(line["replay"]) == ["episodes.npz", "mine.npz"]
