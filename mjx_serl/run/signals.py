"""Ctrl-C and SIGTERM, from the first line of a script to its last.

While there is something to finish, the first asks for it and the second ends the process now
(`StopSignal`); before and after, where everything is on disk, the first does (`QuitSignal`).
Python's own way, an exception in the main thread, is swallowed by what is imported or compiled.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

_NOTE = "Stopping: what is running is finished and saved first. Once more to quit at once."
_SHOW_CURSOR = b"\x1b[?25h\n"
_undoing: list[Callable[[], object]] = []


def note_stop(resume: str = "") -> None:
    """Say on stderr what the first signal does, and the command that goes on with the run."""
    # On the thread, not in a handler: ordinary writing is safe and goes above a live panel.
    later = f"It goes on with: {resume}\n" if resume else ""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"\n{_NOTE}\n{later}")
        sys.stderr.flush()


class StopSignal:
    """Context manager; `requested` turns true at the first SIGINT or SIGTERM.

    The second one ends the process at once with 128 + signal number, even while the main thread
    waits in a compiled call, where Python runs no signal handler: a thread reads the signals
    from the wake-up descriptor that C writes to. Off the main thread nothing is changed: signals
    are then the business of whoever runs that.
    """

    def __init__(
        self,
        *,
        on_first: Callable[[], None] | None = None,
        on_second: Callable[[], None] | None = None,
    ) -> None:
        self._event = threading.Event()
        self._on_second = on_second
        self._on_first = on_first or note_stop
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """True once a stop was asked for."""
        return self._event.is_set()

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ignore)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop-signal", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._previous:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._writer.close()

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """Python must own a handler for the wake-up descriptor to be written."""

    def _watch(self) -> None:
        with self._reader:
            while number := self._reader.recv(1):
                if number[0] in self._previous:
                    self._signalled(number[0])

    def _signalled(self, number: int) -> None:
        if self.requested:
            if self._on_second is not None:
                self._on_second()
            self._quit(number)
        self._event.set()
        self._on_first()

    def _quit(self, number: int) -> None:
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os._exit(128 + number)


class QuitSignal(StopSignal):
    """Context manager in which the first SIGINT or SIGTERM ends the process at once.

    With 128 + signal number, after the functions of every `undo_on_quit` that the main thread is
    in, whatever it is doing.
    """

    def _signalled(self, number: int) -> None:
        for undo in reversed(_undoing):
            with contextlib.suppress(Exception):  # nothing may keep the process from ending
                undo()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("\nInterrupted.\n")
            sys.stderr.flush()
        self._quit(number)


@contextlib.contextmanager
def undo_on_quit(undo: Callable[[], object]) -> Iterator[None]:
    """Inside, `QuitSignal` calls a function, on another thread, before it ends the process."""
    _undoing.append(undo)
    try:
        yield
    finally:
        _undoing.remove(undo)
