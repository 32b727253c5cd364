"""The run that several processes train: how each begins or goes on, and what they print."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mjx_serl.platform import parse_start
from mjx_serl.run.folder import RunFolder
from scenes.contract.errors import InputError

_FOLDER, _NAME = "--run.folder", "--run.name"


@dataclass(frozen=True)
class LaunchedRun:
    """A run with a name that is known before it begins.

    Attributes:
        folder: where it is kept.
        begins: words of train.py that begin it; () where it only goes on.
    """

    folder: RunFolder
    begins: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, words: Sequence[str]) -> "LaunchedRun":
        """Read words of train.py; without a name the run gets one by the time of day.

        Raises InputError for several seeds, FileNotFoundError for a run to resume that is none.
        """
        start, _ = parse_start(words)
        if start.seeds:
            raise InputError("--seeds with several processes for one run, allowed: --seed NUMBER")
        if start.resume is not None:
            return cls(RunFolder.open(start.resume))
        root, name = _said(words, _FOLDER) or "runs", _said(words, _NAME)
        if name:
            return cls(RunFolder(Path(root) / name), tuple(words))
        name = _by_time()
        return cls(RunFolder(Path(root) / name), (*words, f"{_NAME}={name}"))

    def words(self) -> list[str]:
        """What train.py is told, so that the run begins or goes on from its last checkpoint."""
        if self.folder.has_begun:
            return [f"--resume={self.folder.path}"]
        # A process that was killed may have made it and not written its config.
        with contextlib.suppress(OSError):
            self.folder.path.rmdir()
        return list(self.begins)

    def last_saved(self) -> int:
        """Epoch of the newest checkpoint, -1 without any."""
        steps = [int(path.name) for path in self.folder.checkpoints.glob("[0-9]*")]
        return max(steps, default=-1)

    def log(self, rank: int) -> Path:
        """What a process printed: beside the run's folder until it trains, then inside.

        A run that fails before gives its name back, and its folder with all that is in it.
        """
        name = f"rank-{rank}.log"
        early = self._early / name
        inside = self.folder.path / name
        if inside.exists():  # asked for many times a second
            return inside
        if self.folder.has_trained:
            if early.exists():
                # Who writes to it goes on writing.
                early.replace(inside)
                with contextlib.suppress(OSError):
                    self._early.rmdir()
            return inside
        self._early.mkdir(parents=True, exist_ok=True)
        return early

    @property
    def _early(self) -> Path:
        return self.folder.path.with_name(f"{self.folder.path.name}.ranks")


def _said(words: Sequence[str], option: str) -> str:
    for word, after in zip(words, [*words, ""][1:], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _by_time() -> str:
    return f"run-{time.strftime('%Y%m%d-%H%M%S')}"
