"""Everything that happened, on disk: append-only, crash-safe, and never in the way of control.

`Recorder.put` hands a tick to a thread and returns at once. A recording is a folder of parts; a
part is a run of framed records, each `<length u32> <crc32 u32> <msgpack>` (little-endian), the
first of which says what everything is: digests of bundle, contract and limits, robot, versions.
Whatever happens to the process, all complete records can be read back by
`robot_bridge.records.reader`.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import logging
import os
import platform
import queue
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.messages import Tick
from scenes.contract.extras import require

MAGIC = b"MJXSERL-RECORD\n"
FORMAT = 1
FRAME = struct.Struct("<II")
# Arrays that may be written and read: numbers only, never objects.
KINDS = "biuf"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordHeader:
    """What a recording is of; the first record of each part.

    Digests are those of `scenes.contract.serialize.digest`.

    Attributes:
        bundle: digest.
        contract: digest.
        limits: digest.
        robot: of the contract.
        rate: actions per second [Hz].
        driver: class of the driver.
        serial: as `ArmInfo` says it.
        firmware: as `ArmInfo` says it.
        task: name of the policy's task.
        versions: of what ran.
        started: time since the epoch [s].
        prompt: what the policy was told in words; "" of one that reads none.
    """

    bundle: str
    contract: str
    limits: str
    robot: str
    rate: float
    driver: str = ""
    serial: str = ""
    firmware: str = ""
    task: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    started: float = 0.0
    prompt: str = ""


def new_session(root: Path, robot: str, *, wall: float | None = None) -> Path:
    """Make and return the folder `<root>/<date>-<robot>-<n>` for a new recording.

    Args:
        root: where recordings lie; made if it is not there.
        robot: its name; what cannot be in a file's name is replaced.
        wall: time since the epoch [s], None for now; the date is UTC.
    """
    moment = datetime.datetime.fromtimestamp(time.time() if wall is None else wall, datetime.UTC)
    stem = f"{moment:%Y-%m-%d}-{re.sub(r'[^A-Za-z0-9_.]+', '_', robot)}"
    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        path = root / f"{stem}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{root} holds 99999 recordings of {stem}; move some away")


def running_versions() -> dict[str, str]:
    """Versions of Python and of the packages that move an arm, those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("mjx-serl", "numpy", "onnxruntime", "franky-control", "franka-rs", "piper-sdk"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Recorder:
    """Writes ticks, observations and events into a folder.

    A full queue or disk costs records, never time: they are counted, and the loss itself is
    recorded as soon as it can be. Arrays are not copied: nobody may write to them afterwards.

    Args:
        path: folder, from `new_session`; made if it is not there. Parts that are there stay.
        header: what is recorded.
        capacity: records that may wait for the disk.
        part_bytes: size at which the next part is begun [bytes].
        sync_every: how often the disk is told to make sure [s]; what a power cut may cost.
        clock: for the times of events.
    """

    def __init__(
        self,
        path: Path,
        header: RecordHeader,
        *,
        capacity: int = 2048,
        part_bytes: int = 256 << 20,
        sync_every: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path)
        self._clock = clock or MonotonicClock()
        self._parts = _PartWriter(self.path, header, part_bytes=part_bytes, sync_every=sync_every)
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._capacity = capacity
        self._overflowed = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records lost so far: to a full queue, a full disk, or because they cannot be written."""
        return self._overflowed + self._parts.lost

    @property
    def trouble(self) -> str:
        """What went wrong at the disk first, in its own words; "" where nothing did."""
        return self._parts.trouble

    @property
    def written(self) -> int:
        """Records on disk so far, headers not counted."""
        return self._parts.written

    def put(self, tick: Tick, obs: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Record a tick, with the observation [...] that the policy made since the last one.

        Never waits; False where the queue is full and the record is lost.
        """
        return self._offer({"kind": "tick", "tick": tick, "obs": obs})

    def event(self, name: str, **facts: Any) -> bool:
        """Record that something happened, with plain values; as `put`.

        "begin" starts an episode, an `Ending` ends one: `robot_bridge.records.reader.episodes`.
        """
        now, wall = self._clock.now(), self._clock.wall()
        return self._offer({"kind": "event", "name": name, "t": now, "wall": wall, "facts": facts})

    def close(self) -> None:
        """Write what waits, and end; may be called twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join(timeout=30.0)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offer(self, record: dict[str, Any]) -> bool:
        # The size is only as good as a moment ago: several callers may exceed it by one each.
        if self._closed or self._queue.qsize() >= self._capacity:
            self._overflowed += 1
            return False
        self._queue.put(record)
        return True

    def _run(self) -> None:
        told = 0
        while True:
            record = self._queue.get()
            if record is None:
                break
            self._parts.write(record)
            if self._overflowed > told:
                told = self._overflowed
                self._parts.write({"kind": "overflow", "dropped": told})
        self._parts.close()


class _PartWriter:
    """Appends records to part files; used by one thread."""

    def __init__(
        self, path: Path, header: RecordHeader, *, part_bytes: int, sync_every: float
    ) -> None:
        self.lost = self.written = 0
        self.trouble = ""
        self._path, self._header = path, header
        self._part_bytes, self._sync_every = part_bytes, sync_every
        self._encode = make_encoder()
        path.mkdir(parents=True, exist_ok=True)
        numbers = [int(part.stem.removeprefix("part-")) for part in path.glob("part-*.rec")]
        self._number = max(numbers, default=-1) + 1
        self._file: int | None = None
        self._size = 0
        self._synced = time.monotonic()
        self._missing = 0

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; where that fails, count it."""
        try:
            self._append(self._framed(record))
        except Exception as error:  # whatever it is, the records after this one are wanted
            self._lose(error)
        else:
            self.written += 1
        self._sync()

    def close(self) -> None:
        """Make sure that everything is on disk."""
        if self._file is not None:
            self._sure(os.fsync)
            os.close(self._file)
            self._file = None

    def _framed(self, record: dict[str, Any]) -> bytes:
        data = self._encode(record)
        return FRAME.pack(len(data), zlib.crc32(data)) + data

    def _append(self, frame: bytes) -> None:
        if self._file is not None and self._size + len(frame) > self._part_bytes:
            self.close()
        if self._file is None:
            self._begin()
        # In one piece, since on a full disk the note alone might still find room, again and again.
        note = self._framed({"kind": "lost", "dropped": self._missing}) if self._missing else b""
        self._put(note + frame)
        self._missing = 0

    def _begin(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path / f"part-{self._number:04d}.rec", flags, 0o644)
        self._size, self._number = 0, self._number + 1
        head = {"kind": "header", "format": FORMAT, **dataclasses.asdict(self._header)}
        self._put(MAGIC + self._framed(head))

    def _put(self, data: bytes) -> None:
        """Write all or, where the disk is full, nothing."""
        assert self._file is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            # Half a record in the middle would hide all that follow it.
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            if self._size == 0:
                self._abandon()
            raise
        self._size += len(data)

    def _abandon(self) -> None:
        """Remove a part that has no room even for its header; the next try begins it anew."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._number = None, self._number - 1
        (self._path / f"part-{self._number:04d}.rec").unlink()

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        self._missing += 1
        self._warn(error)

    def _sync(self) -> None:
        now = time.monotonic()
        if self._file is not None and now - self._synced >= self._sync_every:
            self._synced = now
            self._sure(os.fdatasync)

    def _sure(self, sync: Callable[[int], None]) -> None:
        try:
            if self._file is not None:
                sync(self._file)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self.trouble:
            self.trouble = f"{type(error).__name__}: {error}"
            _log.warning("Recording to %s fails: %s; control goes on without it", self._path, error)


def make_encoder() -> Any:
    """Return a function from a record to msgpack; arrays become [dtype, shape, bytes]."""
    return require("msgspec", "bridge").msgpack.Encoder(enc_hook=_encode_array).encode


def _encode_array(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        if array.dtype.kind not in KINDS:
            raise TypeError(f"Records hold arrays of numbers, got {array.dtype}")
        return [array.dtype.str, np.shape(value), array.data.cast("B") if array.size else b""]
    raise TypeError(f"Records hold plain values and arrays, got {type(value).__name__}")
