"""Demonstrations of a person in one file, which holds every episode as soon as it is over."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mjx_serl.data.demos import demo_arrays
from mjx_serl.types import Transition
from scenes.contract.demonstrations import (
    STATE,
    Arrays,
    DemoContract,
    check_new,
    load_demonstrations,
    read_demonstrations,
    stack_episodes,
    write_demonstrations,
)


class KeptEpisode(NamedTuple):
    """What is told of an episode.

    Attributes:
        key: by which it is asked for, which stays while others come and go.
        steps: how many.
        total: sum of its rewards.
    """

    key: int
    steps: int
    total: float


class DemoFile:
    """Episodes on disk; a file that is there is gone on with.

    Attributes:
        path: of the .npz file.
        contract: what the file says of itself; of states, where there are any in it.

    Args:
        path: see above.
        contract: of the task; None is the file's own, and the file must be there.

    Raises what `read_demonstrations` does for a file that does not fit the task, and OSError where
    none can be written.
    """

    def __init__(self, path: Path, contract: DemoContract | None = None) -> None:
        self.path = path
        self._episodes: dict[int, Arrays] = {}  # [T, ...]
        if contract is not None and not path.exists():
            check_new(path)
            self.contract = contract
        else:
            kept, self.contract = _read(path, contract)
            columns = range(kept["reward"].shape[1])
            self._episodes = {column + 1: _episode(kept, column) for column in columns}
        self._key = len(self._episodes)  # the last that was given

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return sum(len(episode["reward"]) for episode in self._episodes.values())

    @property
    def episodes(self) -> tuple[KeptEpisode, ...]:
        """All of them, in the file's order."""
        return tuple(
            KeptEpisode(key, len(arrays["reward"]), float(arrays["reward"].sum()))
            for key, arrays in self._episodes.items()
        )

    def arrays(self, key: int) -> Arrays | None:
        """The arrays [T, ...] of an episode by the names of the format; None where it is gone."""
        return self._episodes.get(key)

    def append(self, rows: Transition) -> None:
        """Keep an episode, rows [T, 1, ...]; of extras what the contract calls states."""
        self._key += 1
        self._episodes[self._key] = _episode(demo_arrays(rows, self.contract), 0)
        self._write()

    def delete(self, *keys: int) -> int:
        """Drop episodes; returns how many of them there were."""
        gone = [key for key in keys if self._episodes.pop(key, None) is not None]
        if gone:
            self._write()
        return len(gone)

    def take_back(self) -> bool:
        """Drop the last episode; returns whether there was one."""
        return bool(self._episodes) and self.delete(next(reversed(self._episodes))) == 1

    def _write(self) -> None:
        """Replace the file by one of all episodes, whatever happens meanwhile."""
        if not self._episodes:
            self.path.unlink(missing_ok=True)
            return
        arrays = stack_episodes(list(self._episodes.values()))
        write_demonstrations(self.path, arrays, self.contract, overwrite=True)


def _read(path: Path, contract: DemoContract | None) -> tuple[Arrays, DemoContract]:
    """The arrays [T, M, ...] of a file, and the contract that it goes on by."""
    if contract is None:
        return load_demonstrations(path, states=True)
    arrays = read_demonstrations(path, contract, states=bool(contract.states))
    # A file without states goes on without.
    if not any(name.startswith(STATE) for name in arrays):
        contract = dataclasses.replace(contract, states=(), scene="")
    return arrays, contract


def _episode(arrays: Arrays, column: int) -> Arrays:
    """One of several episodes, without the rows after its end."""
    over = np.flatnonzero((arrays["terminated"] | arrays["truncated"])[:, column])
    length = int(over[0]) + 1 if len(over) else len(arrays["reward"])
    return {name: x[:length, column] for name, x in arrays.items()}
