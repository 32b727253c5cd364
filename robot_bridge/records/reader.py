"""Recordings read back: every complete record, and the episodes that were played.

A process that was killed leaves at most one torn record at the end of its last part; what comes
before it is whole. Only numbers and text are read, never code.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import ENDINGS, VERDICTS, Ending, Goal, Tick
from robot_bridge.reasons import Phase, Reason
from robot_bridge.records.recorder import FORMAT, FRAME, KINDS, MAGIC, RecordHeader
from scenes.contract.extras import require

Obs = dict[str, NDArray[Any]]

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
    """Records that the recorder could not write.

    Attributes:
        cause: why: "overflow" of its queue, or "lost" at the disk.
        dropped: how many; of "overflow" all so far.
    """

    cause: Literal["overflow", "lost"]
    dropped: int


Record = TickRecord | Event | Loss


@dataclasses.dataclass(frozen=True)
class Recording:
    """All of a recording in memory.

    Attributes:
        header: what it is of.
        records: in order.
        torn: bytes at the ends of parts that are no whole record.
    """

    header: RecordHeader
    records: tuple[Record, ...]
    torn: int

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
    return Recording(reader.header, tuple(reader), reader.torn)


class RecordReader:
    """Goes through a recording record by record; pictures of hours need not fit into memory."""

    def __init__(self, path: Path) -> None:
        self._parts = sorted(Path(path).glob("part-*.rec"))
        if not self._parts:
            raise FileNotFoundError(f"There is no recording in '{path}' (no part-0000.rec)")
        self._decode = _make_decoder()
        self.torn = 0
        self.header = self._read_header()

    def __iter__(self) -> Iterator[Record]:
        self.torn = 0
        for part in self._parts:
            for raw in self._frames(part):
                if raw["kind"] != "header":
                    yield _read_record(raw, part)

    def _read_header(self) -> RecordHeader:
        for part in self._parts:
            raw = next(self._frames(part), None)
            if raw is not None:
                return _read_header(raw, part)
        raise ValueError(f"{self._parts[0]} was cut off before its header was written")

    def _frames(self, part: Path) -> Iterator[dict[str, Any]]:
        size = part.stat().st_size
        with part.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC[: len(magic)]:
                raise ValueError(f"{part} is no part of a recording: it begins with {magic!r}")
            good = file.tell() if magic == MAGIC else 0
            while True:
                length, crc = _read_frame_header(file.read(FRAME.size))
                data = file.read(length) if 0 < length <= _LONGEST else b""
                if length == 0 or len(data) < length or zlib.crc32(data) != crc:
                    break
                good = file.tell()
                yield self._decode(data)
        self.torn += size - good


def _read_frame_header(data: bytes) -> tuple[int, int]:
    return FRAME.unpack(data) if len(data) == FRAME.size else (0, 0)


def _make_decoder() -> Any:
    return require("msgspec", "bridge").msgpack.Decoder(dict[str, Any]).decode


def _read_header(raw: dict[str, Any], part: Path) -> RecordHeader:
    if raw.get("kind") != "header" or raw.get("format") != FORMAT:
        got = f"{raw.get('kind')} of format {raw.get('format')}"
        raise ValueError(f"{part} begins with a {got}, allowed: a header of format {FORMAT}")
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
        raise ValueError(f"{part} holds a record that this version cannot read: {error}") from error


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
        raise ValueError(f"array {dtype}{shape} of {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


# -- episodes ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One executed action.

    Attributes:
        obs: what was observed before it.
        action: [A], as executed.
        t: when it began [s].
        intervened: a person chose it.
        policy_action: what the policy wanted where a person intervened [A].
    """

    obs: Obs
    action: NDArray[np.float32]
    t: float
    intervened: bool
    policy_action: NDArray[np.float32] | None


@dataclasses.dataclass(frozen=True)
class Episode:
    """What was done from one start to its end.

    Attributes:
        steps: in order.
        ending: how it ended.
        missing: ticks that were not recorded.
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
    yield from splitter.finish()


class _Splitter:
    """Gathers steps; gives an episode when the next one starts."""

    def __init__(self) -> None:
        self._running = self._collecting = False
        self._last_index = -1
        self._start()

    def _start(self) -> None:
        self._steps: list[Step] = []
        self._ending: Ending = "cut"
        self._obs: Obs | None = None
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
            self._collect(record)

    def finish(self) -> Iterator[Episode]:
        if self._steps:
            yield Episode(tuple(self._steps), self._ending, self._missing)
        self._start()

    def _collect(self, record: TickRecord) -> None:
        tick = record.tick
        self._obs = record.obs or self._obs
        if tick.action is None or self._obs is None:
            return
        policy = tick.policy_action
        self._steps.append(
            Step(
                obs=self._obs,
                action=_as_action(tick.action),
                t=tick.t,
                intervened=tick.intervened,
                policy_action=None if policy is None else _as_action(policy),
            )
        )


def _as_action(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """An action as it was executed: clipped to [-1, 1], as the gate does."""
    return np.clip(np.asarray(action, np.float32), -1.0, 1.0)
