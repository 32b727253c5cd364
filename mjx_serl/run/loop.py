"""The host loop around the compiled epoch: build, compile, train, check, save, report."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from mjx_serl.config import TrainConfig
from mjx_serl.envs.env import Env
from mjx_serl.run.activity import Activity, cached_durations
from mjx_serl.run.checkpoint import CheckpointStore, warn_line
from mjx_serl.run.folder import IMITATION, RunFolder
from mjx_serl.run.hooks import (
    TRAIN_RETURN,
    TRAIN_SUCCESS,
    EpochRecord,
    EvalRecord,
    GuardedHooks,
    Hook,
    RunInfo,
)
from mjx_serl.run.initial import load_initial, with_initial
from mjx_serl.run.memory_check import available_bytes, check_memory
from mjx_serl.run.nan_world import FILE as NAN_DUMP
from mjx_serl.run.nan_world import NanWorld, write_nan_world
from mjx_serl.run.peers import this_process
from mjx_serl.run.programs import EpochFn, EvalFn, Programs, compile_epoch, compile_eval
from mjx_serl.run.remote import COMMANDS, note_pause, told
from mjx_serl.run.resume import Change
from mjx_serl.run.run_lock import locked
from mjx_serl.run.signals import StopSignal, note_stop
from mjx_serl.run.summary import GridCell, Summary
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import (
    CHECK,
    FINAL,
    stream_key,
)
from mjx_serl.training.placed import over_placement
from mjx_serl.training.sharded import Sharded, device_count, over_devices, require_devices
from mjx_serl.training.state import PolicyParams, TrainState, tree_bytes
from mjx_serl.training.trainer import Trainer
from mjx_serl.types import PRNGKey
from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError
from scenes.contract.serialize import to_json


@dataclasses.dataclass
class Progress:
    """What the host remembers between epochs; saved with every checkpoint."""

    epoch: int = 0
    elapsed_s: float = 0.0
    good_checks: int = 0
    compile_s: float = 0.0


class Output(Protocol):
    """Writes what a run leaves beside its logs; it may read the training state.

    Subclass it and what has a body here may be left as it is.
    """

    def after_check(self, run: "Run", state: TrainState) -> None:
        """Called after each check during training; of several processes without `state.data`."""

    def after_save(self, run: "Run", state: TrainState) -> None:
        """Called after a save: now and then in training, and once the run ended or was stopped.

        In training it is called so seldom that it takes half a percent of the time, unless a person
        asks; the last call comes after the run's clock has stopped.
        """

    def after_run(self, run: "Run", state: TrainState, summary: Summary) -> None:
        """Called once a run has come to its end, after its clock has stopped."""


class Companion(Protocol):
    """Something beside the run that has a say between epochs, such as a person at a page.

    Subclass it and what has a body here may be left as it is.
    """

    def start(self, run: "Run") -> None:
        """Called once, before anything is compiled."""
        ...

    def before_epoch(
        self, run: "Run", state: TrainState, epoch: EpochFn
    ) -> tuple[TrainState, EpochFn | None]:
        """Called before each epoch; returns the state to train, and the program that does.

        None in place of a program: there is nothing to train on yet, and it is asked again soon.
        The state given may be used up.
        """
        return state, epoch

    def memory(self) -> dict[str, Any]:
        """Return what a checkpoint is to remember, as JSON by names of its own (`Run.meta`)."""
        return {}

    def on_save(self, epoch: int) -> None:
        """Called when a checkpoint of the state after so many epochs is begun."""

    def holds(self) -> bool:
        """Whether the next epoch is to wait; asked again until it is not."""
        return False

    def before_end(self, run: "Run", state: TrainState) -> TrainState:
        """Called once after the last epoch, before the last save; returns the state to save."""
        return state

    def close(self) -> None:
        """End what `start` began, whatever became of the run."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return figures of its own for the epoch's metrics."""
        return {}


