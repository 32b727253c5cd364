"""A run that is stopped, by a signal, kill -9 or a world that leaves the numbers, loses nothing."""

import dataclasses
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import wait_until
from starter import Starter
from whole_runs import (
    HALF,
    Quiet,
    Whole,
    assert_same,
    last_epoch,
    quiet_run,
    restored,
    reusing,
    rows_of,
    start,
    tiny,
)

from mjx_serl import commands
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, GuardedHooks, JsonlHook
from mjx_serl.run.loop import Companion, Run
from mjx_serl.run.nan_world import read_nan_world
from mjx_serl.run.programs import Programs
from mjx_serl.run.remote import is_paused, tell
from mjx_serl.run.replay_episodes import RunEpisodes
from mjx_serl.run.replay_file import FILE, Q, read_replay
from mjx_serl.training.state import TrainState


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nothing disturbed."""
    return quiet_run(tiny("native", tmp_path_factory.mktemp("quiet")))


@pytest.fixture
def quiet(trained: Whole) -> Iterator[Whole]:
    """The same; the test's own runs are made of its programs."""
    with reusing(trained):
        yield trained


# -- signals -----------------------------------------------------------------------------------


class Interrupt(Quiet):
    """Sends this process a signal after an epoch."""

    def __init__(self, number: int, epoch: int) -> None:
        self.number, self.epoch = number, epoch

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epoch:
            os.kill(os.getpid(), self.number)
            time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(
    quiet: Whole,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
):
    cfg = tiny("native", tmp_path)
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, name="stopped"))
    stop = Interrupt(number, HALF)
    monkeypatch.setattr(commands, "default_hooks", lambda cfg, folder: [JsonlHook(folder), stop])
    assert commands.guarded(lambda: commands.train(cfg, None)) == 0
    said = capsys.readouterr().out
    command = f"python train.py --resume {tmp_path / 'stopped'}"
    assert said == f"Stopped and saved. Go on with:\n  {command}\n"
    folder = RunFolder.open(tmp_path / "stopped")
    assert HALF <= CheckpointStore(folder.checkpoints).steps()[-1] < 2 * HALF
    assert folder.read_summary() is None
    argv = command.split()[2:]
    assert commands.guarded(lambda: commands.train(*commands.parse_train(argv))) == 0
    assert "Stopped" not in capsys.readouterr().out
    assert rows_of(folder) == rows_of(quiet.run.folder)
    again = Run(cfg, folder)
    assert_same(restored(again)[0], restored(quiet.run)[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_final_evaluation_waits_for_it_and_says_how_to_go_on(
    quiet: Whole,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
):
    cfg, folder, evaluate = quiet.run.cfg, quiet.run.folder, Run._evaluate

    def interrupted(self: Run, *args: Any) -> Any:
        result = evaluate(self, *args)
        os.kill(os.getpid(), number)
        time.sleep(0.3)
        return result

    monkeypatch.setattr(Run, "_evaluate", interrupted)
    monkeypatch.setattr(commands, "default_hooks", lambda cfg, folder: [JsonlHook(folder)])
    before = rows_of(folder)
    (folder.path / "summary.json").unlink()
    assert commands.guarded(lambda: commands.train(cfg, folder.path)) == 0
    said = capsys.readouterr()
    assert f"It goes on with: python train.py --resume {folder.path}\n" in said.err
    assert "Stopped" not in said.out, "nothing is left to do"
    assert folder.read_summary() is not None and rows_of(folder) == before


@pytest.mark.usefixtures("quiet")
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = start(tiny("native", tmp_path, total_env_steps=8), "early")
    summary = run.train(resume=True)
    assert summary.env_steps == 8
    assert "stopped before its first checkpoint; it starts again" in capsys.readouterr().err


# -- told from elsewhere -----------------------------------------------------------------------


class Teller(Quiet):
    """Tells the run something after some epochs, and notes what comes of it."""

    def __init__(self, folder: Path, words: dict[int, str]) -> None:
        self._folder, self._words = folder, words
        self.evals: list[int] = []
        self.stages: list[str] = []

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch in self._words:
            tell(self._folder, self._words[record.epoch])

    def on_eval(self, record: Any) -> None:
        self.evals.append(record.epoch)

    def on_stage(self, text: str) -> None:
        self.stages.append(text)
        if text == "paused":
            assert is_paused(self._folder)
            threading.Timer(0.5, tell, (self._folder, "resume")).start()


def test_a_run_does_what_it_is_told_and_is_the_same_run(quiet: Whole, tmp_path: Path):
    """It is evaluated, shown and paused on the way; what was told before it does not count."""
    run, written = start(tiny("native", tmp_path), "told"), []

    class Noting(RunEpisodes):
        """Notes after which epochs it is asked."""

        def after_save(self, run: Run, state: TrainState) -> None:
            super().after_save(run, state)
            written.append(run.progress.epoch)

    run.outputs = [Noting()]
    folder = run.folder.path
    tell(folder, "stop")
    teller = Teller(folder, {1: "evaluate", 2: "episodes", 3: "pause", 5: "save"})
    run.hooks = GuardedHooks([JsonlHook(run.folder), teller])
    begun = time.monotonic()
    summary = run.train()
    took = time.monotonic() - begun
    assert summary is not None
    assert teller.evals == [1, 2, 4, 6, 6] and "paused" in teller.stages
    assert not is_paused(folder) and run.progress.elapsed_s < took - 0.4, "a pause is no training"
    assert written == [2, 5, 6], "when told, and at the end"
    replay = read_replay(folder / FILE)
    assert [episode.source for episode in replay.episodes] == ["demos", "demos"]
    assert all(map(replay.solved, replay.episodes)) and np.isfinite(replay.arrays[Q]).all()
    assert_same(restored(run)[0], restored(quiet.run)[0])


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("words", [{2: "stop"}, {2: "pause", 99: ""}])
def test_a_run_that_is_told_to_stop_is_saved(tmp_path: Path, words: dict[int, str]):
    run = start(tiny("native", tmp_path), "told")
    folder = run.folder.path

    class Stopper(Teller):
        """Stops it where it is paused."""

        def on_stage(self, text: str) -> None:
            if text == "paused":
                tell(self._folder, "stop")

    run.hooks = GuardedHooks([JsonlHook(run.folder), Stopper(folder, words)])
    assert run.train() is None
    assert CheckpointStore(run.folder.checkpoints).steps()[-1] == 2
    assert not is_paused(folder)


class Holder(Companion):
    """Holds the second epoch, as while a person drives, for a while or for ever."""

    def __init__(self, seconds: float = np.inf) -> None:
        self._seconds, self.begun, self.asked = seconds, 0.0, 0

    def start(self, run: Run) -> None:
        self._run = run

    def close(self) -> None:
        """Nothing."""

    def holds(self) -> bool:
        if self._run.progress.epoch != 1:
            return False
        self.asked += 1
        self.begun = self.begun or time.monotonic()
        return time.monotonic() < self.begun + self._seconds


def test_a_run_that_is_held_for_a_while_is_the_same_run(quiet: Whole, tmp_path: Path):
    run, holder = start(tiny("native", tmp_path), "held"), Holder(0.6)
    teller = Teller(run.folder.path, {})
    run.hooks, run.companions = GuardedHooks([JsonlHook(run.folder), teller]), (holder,)
    begun = time.monotonic()
    assert run.train() is not None
    took = time.monotonic() - begun
    assert teller.stages.count("paused while a person drives") == 1 and holder.asked >= 3
    assert not is_paused(run.folder.path) and run.progress.elapsed_s < took - 0.4
    assert_same(restored(run)[0], restored(quiet.run)[0])


@pytest.mark.usefixtures("quiet")
def test_a_run_that_is_held_hears_what_it_is_told(tmp_path: Path):
    """A pause outlasts what held it, and a stop ends it."""
    run, holder = start(tiny("native", tmp_path), "held"), Holder(0.4)
    folder = run.folder.path
    run.hooks, run.companions = GuardedHooks([JsonlHook(run.folder)]), (holder,)

    def person() -> None:
        wait_until(lambda: is_paused(folder), seconds=60)
        tell(folder, "pause")
        time.sleep(1.0)
        assert is_paused(folder) and time.monotonic() > holder.begun + 0.4
        tell(folder, "stop")

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(person)
        assert run.train() is None
        told.result()
    assert CheckpointStore(run.folder.checkpoints).steps()[-1] == 1 and not is_paused(folder)


# -- a world that leaves the numbers -----------------------------------------------------------


def poison(state: TrainState, world: int, nq: int) -> TrainState:
    """Put a NaN into a joint velocity of one world's float64 row."""
    rows = np.array(state.worlds.envs.carry).view(np.float64)
    rows[world, 1 + nq] = np.nan
    worlds = state.worlds.envs.replace(carry=jnp.asarray(rows.view(np.uint32)))
    return state.replace(worlds=state.worlds.replace(envs=worlds))


@pytest.fixture
def poisoned(quiet: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with a NaN in world 2 before its first epoch."""
    run = start(tiny("native", tmp_path), "sick")
    prepare = run._prepare

    def sick(*args: Any, **more: Any) -> tuple[TrainState, Programs]:
        state, programs = prepare(*args, **more)
        return poison(state, 2, run.env.scene.model.nq), programs

    monkeypatch.setattr(run, "_prepare", sick)
    return run


def test_a_nan_world_is_counted_dumped_and_survived(
    poisoned: Run, capsys: pytest.CaptureFixture[str]
):
    summary = poisoned.train()
    assert summary.env_steps == 48
    rows = [row for row in rows_of(poisoned.folder) if row["kind"] == "epoch"]
    assert [row["env/nan_worlds"] for row in rows] == [1.0] + [0.0] * (2 * HALF - 1)
    state, _, _ = restored(poisoned)
    for leaf in jax.tree.leaves((state.agent, state.data["online"], state.worlds.envs.obs)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    warm = 2  # rows of warm-up
    assert not state.data["online"].data.valid[warm, 2]
    assert int((~state.data["online"].data.valid[: warm + 4]).sum()) == 1
    path = poisoned.folder.path / "nan_world.npz"
    dump = read_nan_world(path)
    assert dump.world == 2 and dump.env_steps == 8
    assert dump.qpos.shape == (poisoned.env.scene.model.nq,)
    assert np.isfinite(dump.qpos).all() and np.abs(dump.action).max() <= 1.0
    assert np.isnan(dump.carry[0].view(np.float64)).any(), "all that the physics went on from"
    assert f"shown by `python play.py --view --dump {path}`" in capsys.readouterr().err


def test_a_dump_that_cannot_be_written_does_not_end_training(
    poisoned: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert poisoned.train() is not None
    err = capsys.readouterr().err
    assert "nan_world.npz was not written ([Errno 28] No space left on device)" in err


# -- kill -9 -----------------------------------------------------------------------------------

EPOCHS = 18


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    """Starts processes; the last one is killed with the test."""
    with Starter(tmp_path) as starter:
        yield starter


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_nothing(quiet: Whole, tmp_path: Path, starter: Starter):
    """Three kills and one SIGTERM; then every figure and every bit is that of a quiet run.

    The quiet run is made here: what compiles and computes is the same in every process.
    """
    rng = random.Random(4)
    cfg = tiny("native", tmp_path, total_env_steps=quiet.run.cfg.total_env_steps * EPOCHS // 6)
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, keep_checkpoints=1))
    undisturbed = start(cfg, "quiet")
    assert undisturbed.train() is not None
    killed = start(cfg, "killed").folder
    resume = ("--resume", str(killed.path))
    targets = sorted(rng.sample(range(2, EPOCHS - 8), 2))
    starter.train_py(*resume)
    starter.wait_for(lambda: "starts again" in starter.said())
    for target in [0, *targets]:
        starter.wait_for(lambda t=target: last_epoch(killed) >= t)
        time.sleep(rng.uniform(0.0, 0.15))
        assert starter.end(signal.SIGKILL) == -signal.SIGKILL
        starter.train_py(*resume)
        time.sleep(rng.uniform(0.0, 1.0))
    starter.wait_for(lambda: last_epoch(killed) > targets[-1] + 2)
    assert starter.end(signal.SIGTERM) == 0, starter.said()
    assert f"--resume {killed.path}" in starter.said()
    starter.train_py(*resume)
    assert starter.end() == 0, starter.said()
    assert rows_of(killed) == rows_of(undisturbed.folder)
    assert last_epoch(undisturbed.folder) == EPOCHS
    stores = (CheckpointStore(folder.checkpoints) for folder in (killed, undisturbed.folder))
    states = [store.restore(quiet.shapes) for store in stores]
    assert [step for _, step, _ in states] == [EPOCHS, EPOCHS]
    assert_same(*(state for state, _, _ in states))
    ends = [json.loads((f.path / "summary.json").read_text()) for f in (killed, undisturbed.folder)]
    for name in ("success_rate", "env_steps", "updates", "episodes"):
        assert ends[0][name] == ends[1][name]
