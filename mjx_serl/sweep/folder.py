"""The folder of a sweep, and how far each of its runs is.

runs/<sweep>/
    sweep.toml  checked  lock  report.md  report.json  curves.png  sweep.sbatch
    <variant>/  seeds.json  seed-0/  seed-0.log  seed-0.failed  seed-1/  ...  together.log

A variant's folder is what `train.py --seeds` makes, so that compare and the dashboard know it.
"""

import contextlib
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mjx_serl.run.folder import SEEDS, SWEEP, RunFolder, write_seeds
from mjx_serl.run.run_lock import require_unlocked
from mjx_serl.sweep.spec import Spec, Variant, read_spec
from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.files import write_atomically

_CHECKED = "checked"  # holds the digest of the spec that was
State = Literal["finished", "failed", "training", "interrupted", "not begun"]


@dataclass(frozen=True)
class SweepRun:
    """One seed of one variant.

    Attributes:
        variant: its options.
        seed: its seed.
        group: the variant's folder.
    """

    variant: Variant
    seed: int
    group: Path

    @property
    def name(self) -> str:
        """What it is called in lines and tables."""
        return f"{self.variant.name}/{self.path.name}"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.group / f"seed-{self.seed}"

    @property
    def log(self) -> Path:
        """What its process printed, all attempts one after another."""
        return self.path.with_suffix(".log")

    @property
    def _mark(self) -> Path:
        return self.path.with_suffix(".failed")

    @property
    def folder(self) -> RunFolder:
        """It as a run."""
        return RunFolder(self.path)

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end."""
        return self.folder.is_finished

    @property
    def has_begun(self) -> bool:
        """Whether there is anything of it."""
        return self.folder.has_begun

    def state(self) -> State:
        """How far it is; whoever trains in it now, here or elsewhere, holds its lock."""
        if self._mark.exists():
            return "failed"
        if self.holder():
            return "training"
        if self.folder.is_finished:
            return "finished"
        return "interrupted" if self.folder.has_begun else "not begun"

    def holder(self) -> str:
        """Who trains in it, and what to do about it; "" where nobody does."""
        try:
            require_unlocked(self.path)
        except InputError as error:
            return str(error)
        return ""

    def failure(self) -> str:
        """The line that says why it failed, "" where it did not."""
        with contextlib.suppress(FileNotFoundError):
            return self._mark.read_text(errors="replace").strip()
        return ""

    def mark_failed(self, why: str) -> None:
        """Note it for the sweeps to come."""
        write_atomically(self._mark, why + "\n")

    def clear(self) -> None:
        """Forget that it failed, and what a process made that wrote no config."""
        self._mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def words(self) -> list[str]:
        """What train.py is told so that it begins or goes on."""
        if self.has_begun:
            return [f"--resume={self.path}"]
        kept = [f"--run.folder={self.group}", f"--run.name={self.path.name}"]
        return [*self.variant.words(), f"--seed={self.seed}", *kept]


@dataclass(frozen=True)
class SweepGroup:
    """The seeds of a variant, which one process trains together.

    Attributes:
        runs: one for each.
    """

    runs: tuple[SweepRun, ...]

    @property
    def name(self) -> str:
        """What it is called in lines and tables."""
        return self.runs[0].variant.name

    @property
    def variant(self) -> Variant:
        """What they have in common."""
        return self.runs[0].variant

    @property
    def path(self) -> Path:
        """The variant's folder."""
        return self.runs[0].group

    @property
    def log(self) -> Path:
        """What the process printed, all attempts one after another."""
        return self.path / "together.log"

    @property
    def is_finished(self) -> bool:
        """Whether all have come to their end."""
        return all(run.is_finished for run in self.runs)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything of any."""
        return any(run.has_begun for run in self.runs)

    def state(self) -> State:
        """How far the one is that is least far, or failed, or is in training."""
        states = {run.state() for run in self.runs}
        for state in ("failed", "training"):
            if state in states:
                return state
        if states == {"finished"}:
            return "finished"
        return "interrupted" if self.has_begun else "not begun"

    def holder(self) -> str:
        """As `SweepRun.holder`, of the first that has one."""
        return next(filter(None, (run.holder() for run in self.runs)), "")

    def failure(self) -> str:
        """The line that says why it failed, "" where it did not."""
        return next(filter(None, (run.failure() for run in self.runs)), "")

    def mark_failed(self, why: str) -> None:
        """Note it of those that are not finished."""
        for run in self.runs:
            if not run.is_finished:
                run.mark_failed(why)

    def clear(self) -> None:
        """As `SweepRun.clear`, of all."""
        for run in self.runs:
            run.clear()

    def words(self) -> list[str]:
        """What train.py is told so that all begin or go on."""
        return [f"--resume={self.path}", "--together"]


SweepJob = SweepRun | SweepGroup
"""What a process of its own trains."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and where it is kept.

    Attributes:
        spec: what it is made of.
        file: that says so.
    """

    spec: Spec
    file: Path

    @classmethod
    def open(cls, path: Path) -> "Sweep":
        """Read a spec, or the one in the folder of a sweep that was begun."""
        if not path.is_dir():
            return cls(read_spec(path), path)
        if not (path / SWEEP).is_file():
            raise FileNotFoundError(f"'{path}' has no {SWEEP}: name a sweep's folder or its file")
        return cls(read_spec(path / SWEEP, folder=path), path / SWEEP)

    @property
    def path(self) -> Path:
        """The sweep's folder."""
        return self.spec.folder

    @cached_property
    def runs(self) -> list[SweepRun]:
        """All runs, those of a variant one after another."""
        return [
            SweepRun(variant, seed, self.path / variant.name)
            for variant in self.spec.variants
            for seed in self.spec.seeds
        ]

    @cached_property
    def jobs(self) -> Sequence[SweepJob]:
        """What processes train: each a run, or the seeds of a variant together."""
        if not self.spec.together:
            return self.runs
        size = len(self.spec.seeds)
        starts = range(0, len(self.runs), size)
        return [SweepGroup(tuple(self.runs[start : start + size])) for start in starts]

    def job(self, index: int) -> SweepJob:
        """The one of an index; UnknownNameError says which there are."""
        if not 0 <= index < len(self.jobs):
            raise UnknownNameError(f"--only {index}, allowed: 0 to {len(self.jobs) - 1}")
        return self.jobs[index]

    @property
    def title(self) -> str:
        """How many runs in which folder."""
        variants, seeds = len(self.spec.variants), len(self.spec.seeds)
        if self.spec.search is not None:
            return f"{self.spec.search.trials} trials x {seeds} seeds in {self.path}"
        return f"{len(self.runs)} runs in {self.path}: {variants} variants x {seeds} seeds"

    def command(self, *words: str) -> str:
        """What a person types to go on with it."""
        return " ".join([how_to_start("sweep"), shlex.quote(str(self.path)), *words])

    @property
    def is_checked(self) -> bool:
        """Whether the options of this very spec have been read, and its folders made."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / _CHECKED).read_text() == self._digest
        return False

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.spec.text.encode()).hexdigest()

    def write(self, configs: Mapping[str, Any] | None) -> None:
        """Make the variants' folders and keep the spec.

        Args:
            configs: of the variants as JSON, by name; None where this was done before.
        """
        if configs is None:
            return
        if any((self.path / name).exists() for name in ("config.json", SEEDS)):
            raise InputError(f"'{self.path}' is a run's folder, allowed: one for the sweep alone")
        for name, config in configs.items():
            (self.path / name).mkdir(exist_ok=True)
            write_seeds(self.path / name, self.spec.seeds, config)
        write_atomically(self.path / SWEEP, self.spec.text)
        write_atomically(self.path / _CHECKED, self._digest)
