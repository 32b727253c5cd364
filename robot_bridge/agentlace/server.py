"""Lets an existing SERL or HIL-SERL actor (agentlace's TrainerClient) connect to us. Opt-in.

agentlace sends pickles and knows no keys. Here they are read by `plain_pickle`, which admits plain
containers and numpy arrays and runs nothing; but anybody who reaches the port can send data, so it
is open to this machine only unless `listen_beyond_loopback=True` is said.

An actor counts its rows from 0 and sends what is newer than the id that it is told; it does not
say who it is, and comes on another connection after each time-out. So every connection has ids of
its own, one that is not known is told an id that is too low rather than too high, and a row that
comes again is known by its id and its content together: nothing is lost and nothing comes twice,
whichever side starts anew and however many actors fill a store.

Its messages (reference serl_family.md 4): REQ/REP of lz4(pickle) with "hash",
"get_last_update_id", "datastore" and the custom types; PUB of parameters.
"""

import collections
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robot_bridge.network.codec import CodecError
from robot_bridge.network.endpoints import UnsafeBindError, is_loopback
from robot_bridge.network.wake import Wake
from scenes.contract.extras import require
from scenes.contract.plain_pickle import PickleRefusedError, dumps, loads

_LOG = logging.getLogger(__name__)
# Of a frame, packed and unpacked [bytes]. An actor whose learner starts anew sends all that it
# holds in one: 2000 transitions of two 128 px pictures are 390 MB.
MAX_BYTES = 512 * 2**20
MAX_ID = 2**40  # of a row; more than a robot will ever count
REJECTIONS: tuple[str, ...] = (
    *("malformed", "refused_pickle", "unknown", "duplicate", "refused_row", "internal"),
)
_CONNECTIONS = 64  # whose ids are remembered
_ROWS = 100_000  # that are known again
_SAID = 1.0  # between two lines of the log [s]

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AgentlaceConfig:
    """The actor's `TrainerConfig`, which must be the same; defaults are SERL's examples.

    The experimental pipeline of agentlace is not served.

    Attributes:
        port_number: of requests; 0 is not possible.
        broadcast_port: of parameters; 0 is not possible.
        request_types: custom requests that are answered.
        rate_limit: as in the config of the actor; None for none.
        version: of agentlace: "0.0.1" or "0.0.2".
    """

    port_number: int = 5488
    broadcast_port: int = 5489
    request_types: tuple[str, ...] = ("send-stats",)
    rate_limit: int | None = None
    version: str = "0.0.2"

    def as_json(self) -> str:
        """The text that the actor compares, in agentlace's order of fields."""
        fields: dict[str, Any] = {
            "port_number": self.port_number,
            "broadcast_port": self.broadcast_port,
            "request_types": list(self.request_types),
            "rate_limit": self.rate_limit,
            "version": self.version,
        }
        if self.version != "0.0.1":
            fields["experimental_pipeline_port"] = None
        return json.dumps(fields, separators=(",", ":"))


