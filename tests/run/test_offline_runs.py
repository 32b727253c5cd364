"""A run that takes no env steps: from start to end, resumed, longer; what ends a run first."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from whole_runs import Whole, assert_same, quiet_run, restored, reusing, rows_of, second_half, tiny

from mjx_serl.agents.bc import BCConfig
from mjx_serl.commands import open_run
from mjx_serl.run.curve import draw_curve
from mjx_serl.run.hooks import JsonlHook
from mjx_serl.run.loop import UPDATES, Run
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.offline import OfflineConfig, OfflineLoopConfig

EPOCHS, PER_EPOCH = 6, 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Six epochs of two updates, checked after every other."""
    method = OfflineConfig(
        agent=BCConfig(hidden=(8,)),
        loop=OfflineLoopConfig(batch_size=16, updates_per_epoch=PER_EPOCH),
        demos=DemoConfig(count=2),
    )
    root = tmp_path_factory.mktemp("offline")
    return quiet_run(tiny("native", root, method=method, total_updates=EPOCHS * PER_EPOCH))


def test_k_and_k_epochs_through_the_disk_equal_2k(whole: Whole, tmp_path: Path) -> None:
    with reusing(whole):
        resumed = second_half(whole, tmp_path / "half")
    (one, step, _), (other, same, _) = restored(whole.run), restored(resumed.run)
    assert step == same == int(one.epoch) == EPOCHS
    assert_same(one, other)
    assert rows_of(whole.run.folder) == rows_of(resumed.run.folder)


def test_it_counts_updates(whole: Whole, tmp_path: Path) -> None:
    assert whole.summary is not None
    assert (whole.summary.env_steps, whole.summary.updates) == (0, EPOCHS * PER_EPOCH)
    rows = rows_of(whole.run.folder)
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3, 4, 5, 6]
    checks = [row for row in rows if row["kind"] == "eval"]
    assert [(row["env_steps"], row["grad_steps"]) for row in checks] == [(0, 4), (0, 8), (0, 12)]
    draw_curve(whole.run.folder.read_metrics(), tmp_path / "curve.png")
    assert whole.run._info(whole.shapes).goal == (EPOCHS * PER_EPOCH, "updates")
    assert whole.epoch_traces == 0, "no world was stepped"


def test_it_goes_on_with_more_updates(whole: Whole) -> None:
    folder = whole.run.folder
    longer = dataclasses.replace(whole.run.cfg, total_updates=(EPOCHS + 1) * PER_EPOCH)
    hooks = [JsonlHook(folder)]
    with reusing(whole), open_run(longer, folder.path, hooks=hooks, outputs=()) as run:
        summary = run.train(resume=True)
    assert summary is not None and summary.updates == (EPOCHS + 1) * PER_EPOCH


@pytest.mark.parametrize(
    ("env_steps", "wanted", "ends_at"),
    [
        (10, None, (None, 10)),
        (10, 20, (20, 4)),
        (10, 1000, (None, 10)),
        (0, None, (UPDATES, UPDATES // 5)),
        (0, 11, (11, 3)),
    ],
)
def test_a_run_ends_by_env_steps_or_by_updates_whichever_is_sooner(
    env_steps: int, wanted: int | None, ends_at: tuple[int | None, int]
) -> None:
    """100 env steps of ten an epoch, five updates an epoch."""
    run: Any = object.__new__(Run)
    run.cfg = SimpleNamespace(total_env_steps=100, total_updates=wanted)
    run.trainer = SimpleNamespace(env_steps_per_epoch=env_steps, updates_per_epoch=5)
    updates = run._total_updates()
    assert (updates, run._epochs_to(updates)) == ends_at
