"""Who armed what, when, and every fault: one JSON line each, always, whether or not one records."""

import getpass
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from robot_bridge.clock import Clock

_log = logging.getLogger(__name__)


class AuditLog:
    """Appends to a file; what cannot be written is logged and costs nothing else.

    Args:
        path: of the file, None to note nothing.
        clock: for the wall time.
        facts: in every line, for example the bundle's digest and the arm's serial.
    """

    def __init__(self, path: Path | None, clock: Clock, facts: Mapping[str, str]) -> None:
        self._path, self._clock, self._facts = path, clock, dict(facts)

    def note(self, event: str, **facts: str) -> None:
        """Write that something happened."""
        if self._path is None:
            return
        line = {"wall": self._clock.wall(), "event": event, **self._facts, **facts}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            file = os.open(self._path, flags, 0o600)
            try:
                os.write(file, (json.dumps(line) + "\n").encode())
            finally:
                os.close(file)
        except OSError as error:
            _log.warning("The audit log '%s' was not written: %s", self._path, error)


def person() -> str:
    """Name of the user at this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
