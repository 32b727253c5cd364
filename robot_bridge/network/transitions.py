"""The seam for learning on the robot: transitions from an actor, versions of parameters back.

`TransitionServer` is the learner's end, `TransitionClient` the actor's. A batch of transitions is
kept by the actor (`spool`) until the learner says that it is on its own disk; batches are numbered,
so that what is sent again is known. Nothing is lost or seen twice, whichever side dies: a learner
that starts anew says up to where its checkpoint goes, and gets everything after it. Parameters are
asked for in pieces and put into use only when the sha256 of the whole is right; older versions are
skipped.
"""

import collections
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from robot_bridge.network.codec import (
    MAX_BYTES,
    Ask,
    CodecError,
    Part,
    Refusal,
    Rows,
    Taken,
    decode,
    encode,
)
from robot_bridge.network.endpoints import Doorkeeper, check_bind, serve_with_keys
from robot_bridge.network.keys import Keyring
from robot_bridge.network.parameters import PART, Arrays, pack_parameters
from robot_bridge.network.wake import Wake
from scenes.contract.errors import InputError
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
_RUNS = 64  # actors that a learner remembers
_PRESENT = 10.0  # an actor that has not asked for so long is not there [s]
WINDOW = 8  # batches of an actor that are on their way at a time
REJECTIONS: tuple[str, ...] = ("malformed", "unknown_run", "gap", "full", "role", "denied_key")


@dataclass(frozen=True)
class Arrived:
    """A batch that has come.

    Attributes:
        run: nonce of its actor's numbering.
        id: its number.
        arrays: [T, ...] by name.
        age: since its actor handed it over [s], by the actor's own measure of our clocks; None
            where that is not known.
    """

    run: bytes
    id: int
    arrays: Arrays
    age: float | None = None


@dataclass(slots=True)
class _Run:
    """The last batch of an actor that came, is on disk, and has been learned from; its link.

    offset, round_trip: of the actor's clock, as it measures them [s]; a negative trip is unknown.
    heard: when it asked last, monotonic [s].
    """

    have: int
    saved: int
    learned: int
    offset: float = 0.0
    round_trip: float = -1.0
    heard: float = 0.0


