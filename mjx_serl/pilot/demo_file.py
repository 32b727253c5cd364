"""Demonstrations of a person in one file, which holds every episode as soon as it is over."""

from pathlib import Path

import numpy as np

from mjx_serl.data.demos import demo_arrays
from mjx_serl.types import Transition
from scenes.contract.demonstrations import (
    Arrays,
    DemoContract,
    check_new,
    read_demonstrations,
    stack_episodes,
    write_demonstrations,
)


class DemoFile:
    """Solved episodes on disk; a file that is there is gone on with.

    Args:
        path: of the .npz file.
        contract: of the task.

    Raises what `read_demonstrations` does for a file that does not fit the task, and OSError where
    none can be written.
    """

    def __init__(self, path: Path, contract: DemoContract) -> None:
        self.path, self._contract = path, contract
        self._episodes: list[Arrays] = []  # [T, ...]
        if path.exists():
            kept = read_demonstrations(path, contract)
            self._episodes = [_episode(kept, i) for i in range(kept["reward"].shape[1])]
        else:
            check_new(path)

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return sum(len(episode["reward"]) for episode in self._episodes)

    def append(self, rows: Transition) -> None:
        """Keep an episode, rows [T, 1, ...]; extras are not written."""
        self._episodes.append(_episode(demo_arrays(rows, self._contract), 0))
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
        arrays = stack_episodes(self._episodes)
        write_demonstrations(self.path, arrays, self._contract, overwrite=True)


def _episode(arrays: Arrays, column: int) -> Arrays:
    """One of several episodes, without the rows after its end."""
    over = np.flatnonzero((arrays["terminated"] | arrays["truncated"])[:, column])
    length = int(over[0]) + 1 if len(over) else len(arrays["reward"])
    return {name: x[:length, column] for name, x in arrays.items()}
