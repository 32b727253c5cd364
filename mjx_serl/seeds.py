"""Several seeds of one configuration: runs one after another in one folder, and a table of them.

runs/<task>-<agent>-s<seeds>-<n>/
    seeds.json  seed-0/  seed-1/  ...  compare.png
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mjx_serl.commands import parse_resumed, parse_train, train
from mjx_serl.config import TrainConfig
from mjx_serl.platform import parse_start
from mjx_serl.run.folder import SEEDS, RunFolder, write_seeds
from mjx_serl.run.peers import this_process
from mjx_serl.run.resume import allowed_changes
from mjx_serl.run.run_table import compare_runs
from mjx_serl.run.signals import undo_on_quit
from scenes.contract.errors import InputError
from scenes.contract.serialize import from_json, to_json

_NAMED = 5  # so many seeds are named in a folder's name


def train_command(argv: Sequence[str]) -> int:
    """Do what the command line of train.py says; returns the exit status."""
    start, rest = parse_start(argv)
    if start.resume is not None and (start.resume / SEEDS).is_file():
        group = SeedRuns.open(start.resume)
        return group.resume(parse_resumed(group.cfg, start, argv, rest))
    cfg, resume = parse_train(argv)
    said = {word.split("=", 1)[0] for word in argv}
    if "--seeds" in said and (not start.seeds or "--seed" in said):
        raise InputError("--seeds takes one or more numbers, in place of --seed")
    return SeedRuns.create(cfg, start.seeds).train() if start.seeds else train(cfg, resume)


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """Runs that differ by their seed.

    Attributes:
        path: the folder with one folder for each.
        cfg: of all; its seed is none of theirs.
        seeds: in the order of training.
    """

    path: Path
    cfg: TrainConfig
    seeds: tuple[int, ...]

    @classmethod
    def create(cls, cfg: TrainConfig, seeds: tuple[int, ...]) -> "SeedRuns":
        """Make the folder; raises InputError for seeds that cannot be, or twice the same."""
        if this_process().count > 1:
            raise InputError("--seeds in several processes of one run, allowed: --seed NUMBER")
        if len(set(seeds)) < len(seeds):
            raise InputError(f"--seeds {' '.join(map(str, seeds))}, allowed: each of them once")
        for seed in seeds:
            dataclasses.replace(cfg, seed=seed).check()
        few = len(seeds) <= _NAMED
        named = "_".join(map(str, seeds)) if few else f"{min(seeds)}_to_{max(seeds)}"
        folder = RunFolder.create(
            cfg.run.folder, task=cfg.task, agent=cfg.agent_name, seed=named, name=cfg.run.name
        )
        made = cls(folder.path, cfg, seeds)
        made._write()
        return made

    @classmethod
    def open(cls, path: Path) -> "SeedRuns":
        """Read what `create` made; raises InputError for a damaged file."""
        try:
            data = json.loads((path / SEEDS).read_text())
            seeds = tuple(int(seed) for seed in data.pop("seeds"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path / SEEDS} is damaged: {error}") from error
        return cls(path, from_json(TrainConfig, data), seeds)

    def resume(self, cfg: TrainConfig) -> int:
        """Go on with what is not finished, or with all by options that may change."""
        if allowed_changes(self.cfg, cfg):
            changed = dataclasses.replace(self, cfg=cfg)
            changed._write()
            return changed.train()
        return self.train()

    def train(self) -> int:
        """Train seed after seed and print their table; returns the exit status.

        Ends early after a signal or where a run's end is not on disk.
        """
        with undo_on_quit(self._remove_unused):
            try:
                status = self._train_each()
            finally:
                self._remove_unused()
        begun = [folder for folder in map(self._folder, self.seeds) if folder.has_begun]
        sys.stdout.write(compare_runs(begun, self.path / "compare.png"))
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
        write_seeds(self.path, self.seeds, to_json(self.cfg))

    def _remove_unused(self) -> None:
        """Give the name back where not one run was begun."""
        if [path.name for path in self.path.glob("*")] == [SEEDS]:
            (self.path / SEEDS).unlink()
            self.path.rmdir()
