"""Recordings read back: every complete record, and the episodes that were played.

A process that was killed leaves at most one torn record at the end of its last part; what comes
before it is whole. Where a file was damaged since, reading goes on at the next whole record, and
says what was lost. Only numbers and text are read, never code.
"""

import dataclasses
import logging
import math
import mmap
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import ENDINGS, VERDICTS, Ending, Goal, Tick
from robot_bridge.reasons import Phase, Reason
from robot_bridge.records.recorder import FORMAT, FRAME, KINDS, MAGIC, RecordHeader
from robot_bridge.records.steps import Obs, Step, StepCollector
from scenes.contract.errors import InputError
from scenes.contract.extras import require

_log = logging.getLogger(__name__)

# How a record begins, behind the byte that makes it a map: msgpack of its first key.
_KIND = b"\xa4kind"
# No record comes near it; a larger length is a damaged one [bytes].
_LONGEST = 256 << 20
_DTYPE = re.compile(rf"[<>|=][{KINDS}]\d{{1,2}}")
_RUNNING = (Phase.RUN, Phase.HOLD)
# Events that end an episode. Older recordings call every one without a verdict "reset".
_ENDING_OF: dict[str, Ending] = {"reset": "cut", **{name: name for name in ENDINGS}}


@dataclasses.dataclass(frozen=True, slots=True)
class TickRecord:
    """A tick and what the policy saw.

    Attributes:
        tick: as it was.
        obs: the observation that the policy had made since the last tick, if any.
    """

    tick: Tick
    obs: Obs | None


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        name: what.
        t: monotonic time [s].
        wall: time since the epoch [s].
        facts: plain values that go with it.
    """

    name: str
    t: float
    wall: float
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """Records that the recorder could not write, or that are not whole any more.

    Attributes:
        cause: why: "overflow" of its queue, "lost" at the disk, or "damaged" since.
        dropped: how many; of "overflow" all so far, of "damaged" bytes.
    """

    cause: Literal["overflow", "lost", "damaged"]
    dropped: int


Record = TickRecord | Event | Loss


@dataclasses.dataclass(frozen=True)
class Damage:
    """Bytes between two whole records that are none: something has changed the file.

    Attributes:
        part: file.
        place: where they begin [bytes].
        size: how many there are [bytes].
    """

    part: Path
    place: int
    size: int

    def __str__(self) -> str:
        return f"{self.part} is damaged: {self.size} bytes at {self.place} are no whole record"


@dataclasses.dataclass(frozen=True)
class Recording:
    """All of a recording in memory.

    Attributes:
        header: what it is of.
        records: in order.
        torn: bytes at the ends of parts that are no whole record.
        damage: where bytes between records are none.
    """

    header: RecordHeader
    records: tuple[Record, ...]
    torn: int
    damage: tuple[Damage, ...] = ()

    @property
    def ticks(self) -> list[Tick]:
        """The ticks, in order."""
        return [r.tick for r in self.records if isinstance(r, TickRecord)]

    @property
    def events(self) -> list[Event]:
        """The events, in order."""
        return [r for r in self.records if isinstance(r, Event)]


def read_recording(path: Path) -> Recording:
    """Read a whole recording.

    Args:
        path: its folder.

    Raises:
        FileNotFoundError: there is no recording.
        ValueError: what is there was written by something else.
    """
    reader = RecordReader(path)
    records = tuple(reader)
    return Recording(reader.header, records, reader.torn, tuple(reader.damage))


class RecordReader:
    """Goes through a recording record by record; pictures of hours need not fit into memory.

    After it has been gone through, `damage` says where bytes were lost, and `torn` how many at the
    ends of parts.
    """

    damage: list[Damage]

    def __init__(self, path: Path) -> None:
        self._parts = sorted(Path(path).glob("part-*.rec"))
        if not self._parts:
            raise FileNotFoundError(f"There is no recording in '{path}' (no part-0000.rec)")
        self._decode = _make_decoder()
        self._begin()
        self.header = self._read_header()

    def __iter__(self) -> Iterator[Record]:
        self._begin()
        for part in self._parts:
            for data in self._frames(part):
                if isinstance(data, Damage):
                    _log.warning("%s", data)
                    yield Loss("damaged", data.size)
                    continue
                raw = self._decode(data)
                if raw["kind"] != "header":
                    yield _read_record(raw, part)

    def _read_header(self) -> RecordHeader:
        """That of the first part whose header is whole; all parts of a recording have one."""
        for part in self._parts:
            data = next(self._frames(part), None)
            if isinstance(data, bytes):
                return _read_header(self._decode(data), part)
        raise InputError(
            f"{self._parts[0]} was cut off before its header was written, or its header is damaged"
        )

    def survey(self) -> Sequence[Damage]:
        """Go through all frames, without reading what they hold; return where some are damaged."""
        self._begin()
        for part in self._parts:
            for _ in self._frames(part):
                pass
        return tuple(self.damage)

    def _begin(self) -> None:
        self.torn, self.damage = 0, []

    def _frames(self, part: Path) -> Iterator[bytes | Damage]:
        """The whole frames of a part in order, and where between them bytes were lost."""
        size = part.stat().st_size
        if size < len(MAGIC):
            self.torn += size
            return
        with part.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = len(MAGIC) if data[: len(MAGIC)] == MAGIC else 0
            found = place > 0
            while place < size:
                end = _frame_end(data, place)
                if end is None:
                    begun, place = place, _next_frame(data, place)
                    if place == size:
                        self._end(part, begun, size, found=found)
                        return
                    self.damage.append(Damage(part, begun, place - begun))
                    yield self.damage[-1]
                    continue
                found = True
                yield data[place + FRAME.size : end]
                place = end

    def _end(self, part: Path, place: int, size: int, *, found: bool) -> None:
        """Behind `place` [bytes] there is no whole record any more."""
        if not found:
            with part.open("rb") as file:
                magic = file.read(len(MAGIC))
            raise InputError(f"{part} is no part of a recording: it begins with {magic!r}")
        self.torn += size - place


def _frame_end(data: mmap.mmap, place: int) -> int | None:
    """Where the frame at `place` ends [bytes], None where there is no whole one."""
    if len(data) - place < FRAME.size:
        return None
    length, crc = FRAME.unpack_from(data, place)
    start = place + FRAME.size
    if not 0 < length <= min(_LONGEST, len(data) - start):
        return None
    whole = zlib.crc32(memoryview(data)[start : start + length]) == crc
    return start + length if whole else None


def _next_frame(data: mmap.mmap, place: int) -> int:
    """Where the next whole frame after `place` begins, the end of the data where there is none.

    A record is a map whose first key is "kind"; its checksum tells it from what looks like one.
    """
    before = FRAME.size + 1  # a frame's head, and the byte that makes a map
    mark = data.find(_KIND, place + 1 + before)
    while mark >= 0:
        if _frame_end(data, mark - before) is not None:
            return mark - before
        mark = data.find(_KIND, mark + 1)
    return len(data)


def _make_decoder() -> Any:
    return require("msgspec", "bridge").msgpack.Decoder(dict[str, Any]).decode


def _read_header(raw: dict[str, Any], part: Path) -> RecordHeader:
    if raw.get("kind") != "header" or raw.get("format") != FORMAT:
        got = f"{raw.get('kind')} of format {raw.get('format')}"
        raise InputError(f"{part} begins with a {got}, allowed: a header of format {FORMAT}")
    known = {field.name for field in dataclasses.fields(RecordHeader)}
    return RecordHeader(**{name: value for name, value in raw.items() if name in known})


def _read_record(raw: dict[str, Any], part: Path) -> Record:
    try:
        kind = raw["kind"]
        if kind == "tick":
            return TickRecord(_read_tick(_revive(raw["tick"])), _revive(raw["obs"]))
        if kind == "event":
            return Event(raw["name"], raw["t"], raw["wall"], _revive(raw["facts"]))
        return Loss(kind, raw["dropped"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{part} holds a record that this version cannot read: {error}") from error


def _read_tick(raw: dict[str, Any]) -> Tick:
    state, target = raw["state"], raw["target"]
    faults = tuple(state["faults"])
    return Tick(
        **raw
        | {
            "phase": Phase(raw["phase"]),
            "reasons": Reason(raw["reasons"]),
            "state": ArmState(**state | {"mode": Mode(state["mode"]), "faults": faults}),
            "goal": Goal(**raw["goal"]),
            "target": None if target is None else Target(**target),
        }
    )


def _revive(value: Any) -> Any:
    """Turn what was an array into one again."""
    if isinstance(value, dict):
        return {name: _revive(item) for name, item in value.items()}
    if isinstance(value, list):
        array = len(value) == 3 and isinstance(value[0], str) and isinstance(value[2], bytes)
        return _read_array(*value) if array else [_revive(item) for item in value]
    return value


def _read_array(dtype: str, shape: list[int], data: bytes) -> NDArray[Any]:
    if not _DTYPE.fullmatch(dtype) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise InputError(f"array {dtype}{shape} of {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


# -- episodes ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Episode:
    """What was done from one start to its end.

    Attributes:
        steps: in order.
        ending: how it ended.
        missing: ticks that were not recorded, and places where the recording is damaged.
    """

    steps: tuple[Step, ...]
    ending: Ending
    missing: int


def episodes(reader: RecordReader) -> Iterator[Episode]:
    """Yield the episodes of a recording that have at least one step.

    An episode starts when the phase becomes RUN, or with an event "begin"; it ends with an event
    that is an `Ending`, or as "cut" when the phase is neither RUN nor HOLD any more. A verdict that
    comes after the end, before the next start, still counts.
    """
    splitter = _Splitter()
    for record in reader:
        if isinstance(record, Event):
            yield from splitter.hear(record)
        elif isinstance(record, TickRecord):
            yield from splitter.take(record)
        elif record.cause == "damaged":
            splitter.lose()
    yield from splitter.finish()


class _Splitter:
    """Gathers steps; gives an episode when the next one starts."""

    def __init__(self) -> None:
        self._running = self._collecting = False
        self._last_index = -1
        self._start()

    def _start(self) -> None:
        self._ending: Ending = "cut"
        self._collector = StepCollector()
        self._missing = 0

    def hear(self, event: Event) -> Iterator[Episode]:
        if event.name == "begin":
            yield from self.finish()
            self._collecting = True
        elif event.name in _ENDING_OF:
            self._collecting = False
            if self._ending not in VERDICTS:
                self._ending = _ENDING_OF[event.name]

    def take(self, record: TickRecord) -> Iterator[Episode]:
        tick = record.tick
        running = tick.phase in _RUNNING
        if running and not self._running:
            # A "begin" that came just before is the same start.
            yield from self.finish()
            self._collecting = True
        elif not running and self._running:
            self._collecting = False
        if self._collecting and self._last_index >= 0:
            self._missing += max(0, tick.index - self._last_index - 1)
        self._running, self._last_index = running, tick.index
        if self._collecting:
            self._collector.take(tick, record.obs)

    def lose(self) -> None:
        """Something is missing: steps, or the event that would have ended or begun an episode."""
        self._missing += 1

    def finish(self) -> Iterator[Episode]:
        if self._collector.steps:
            yield Episode(tuple(self._collector.steps), self._ending, self._missing)
        self._start()
