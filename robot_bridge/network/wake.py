"""A way to wake a thread that polls sockets."""

import os
import threading


class Wake:
    """Wakes a thread that polls: a descriptor that other threads make readable, without waiting."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """For poll."""
        return self._descriptor

    def set(self) -> None:
        """Make it readable; nothing after `close`."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Make it unreadable."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Let go of the descriptor."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1
