"""Seeds trained together: each is what it would be alone, stops, goes on and leaves as one does."""

import dataclasses
import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from whole_runs import (
    HALF,
    Quiet,
    Whole,
    assert_same,
    last_epoch,
    quiet_run,
    restored,
    rows_of,
    tiny,
)

from mjx_serl.config import ActorsConfig, PilotConfig, RunConfig, TrainConfig
from mjx_serl.run import together
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, EvalRecord, JsonlHook, RunInfo
from mjx_serl.run.loop import Run
from mjx_serl.run.programs import compile_epoch, compile_eval
from mjx_serl.run.remote import tell
from mjx_serl.run.together import Together, require_together
from mjx_serl.run.together_console import TogetherConsole
from mjx_serl.training.off_policy import OffPolicy

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run of the first seed by itself."""
    return quiet_run(tiny("native", tmp_path_factory.mktemp("alone"), seed=SEEDS[0]))


@pytest.fixture(scope="module")
def compiled(alone: Whole) -> Iterator[None]:
    """Runs together are made of what that run was made of; in one call, of one set of programs."""
    kept: dict[Any, Any] = {}

    def epoch(trainer: Any, shapes: Any, *, seeds: int | None) -> Any:
        if seeds is None:
            return alone.programs.epoch
        if "epoch" not in kept:
            kept["epoch"] = compile_epoch(alone.run.trainer, shapes, seeds=seeds)
        return kept["epoch"]

    def check(trainer: Any, observer: Any, shapes: Any, *, seeds: int | None, episodes: int) -> Any:
        if seeds is None:
            return alone.programs.check
        if "check" not in kept:
            kept["check"] = compile_eval(trainer, observer, shapes, seeds=seeds, episodes=episodes)
        return kept["check"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "compile_epoch", epoch)
        patch.setattr(together, "compile_eval", check)
        patch.setattr(OffPolicy, "state_shapes", lambda self: alone.shapes)
        yield


class At(Quiet):
    """Does something after an epoch."""

    def __init__(self, epoch: int, what: Any) -> None:
        self.epoch, self.what = epoch, what

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epoch:
            self.what()


def make(alone: Whole, root: Path, seed: int, *hooks: Any) -> Run:
    """A new run, or the one that is there."""
    cfg = dataclasses.replace(alone.run.cfg, seed=seed)
    folder = RunFolder(root / f"seed-{seed}")
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_config(cfg)
    return Run(cfg, folder, [JsonlHook(folder), *hooks], like=alone.run)


def train(runs: list[Run], *, resume: bool = False, one_call: bool = False) -> bool:
    resumed = [resume] * len(runs)
    return Together(runs, resumed=resumed, places=len(SEEDS), one_call=one_call).train("go on")


def at_end(run: Run) -> Any:
    state, step, _ = restored(run)
    assert step == 2 * HALF
    return state


def result_of(run: Run) -> dict[str, Any]:
    """What does not depend on the clock."""
    summary = run.folder.read_summary()
    assert summary is not None
    kept = dataclasses.asdict(summary)
    return {k: kept[k] for k in ("seed", "success_rate", "episodes", "env_steps", "updates")}


@pytest.fixture(scope="module")
def cores(alone: Whole, compiled: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Both seeds, trained together on the cores by nothing disturbed."""
    root = tmp_path_factory.mktemp("cores")
    runs = [make(alone, root, seed) for seed in SEEDS]
    assert train(runs)
    return runs


