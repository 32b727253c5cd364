"""The host loop around the compiled epoch: build, compile, train, check, save, report."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from mjx_serl.agents.agent import AgentState
from mjx_serl.config import TrainConfig
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.envs.env import Env
from mjx_serl.run.checkpoint import CheckpointStore, warn_line
from mjx_serl.run.demonstrations import recorded_demos, script_demos, script_shapes
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import (
    BUFFER_FILL,
    TRAIN_RETURN,
    TRAIN_SUCCESS,
    EpochRecord,
    EvalRecord,
    GuardedHooks,
    Hook,
    RunInfo,
)
from mjx_serl.run.memory_check import available_bytes, check_memory
from mjx_serl.run.signals import StopSignal, note_stop
from mjx_serl.run.summary import Summary
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import (
    CHECK,
    FINAL,
    TRAIN,
    evaluate,
    stream_key,
)
from mjx_serl.training.off_policy import OffPolicy
from mjx_serl.training.scan import run_once
from mjx_serl.training.state import TrainState, tree_bytes
from mjx_serl.types import PRNGKey, Transition
from scenes.contract.serialize import to_json

EvalFn = Callable[[AgentState, NormalizerState, PRNGKey], EpisodeResult]


@dataclasses.dataclass
class Progress:
    """What the host remembers between epochs; saved with every checkpoint."""

    epoch: int = 0
    elapsed_s: float = 0.0
    good_checks: int = 0
    compile_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled functions of a run; none of them can be traced again."""

    epoch: Callable[[TrainState], tuple[TrainState, dict[str, jax.Array]]]
    check: EvalFn
    final: EvalFn


class Output(Protocol):
    """Writes what a run leaves beside its logs; it may read the training state."""

    def after_check(self, run: "Run", state: TrainState) -> None:
        """Called after each check during training."""
        ...

    def after_run(self, run: "Run", state: TrainState, summary: Summary) -> None:
        """Called once a run has come to its end, after its clock has stopped."""
        ...


