"""docs/tasks.md: every task is there as it is, with its pictures and what was measured of it."""

import pytest

from benchmarks import task_page
from benchmarks.results import Recorder
from mjx_serl.adapters.ancestors import ancestors_table
from mjx_serl.envs.task import TASKS

HINT = "python play.py --gallery --out docs/pictures/tasks && python -m benchmarks.task_page"
FOLDER = task_page.PAGE.parent / task_page.PICTURES


def unmeasured(text: str) -> list[str]:
    """Lines that do not change with every measurement."""
    told = tuple(f"| {word}" for word in task_page.MEASURED)
    return [line for line in text.splitlines() if not line.startswith(told)]


def test_the_page_is_of_today():
    assert unmeasured(task_page.PAGE.read_text()) == unmeasured(task_page.page([])), HINT


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_has_small_pictures(name: str):
    files = task_page.picture_files(name)
    for shown in ("views", "starts"):
        assert (FOLDER / files[shown]).is_file(), HINT
    sizes = {f: (FOLDER / f).stat().st_size for f in files.values() if (FOLDER / f).exists()}
    assert all(size <= 60_000 for f, size in sizes.items() if f.endswith(".jpg")), sizes
    assert all(size <= 250_000 for size in sizes.values()), sizes
    # A strip and a video, or neither.
    assert (files["expert"] in sizes) == (files["video"] in sizes)


def test_the_table_of_the_readme_is_put_where_the_old_one_was():
    old = "# title\n\n| id | of | our task | differences |\n|---|\n| `x` | y |\n\nmore\n"
    new = task_page.with_ancestors(old)
    assert new.startswith("# title\n\n| id | of ") and new.endswith("|\n\nmore\n")
    assert ancestors_table() in new and "`x`" not in new
    assert task_page.with_ancestors(new) == new


def test_what_was_measured_is_told():
    rec = Recorder("tasks")
    task, interval = "franka/pick_cube", (0.9, 1.0)
    rec.add(f"{task}: expert", 0.98, "rate", {"task": task, "episodes": 100, "ci95": interval})
    learned = {
        "task": task,
        "seed": 0,
        "episodes": 100,
        "ci95": (0.93, 0.99),
        "env_steps": 12_345,
        "cpu_seconds": 240.0,
        "train": "python train.py --seed=0",
        "curve": [(100, 1.0, 0.0), (200, 2.0, 0.55), (300, 3.0, 1.0)],
    }
    rec.add(f"{task}: learned, seed 0", 0.97, "rate", learned)
    pixels = learned | {"pixels": True}
    rec.add(f"{task}: learned from pixels, seed 0", 0.97, "rate", pixels)
    rec.missing("x: learned, seed 1", "exit 1", {"task": task, "seed": 1})
    facts = dict(task_page._measured(task, rec.results))
    assert facts.pop("learned from pixels, seed 0") == facts["learned, seed 0"]
    assert facts == {
        "expert": "98 % [90, 100] of 100 episodes",
        "learned, seed 0": "97 % [93, 99] of 100 episodes, 12,345 steps, 2.0 min of two cores, "
        "`python train.py --seed=0`, ▁▅█",
        "learned, seed 1": "not measured: exit 1",
    }
    assert dict(task_page._measured("other", rec.results)) == {"expert": "not measured yet"}