@pytest.fixture(scope="module")
def one_call(alone: Whole, compiled: None, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Both seeds, trained by one program for both."""
    root = tmp_path_factory.mktemp("one_call")
    runs = [make(alone, root, seed) for seed in SEEDS]
    assert train(runs, one_call=True)
    return runs


def test_on_cores_a_seed_is_what_it_is_alone(alone: Whole, cores: list[Run]):
    mine, other = cores
    assert_same(at_end(mine), at_end(alone.run))
    assert rows_of(mine.folder) == rows_of(alone.run.folder)
    assert alone.summary is not None
    assert mine.folder.is_finished and result_of(mine)["success_rate"] == alone.summary.success_rate
    # It is another one.
    assert rows_of(other.folder) != rows_of(mine.folder)
    assert result_of(other)["seed"] == SEEDS[1]


def test_a_signal_saves_all_and_they_go_on_to_the_same_end(
    alone: Whole, compiled: None, cores: list[Run], tmp_path: Path
):
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # a thread takes note of it

    stopped = [
        make(alone, tmp_path, SEEDS[0], At(HALF, interrupt)),
        make(alone, tmp_path, SEEDS[1]),
    ]
    assert not train(stopped)
    assert [run.folder.is_finished for run in stopped] == [False, False]
    assert all(0 < last_epoch(run.folder) < 2 * HALF for run in stopped)
    assert all(run.saved for run in stopped)
    resumed = [make(alone, tmp_path, seed) for seed in SEEDS]
    assert train(resumed, resume=True)
    for run, whole in zip(resumed, cores, strict=True):
        assert_same(at_end(run), at_end(whole))
        assert rows_of(run.folder) == rows_of(whole.folder)
        assert result_of(run) == result_of(whole)


def test_one_program_for_all_computes_what_that_for_one_does(alone: Whole, one_call: list[Run]):
    first, _, _ = one_call[0].store.restore(alone.shapes, step=1)
    twin, _, _ = alone.run.store.restore(alone.shapes, step=1)
    for x, y in zip(jax.tree.leaves(first.agent), jax.tree.leaves(twin.agent), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(first.worlds.envs.t, twin.worlds.envs.t)
    checks = [row["epoch"] for row in rows_of(one_call[1].folder) if row["kind"] == "eval"]
    assert checks == [2, 4, 6] and one_call[1].folder.is_finished


def test_in_one_call_a_seed_leaves_and_comes_back(
    alone: Whole, compiled: None, one_call: list[Run], tmp_path: Path
):
    where = tmp_path / f"seed-{SEEDS[1]}"
    leaves = make(alone, tmp_path, SEEDS[1], At(HALF, lambda: tell(where, "stop")))
    assert not train([make(alone, tmp_path, SEEDS[0]), leaves], one_call=True)
    stays = make(alone, tmp_path, SEEDS[0])
    # The other one was not held up, nor changed.
    assert_same(at_end(stays), at_end(one_call[0]))
    assert rows_of(stays.folder) == rows_of(one_call[0].folder)
    assert last_epoch(leaves.folder) == HALF and not leaves.folder.is_finished
    back = make(alone, tmp_path, SEEDS[1])
    assert train([back], resume=True, one_call=True)
    assert_same(at_end(back), at_end(one_call[1]))
    assert rows_of(back.folder) == rows_of(one_call[1].folder)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"pilot": PilotConfig(serve=True)}, "--pilot"),
        ({"actors": ActorsConfig(address="somewhere")}, "--listen"),
        ({"run": RunConfig(dashboard=True)}, "--dashboard"),
        ({"run": RunConfig(tracker="wandb")}, "--run.tracker wandb"),
    ],
)
def test_what_cannot_be_together_is_refused(changes: dict[str, Any], option: str):
    require_together(TrainConfig())
    with pytest.raises(ValueError, match=f"--together with {option}: .*leave out --together"):
        require_together(TrainConfig(**changes))


def test_runs_that_differ_by_more_than_their_seed_are_refused(alone: Whole, tmp_path: Path):
    runs = [make(alone, tmp_path, seed) for seed in SEEDS]
    runs[1].cfg = dataclasses.replace(runs[1].cfg, num_envs=3)
    with pytest.raises(ValueError, match=f"in .*seed-{SEEDS[1]} --num-envs 3 .was 4."):
        Together(runs, resumed=[False, False], places=2)


def test_the_console_has_a_line_for_each_seed(tmp_path: Path):
    out = io.StringIO()
    console = TogetherConsole(SEEDS, stream=out, interval_s=0.0)
    hooks = [console.hook(seed) for seed in SEEDS]
    for seed, hook in zip(SEEDS, hooks, strict=True):
        hook.on_start(
            RunInfo(
                task="t",
                agent="a",
                seed=seed,
                folder=tmp_path,
                config={},
                device="d",
                state_bytes=1,
                buffer_bytes=1,
                total_env_steps=100,
            )
        )
    for epoch in (1, 2):
        for hook in hooks:
            hook.on_epoch(
                EpochRecord(
                    epoch=epoch, env_steps=10 * epoch, grad_steps=5 * epoch, elapsed_s=epoch
                )
            )
    check = EvalRecord(epoch=2, env_steps=20, elapsed_s=2.0, successes=1, episodes=2)
    hooks[1].on_eval(check)
    table = console.panel()
    hooks[1].on_end(None)
    said = out.getvalue().splitlines()
    assert said[0] == "2 seeds together: 3 4"
    assert "2 of 2 seeds in training  epoch 2 to 2  all: env steps/s 20  updates/s 10" in said
    assert any(line.startswith("seed 4  eval  epoch 2  env steps 20") for line in said)
    assert said[-1] == "seed 4  stopped and saved"
    assert console.line().startswith("1 of 2 seeds in training")
    console._console.print(table)
    shown = out.getvalue()
    assert "2 seeds in training" in shown and "all: env steps/s 20" in shown