class Run:
    """One training run on disk and in memory."""

    def __init__(
        self,
        cfg: TrainConfig,
        folder: RunFolder,
        hooks: Sequence[Hook] = (),
        outputs: Sequence["Output"] = (),
    ) -> None:
        self.cfg = cfg
        self.folder = folder
        self.hooks = GuardedHooks(hooks)
        self.outputs = outputs
        self.store = CheckpointStore(folder.checkpoints, keep=cfg.run.keep_checkpoints)
        self.progress = Progress()
        self.observer = cfg.build_observer()
        # A file's rows, or the shapes of those that the expert will make.
        self._demo_shapes = recorded_demos(cfg, self.observer) or script_shapes(cfg, self.observer)
        rows = self._demo_shapes
        shape = None if rows is None else (rows.reward.shape[0], rows.reward.shape[1])
        self.trainer = cfg.build(self.observer, demo_shape=shape)
        self._nan_dumped = False

    def train(self, *, resume: bool = False) -> Summary | None:
        """Train to the end and return the summary; None where a signal stopped the run."""
        started = time.monotonic()
        shapes = self.state_shapes()
        check_memory(shapes, self.cfg, available=available_bytes())
        restored = self._restore(shapes) if resume else None
        self.folder.truncate_after(self.progress.epoch)
        began = self.progress.elapsed_s
        clock = lambda: began + time.monotonic() - started  # noqa: E731
        self.hooks.on_start(self._info(shapes))
        state, programs = self._prepare(shapes, restored)
        with StopSignal(on_first=partial(note_stop, self.folder.resume_command())) as stop:
            state, finished = self._loop(state, programs, clock, stop)
            self.progress.elapsed_s = clock()
            self._save(state)
            summary = None
            if finished and not stop.requested:
                summary = self._finish(programs, state, clock)
            self.hooks.on_end(summary)
            self.store.wait()
        if summary is not None:
            # After the run's clock has stopped.
            for output in self.outputs:
                output.after_run(self, state, summary)
        return summary

    @property
    def env(self) -> Env:
        """One world of the task."""
        return self.observer.env

    @property
    def saved(self) -> bool:
        """Whether the last epoch is on disk (a full disk may have kept it from there)."""
        return self.store.last_saved == self.progress.epoch

    # -- before the first epoch ----------------------------------------------------------------

    def _prepare(
        self, shapes: TrainState, restored: TrainState | None
    ) -> tuple[TrainState, Programs]:
        """State and programs; what can be compiled at the same time is."""
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            epoch = pool.submit(_compile_epoch, self.trainer, shapes)
            check = pool.submit(self._compile_eval, shapes, self.cfg.eval.check_episodes)
            state = (
                run_once(self._init, self._demos(), traceable=self.trainer.traceable)
                if restored is None
                else restored
            )
            programs = Programs(epoch.result(), check.result(), check.result())
        if self.cfg.eval.episodes != self.cfg.eval.check_episodes:
            final = self._compile_eval(shapes, self.cfg.eval.episodes)
            programs = dataclasses.replace(programs, final=final)
        self.progress.compile_s += time.monotonic() - started
        return state, programs

    def _restore(self, shapes: TrainState) -> TrainState | None:
        """The last good checkpoint, None where the run was stopped before its first."""
        if not self.store.steps():
            warn_line("the run was stopped before its first checkpoint; it starts again")
            return None
        state, _, meta = self.store.restore(shapes)
        self.progress = Progress(**meta["progress"])
        return state

    def state_shapes(self) -> TrainState:
        """The training state as shapes, for restoring it."""
        if self.trainer.traceable:
            return jax.eval_shape(self._init, self._demo_shapes)
        # What cannot be traced has to be made to be measured.
        state = self._init(self._demos())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)

    def _init(self, demos: Transition | None) -> TrainState:
        k_worlds, k_run = jax.random.split(stream_key(self.cfg.seed, TRAIN))
        worlds = self.trainer.vec_env.reset(k_worlds)
        return self.trainer.init(k_run, worlds, demos)

    def _demos(self) -> Transition | None:
        cfg = self.cfg.demos
        if cfg.file is not None or not self.trainer.traceable:
            return self._demo_shapes
        return script_demos(self.observer, cfg.count, noise=cfg.noise, seed=self.cfg.seed)

    def _compile_eval(self, shapes: TrainState, episodes: int) -> EvalFn:
        def run(agent: AgentState, statistics: NormalizerState, key: PRNGKey) -> EpisodeResult:
            policy = self.trainer.policy(agent, statistics, deterministic=True)
            return evaluate(self.observer, policy, key, episodes=episodes)

        if not self.trainer.traceable:
            return run
        key = jax.eval_shape(partial(stream_key, 0, CHECK))
        return jax.jit(run).lower(shapes.agent, shapes.normalizer, key).compile()

    def _info(self, state: TrainState) -> RunInfo:
        return RunInfo(
            task=self.cfg.task,
            agent=self.cfg.agent_name,
            seed=self.cfg.seed,
            folder=self.folder.path,
            config=to_json(self.cfg),
            device=device_name(self.env),
            state_bytes=tree_bytes(state),
            buffer_bytes=tree_bytes(state.buffer),
            total_env_steps=self.cfg.total_env_steps,
            start_epoch=self.progress.epoch,
            start_env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
        )

    # -- the loop ------------------------------------------------------------------------------

    def _loop(
        self,
        state: TrainState,
        programs: Programs,
        clock: Callable[[], float],
        stop: StopSignal,
    ) -> tuple[TrainState, bool]:
        """Train until the end (True) or a signal (False)."""
        saved = clock()
        total = -(-self.cfg.total_env_steps // self.trainer.env_steps_per_epoch)
        while self.progress.epoch < total and not self._solved():
            state, metrics = programs.epoch(state)
            host = {k: float(v) for k, v in jax.device_get(metrics).items()}
            self.progress.epoch += 1
            self._report(state, host, clock())
            if self.progress.epoch % self.cfg.eval.every_epochs == 0:
                self._check(programs, state, clock)
            self.progress.elapsed_s = clock()
            if stop.requested:
                return state, False
            if clock() - saved > self.cfg.run.checkpoint_seconds:
                self._save(state)
                saved = clock()
        return state, True

    def _solved(self) -> bool:
        return self.progress.good_checks >= self.cfg.eval.stop_checks

    def _check(self, programs: Programs, state: TrainState, clock: Callable[[], float]) -> None:
        result = self._evaluate(programs.check, state, CHECK)
        record = self._record(result, clock())
        good = record.success_rate >= self.cfg.eval.stop_at
        self.progress.good_checks = self.progress.good_checks + 1 if good else 0
        self.hooks.on_eval(record)
        for output in self.outputs:
            output.after_check(self, state)

    def _finish(self, programs: Programs, state: TrainState, clock: Callable[[], float]) -> Summary:
        """Evaluate for the summary; the hooks hear of it too."""
        result = self._evaluate(programs.final, state, FINAL)
        record = self._record(result, clock(), final=True)
        self.hooks.on_eval(record)
        return self._summary(record)

    def _evaluate(self, program: EvalFn, state: TrainState, stream: int) -> EpisodeResult:
        # Every check plays other episodes, so that passing two in a row is no accident.
        key = jax.random.fold_in(stream_key(self.cfg.seed, stream), self.progress.epoch)
        return jax.device_get(program(state.agent, state.normalizer, key))

    def _report(self, state: TrainState, metrics: dict[str, float], elapsed: float) -> None:
        record = EpochRecord(
            epoch=self.progress.epoch,
            env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
            grad_steps=self.progress.epoch * self.trainer.updates_per_epoch,
            elapsed_s=elapsed,
            metrics=_derived(metrics, self.cfg.loop.buffer_size),
        )
        self.hooks.on_epoch(record)
        if metrics["env/nan_worlds"] > 0 and not self._nan_dumped:
            self._nan_dumped = True
            dump_bad_world(state, self.folder.path / "nan_world.npz")

    def _record(self, result: EpisodeResult, elapsed: float, *, final: bool = False) -> EvalRecord:
        return EvalRecord(
            epoch=self.progress.epoch,
            env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
            elapsed_s=elapsed,
            successes=int(np.sum(result.success)),
            episodes=len(result.success),
            final=final,
            metrics={
                "eval/return": float(np.mean(result.returns)),
                "eval/episode_steps": float(np.mean(result.steps)),
            },
        )

    def _save(self, state: TrainState) -> None:
        meta = {"progress": dataclasses.asdict(self.progress)}
        self.store.save(self.progress.epoch, state, meta)

    def _summary(self, record: EvalRecord) -> Summary:
        return Summary(
            task=self.cfg.task,
            agent=self.cfg.agent_name,
            seed=self.cfg.seed,
            success_rate=record.success_rate,
            success_ci95=record.success_ci95,
            episodes=record.episodes,
            wall_seconds=round(record.elapsed_s, 2),
            compile_seconds=round(self.progress.compile_s, 2),
            env_steps=record.env_steps,
            updates=self.progress.epoch * self.trainer.updates_per_epoch,
            device=device_name(self.env),
        )


def dump_bad_world(state: TrainState, path: Path) -> None:
    """Write the first non-finite world's last good state and action, to look at or replay."""
    bad = jax.device_get(state.worlds.bad)
    try:
        np.savez(path, world=bad.world, qpos=bad.qpos, qvel=bad.qvel, action=bad.action)
    except OSError as error:  # training outlives a full disk
        warn_line(f"{path} was not written ({error})")


def device_name(env: Env) -> str:
    """What computes: the JAX device and the physics."""
    device = jax.local_devices()[0]
    return f"{device.device_kind or device.platform} ({env.physics.name} physics)"


def _compile_epoch(trainer: OffPolicy, shapes: TrainState) -> Any:
    if not trainer.traceable:
        return trainer.epoch
    return jax.jit(trainer.epoch, donate_argnums=0).lower(shapes).compile()


def _derived(metrics: dict[str, float], capacity: int) -> dict[str, float]:
    """Rates from sums, for the console and the curves."""
    episodes = metrics["episode/count"]
    rates = {BUFFER_FILL: metrics["buffer/size"] / capacity}
    if episodes > 0:
        rates[TRAIN_SUCCESS] = metrics["episode/successes"] / episodes
        rates[TRAIN_RETURN] = metrics["episode/return_sum"] / episodes
        rates["train/episode_steps"] = metrics["episode/step_sum"] / episodes
    return metrics | rates
