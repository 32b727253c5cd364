"""One process at a time trains a run: a lock file that says who holds it.

The kernel lets go of the lock when its holder ends, however it ends, so that a lock of this machine
is never stale. Where folders are shared between machines and the kernel's lock is not, the file
says which machine to look at.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from scenes.contract.errors import InputError

LOCK = "lock"  # in the run's folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's lock; InputError, naming the holder, where another process has it."""
    path = folder / LOCK
    with path.open("a+") as file:
        _take(file.fileno(), path)
        file.seek(0)
        _refuse_other_machine(file.read(), path)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            # The file stays: one that is deleted could be locked by some and made anew by others.
            file.truncate(0)


def require_unlocked(folder: Path) -> None:
    """Raise InputError, naming the holder, where a process trains in this folder."""
    path = folder / LOCK
    try:
        with path.open() as file:
            _take(file.fileno(), path)
            _refuse_other_machine(file.read(), path)
    except FileNotFoundError:
        return


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, host = _holder(path.read_text())
        raise InputError(
            f"Process {pid} on {host} is training in '{path.parent}': wait for it, or stop it "
            f"(kill {pid}) and resume then"
        ) from None


def _refuse_other_machine(text: str, path: Path) -> None:
    pid, host = _holder(text)
    if text and host != socket.gethostname():
        raise InputError(
            f"Process {pid} on {host} was training in '{path.parent}' and has not ended it: look "
            f"whether it still runs there; where it does not, delete '{path}' and resume"
        )


def _holder(text: str) -> tuple[str, str]:
    pid, _, host = text.strip().partition(" ")
    return pid or "?", host or "another machine"