class TransitionServer:
    """The learner's end; it binds.

    Args:
        address: ipc in a private folder, or tcp. Raises UnsafeBindError as the bridge's does.
        capacity: batches that wait to be taken, over all actors; more are not accepted for now.
        keys: switches CURVE on; clients need the role `command`.
        saved: by actor, up to where a checkpoint holds what it sent.
        pace: rows that may be in front of the learner; where there are more, actors are told to
            wait before their next episode. 0 lets them wait for it each time, None never.
        wall: our time since the epoch [s].
    """

    def __init__(
        self,
        address: str,
        *,
        capacity: int = 64,
        keys: Keyring | None = None,
        saved: Mapping[bytes, int] = MappingProxyType({}),
        pace: int | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        check_bind(address, keyed=keys is not None)
        self._keys, self._capacity, self._pace = keys, capacity, pace
        self._lock = threading.Lock()
        self._waiting: collections.deque[Rows] = collections.deque()
        self._runs: collections.OrderedDict[bytes, _Run] = collections.OrderedDict(
            # What a checkpoint holds may not be learned from yet.
            (run, _Run(number, number, -1))
            for run, number in saved.items()
        )
        self._ahead = 0  # rows that were taken and are not learned from yet
        self._version, self._blob, self._digest = -1, b"", b""
        self._published = 0.0
        self._counters = dict.fromkeys(REJECTIONS, 0)
        self._stopping = threading.Event()
        self._open(address)
        self._thread = threading.Thread(target=self._serve, name="transitions", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Mapping[str, int]:
        """How many messages were rejected, by kind."""
        return dict(self._counters)

    @property
    def round_trip(self) -> float | None:
        """The slowest actor's of those that are there and have told one [s]."""
        since = time.monotonic() - _PRESENT
        with self._lock:
            there = [run for run in self._runs.values() if run.heard > since]
        trips = [run.round_trip for run in there if run.round_trip >= 0]
        return max(trips, default=None)

    def take(self) -> list[Arrived]:
        """Return the batches that have come, each once and those of an actor in order.

        The actors keep them until `saved` says that they need not.
        """
        with self._lock:
            batches = list(self._waiting)
            self._waiting.clear()
            self._ahead += sum(map(_rows_of, batches))
            ages = [self._age(batch) for batch in batches]
        return [Arrived(b.run, b.id, b.arrays, age) for b, age in zip(batches, ages, strict=True)]

    def saved(self, upto: Mapping[bytes, int]) -> None:
        """Tell actors up to which batch they need keep nothing."""
        with self._lock:
            for name, number in upto.items():
                if name in self._runs:
                    self._runs[name].saved = max(self._runs[name].saved, number)

    def learned(self, upto: Mapping[bytes, int], *, ahead: int) -> None:
        """Tell actors up to which batch the parameters that were published have learned.

        Args:
            upto: by actor.
            ahead: rows that were taken and are not learned from yet.
        """
        with self._lock:
            self._ahead = ahead
            for name, number in upto.items():
                if name in self._runs:
                    self._runs[name].learned = max(self._runs[name].learned, number)

    def publish(self, version: int, arrays: Arrays) -> None:
        """Offer a version of parameters; ValueError unless it is newer than the last."""
        if version <= self._version:
            raise InputError(f"Version of parameters: got {version}, allowed: > {self._version}")
        blob = pack_parameters(arrays)
        with self._lock:
            self._version, self._blob, self._published = version, blob, self._wall()
            self._digest = hashlib.sha256(blob).digest()

    def close(self) -> None:
        """Stop and let go of the socket."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> "TransitionServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _open(self, address: str) -> None:
        zmq = require("zmq", "bridge")
        self._zmq, self._context, self._wake, self._door = zmq, zmq.Context(), Wake(), None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger, self._socket.maxmsgsize = 0, MAX_BYTES
        self._socket.rcvhwm = self._socket.sndhwm = 2 * WINDOW
        if self._keys is not None:
            self._door = Doorkeeper(self._context, self._keys, lambda: self._count("denied_key"))
            serve_with_keys(self._socket, self._keys)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(f"Cannot listen at {address}: {error}") from None

    def _serve(self) -> None:
        poller = self._zmq.Poller()
        for source in (self._wake, self._socket, *([self._door.socket] if self._door else [])):
            poller.register(source, self._zmq.POLLIN)
        while not self._stopping.is_set():
            ready = dict(poller.poll(500))
            if self._door is not None and self._door.socket in ready:
                self._door.answer()
            if self._socket in ready:
                self._take(self._socket.recv_multipart(copy=False))
        self._context.destroy(linger=0)
        self._wake.close()

    def _take(self, frames: list[Any]) -> None:
        answer: Any
        came = self._wall()
        try:
            if len(frames) != 2:
                raise CodecError(f"Frames: got {len(frames)}, allowed: 2")
            if not self._may_send(frames[1]):
                self._count("role")
                return
            message, _ = decode(frames[1].bytes, ("rows", "ask"))
        except CodecError as error:
            self._count("malformed")
            _LOG.debug("malformed: %s", error)
            return
        with self._lock:
            answer = self._store(message) if isinstance(message, Rows) else self._tell(message)
        if isinstance(message, Ask) and isinstance(answer, Taken) and message.sent:
            answer = replace(answer, sent=message.sent, came=came, now=self._wall())
        self._socket.send_multipart([frames[0].bytes, encode(answer)])

    def _may_send(self, frame: Any) -> bool:
        if self._keys is None:
            return True
        name = frame.get("User-Id")
        clients = self._keys.clients().values()
        return any(c.name == name and c.role != "observe" for c in clients)

    def _store(self, batch: Rows) -> Taken | Refusal:
        run = self._runs.get(batch.run)
        if run is None:
            self._count("unknown_run")
            return Refusal(kind="unknown_run", text="ask first")
        if batch.id > run.have + 1:
            self._count("gap")
        elif batch.id == run.have + 1 and len(self._waiting) >= self._capacity:
            self._count("full")
        elif batch.id == run.have + 1:
            self._waiting.append(batch)
            run.have = batch.id
        return self._taken(batch.run, run)

    def _tell(self, ask: Ask) -> Taken | Part:
        run = self._runs.get(ask.run)
        if run is None:
            before = ask.first - 1
            run = self._runs[ask.run] = _Run(before, before, before)
            if len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
        if ask.first > run.have + 1:
            # An older checkpoint than the last is what was left; the actor has dropped the rest.
            _LOG.warning("Batches %d to %d of an actor are lost", run.have + 1, ask.first - 1)
            run.have = run.saved = run.learned = ask.first - 1
        self._runs.move_to_end(ask.run)
        run.heard = time.monotonic()
        if math.isfinite(ask.offset) and 0 <= ask.round_trip < math.inf:
            run.offset, run.round_trip = ask.offset, ask.round_trip
        if ask.part < 0 or ask.version >= self._version:
            return self._taken(ask.run, run)
        parts = max(1, -(-len(self._blob) // PART))
        part = min(ask.part, parts - 1)
        data = self._blob[part * PART : (part + 1) * PART]
        return Part(
            version=self._version,
            part=part,
            parts=parts,
            digest=self._digest,
            data=data,
            published=self._published,
        )

    def _taken(self, name: bytes, run: _Run) -> Taken:
        pace, ahead = self._pace, self._ahead + sum(map(_rows_of, self._waiting))
        return Taken(
            run=name,
            id=run.saved,
            have=run.have,
            version=self._version,
            learned=run.learned,
            behind=pace is not None and ahead > pace,
            sync=pace == 0,
        )

    def _age(self, batch: Rows) -> float | None:
        run = self._runs.get(batch.run)
        if run is None or run.round_trip < 0 or not 0 < batch.t < math.inf:
            return None
        return max(0.0, self._wall() - batch.t - run.offset)

    def _count(self, kind: str) -> None:
        self._counters[kind] += 1


def _rows_of(batch: Rows) -> int:
    return max((len(x) for x in batch.arrays.values() if x.ndim), default=0)
