"""Demonstrations of a person in one file, which holds every episode as soon as it is over."""

from pathlib import Path

import jax
import numpy as np

from mjx_serl.data.demos import load_demos, save_demos
from mjx_serl.types import Transition
from scenes.contract.demonstrations import DemoContract, check_new


class DemoFile:
    """Solved episodes on disk; a file that is there is gone on with.

    Args:
        path: of the .npz file.
        contract: of the task.

    Raises what `load_demos` does for a file that does not fit the task, and OSError where none can
    be written.
    """

    def __init__(self, path: Path, contract: DemoContract) -> None:
        self.path, self._contract = path, contract
        self._episodes: list[Transition] = []  # [T, 1, ...]
        if path.exists():
            kept = load_demos(path, contract)
            columns = range(kept.reward.shape[1])
            self._episodes = [_shortened(_column(kept, i)) for i in columns]
        else:
            check_new(path)

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return sum(len(episode.reward) for episode in self._episodes)

    def append(self, rows: Transition) -> None:
        """Keep an episode, rows [T, 1, ...]; extras are not written."""
        self._episodes.append(rows.replace(extras={}))
        self._write()

    def take_back(self) -> bool:
        """Drop the last episode; returns whether there was one."""
        if not self._episodes:
            return False
        self._episodes.pop()
        self._write()
        return True

    def _write(self) -> None:
        """Replace the file by one of all episodes, whatever happens meanwhile."""
        if not self._episodes:
            self.path.unlink(missing_ok=True)
            return
        longest = max(len(episode.reward) for episode in self._episodes)
        rows = jax.tree.map(
            lambda *columns: np.concatenate([_filled(x, longest) for x in columns], axis=1),
            *self._episodes,
        )
        save_demos(self.path, rows, self._contract, overwrite=True)


def _column(rows: Transition, index: int) -> Transition:
    return jax.tree.map(lambda x: np.asarray(x)[:, index : index + 1], rows)


def _shortened(rows: Transition) -> Transition:
    """An episode without the rows after its end."""
    over = np.flatnonzero((rows.terminated | rows.truncated)[:, 0])
    length = int(over[0]) + 1 if len(over) else len(rows.reward)
    return jax.tree.map(lambda x: x[:length], rows)


def _filled(x: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)])