class AgentlaceServer:
    """What a TrainerClient talks to.

    Args:
        config: see AgentlaceConfig.
        stores: names of the data stores that the actor may fill.
        deliver: called with a store's name and its new rows by key, in order; in the server's
            thread.
        answer: called with type and payload of a custom request, returns a plain dict.
        seen: keys of rows that were delivered to a learner before this one: they are not delivered
            again.
        host: loopback. Raises UnsafeBindError for another unless `listen_beyond_loopback`.
    """

    def __init__(
        self,
        config: AgentlaceConfig,
        *,
        stores: Sequence[str],
        deliver: Callable[[str, Mapping[bytes, Row]], None],
        answer: Callable[[str, Any], Mapping[str, Any]] | None = None,
        host: str = "127.0.0.1",
        listen_beyond_loopback: bool = False,
        seen: Sequence[bytes] = (),
    ) -> None:
        if not is_loopback(host) and not listen_beyond_loopback:
            raise UnsafeBindError(
                f"Host '{host}': agentlace has neither keys nor encryption, so others could send "
                "data; allowed: 127.0.0.1, or listen_beyond_loopback=True on a network of its own"
            )
        self._config, self._deliver = config, deliver
        self._answer_custom = answer or (lambda kind, payload: {})
        self._stores = tuple(stores)
        # Last ids by connection, those that have been silent the longest first.
        self._ids: collections.OrderedDict[bytes, dict[str, int]] = collections.OrderedDict()
        self._seen = collections.OrderedDict.fromkeys(seen)
        self._said = -_SAID
        self._counters = dict.fromkeys(REJECTIONS, 0)
        self._parameters: Any = None
        self._stopping = threading.Event()
        self._open(host)
        self._thread = threading.Thread(target=self._run, name="agentlace", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Mapping[str, int]:
        """How many messages were rejected, by kind."""
        return dict(self._counters)

    def publish(self, parameters: Mapping[str, Any]) -> None:
        """Send parameters, nested dicts of numpy arrays, to the actor; a newer one replaces them.

        They are written by the server's thread: do not change the arrays afterwards.
        """
        self._parameters = parameters
        self._wake.set()

    def close(self) -> None:
        """Stop and let go of the ports."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> "AgentlaceServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _open(self, host: str) -> None:
        zmq = require("zmq", "bridge")
        require("lz4.frame", "agentlace")
        self._zmq, self._context, self._wake = zmq, zmq.Context(), Wake()
        # A ROUTER instead of their REP: one peer that does not read its answer stops nobody.
        self._requests = self._context.socket(zmq.ROUTER)
        self._broadcast = self._context.socket(zmq.PUB)
        ports = (self._config.port_number, self._config.broadcast_port)
        try:
            for socket, port in zip((self._requests, self._broadcast), ports, strict=True):
                socket.linger, socket.sndhwm, socket.rcvhwm = 0, 3, 3
                # A frame up to twice as long as allowed is still answered, with the reason.
                socket.maxmsgsize, socket.handshake_ivl = 2 * MAX_BYTES, 2000
                socket.bind(f"tcp://{host}:{port}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(f"Cannot listen at {host}, ports {ports}: {error}") from None

    def _run(self) -> None:
        poller = self._zmq.Poller()
        poller.register(self._wake, self._zmq.POLLIN)
        poller.register(self._requests, self._zmq.POLLIN)
        while not self._stopping.is_set():
            ready = dict(poller.poll(500))
            self._wake.clear()
            parameters, self._parameters = self._parameters, None
            if parameters is not None:
                self._send_parameters(parameters)
            if self._requests in ready:
                self._take(self._requests.recv_multipart())
        self._context.destroy(linger=0)
        self._wake.close()

    def _send_parameters(self, parameters: Any) -> None:
        try:
            self._broadcast.send(compress(parameters))
        except Exception:  # a tree of something else; the actor keeps what it has
            self._count("internal")
            _LOG.exception("Parameters cannot be sent")

    def _take(self, frames: list[bytes]) -> None:
        """Answer a REQ: its address, an empty frame, the message."""
        if len(frames) != 3 or frames[1]:
            self._count("malformed")
            return
        try:
            reply: Mapping[str, Any] = self._reply(frames[0], decompress(frames[2]))
        except (CodecError, PickleRefusedError) as error:
            self._count("malformed" if isinstance(error, CodecError) else "refused_pickle")
            self._say(str(error))
            reply = _failure(str(error))
        except Exception:  # our own side must not take the link down with it
            self._count("internal")
            _LOG.exception("The learner did not take a message")
            reply = _failure("the learner failed")
        self._requests.send_multipart([frames[0], b"", compress(reply)])

    def _reply(self, address: bytes, message: Any) -> Mapping[str, Any]:
        if not isinstance(message, dict):
            raise CodecError(f"Message: got {type(message).__name__}, allowed: a dict")
        kind, payload = _field(message, "type", str), message.get("payload")
        if kind == "hash":
            # Sent by an actor that starts: its ids begin at 0.
            self._ids[address] = dict.fromkeys(self._stores, -1)
            return {"success": True, "payload": self._config.as_json()}
        if kind == "get_last_update_id":
            name = _field(payload, "store_name", str)
            return {"success": True, "payload": self._last(address)[self._known(name)]}
        if kind == "datastore":
            return self._insert(address, self._known(message.get("store_name")), payload)
        if kind in self._config.request_types:
            return dict(self._answer_custom(kind, payload))
        return self._unknown("type", kind)

    def _last(self, address: bytes) -> dict[str, int]:
        """The ids of a connection, by store; of a new one the lowest of all that are known."""
        ids = self._ids.pop(address, None)
        if ids is None:
            every = self._ids.values()
            ids = {s: min((known[s] for known in every), default=-1) for s in self._stores}
        self._ids[address] = ids
        if len(self._ids) > _CONNECTIONS:
            self._ids.popitem(last=False)
        return ids

    def _insert(self, address: bytes, store: str, payload: Any) -> Mapping[str, Any]:
        """Take the rows that are new and whole; the answer says of each whether it is ours."""
        rows, last = _field(payload, "data", list), _field(payload, "last_id", int)
        # They are numbered without gaps, so there are no more than there are ids.
        if not len(rows) - 1 <= last <= MAX_ID:
            allowed = f"{len(rows) - 1} to {MAX_ID}"
            raise CodecError(f"last_id of {len(rows)} rows: got {last}, allowed: {allowed}")
        accepted = [isinstance(row, dict) for row in rows]
        fresh: dict[bytes, Mapping[str, Any]] = {}
        for index, row in enumerate(rows):
            if accepted[index]:
                fresh.setdefault(_row_key(store, last - len(rows) + 1 + index, row), row)
        new = {key: row for key, row in fresh.items() if key not in self._seen}
        if new:
            self._deliver(store, new)
        self._remember(new)
        self._count("duplicate", sum(accepted) - len(new))
        ids = self._last(address)
        ids[store] = max(ids[store], last)
        taken = any(accepted) or not rows
        reply: dict[str, Any] = {"success": taken, "accepted": accepted}
        if not all(accepted):
            text = f"{accepted.count(False)} of {len(rows)} rows of '{store}': allowed: dicts"
            self._count("refused_row", accepted.count(False))
            self._say(text)
            reply["message"] = text
        return reply

    def _remember(self, keys: Iterable[bytes]) -> None:
        self._seen.update(dict.fromkeys(keys))
        while len(self._seen) > _ROWS:
            self._seen.popitem(last=False)

    def _say(self, text: str) -> None:
        """Log why something was refused, once a second: an actor tries again and again."""
        now = time.monotonic()
        if now - self._said >= _SAID:
            self._said = now
            _LOG.warning("An actor's message was refused: %s", text)

    def _known(self, store: Any) -> str:
        if not isinstance(store, str) or store not in self._stores:
            raise CodecError(f"Data store: got {store!r:.60}, allowed: {', '.join(self._stores)}")
        return store

    def _unknown(self, what: str, got: Any) -> Mapping[str, Any]:
        self._count("unknown")
        text = f"Unknown {what}: {got!r:.60}"
        self._say(text)
        return _failure(text)

    def _count(self, kind: str, times: int = 1) -> None:
        self._counters[kind] += times


def compress(value: Any) -> bytes:
    """A frame of agentlace's: lz4 of a pickle of plain values and arrays."""
    return require("lz4.frame", "agentlace").compress(dumps(value))


def decompress(frame: bytes) -> Any:
    """Read a frame; CodecError unless it is one lz4 frame of at most MAX_BYTES unpacked.

    PickleRefusedError for a pickle of anything but plain values and arrays.
    """
    if len(frame) > MAX_BYTES:
        raise CodecError(f"Size of a frame: got {len(frame)} bytes, allowed: {MAX_BYTES}")
    reader = require("lz4.frame", "agentlace").LZ4FrameDecompressor()
    try:
        data = reader.decompress(frame, max_length=MAX_BYTES)
    except (RuntimeError, ValueError, EOFError) as error:
        raise CodecError(f"Not an lz4 frame: {str(error)[:100]}") from None
    if not reader.eof or reader.unused_data:
        raise CodecError(f"lz4 frame: truncated, followed by more, or over {MAX_BYTES} bytes")
    return loads(data)


def _row_key(store: str, number: int, row: Mapping[str, Any]) -> bytes:
    """What tells a row from all others, of other actors too: its store, its id, its content."""
    key = hashlib.blake2b(f"{store} {number} ".encode(), digest_size=16)
    key.update(dumps(row))
    return key.digest()


def _failure(text: str) -> dict[str, Any]:
    return {"success": False, "message": text}


def _field(payload: Any, name: str, kind: type) -> Any:
    value = payload.get(name) if isinstance(payload, dict) else None
    if type(value) is not kind:
        raise CodecError(f"Message: '{name}' must be {kind.__name__}, got {type(value).__name__}")
    return value
