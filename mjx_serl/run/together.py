"""Runs of one configuration with seeds of their own, trained at the same time in one process.

Each is a run like any other on disk, with its own metrics, checkpoints, summary and bundle. Here is
the loop around all of them; what is done between two epochs of a run is `Run`'s. A run that has
come to its end leaves and the others go on.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax

from mjx_serl.config import TrainConfig
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.crew import Crew, Done, InOneCall, OnCores, Order, cores
from mjx_serl.run.loop import Run
from mjx_serl.run.programs import Programs, compile_epoch, compile_eval
from mjx_serl.run.remote import told
from mjx_serl.run.resume import all_changes
from mjx_serl.run.run_lock import locked
from mjx_serl.run.signals import StopSignal, note_stop
from mjx_serl.training.evaluate import CHECK, FINAL
from mjx_serl.training.state import TrainState
from scenes.contract.errors import InputError

_OBEYED = ("stop", "save", "episodes")


def require_together(cfg: TrainConfig) -> None:
    """Raise InputError for options of runs that cannot be trained at the same time."""
    for wrong, option, why in (
        (cfg.pilot.serve, "--pilot", "a person drives in one run"),
        (cfg.actors.address is not None, "--listen", "the arms' steps belong to one run"),
        (
            cfg.run.dashboard,
            "--dashboard",
            "whose page belongs to one run; `python -m mjx_serl.dashboard` shows all of a folder",
        ),
        (
            cfg.run.tracker != "none",
            f"--run.tracker {cfg.run.tracker}",
            "which keeps one run in a process; allowed: none",
        ),
        (cfg.devices not in (1, "auto"), f"--devices {cfg.devices}", "a device has them all"),
        (cfg.placement.named, "--placement", "a device has them all"),
        (
            bool(cfg.pixels.cameras) and not _on_cpu(),
            "--pixels.cameras",
            "which on an accelerator fill it alone",
        ),
    ):
        if wrong:
            raise InputError(
                f"--together with {option}: {why}. Hint: leave out --together, which trains one "
                "seed after another"
            )


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


class Together:
    """The runs, not trained yet.

    Args:
        runs: of one configuration but for their seed; all share the functions of the first
            (`Run.like`).
        resumed: of each, whether it goes on.
        places: seeds of the whole group, those that are finished too.
        one_call: whether one program advances all; None leaves it to the device.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        resumed: Sequence[bool],
        places: int,
        one_call: bool | None = None,
    ) -> None:
        self._runs, self._resumed, self._places = tuple(runs), tuple(resumed), places
        self._first = self._runs[0]
        # MJX on a CPU makes one program of so many small operations that they are better shared.
        on_cores = _on_cpu() and self._first.env.physics.name == "native"
        self._one_call = not on_cores if one_call is None else one_call
        for run in self._runs:
            _require_same(self._first, run)
        if not self._first.trainer.traceable:
            raise InputError(
                f"--together with the renderer '{self._first.cfg.pixels.backend}', whose pictures "
                "are no part of a compiled program. Hint: leave out --together"
            )
        self._saved: dict[int, float] = {}
        self._open: set[int] = set()
        self._stop: StopSignal

    def train(self, go_on: str) -> bool:
        """Train all; returns whether every one came to its end, and is on disk.

        Args:
            go_on: the command that resumes them after a signal.
        """
        with contextlib.ExitStack() as held:
            for run in self._runs:
                held.enter_context(locked(run.folder.path))
            held.enter_context(self._first.activity)
            begun = time.monotonic()
            shapes = self._first.measured(runs=len(self._runs))
            restored = [
                run.begin(shapes, resume=resumed)
                for run, resumed in zip(self._runs, self._resumed, strict=True)
            ]
            before = [run.progress.elapsed_s for run in self._runs]
            self._clock: Callable[[int], float] = lambda seed: (
                before[seed] + time.monotonic() - begun
            )
            fresh = [seed for seed, state in enumerate(restored) if state is None]
            crew = held.enter_context(contextlib.closing(self._prepared(shapes, restored)))
            del restored  # which the crew holds

            def stopping() -> None:
                crew.halt()
                note_stop(go_on)

            with StopSignal(on_first=stopping) as stop:
                self._stop = stop
                self._require_success(crew, fresh)
                self._loop(crew)
                for run in self._runs:
                    run.store.wait()
        return all(run.saved and run.folder.is_finished for run in self._runs)

    # -- before the first epoch ----------------------------------------------------------------

    def _prepared(self, shapes: TrainState, restored: Sequence[TrainState | None]) -> Crew:
        """Programs and states; what can be made at the same time is."""
        run, started = self._first, time.monotonic()
        seeds = self._places if self._one_call else None
        run.activity.announce(f"compiling for {len(self._runs)} seeds, and their first steps")
        compiled = partial(compile_eval, run.trainer, run.observer, shapes, seeds=seeds)
        sizes = {run.cfg.eval.check_episodes, run.cfg.eval.episodes}
        with run.activity.doing("compiling"), ThreadPoolExecutor(3) as pool:
            epoch = pool.submit(compile_epoch, run.trainer, shapes, seeds=seeds)
            played = {episodes: pool.submit(compiled, episodes=episodes) for episodes in sizes}
            states = self._states(restored)
            check = played[run.cfg.eval.check_episodes].result()
            final = played[run.cfg.eval.episodes].result()
            programs = Programs(epoch.result(), check, final)
        took = time.monotonic() - started
        for own in self._runs:
            own.progress.compile_s += took
        run.hooks.on_stage(f"ready after {took:.0f} s")
        if self._one_call:
            return InOneCall(run.trainer, programs, states, places=self._places)
        workers = min(len(states), cores())
        return OnCores(run.trainer, programs, states, workers=workers)

    def _states(self, restored: Sequence[TrainState | None]) -> list[TrainState]:
        """The states that seeds begin with or go on from."""
        states = list(restored)
        fresh = [seed for seed, state in enumerate(restored) if state is None]
        # The first by itself: its programs are those of the others.
        for seed in fresh[:1]:
            states[seed] = self._first_state(seed)
        with ThreadPoolExecutor(1 if self._one_call else cores()) as pool:
            for seed, state in zip(fresh[1:], pool.map(self._first_state, fresh[1:]), strict=True):
                states[seed] = state
        return [state for state in states if state is not None]

    def _first_state(self, seed: int) -> TrainState:
        run = self._runs[seed]
        return run.taught(run.first_state(), partial(self._clock, seed))

    def _require_success(self, crew: Crew, fresh: Sequence[int]) -> None:
        """Ask what `Run.require_success` wants to know of those that begin."""
        if not self._first.least_success:
            return
        for seed in fresh:
            crew.order(Order(seed=seed, episodes=self._runs[seed].episodes_key(CHECK, 0)))
        for _ in fresh:
            done = crew.done()
            seed = done.order.seed
            if done.result is not None:  # it is not asked about where all was halted
                self._runs[seed].require_success(done.result, self._clock(seed))

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self, crew: Crew) -> None:
        """Train until all have ended, or a signal."""
        self._open = set(range(len(self._runs)))
        for seed, run in enumerate(self._runs):
            self._saved[seed] = self._clock(seed)
            if run.is_over:
                run.save(crew.state(seed))
            crew.order(self._next(seed))
        while self._open:
            done = crew.done()
            seed = done.order.seed
            if done.halted:
                self._leave(seed, crew)
            elif done.order.final:
                self._finish(seed, crew, done)
            elif self._goes_on(seed, crew, done):
                crew.order(self._next(seed))
            else:
                self._leave(seed, crew)

    def _next(self, seed: int) -> Order:
        run = self._runs[seed]
        epoch = run.progress.epoch
        if run.is_over:
            return Order(seed=seed, episodes=run.episodes_key(FINAL, epoch), final=True)
        due = run.is_check_due(epoch + 1)
        key = run.episodes_key(CHECK, epoch + 1) if due else None
        return Order(seed=seed, epoch=True, episodes=key)

    def _goes_on(self, seed: int, crew: Crew, done: Done) -> bool:
        """Report an epoch and save now and then; False where the run was told to stop."""
        run = self._runs[seed]
        assert done.metrics is not None
        run.after_epoch(partial(crew.state, seed), done.metrics, self._clock(seed))
        if done.result is not None:
            run.after_check(crew.state(seed), done.result, self._clock(seed))
        now = run.progress.elapsed_s = self._clock(seed)
        what = self._told(run)
        if self._stop.requested or what == "stop":
            return False
        # All share the time: so many times as long lies between two saves of one.
        every = run.cfg.run.checkpoint_seconds * len(self._open)
        if run.is_over:
            run.save(crew.state(seed))
        elif what is not None or now - self._saved[seed] > every:
            run.keep(crew.state(seed))
            self._saved[seed] = now
        return True

    def _leave(self, seed: int, crew: Crew) -> None:
        """Save a run that is to go on later."""
        run, state = self._runs[seed], crew.state(seed)
        run.save(state)
        run.hooks.on_end(None)
        run.end(state, None)
        self._open.remove(seed)

    def _finish(self, seed: int, crew: Crew, done: Done) -> None:
        run = self._runs[seed]
        assert done.result is not None
        summary = run.finish(done.result, self._clock(seed))
        run.hooks.on_end(summary)
        run.end(crew.state(seed), summary)
        self._open.remove(seed)

    def _told(self, run: Run) -> str | None:
        """What somebody elsewhere wants of a run, as far as it is done here."""
        what = told(run.folder.path)
        if what is None or what in _OBEYED:
            return what
        warn_line(
            f"{run.folder.path.name}: '{what}' is left out in seeds that are trained together, "
            f"allowed: {', '.join(_OBEYED)}"
        )
        return None


def _require_same(one: Run, other: Run) -> None:
    """Raise InputError for runs that differ by more than their seed and folder."""
    plain = dataclasses.replace(one.cfg, seed=other.cfg.seed, run=other.cfg.run)
    if changes := all_changes(plain, other.cfg):
        raise InputError(
            f"--together with runs that are not the same but for their seed: in {other.folder.path}"
            f" {', '.join(map(str, changes))}. Hint: resume that one by itself"
        )
