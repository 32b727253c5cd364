"""What takes long is named when it begins, with the seconds of the last time, and while it runs."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scenes.contract.files import write_atomically

_EVERY_S = 10.0  # of silence
_SHORT_S = 1.0  # what takes less is not worth remembering
_MOST = 500  # durations kept


class Durations:
    """How long things took the last time, by name; kept beside the compiled programs.

    A compiled program that is found again takes a fraction of the first time: the last time is the
    better guess. Without such a folder nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / "durations.json" if folder and folder.is_dir() else None
        self._seconds: dict[str, float] = {}
        if self._file is not None:
            # What cannot be read is as good as none.
            with suppress(OSError, ValueError, AttributeError):
                read = json.loads(self._file.read_text())
                self._seconds = {str(name): float(value) for name, value in read.items()}

    def last(self, name: str) -> float | None:
        """Seconds that it took the last time, None where that is not known."""
        return self._seconds.get(name)

    def remember(self, name: str, seconds: float) -> None:
        """Keep the seconds that it took; a full disk loses them."""
        if self._file is None or seconds < _SHORT_S:
            return
        self._seconds.pop(name, None)
        self._seconds[name] = round(seconds, 1)
        newest = dict(list(self._seconds.items())[-_MOST:])
        with suppress(OSError):
            write_atomically(self._file, json.dumps(newest, indent=0))


def cached_durations() -> Durations:
    """Those beside this process's compiled programs."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Durations(Path(folder) if folder else None)


class Activity:
    """What a run is doing. While anything is, a thread names every few seconds what still is.

    Args:
        begin: takes the line that something begins.
        wait: takes what still runs, from another thread.
        durations: of things that have run before.
        key: what durations depend on besides the name of what is done.
        every: time between two words about the same thing [s].
    """

    def __init__(
        self,
        begin: Callable[[str], None],
        wait: Callable[[str], None],
        durations: Durations,
        *,
        key: str = "",
        every: float = _EVERY_S,
    ) -> None:
        self._begin, self._wait = begin, wait
        self._durations, self._key, self._every = durations, key, every
        self._running: dict[str, float] = {}
        self._lock = threading.Lock()
        self._inside = 0
        self._over = threading.Event()

    def announce(self, what: str, *, usually: str = "") -> None:
        """Say what begins; the longest of what is done in it says how long it took.

        Args:
            what: one or several names, as given to `doing`, with commas between them.
            usually: said where the last time is not known.
        """
        known = [self._durations.last(self._named(name)) for name in what.split(", ")]
        seconds = max((last for last in known if last is not None), default=None)
        note = usually if seconds is None else f"{seconds:.0f} s the last time"
        self._begin(f"{what} ({note})" if note else what)

    @contextmanager
    def doing(self, what: str, *, remembered: bool = False) -> Iterator[None]:
        """Watch what is done inside, which may be several things at once."""
        began = time.monotonic()
        with self:
            self._running[what] = began
            try:
                yield
            finally:
                self._running.pop(what, None)
        if remembered:
            self._durations.remember(self._named(what), time.monotonic() - began)

    def __enter__(self) -> "Activity":
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._over = threading.Event()
                watch = threading.Thread(
                    target=self._watch, args=(self._over,), name="activity", daemon=True
                )
                watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._over.set()

    def _named(self, what: str) -> str:
        return f"{self._key} {what}".strip()

    def _watch(self, over: threading.Event) -> None:
        spoken = 0.0
        while not over.wait(self._every / 10):
            now = time.monotonic()
            # Copied: others begin and end things meanwhile.
            long = [(t, what) for what, t in list(self._running.items()) if now - t >= self._every]
            if long and now - spoken >= self._every:
                spoken = now
                names = ", ".join(what for _, what in sorted(long))
                self._wait(f"{names}, {now - min(long)[0]:.0f} s")
