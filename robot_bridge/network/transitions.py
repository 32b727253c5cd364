"""The seam for learning on the robot: transitions from an actor, versions of parameters back.

`TransitionServer` is the learner's end, `TransitionClient` the actor's. A batch of transitions is
kept by the actor until the learner has taken it; batches are numbered within a run of the actor,
so that what is sent again is known, and nothing is lost or seen twice as long as either lives. A
learner that starts anew gets everything its predecessor had not taken. Parameters are asked for in
pieces and put into use only when the sha256 of the whole is right; older versions are skipped.
"""

import collections
import hashlib
import logging
import secrets
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

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
    pack_array,
    unpack_array,
)
from robot_bridge.network.endpoints import (
    ClientKeys,
    Doorkeeper,
    check_bind,
    connect_with_keys,
    serve_with_keys,
)
from robot_bridge.network.keys import Keyring
from robot_bridge.network.wake import Wake
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]
MAX_PARAMETERS = 256 * 2**20  # of all of a version [bytes]; SERL's ResNet-10 actor is 20 MB
_PART = 256 * 1024  # [bytes]
_RUNS = 64  # actors that a learner remembers
_WINDOW = 8  # batches that are on their way at a time
_ASK = 0.1  # seconds between an actor's questions
_RESEND = 1.0  # without progress, what is on its way is sent, or asked for, again [s]
REJECTIONS: tuple[str, ...] = ("malformed", "unknown_run", "gap", "full", "role", "denied_key")


@dataclass(frozen=True)
class Parameters:
    """A policy's parameters.

    Attributes:
        version: grows with each.
        arrays: by name.
    """

    version: int
    arrays: Arrays


@dataclass(slots=True)
class _Run:
    """What is known of a run: the last batch that came, the last that was handed out."""

    have: int
    taken: int


