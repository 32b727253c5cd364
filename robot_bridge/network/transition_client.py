"""The actor's end of learning on the robot: see `robot_bridge.network.transitions`."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable

from robot_bridge.network.clock_offset import ClockOffset
from robot_bridge.network.codec import (
    MAX_BYTES,
    Ask,
    CodecError,
    Part,
    Rows,
    Taken,
    decode,
    encode,
)
from robot_bridge.network.endpoints import ClientKeys, connect_with_keys
from robot_bridge.network.parameters import (
    MAX_PARAMETERS,
    PART,
    Arrays,
    Parameters,
    unpack_parameters,
)
from robot_bridge.network.spool import Spool
from robot_bridge.network.transitions import WINDOW
from robot_bridge.network.wake import Wake
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
_ASK = 0.1  # seconds between an actor's questions
_GONE = 2.0  # without an answer, the learner counts as gone [s]
_RESEND = 1.0  # without progress, what is on its way is sent, or asked for, again [s]


class TransitionClient:
    """The actor's end; it connects, and again whenever the learner comes back.

    Attributes:
        trouble: why the last batch was not kept, None where it was.
        offset: of the learner's clock, since the epoch.

    Args:
        address: the learner's.
        spool: keeps the batches until the learner has them; None in memory. It is closed with the
            client.
        keys: for a server with CURVE.
        wall: our time since the epoch [s].
    """

    def __init__(
        self,
        address: str,
        *,
        spool: Spool | None = None,
        keys: ClientKeys | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.trouble: str | None = None
        self.offset, self._wall = ClockOffset(), wall
        self._spool = Spool() if spool is None else spool
        self._lock = threading.Lock()
        self._have = self._sent = self._spool.first - 1
        self._taken: Taken | None = None
        self._heard = time.monotonic()
        self._moved = time.monotonic()
        self._pieces: list[Part] = []
        self._asked = 0.0
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
    def age(self) -> float:
        """How long ago the newest version was published [s], infinite before the first."""
        newest = self._newest
        if newest is None:
            return math.inf
        return max(0.0, self._wall() + self.offset.seconds - newest.published)

    @property
    def pending(self) -> int:
        """How many batches the learner has not said to have on its disk."""
        return len(self._spool)

    @property
    def silent(self) -> float:
        """How long nothing has come from the learner [s]."""
        return time.monotonic() - self._heard

    @property
    def may_go_on(self) -> bool:
        """Whether another episode may begin.

        Where the learner wants to have learned from everything first, once it has and its
        parameters are here; else unless it says that it is behind, which it cannot when it is gone.
        """
        told = self._taken
        if told is None:
            return self.silent > _GONE
        if told.sync:
            return told.learned >= self._spool.last and self._version >= told.version
        return not told.behind or self.silent > _GONE

    @property
    def _version(self) -> int:
        """Of the parameters that are here, -1 before the first."""
        return -1 if self._newest is None else self._newest.version

    def put(self, arrays: Arrays) -> bool:
        """Hand over a batch of transitions, arrays [T, ...] by name.

        False where it cannot be kept (`trouble` says why): the spool is full, or its disk. Raises
        CodecError for what is no array of numbers or larger than 8 MB.
        """
        with self._lock:
            try:
                kept = self._spool.add(
                    lambda run, number: encode(
                        Rows(run=run, id=number, arrays=arrays, t=self._wall())
                    )
                )
                self.trouble = None if kept else "the spool is full"
            except OSError as error:
                kept, self.trouble = False, error.strerror or str(error)
        if kept:
            self._wake.set()
        return kept

    def flush(self, seconds: float) -> bool:
        """Wait until everything is on the learner's disk; False where it is not."""
        return _within(seconds, lambda: not self.pending)

    def wait(self, seconds: float) -> bool:
        """Wait until another episode may begin; False where it may not yet."""
        return _within(seconds, lambda: self.may_go_on)

    def close(self) -> None:
        """Let go of the socket; what is pending stays in the spool."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._spool.close()

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
        self._socket.sndhwm = 2 * WINDOW
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
            elif isinstance(message, Taken) and message.run == self._spool.run:
                if message.sent:
                    self.offset.note(message.sent, message.came, message.now, self._wall())
                self._progress(message)
            self._heard = time.monotonic()
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
            self._spool.drop(taken.id)
        self._taken = taken
        if time.monotonic() - self._asked > _RESEND:
            self._ask_parameters()

    def _send_rows(self) -> None:
        """Send what the window allows, and again what has made no progress."""
        if self._sent > self._have and time.monotonic() - self._moved > _RESEND:
            self._sent, self._moved = self._have, time.monotonic()
        with self._lock:
            due = [i for i in self._spool.ids if self._sent < i <= self._have + WINDOW]
        for index in due:
            with self._lock:
                data = self._spool.read(index)
            if not self._send(data):
                return
            if self._sent <= self._have:
                self._moved = time.monotonic()
            self._sent = index

    def _ask(self, part: int = -1) -> None:
        """Ask what the learner has, or for a part of its newest parameters."""
        with self._lock:
            run, first = self._spool.run, self._spool.first
        offset, trip = self.offset.seconds, self.offset.round_trip
        ask = Ask(
            run=run,
            first=first,
            version=self._version,
            part=part,
            sent=self._wall(),
            offset=offset,
            round_trip=trip if math.isfinite(trip) else -1.0,
        )
        self._send(encode(ask))

    def _ask_parameters(self) -> None:
        if self._taken is not None and self._version < self._taken.version:
            self._asked = time.monotonic()
            self._ask(len(self._pieces))

    def _collect(self, part: Part) -> None:
        """Add a piece; with the last one check the whole and put it into use."""
        if self._pieces and part.digest != self._pieces[0].digest:
            self._pieces = []  # a newer version was published meanwhile
        if part.part != len(self._pieces) or not 0 < part.parts <= MAX_PARAMETERS // PART:
            return
        self._pieces.append(part)
        if len(self._pieces) < part.parts:
            self._ask_parameters()
            return
        self._asked = 0.0
        blob, self._pieces = b"".join(piece.data for piece in self._pieces), []
        if hashlib.sha256(blob).digest() != part.digest:
            raise CodecError("Parameters: their sha256 is wrong")
        self._newest = Parameters(part.version, unpack_parameters(blob), part.published)

    def _send(self, data: bytes) -> bool:
        try:
            self._socket.send(data, self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False  # nobody is there; it is tried again
        return True


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