# Gradient steps of a run that takes no env steps and was told no other number: SERL's scripts for
# its cable and board tasks, and HIL-SERL's `train_bc.py`.
UPDATES = 20_000
_OUTPUTS_SHARE = 0.005  # of a run's time that outputs may take after its saves
_OUTPUTS_FIRST_S = 60.0  # into a run they are first written: short ones do not wait for them [s]
# What is done before the first epoch, at the same time where it can be.
_EPOCH, _CHECK = "compiling the epoch", "compiling the evaluation"
_FIRST = "demonstrations and first steps"
# Of two CPU cores; MJX on a CPU and a GPU's first time are the slow ones.
_PAUSE_S = 0.2  # between two looks whether a paused run is to go on [s]
_USUALLY = "the first time 10 to 60 s, then from the cache"


def _building(cfg: TrainConfig) -> str:
    drawn = f" and drawing them from {cfg.pixels.splats} splats" if cfg.pixels.cameras else ""
    where = f"preset {cfg.preset} on {_device_kind()}"
    return f"{where}: building {cfg.num_envs} worlds of {cfg.task}{drawn}"


def _programs_of(cfg: TrainConfig) -> str:
    """What the programs of a run depend on, so that their durations are not another's."""
    config = to_json(cfg)
    parts = [config[name] for name in ("task", "physics", "num_envs", "pixels", "method")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Run:
    """One training run on disk and in memory.

    `train` is the whole of it. `mjx_serl.run.together` trains several and calls the steps that
    `train` is made of: `measured`, `begin`, `after_epoch`, `after_check`, `save`, `finish`, `end`.

    Args:
        cfg: what to train.
        folder: of the run.
        hooks: who listens.
        outputs: what it leaves beside its logs.
        changes: of the options since it was last on disk.
        companions: what is beside it.
        like: a run of another seed of the same configuration, whose functions it shares.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        folder: RunFolder,
        hooks: Sequence[Hook] = (),
        outputs: Sequence["Output"] = (),
        changes: Sequence[Change] = (),
        companions: Sequence["Companion"] = (),
        like: "Run | None" = None,
    ) -> None:
        self.cfg = cfg
        self.folder = folder
        self.peers = this_process()
        # Of several processes one writes.
        self.hooks = GuardedHooks(hooks if self.peers.writes else ())
        self.outputs = outputs if self.peers.writes else ()
        self.companions = companions
        self.changes = changes  # of the options since the run was last on disk
        self.store = CheckpointStore(folder.checkpoints, keep=cfg.run.keep_checkpoints)
        self.progress = Progress()
        self.meta: Mapping[str, Any] = {}  # of the checkpoint that it went on from
        self._initial: PolicyParams | None = None  # that it begins with
        self.start_epoch = 0  # where this process went on from
        if like is None:
            self._build()
        else:
            self.activity, self.observer, self.trainer = like.activity, like.observer, like.trainer
            self.devices = like.devices
        self._nan_dumped = False
        self._paused_s = 0.0
        self._outputs_due = time.monotonic() + _OUTPUTS_FIRST_S

    def _build(self) -> None:
        self.activity = Activity(
            self.hooks.on_stage,
            self.hooks.on_wait,
            cached_durations(),
            key=_programs_of(self.cfg),
        )
        building = _building(self.cfg)
        self.activity.announce(building)
        with self.activity.doing(building, remembered=True):
            self.observer = self.cfg.build_observer()
            self.devices = device_count(self.cfg.devices) * self.peers.count
            self.trainer = self._on_devices(self.cfg.build(self.observer))

    def _on_devices(self, trainer: Trainer) -> Trainer:
        cfg, many = self.cfg, self.devices
        if not cfg.placement.named:
            return over_devices(trainer, many, cfg.fsdp)
        if self.peers.count > 1:
            raise InputError(f"--placement in {self.peers.count} processes, allowed: in one")
        require_devices(many)
        return over_placement(trainer, cfg.placement, many)

    def train(self, *, resume: bool = False) -> Summary | None:
        """Train to the end and return the summary; None where a signal stopped the run.

        Raises InputError where another process is training in the folder.
        """
        writes = self.peers.writes
        with locked(self.folder.path) if writes else contextlib.nullcontext(), self.activity:
            return self._train(resume=resume)

    def _train(self, *, resume: bool) -> Summary | None:
        started = time.monotonic()
        shapes = self.measured()
        restored = self.begin(shapes, resume=resume)
        began = self.progress.elapsed_s
        clock = lambda: began + time.monotonic() - started - self._paused_s  # noqa: E731
        with contextlib.ExitStack() as beside:
            for companion in self.companions:
                beside.callback(companion.close)
                companion.start(self)
            state, summary = self._train_from(shapes, restored, clock)
        self.end(state, summary)
        return summary

    def measured(self, *, runs: int = 1) -> TrainState:
        """Return the shapes of the state; says what to be cautious of.

        Raises MemoryError where the states of so many runs at the same time do not fit.
        """
        with self.activity.doing("measuring the state"):
            shapes = self.trainer.state_shapes()
        if note := getattr(self.trainer, "note", ""):
            self.hooks.on_stage(note)
        memory, free = self.trainer.memory(shapes), available_bytes(self.devices)
        check_memory(shapes, memory, available=free, runs=runs)
        cautions = getattr(self.cfg.method, "cautions", None)
        for line in cautions(self.observer) if cautions else ():
            warn_line(line)
        return shapes

    def begin(self, shapes: TrainState, *, resume: bool) -> TrainState | None:
        """Return the state that it goes on from, None where it begins; brings its files there."""
        restored = self._restore(shapes) if resume else None
        if restored is None and self.cfg.init is not None:
            # Now, so that what does not fit is said before anything is compiled.
            self._initial = load_initial(self.cfg.init, self.trainer, shapes)
        if self.peers.writes:
            self._begin_on_disk()
        self.start_epoch = self.progress.epoch
        self.hooks.on_start(self._info(shapes))
        return restored

    def end(self, state: TrainState, summary: Summary | None) -> None:
        """Write what is left beside the logs, after the run's clock has stopped."""
        self.after_save(state)
        if summary is not None:
            with self.activity.doing("writing what the run leaves"):
                state = self.peers.gathered(state)
                for output in self.outputs:
                    output.after_run(self, state, summary)

    def _train_from(
        self, shapes: TrainState, restored: TrainState | None, clock: Callable[[], float]
    ) -> tuple[TrainState, Summary | None]:
        """Train to the end or a signal, and save; the summary is None after a signal."""
        state, programs = self._prepare(shapes, restored)
        if restored is None:
            state = self.taught(state, clock)
            if self.least_success:
                self.require_success(self._evaluate(programs.check, state, CHECK), clock())
        with StopSignal(on_first=partial(note_stop, self.folder.resume_command())) as stop:
            state, finished = self._loop(state, programs, clock, stop)
            for companion in self.companions:
                state = companion.before_end(self, state)
            self.progress.elapsed_s = clock()
            self.save(state)
            summary = None
            if finished and not self.peers.most(stop.requested)[0]:
                summary = self._finish(programs, state, clock)
            self.hooks.on_end(summary)
            self.store.wait()
        return state, summary

    @property
    def env(self) -> Env:
        """One world of the task."""
        return self.observer.env

    @property
    def saved(self) -> bool:
        """Whether the last epoch is on disk (a full disk may have kept it from there)."""
        return not self.peers.writes or self.store.last_saved == self.progress.epoch

    # -- before the first epoch ----------------------------------------------------------------

    def _prepare(
        self, shapes: TrainState, restored: TrainState | None
    ) -> tuple[TrainState, Programs]:
        """State and programs; what can be compiled at the same time is."""
        started = time.monotonic()
        self.activity.announce(f"{_EPOCH}, {_CHECK}, {_FIRST}", usually=_USUALLY)
        with ThreadPoolExecutor(2) as pool:
            epoch = pool.submit(self._compile_epoch, shapes)
            check = pool.submit(self._compile_eval, shapes, self.cfg.eval.check_episodes)
            state = self.first_state() if restored is None else restored
            programs = Programs(epoch.result(), check.result(), check.result())
        if self.cfg.eval.episodes != self.cfg.eval.check_episodes:
            final = self._compile_eval(shapes, self.cfg.eval.episodes)
            programs = dataclasses.replace(programs, final=final)
        took = time.monotonic() - started
        self.progress.compile_s += took
        self.hooks.on_stage(f"ready after {took:.0f} s")
        return state, programs

    def _restore(self, shapes: TrainState) -> TrainState | None:
        """The last good checkpoint, None where the run was stopped before its first."""
        if not self.store.steps():
            warn_line("the run was stopped before its first checkpoint; it starts again")
            return None
        state, _, meta = self.store.restore(shapes)
        self.progress, self.meta = Progress(**meta["progress"]), meta
        if any(change.name.startswith("eval.stop") for change in self.changes):
            self.progress.good_checks = 0  # they were good by the old rule
        return state

    def _begin_on_disk(self) -> None:
        """Leave out what another process wrote after the checkpoint, or was told."""
        self.folder.truncate_after(self.progress.epoch)
        told(self.folder.path)
        note_pause(self.folder.path, paused=False)
        if self.changes:
            self._note_changes()

    def _note_changes(self) -> None:
        """Write the config that the run has from here on, and when it was changed."""
        self.folder.write_config(self.cfg)
        self.folder.append_metrics(
            {
                "kind": "options",
                "epoch": self.progress.epoch,
                "elapsed_s": self.progress.elapsed_s,
                "changed": {change.name: [change.old, change.new] for change in self.changes},
            }
        )
        warn_line(f"the run goes on with {', '.join(map(str, self.changes))}")

    def first_state(self) -> TrainState:
        """The state before the first epoch."""
        with self.activity.doing(_FIRST, remembered=True):
            state = self.trainer.init(jax.random.key(self.cfg.seed))
            if self._initial is not None:
                state = with_initial(state, self._initial, self.trainer)
            return jax.block_until_ready(state)

    def taught(self, state: TrainState, clock: Callable[[], float]) -> TrainState:
        """The state after what the trainer learns before the first epoch, if it does."""
        teach = getattr(self.trainer, "teach", None)
        if teach is None:
            return state

        def tell(done: int, total: int, metrics: dict[str, float]) -> None:
            row = {"kind": IMITATION, "epoch": 0, "updates": done, "elapsed_s": clock(), **metrics}
            if self.peers.writes:
                self.folder.append_metrics(row)
            said = "  ".join(f"{name.rpartition('/')[2]} {x:.3g}" for name, x in metrics.items())
            self.hooks.on_stage(f"{IMITATION}: {done} of {total} updates  {said}")

        with self.activity.doing(IMITATION):
            return jax.block_until_ready(teach(state, jax.random.key(self.cfg.seed), tell))

    def _compile_epoch(self, shapes: TrainState) -> Any:
        with self.activity.doing(_EPOCH, remembered=True):
            return compile_epoch(self.trainer, shapes)

    def _compile_eval(self, shapes: TrainState, episodes: int) -> EvalFn:
        with self.activity.doing(_CHECK, remembered=True):
            return compile_eval(self.trainer, self.observer, shapes, episodes=episodes)

    def _info(self, state: TrainState) -> RunInfo:
        return RunInfo(
            task=self.cfg.task,
            agent=self.cfg.agent_name,
            seed=self.cfg.seed,
            folder=self.folder.path,
            config=to_json(self.cfg),
            device=device_name(self.env, self.devices),
            state_bytes=tree_bytes(state),
            buffer_bytes=tree_bytes(state.data),
            total_env_steps=self.cfg.total_env_steps,
            start_epoch=self.progress.epoch,
            start_env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
            total_updates=self._total_updates(),
            start_updates=self.progress.epoch * self.trainer.updates_per_epoch,
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
        while not self.is_over:
            if self._hold(stop) == "stop":
                return state, False
            state, epoch = self._ask_companions(state, programs.epoch)
            if epoch is None:
                if self._obey(programs, state, clock, stop) == "stop":
                    return state, False
                continue
            with self.activity.doing(f"epoch {self.progress.epoch + 1}"):
                state, metrics = epoch(state)
                host = {k: float(v) for k, v in jax.device_get(metrics).items()}
            for companion in self.companions:
                host |= companion.metrics()
            self.after_epoch(lambda now=state: now, host, clock())
            if self.is_check_due(self.progress.epoch):
                self.after_check(state, self._evaluate(programs.check, state, CHECK), clock())
            self.progress.elapsed_s = clock()
            if self._obey(programs, state, clock, stop) == "stop":
                return state, False
            (due,) = self.peers.most(clock() - saved > self.cfg.run.checkpoint_seconds)
            if due:
                self.keep(state)
                saved = clock()
        return state, True

    def _ask_companions(
        self, state: TrainState, epoch: EpochFn
    ) -> tuple[TrainState, EpochFn | None]:
        """What is trained next; None as yet nothing."""
        for companion in self.companions:
            state, found = companion.before_epoch(self, state, epoch)
            if found is None:
                return state, None
            epoch = found
        return state, epoch

    def _obey(
        self,
        programs: Programs,
        state: TrainState,
        clock: Callable[[], float],
        stop: StopSignal,
    ) -> str | None:
        """Do what the run was told (`_heard`); returns what."""
        what = self._heard(stop)
        if what == "save":
            self.save(state)
            self.after_save(state)
        elif what == "episodes":
            self.after_save(state)
        elif what == "evaluate":
            # It is not one of the checks that end a run.
            self.hooks.on_eval(self._record(self._evaluate(programs.check, state, CHECK), clock()))
        elif what == "pause":
            what = self._pause(stop)
        return what

    def _heard(self, stop: StopSignal) -> str | None:
        """What the run was told from elsewhere (`mjx_serl.run.remote`), or by a signal."""
        what = told(self.folder.path) if self.peers.writes else None
        number = 0 if what is None else COMMANDS.index(what) + 1
        stopped, number = self.peers.most(stop.requested, number)
        if stopped:
            return "stop"
        return COMMANDS[number - 1] if number else None

    def _hold(self, stop: StopSignal) -> str | None:
        """Wait while a companion wants it; returns as `_pause` does."""

        def held() -> bool:
            return any(companion.holds() for companion in self.companions)

        return self._pause(stop, "paused while a person drives", held) if held() else None

    def _pause(
        self,
        stop: StopSignal,
        why: str = "paused",
        held: Callable[[], bool] = lambda: True,
    ) -> str | None:
        """Wait until the run is told to go on or to stop, which is returned, or is not held."""
        begun = time.monotonic()
        self._note_pause(paused=True)
        self.hooks.on_stage(why)
        try:
            while held():
                what = self._heard(stop)
                if what in ("resume", "stop"):
                    return what
                if what == "pause":
                    held = lambda: True  # noqa: E731
                time.sleep(_PAUSE_S)
        finally:
            self._note_pause(paused=False)
            self._paused_s += time.monotonic() - begun
        return None

    def _note_pause(self, *, paused: bool) -> None:
        if self.peers.writes:
            note_pause(self.folder.path, paused=paused)

    def _total_updates(self) -> int | None:
        """Gradient steps after which the run ends; None where env steps say when."""
        wanted, steps = self.cfg.total_updates, self.trainer.env_steps_per_epoch
        if steps == 0:
            return UPDATES if wanted is None else wanted
        sooner = wanted is not None and self._epochs_to(wanted) < self._epochs_to(None)
        return wanted if sooner else None

    def _epochs_to(self, updates: int | None) -> int:
        """Epochs until so many updates, or where that is None all env steps, are made."""
        if updates is None:
            return -(-self.cfg.total_env_steps // self.trainer.env_steps_per_epoch)
        return -(-updates // self.trainer.updates_per_epoch)

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, by its length or its stop rule."""
        solved = self.progress.good_checks >= self.cfg.eval.stop_checks
        return solved or self.progress.epoch >= self._epochs_to(self._total_updates())

    def is_check_due(self, epoch: int) -> bool:
        """Whether there is a check after so many epochs."""
        return epoch % self.cfg.eval.every_epochs == 0

    def after_check(self, state: TrainState, result: EpisodeResult, elapsed: float) -> None:
        """Report a check, which may be the one that ends the run."""
        record = self._record(result, elapsed)
        good = record.success_rate >= self.cfg.eval.stop_at
        self.progress.good_checks = self.progress.good_checks + 1 if good else 0
        self.hooks.on_eval(record)
        if self.peers.count > 1:
            state = self.peers.gathered(state.replace(data=()))
        for output in self.outputs:
            output.after_check(self, state)

    @property
    def least_success(self) -> float:
        """What the untrained policy must reach; 0 asks nothing."""
        return getattr(self.trainer, "least_success", 0.0)

    def require_success(self, result: EpisodeResult, elapsed: float) -> None:
        """Raise InputError where the policy is to be good for something, and is not, untrained."""
        record = self._record(result, elapsed)
        if record.success_rate < self.least_success:
            raise InputError(
                f"the base policy solves {record.successes} of {record.episodes} episodes, "
                f"allowed: at least {self.least_success:.0%}. Hint: train it longer, or lower "
                "--agent.least-success"
            )
        self.hooks.on_eval(record)

    def finish(self, result: EpisodeResult, elapsed: float) -> Summary:
        """Return the summary of the final evaluation; the hooks hear of it too."""
        record = self._record(result, elapsed, final=True)
        self.hooks.on_eval(record)
        return self._summary(record, result)

    def episodes_key(self, stream: int, epoch: int) -> PRNGKey:
        """The key of an evaluation after so many epochs.

        Every check plays other episodes, so that passing two in a row is no accident.
        """
        return jax.random.fold_in(stream_key(self.cfg.seed, stream), epoch)

    def _finish(self, programs: Programs, state: TrainState, clock: Callable[[], float]) -> Summary:
        result = self._evaluate(programs.final, state, FINAL)
        return self.finish(result, clock())

    def _evaluate(self, program: EvalFn, state: TrainState, stream: int) -> EpisodeResult:
        key = self.episodes_key(stream, self.progress.epoch)
        with self.activity.doing("evaluating"):
            read = getattr(self.trainer, "spread_params", self.trainer.policy_params)
            return jax.device_get(program(read(state), key))

    def after_epoch(
        self, state: Callable[[], TrainState], metrics: dict[str, float], elapsed: float
    ) -> None:
        """Count an epoch and report it; the state is asked for where it is looked at."""
        self.progress.epoch += 1
        record = EpochRecord(
            epoch=self.progress.epoch,
            env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
            grad_steps=self.progress.epoch * self.trainer.updates_per_epoch,
            elapsed_s=elapsed,
            metrics=_derived(metrics),
        )
        self.hooks.on_epoch(record)
        dump = self.peers.writes and not self._nan_dumped
        if metrics.get("env/nan_worlds", 0) > 0 and dump:
            self._nan_dumped = True
            dump_bad_world(state(), record.env_steps, self.folder.path / NAN_DUMP)

    def _record(self, result: EpisodeResult, elapsed: float, *, final: bool = False) -> EvalRecord:
        return EvalRecord(
            epoch=self.progress.epoch,
            env_steps=self.progress.epoch * self.trainer.env_steps_per_epoch,
            grad_steps=self.progress.epoch * self.trainer.updates_per_epoch,
            elapsed_s=elapsed,
            successes=int(np.sum(result.success)),
            episodes=len(result.success),
            final=final,
            metrics={
                "eval/return": float(np.mean(result.returns)),
                "eval/episode_steps": float(np.mean(result.steps)),
                **{f"eval/{name}": rate for name, rate in judged_rates(result).items()},
                **{
                    f"eval/{cell.name}_success_rate": cell.successes / max(cell.episodes, 1)
                    for cell in part_cells(result)
                },
            },
        )

    def save(self, state: TrainState) -> None:
        """Begin to write a checkpoint."""
        if isinstance(self.trainer, Sharded) and (torn := self.trainer.torn(state, "agent/")):
            # Never seen: it would be a collective that one device took and another did not.
            raise RuntimeError(f"devices have learned different things: {', '.join(torn[:5])}")
        meta: dict[str, Any] = {"progress": dataclasses.asdict(self.progress)}
        for companion in self.companions:
            meta |= companion.memory()
            companion.on_save(self.progress.epoch)
        with self.activity.doing("saving"):
            if self.peers.count > 1:  # all of what devices hold together is gathered for it
                self.peers.require_equal(self.trainer.policy_params(state))
            state = self.peers.gathered(state)
            if self.peers.writes:
                self.store.save(self.progress.epoch, state, meta)

    def keep(self, state: TrainState) -> None:
        """Save in the midst of training, now and then with the outputs."""
        self.save(state)
        (due,) = self.peers.most(time.monotonic() > self._outputs_due)
        if due:
            self.after_save(state)

    def after_save(self, state: TrainState) -> None:
        """Write the outputs of a save."""
        began = time.monotonic()
        state = self.peers.gathered(state)
        for output in self.outputs:
            output.after_save(self, state)
        now = time.monotonic()
        self._outputs_due = now + (now - began) / _OUTPUTS_SHARE

    def _summary(self, record: EvalRecord, result: EpisodeResult) -> Summary:
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
            device=device_name(self.env, self.devices),
            parts=part_cells(result),
            **judged_rates(result),
        )


def part_cells(result: EpisodeResult) -> tuple[GridCell, ...]:
    """Success by the parts of a task by turns; () of any other."""
    success, part = np.asarray(result.success), np.asarray(result.part)
    return tuple(GridCell.of(name, success[part == i]) for i, name in enumerate(result.parts))


def judged_rates(result: EpisodeResult) -> dict[str, Any]:
    """What a judge called solved, and what of it was not; {} where the task judged."""
    if result.judged is None:
        return {}
    judged, wrong = np.asarray(result.judged), ~np.asarray(result.success)
    return {
        "judged_success_rate": float(np.mean(judged)),
        "false_positive_rate": float(np.mean(judged & wrong)),
    }


def dump_bad_world(state: TrainState, env_steps: int, path: Path) -> None:
    """Write the first non-finite world's last good state and action, and say how to look at it."""
    bad = jax.device_get(state.worlds.bad)
    carry = [np.asarray(leaf) for leaf in jax.tree.leaves(bad.carry)]
    found = NanWorld(int(bad.world), env_steps, bad.qpos, bad.qvel, bad.action, carry)
    try:
        write_nan_world(path, found)
    except OSError as error:  # training outlives a full disk
        warn_line(f"{path} was not written ({error})")
        return
    warn_line(
        f"world {found.world} was no longer finite and was restarted; as it was before: {path}, "
        f"shown by `{how_to_start('play')} --view --dump {path}`"
    )


def device_name(env: Env, devices: int = 1) -> str:
    """What computes: the JAX device, or how many, and the physics."""
    times = "" if devices == 1 else f"{devices} x "
    return f"{times}{_device_kind()} ({env.physics.name} physics)"


def _device_kind() -> str:
    device = jax.local_devices()[0]
    return device.device_kind or device.platform


# Means over episodes of sums that some runs keep: of a judge, of on-policy training.
_MEANS = {
    "train/judged_success_rate": "episode/judged_successes",
    "train/false_positive_rate": "episode/false_positives",
    "env/success_once": "episode/solved_once",
    "env/episode_len": "episode/len_sum",
}


def _derived(metrics: dict[str, float]) -> dict[str, float]:
    """Rates from sums, for the console and the curves."""
    episodes = metrics.get("episode/count", 0)  # none where no world is stepped
    if episodes == 0:
        return metrics
    return metrics | {
        TRAIN_SUCCESS: metrics["episode/successes"] / episodes,
        TRAIN_RETURN: metrics["episode/return_sum"] / episodes,
        **{name: metrics[total] / episodes for name, total in _MEANS.items() if total in metrics},
        "train/episode_steps": metrics["episode/step_sum"] / episodes,
    }
