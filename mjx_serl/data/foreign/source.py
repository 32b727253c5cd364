"""What is read of another project's demonstrations, whatever their format."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.demonstrations import DemoContract
from scenes.contract.errors import InputError

Columns = Mapping[str, NDArray[Any]]
ACTION = "action"  # what the column of actions is called, whatever the format calls it
MOST_BYTES = 4 << 30  # of all arrays of a file together, as of our own files [bytes]


@dataclasses.dataclass(frozen=True)
class Column:
    """An array that there is one of per step.

    Attributes:
        shape: of one step's.
        dtype: numpy's name.
        names: of its entries, where the file says them.
    """

    shape: tuple[int, ...]
    dtype: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Column":
        """That of arrays of one step."""
        return cls(array.shape, str(array.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignEpisode:
    """Steps that follow each other.

    Attributes:
        columns: arrays [T, ...].
        reward: of each step; None where the file has none.
        solved: the last step ends the return; otherwise it was cut off there.
        expert: where a person or an expert acted; None everywhere.
        task: what was done, in words; "" where the file does not say.
    """

    columns: Columns
    reward: NDArray[np.float32] | None
    solved: bool
    expert: NDArray[np.bool_] | None = None
    task: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """Another project's demonstrations, opened.

    Attributes:
        path: of the file or folder.
        kind: what it is, for people.
        columns: what each step has, by name; "action" is the action.
        episodes: reads them, with the columns named.
        rate: steps per second [Hz]; None where the file does not say.
        contract: of a file of ours, which says what its actions mean; None of any other.
        notes: fills with what was decided while reading, for people.
    """

    path: Path
    kind: str
    columns: Mapping[str, Column]
    episodes: Callable[[frozenset[str]], Iterable[ForeignEpisode]]
    rate: float | None = None
    contract: DemoContract | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


class Budget:
    """Bytes that a file may still take in memory."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path, self._most = path, MOST_BYTES if most is None else most
        self._left = self._most

    def take(self, count: int) -> None:
        """Count bytes before they are read; InputError where there would be too many."""
        self._left -= count
        if self._left < 0:
            raise InputError(f"{self._path} holds more than {self._most} bytes of arrays, allowed")


def until_solved(reward: NDArray[Any], done: NDArray[Any]) -> int | None:
    """How many steps there are up to the first that is paid and ends; None where none does."""
    ends = np.flatnonzero((np.asarray(done) > 0) & (np.asarray(reward) > 0))
    return int(ends[0]) + 1 if len(ends) else None
