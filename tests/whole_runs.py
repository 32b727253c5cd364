"""Small runs on disk, from start to end, for the tests of how a run stops and goes on."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.agents.sac import SACConfig
from mjx_serl.config import EvalConfig, RunConfig, TrainConfig
from mjx_serl.envs.env import Env
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, JsonlHook
from mjx_serl.run.loop import Run
from mjx_serl.run.programs import Programs
from mjx_serl.run.summary import Summary
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import LoopConfig, OffPolicy, OffPolicyConfig
from mjx_serl.training.state import TrainState
from mjx_serl.types import PyTree

HALF = 3  # epochs before and after the checkpoint
WORLDS = 4


def tiny(physics: str, root: Path, **changes: Any) -> TrainConfig:
    """Six epochs of two steps, with a check in the middle and every epoch saved."""
    fields = {
        "physics": physics,
        "num_envs": WORLDS,
        "total_env_steps": 2 * HALF * 2 * WORLDS,
        "method": OffPolicyConfig(
            agent=SACConfig(hidden=(16, 16)),
            loop=LoopConfig(
                batch_size=16, updates_per_step=2, steps_per_epoch=2, warmup_steps=8, buffer_size=52
            ),
            demos=DemoConfig(count=2 if physics == "native" else 0),
        ),
        # As many episodes as worlds: the step is made for so many only once.
        "eval": EvalConfig(every_epochs=2, check_episodes=WORLDS, episodes=WORLDS),
        "run": RunConfig(
            folder=root,
            checkpoint_seconds=0.0,
            keep_checkpoints=2 * HALF,
            tensorboard=False,
            bundle=False,
        ),
    }
    return TrainConfig(**(fields | changes))


def start(cfg: TrainConfig, name: str, *hooks: Any) -> Run:
    """A new run in `name` that writes metrics.jsonl."""
    folder = RunFolder.create(cfg.run.folder, task=cfg.task, agent="a", seed=0, name=name)
    folder.write_config(cfg)
    return Run(cfg, folder, [JsonlHook(folder), *hooks])


def restored(run: Run) -> tuple[TrainState, int, dict]:
    """The newest checkpoint of a run."""
    return run.store.restore(run.trainer.state_shapes())


def assert_same(one: PyTree, other: PyTree) -> None:
    """Every leaf, bit for bit."""
    named, others = jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, x), y in zip(named, others, strict=True):
        where = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype and x.shape == y.shape, where
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), where


def rows_of(folder: RunFolder) -> list[dict]:
    """Every row of metrics.jsonl without its times."""
    rows = folder.read_metrics()
    return [{k: v for k, v in row.items() if k != "elapsed_s"} for row in rows]


def last_epoch(folder: RunFolder) -> int:
    """The newest epoch in metrics.jsonl, 0 before the first."""
    return max((row["epoch"] for row in folder.read_metrics()), default=0)


class Quiet:
    """A hook that does nothing."""

    def on_start(self, info: Any) -> None: ...

    def on_epoch(self, record: EpochRecord) -> None: ...

    def on_eval(self, record: Any) -> None: ...

    def on_end(self, summary: Any) -> None: ...


class CountCompiled(Quiet):
    """Notes after each epoch how many programs have been compiled since `listening` began."""

    def __init__(self) -> None:
        self.compiled = 0
        self.counts: list[int] = []

    def on_epoch(self, record: EpochRecord) -> None:
        self.counts.append(self.compiled)

    def _listen(self, event: str, duration: float, **more: Any) -> None:
        self.compiled += event.endswith("backend_compile_duration")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count while the context lasts."""
        listen = self._listen
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)


@dataclasses.dataclass
class Whole:
    """A run from start to end.

    Attributes:
        run: it.
        summary: what it returned.
        programs: that it was trained with.
        first: the state that it began with.
        shapes: of its state.
        epoch_traces, step_traces: how often an epoch, and one world's step, was traced.
        compiled: programs compiled up to the end of each epoch.
    """

    run: Run
    summary: Summary | None
    programs: Programs
    first: TrainState
    shapes: TrainState
    epoch_traces: int
    step_traces: int
    compiled: list[int]


def count_calls(patch: pytest.MonkeyPatch, owner: type, name: str) -> list[int]:
    """Let every call of a method, which is a trace of it, add to the list returned."""
    calls: list[int] = []
    method = getattr(owner, name)

    # A program is called after its function, and found by that in the compilation cache.
    @functools.wraps(method)
    def counted(self: Any, *args: Any) -> Any:
        calls.append(1)
        return method(self, *args)

    patch.setattr(owner, name, counted)
    return calls


@jax.jit
def copy_of(state: TrainState) -> TrainState:
    """The same in memory of its own, which can be donated."""
    return jax.tree.map(jnp.copy, state)


def train_whole(run: Run, counter: CountCompiled | None = None, *, resume: bool = False) -> Whole:
    """Train, and keep what the run was made of."""
    kept: list[tuple[TrainState, TrainState, Programs]] = []
    prepare = run._prepare

    def keeping(shapes: TrainState, restored: TrainState | None) -> tuple[TrainState, Programs]:
        state, programs = prepare(shapes, restored)
        kept.append((shapes, copy_of(state), programs))
        return state, programs

    counter = counter or CountCompiled()
    with pytest.MonkeyPatch.context() as patch, counter.listening():
        patch.setattr(run, "_prepare", keeping)
        epochs = count_calls(patch, OffPolicy, "epoch")
        steps = count_calls(patch, Env, "_step")
        summary = run.train(resume=resume)
    (shapes, first, programs) = kept[0]
    return Whole(run, summary, programs, first, shapes, len(epochs), len(steps), counter.counts)


def quiet_run(cfg: TrainConfig) -> Whole:
    """A run that nothing disturbs."""
    counter = CountCompiled()
    return train_whole(start(cfg, "whole", counter), counter)


def half_way(run: Run, folder: Path) -> RunFolder:
    """A copy of a run that has ended as it was on disk when half of its epochs were over."""
    shutil.copytree(run.folder.path, folder)
    store = CheckpointStore(folder / "checkpoints")
    for step in store.steps()[-(run.progress.epoch // 2) :]:
        shutil.rmtree(store.folder / f"{step:010d}")
    (folder / "summary.json").unlink(missing_ok=True)
    return RunFolder.open(folder)


def second_half(whole: Whole, folder: Path) -> Whole:
    """A copy of a run as it was on disk half-way, taken on to its end."""
    opened = half_way(whole.run, folder)
    resumed = Run(opened.read_config(TrainConfig), opened, [JsonlHook(opened)])
    return train_whole(resumed, resume=True)


@contextlib.contextmanager
def reusing(whole: Whole) -> Iterator[None]:
    """While it lasts, runs of the same numbers start with what this one was made of.

    They still read and write their own folders, and restore and train their own states.
    """

    def prepared(
        self: Run, shapes: TrainState, restored: TrainState | None
    ) -> tuple[TrainState, Programs]:
        state = copy_of(whole.first) if restored is None else restored
        return state, whole.programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_prepare", prepared)
        patch.setattr(OffPolicy, "state_shapes", lambda self: whole.shapes)
        yield