class TransitionServer:
    """The learner's end; it binds.

    Args:
        address: ipc in a private folder, or tcp. Raises UnsafeBindError as the bridge's does.
        capacity: batches that wait to be taken, over all actors; more are not accepted for now.
        keys: switches CURVE on; clients need the role `command`.
    """

    def __init__(self, address: str, *, capacity: int = 64, keys: Keyring | None = None) -> None:
        check_bind(address, keyed=keys is not None)
        self._keys, self._capacity = keys, capacity
        self._lock = threading.Lock()
        self._waiting: collections.deque[Rows] = collections.deque()
        self._runs: collections.OrderedDict[bytes, _Run] = collections.OrderedDict()
        self._version, self._blob, self._digest = -1, b"", b""
        self._counters = dict.fromkeys(REJECTIONS, 0)
        self._stopping = threading.Event()
        self._open(address)
        self._thread = threading.Thread(target=self._serve, name="transitions", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Mapping[str, int]:
        """How many messages were rejected, by kind."""
        return dict(self._counters)

    def take(self) -> list[Arrays]:
        """Return the batches that have come, each once and in order; they are the caller's now."""
        with self._lock:
            batches = list(self._waiting)
            self._waiting.clear()
            for batch in batches:
                run = self._runs.get(batch.run)
                if run is not None:
                    run.taken = batch.id
        return [batch.arrays for batch in batches]

    def publish(self, version: int, arrays: Arrays) -> None:
        """Offer a version of parameters; ValueError unless it is newer than the last."""
        if version <= self._version:
            raise ValueError(f"Version of parameters: got {version}, allowed: > {self._version}")
        blob = pack_parameters(arrays)
        with self._lock:
            self._version, self._blob = version, blob
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
        self._socket.rcvhwm = self._socket.sndhwm = 2 * _WINDOW
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
            run = self._runs[ask.run] = _Run(ask.first - 1, ask.first - 1)
            if len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(ask.run)
        if ask.part < 0 or ask.version >= self._version:
            return self._taken(ask.run, run)
        parts = max(1, -(-len(self._blob) // _PART))
        part = min(ask.part, parts - 1)
        data = self._blob[part * _PART : (part + 1) * _PART]
        return Part(version=self._version, part=part, parts=parts, digest=self._digest, data=data)

    def _taken(self, name: bytes, run: _Run) -> Taken:
        return Taken(run=name, id=run.taken, have=run.have, version=self._version)

    def _count(self, kind: str) -> None:
        self._counters[kind] += 1


class TransitionClient:
    """The actor's end; it connects, and again whenever the learner comes back.

    Args:
        address: the learner's.
        capacity: batches that are kept until the learner has taken them.
        keys: for a server with CURVE.
    """

    def __init__(
        self, address: str, *, capacity: int = 256, keys: ClientKeys | None = None
    ) -> None:
        self._capacity, self._run = capacity, secrets.token_bytes(8)
        self._lock = threading.Lock()
        self._kept: collections.deque[tuple[int, bytes]] = collections.deque()
        self._next = 0
        self._have, self._sent = -1, -1
        self._moved = time.monotonic()
        self._pieces: list[Part] = []
        self._told, self._asked = -1, 0.0
        self._newest: Parameters | None = None
        self._stopping = threading.Event()
        self._open(address, keys)
        self._thread = threading.Thread(target=self._talk, name="transitions out", daemon=True)
        self._thread.start()

    @property
    def parameters(self) -> Parameters | None:
        """The newest whole version, None before the first."""
        return self._newest

    @property
    def pending(self) -> int:
        """How many batches the learner has not taken yet."""
        return len(self._kept)

    def put(self, arrays: Arrays) -> bool:
        """Hand over a batch of transitions, arrays [T, ...] by name; returns at once.

        False where `capacity` batches wait already: nothing is dropped behind the caller's back.
        Raises CodecError for what is no array of numbers or larger than 8 MB.
        """
        with self._lock:
            if len(self._kept) >= self._capacity:
                return False
            data = encode(Rows(run=self._run, id=self._next, arrays=arrays))
            self._kept.append((self._next, data))
            self._next += 1
        self._wake.set()
        return True

    def flush(self, seconds: float) -> bool:
        """Wait until the learner has taken everything; False where it has not."""
        deadline = time.monotonic() + seconds
        while self._kept and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._kept

    def close(self) -> None:
        """Let go of the socket; what is pending is lost, see `flush`."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> "TransitionClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _open(self, address: str, keys: ClientKeys | None) -> None:
        zmq = require("zmq", "bridge")
        self._zmq, self._context, self._wake = zmq, zmq.Context(), Wake()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger, self._socket.maxmsgsize, self._socket.immediate = 0, MAX_BYTES, True
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 50, 1000  # [ms]
        self._socket.sndhwm = 2 * _WINDOW
        if keys is not None:
            connect_with_keys(self._socket, keys)
        self._socket.connect(address)

    def _talk(self) -> None:
        poller, due = self._zmq.Poller(), 0.0
        poller.register(self._wake, self._zmq.POLLIN)
        poller.register(self._socket, self._zmq.POLLIN)
        while not self._stopping.is_set():
            ready = dict(poller.poll(max(0, round((due - time.monotonic()) * 1e3))))
            self._wake.clear()
            if self._socket in ready:
                self._hear(self._socket.recv())
            if time.monotonic() >= due:
                self._ask()
                due = time.monotonic() + _ASK
            self._send_rows()
        self._context.destroy(linger=0)
        self._wake.close()

    def _hear(self, data: bytes) -> None:
        try:
            message, _ = decode(data, ("taken", "part", "refusal"))
            if isinstance(message, Part):
                self._collect(message)
            elif isinstance(message, Taken) and message.run == self._run:
                self._progress(message)
        except CodecError as error:
            _LOG.warning("The learner sent nonsense: %s", error)

    def _progress(self, taken: Taken) -> None:
        if taken.have != self._have:
            self._moved = time.monotonic()
        # A learner that started anew has less than its predecessor had.
        if taken.have < self._have:
            self._sent = taken.have
        self._have, self._sent = taken.have, max(self._sent, taken.have)
        with self._lock:
            while self._kept and self._kept[0][0] <= taken.id:
                self._kept.popleft()
        self._told = taken.version
        if time.monotonic() - self._asked > _RESEND:
            self._ask_parameters()

    def _send_rows(self) -> None:
        """Send what the window allows, and again what has made no progress."""
        if self._sent > self._have and time.monotonic() - self._moved > _RESEND:
            self._sent, self._moved = self._have, time.monotonic()
        with self._lock:
            due = [(i, data) for i, data in self._kept if self._sent < i <= self._have + _WINDOW]
        for index, data in due:
            if not self._send(data):
                return
            if self._sent <= self._have:
                self._moved = time.monotonic()
            self._sent = index

    def _ask(self, part: int = -1) -> None:
        """Ask what the learner has, or for a part of its newest parameters."""
        with self._lock:
            first = self._kept[0][0] if self._kept else self._next
        version = -1 if self._newest is None else self._newest.version
        self._send(encode(Ask(run=self._run, first=first, version=version, part=part)))

    def _ask_parameters(self) -> None:
        known = -1 if self._newest is None else self._newest.version
        if known < self._told:
            self._asked = time.monotonic()
            self._ask(len(self._pieces))

    def _collect(self, part: Part) -> None:
        """Add a piece; with the last one check the whole and put it into use."""
        if self._pieces and part.digest != self._pieces[0].digest:
            self._pieces = []  # a newer version was published meanwhile
        if part.part != len(self._pieces) or not 0 < part.parts <= MAX_PARAMETERS // _PART:
            return
        self._pieces.append(part)
        if len(self._pieces) < part.parts:
            self._ask_parameters()
            return
        self._asked = 0.0
        blob, self._pieces = b"".join(piece.data for piece in self._pieces), []
        if hashlib.sha256(blob).digest() != part.digest:
            raise CodecError("Parameters: their sha256 is wrong")
        self._newest = Parameters(part.version, unpack_parameters(blob))

    def _send(self, data: bytes) -> bool:
        try:
            self._socket.send(data, self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False  # nobody is there; it is tried again
        return True


def pack_parameters(arrays: Arrays) -> bytes:
    """Arrays by name, each as length and name, length and `codec.pack_array`; sorted by name."""
    pieces: list[bytes] = []
    for name in sorted(arrays):
        text, data = name.encode(), pack_array(arrays[name])
        pieces += [struct.pack("<HI", len(text), len(data)), text, data]
    blob = b"".join(pieces)
    if len(blob) > MAX_PARAMETERS:
        raise CodecError(f"Parameters: got {len(blob)} bytes, allowed: {MAX_PARAMETERS}")
    return blob


def unpack_parameters(blob: bytes) -> dict[str, NDArray[Any]]:
    """Read what `pack_parameters` wrote; CodecError says what is wrong."""
    arrays: dict[str, NDArray[Any]] = {}
    at, view = 0, memoryview(blob)
    while at < len(blob):
        if at + 6 > len(blob):
            raise CodecError(f"Parameters: truncated at {at}")
        text, data = struct.unpack_from("<HI", blob, at)
        at += 6
        if at + text + data > len(blob):
            raise CodecError(f"Parameters: truncated at {at}")
        name = bytes(view[at : at + text]).decode(errors="replace")
        arrays[name] = unpack_array(view[at + text : at + text + data])
        at += text + data
    return arrays
