"""What slow links need so that nothing waits for them: the newest reading, the latest job."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from robot_bridge.driver import DriverError

T = TypeVar("T")
_POLL = 0.005  # [s]


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """Something that was read again and again.

    Attributes:
        value: what was read.
        t: when it first differed from the one before [s].
        seq: counts such changes.
    """

    value: T
    t: float
    seq: int


class Poller(Generic[T]):
    """Reads a source over and over on a thread of its own and keeps the newest.

    Args:
        read: waits for a reading, or raises; None is no reading.
        key: tells readings apart, for example the robot's own time, so that a frozen source is
            seen; None counts every reading as new.
        period: pause after each reading [s].
        patience: for how long reading may fail before the source counts as lost [s].
    """

    def __init__(
        self,
        read: Callable[[], T | None],
        *,
        key: Callable[[T], object] | None = None,
        period: float,
        patience: float = 0.0,
    ) -> None:
        self._read, self._key = read, key
        self._period, self._patience = period, patience
        self._newest: Reading[T] | None = None
        self._lost = ""
        self._closing = threading.Event()
        self._some = threading.Event()
        self._keeping = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def first(self, timeout: float) -> Reading[T]:
        """Wait for the first reading, at most `timeout` [s]; DriverError."""
        self._some.wait(timeout)
        return self.newest()

    def newest(self) -> Reading[T]:
        """Return the newest reading; DriverError where the source is lost or was never there."""
        if self._lost:
            raise DriverError(self._lost)
        if self._newest is None:
            raise DriverError("No state has come yet; is the robot switched on and connected?")
        return self._newest

    def refresh(self) -> None:
        """Read in the caller's thread too, where that is known not to wait."""
        with contextlib.suppress(Exception):  # the thread's next reading says what is wrong
            value = self._read()
            if value is not None:
                self._keep(value, time.monotonic())

    def close(self, timeout: float = 2.0) -> None:
        """Stop reading; waits for a reading under way, at most `timeout` [s]."""
        self._closing.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        alive = time.monotonic()
        while not self._closing.wait(self._period):
            try:
                value = self._read()
            except Exception as error:  # whatever a vendor's library raises: the link is in doubt
                if time.monotonic() - alive >= self._patience:
                    self._lost = f"The link is lost: {_one_line(error)}"
                    self._some.set()
                    return
                continue
            alive = time.monotonic()
            if value is not None:
                self._keep(value, alive)

    def _keep(self, value: T, now: float) -> None:
        with self._keeping:
            last = self._newest
            if last is None or self._key is None or self._key(value) != self._key(last.value):
                self._newest = Reading(value, now, 0 if last is None else last.seq + 1)
                self._some.set()


class Worker:
    """Does jobs one after the other on a thread of its own; one that waits is replaced by a newer.

    error: what the last job to end raised, "" where it did not.
    """

    def __init__(self) -> None:
        self.error = ""
        self._next: Callable[[], object] | None = None
        self._busy = False
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    @property
    def overtaken(self) -> bool:
        """Whether a job is being done while a newer one waits."""
        return self._busy and self._next is not None

    def put(self, job: Callable[[], object]) -> None:
        """Ask for a job; returns at once."""
        with self._changed:
            self._next = job
            self._changed.notify()

    def close(self, timeout: float = 2.0, *, drain: bool = False) -> None:
        """Finish what is being done, drop what waits unless `drain`; at most `timeout` [s]."""
        with self._changed:
            self._open = False
            self._next = self._next if drain else None
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._take()) is not None:
            try:
                job()
                self.error = ""
            except Exception as error:  # whatever a vendor's library raises: it is reported
                self.error = _one_line(error)
            finally:
                self._busy = False

    def _take(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._next is not None or not self._open)
            job, self._next = self._next, None
            self._busy = job is not None
            return job


def wait_for(condition: Callable[[], bool], seconds: float, *, complaint: str) -> None:
    """Return once the condition holds; DriverError(complaint) when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DriverError(complaint)
        time.sleep(_POLL)


def within(seconds: float, call: Callable[[], T], *, what: str) -> T:
    """Return what `call` returns or raises; DriverError if it takes longer than `seconds`.

    For libraries that wait for ever on a peer that accepts and then says nothing.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise DriverError(
            f"Cannot {what}: no answer in {seconds:g} s; is another client connected?"
        )
    return outcome[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
