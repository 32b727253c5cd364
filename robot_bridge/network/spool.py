"""What an actor has for its learner, on disk until the learner has it on its own.

    <folder>/run             nonce under which the batches are numbered
    <folder>/000000000007    one batch, as it is sent

A batch is a file of its own that appears by one rename, so that a killed process leaves a whole
batch or none; the next process on the folder sends what is left under the same numbers.
"""

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from scenes.contract.errors import InputError
from scenes.contract.files import remove_unfinished, write_atomically

_RUN, _LOCK = "run", "lock"
_NONCE = 8  # [bytes]
MOST_BYTES = 4 << 30  # of all batches; 200 transitions/s of two 128 px pictures for 3.6 minutes


class Spool:
    """Numbered batches, the oldest first.

    Attributes:
        run: nonce of this numbering.

    Args:
        folder: where they are kept, made if it is not there; None keeps them in memory.
        capacity: batches that are kept at most.
        most_bytes: of all of them.

    Raises InputError where another process uses the folder, OSError where it cannot be written.
    """

    def __init__(
        self, folder: Path | None = None, *, capacity: int = 4096, most_bytes: int = MOST_BYTES
    ) -> None:
        self._folder, self._capacity, self._most = folder, capacity, most_bytes
        self._memory: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}  # in order
        self._lock = None if folder is None else _locked(folder)
        try:
            if folder is not None:
                remove_unfinished(folder)  # they would take a full disk's room for ever
                self._sizes = _batches(folder)
            self.run = self._nonce()
        except BaseException:
            self.close()
            raise
        self._next = max(self._sizes, default=-1) + 1

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def ids(self) -> list[int]:
        """Numbers of the batches that are kept."""
        return list(self._sizes)

    @property
    def first(self) -> int:
        """Number of the oldest batch, or of the next where there is none."""
        return next(iter(self._sizes), self._next)

    @property
    def last(self) -> int:
        """Number of the newest batch there has been, -1 before the first."""
        return self._next - 1

    def add(self, write: Callable[[bytes, int], bytes]) -> bool:
        """Keep one more batch, which `write(run, number)` makes; False where there is no room.

        Raises what `write` does, and OSError where the disk does not take it.
        """
        data = write(self.run, self._next)
        if len(self) >= self._capacity or sum(self._sizes.values()) + len(data) > self._most:
            return False
        if self._folder is None:
            self._memory[self._next] = data
        else:
            write_atomically(self._path(self._next), data)
        self._sizes[self._next] = len(data)
        self._next += 1
        return True

    def read(self, number: int) -> bytes:
        """A batch that is kept."""
        return self._memory[number] if self._folder is None else self._path(number).read_bytes()

    def drop(self, upto: int) -> None:
        """Forget all batches up to a number: the learner has them on its disk."""
        for number in [n for n in self._sizes if n <= upto]:
            if self._folder is None:
                del self._memory[number]
            else:
                self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.close()

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:012d}"

    def _nonce(self) -> bytes:
        """That of the batches on disk; a fresh one where there are none to go on with."""
        path = None if self._folder is None else self._folder / _RUN
        if path is not None and self._sizes:
            found = path.read_bytes() if path.is_file() else b""
            if len(found) != _NONCE:
                raise InputError(f"{path} is damaged; move the folder away to begin another")
            return found
        nonce = secrets.token_bytes(_NONCE)
        if path is not None:
            write_atomically(path, nonce)
        return nonce


def _locked(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (folder / _LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(f"Another actor uses {folder}; allowed: a folder of its own") from None
    return file


def _batches(folder: Path) -> dict[int, int]:
    """Sizes by number, in order."""
    found = [entry for entry in os.scandir(folder) if entry.name.isdecimal()]
    return {int(e.name): e.stat().st_size for e in sorted(found, key=lambda e: e.name)}
