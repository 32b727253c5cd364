"""Several seeds of one configuration: runs in one folder, and a table of them.

They are trained one after another, or together (`mjx_serl.run.together`).

runs/<task>-<agent>-s<seeds>-<n>/
    seeds.json  seed-0/  seed-1/  ...  compare.png
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mjx_serl.commands import open_run, parse_resumed, parse_train, train
from mjx_serl.config import TrainConfig
from mjx_serl.platform import parse_start
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.folder import SEEDS, RunFolder, write_seeds
from mjx_serl.run.loop import Run
from mjx_serl.run.peers import this_process
from mjx_serl.run.resume import allowed_changes
from mjx_serl.run.run_table import compare_runs
from mjx_serl.run.signals import undo_on_quit
from mjx_serl.run.statistics import interquartile_mean, iqm_interval
from mjx_serl.run.together import Together, require_together
from mjx_serl.run.together_console import TogetherConsole
from scenes.contract.command_line import FAILED, how_to_start
from scenes.contract.errors import InputError
from scenes.contract.serialize import from_json, to_json

_NAMED = 5  # so many seeds are named in a folder's name


def train_command(argv: Sequence[str]) -> int:
    """Do what the command line of train.py says; returns the exit status."""
    start, rest = parse_start(argv)
    said = {word.split("=", 1)[0] for word in argv}
    if start.resume is not None and (start.resume / SEEDS).is_file():
        group = SeedRuns.open(start.resume)
        if start.together:
            group = dataclasses.replace(group, together=True)
        return group.resume(parse_resumed(group.cfg, start, argv, rest))
    if start.together and not start.seeds:
        raise InputError("--together without seeds, allowed: with --seeds 0 1 2")
    cfg, resume = parse_train(argv)
    if "--seeds" in said and (not start.seeds or "--seed" in said):
        raise InputError("--seeds takes one or more numbers, in place of --seed")
    if not start.seeds:
        return train(cfg, resume)
    return SeedRuns.create(cfg, start.seeds, together=start.together).train()


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """Runs that differ by their seed.

    Attributes:
        path: the folder with one folder for each.
        cfg: of all; its seed is none of theirs.
        seeds: in the order of training.
        together: they are trained at the same time.
    """

    path: Path
    cfg: TrainConfig
    seeds: tuple[int, ...]
    together: bool = False

    @classmethod
    def create(
        cls, cfg: TrainConfig, seeds: tuple[int, ...], *, together: bool = False
    ) -> "SeedRuns":
        """Make the folder; raises InputError for seeds that cannot be, or twice the same."""
        if this_process().count > 1:
            raise InputError("--seeds in several processes of one run, allowed: --seed NUMBER")
        if len(set(seeds)) < len(seeds):
            raise InputError(f"--seeds {' '.join(map(str, seeds))}, allowed: each of them once")
        for seed in seeds:
            dataclasses.replace(cfg, seed=seed).check()
        if together:
            require_together(cfg)
        few = len(seeds) <= _NAMED
        named = "_".join(map(str, seeds)) if few else f"{min(seeds)}_to_{max(seeds)}"
        folder = RunFolder.create(
            cfg.run.folder, task=cfg.task, agent=cfg.agent_name, seed=named, name=cfg.run.name
        )
        made = cls(folder.path, cfg, seeds, together)
        made._write()
        return made

    @classmethod
    def open(cls, path: Path) -> "SeedRuns":
        """Read what `create` made; raises InputError for a damaged file."""
        try:
            data = json.loads((path / SEEDS).read_text())
            seeds = tuple(int(seed) for seed in data.pop("seeds"))
            together = bool(data.pop("together", False))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path / SEEDS} is damaged: {error}") from error
        return cls(path, from_json(TrainConfig, data), seeds, together)

    def resume(self, cfg: TrainConfig) -> int:
        """Go on with what is not finished, or with all by options that may change."""
        allowed_changes(self.cfg, cfg)
        changed = dataclasses.replace(self, cfg=cfg)
        if self.together:
            require_together(cfg)
        changed._write()
        return changed.train()

    def train(self) -> int:
        """Train all seeds and print their table; returns the exit status.

        Ends early after a signal or where a run's end is not on disk.
        """
        with undo_on_quit(self._remove_unused):
            try:
                status = self._train_together() if self.together else self._train_each()
            finally:
                self._remove_unused()
        begun = [folder for folder in map(self._folder, self.seeds) if folder.has_begun]
        sys.stdout.write(compare_runs(begun, self.path / "compare.png"))
        sys.stdout.write(_over_seeds([folder for folder in begun if folder.is_finished]))
        return status

    def _train_each(self) -> int:
        for number, seed in enumerate(self.seeds, start=1):
            folder = self._folder(seed)
            begun = folder.has_begun
            cfg = self._goes_on(folder) if begun else self._begins(folder, seed)
            if folder.is_finished and folder.read_config(TrainConfig) == cfg:
                continue
            sys.stdout.write(f"seed {seed}, {number} of {len(self.seeds)}\n")
            status = train(cfg, folder.path if begun else None)
            if status or not folder.is_finished:
                return status
        return 0

    def _train_together(self) -> int:
        todo = {}
        for seed in self.seeds:
            folder = self._folder(seed)
            cfg = self._goes_on(folder) if folder.has_begun else self._begins(folder, seed)
            if not folder.is_finished or folder.read_config(TrainConfig) != cfg:
                todo[folder] = cfg
        if not todo:
            return 0
        console = TogetherConsole([cfg.seed for cfg in todo.values()])
        go_on = f"{how_to_start('train')} --resume {self.path}"
        with contextlib.ExitStack() as held:
            runs: list[Run] = []
            resumed = []
            for folder, cfg in todo.items():
                resumed.append(folder.has_begun)
                opened = open_run(
                    cfg,
                    folder.path if folder.has_begun else None,
                    console=console.hook(cfg.seed),
                    like=runs[0] if runs else None,
                )
                runs.append(held.enter_context(opened))
            together = Together(runs, resumed=resumed, places=len(self.seeds))
            held.callback(console.close)
            finished = together.train(go_on)
        for run in runs:
            if not run.saved:
                warn_line(f"{run.folder.path}: epoch {run.progress.epoch} is not on disk")
        if all(run.saved for run in runs) and not finished:
            sys.stdout.write(f"Stopped and saved. Go on with:\n  {go_on}\n")
        return 0 if all(run.saved for run in runs) else FAILED

    def _begins(self, folder: RunFolder, seed: int) -> TrainConfig:
        where = dataclasses.replace(self.cfg.run, folder=self.path, name=folder.path.name)
        return dataclasses.replace(self.cfg, seed=seed, run=where)

    def _goes_on(self, folder: RunFolder) -> TrainConfig:
        """The config of a run on disk, with what may change as it is for all."""
        own = folder.read_config(TrainConfig)
        where = dataclasses.replace(self.cfg.run, folder=own.run.folder, name=own.run.name)
        free = {
            name: getattr(self.cfg, name) for name in ("total_env_steps", "total_updates", "eval")
        }
        return dataclasses.replace(own, **free, run=where)

    def _folder(self, seed: int) -> RunFolder:
        return RunFolder(self.path / f"seed-{seed}")

    def _write(self) -> None:
        write_seeds(self.path, self.seeds, to_json(self.cfg), together=self.together)

    def _remove_unused(self) -> None:
        """Give the name back where not one run was begun."""
        if [path.name for path in self.path.glob("*")] == [SEEDS]:
            (self.path / SEEDS).unlink()
            self.path.rmdir()


def _over_seeds(finished: Sequence[RunFolder]) -> str:
    """What finished runs came to together: a line, "" of less than two."""
    rows = [folder.read_metrics()[-1] for folder in finished]
    if len(rows) < 2:
        return ""
    success = np.array([row["success_rate"] for row in rows])
    low, high = iqm_interval([success])
    return (
        f"success of {len(rows)} seeds: interquartile mean {interquartile_mean(success):.1%}, 95% "
        f"interval {low:.1%} to {high:.1%}\n"
    )
