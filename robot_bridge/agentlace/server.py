"""Lets an existing SERL or HIL-SERL actor (agentlace's TrainerClient) connect to us. Opt-in.

agentlace sends pickles and knows no keys. Here they are read by `plain_pickle`, which admits plain
containers and numpy arrays and runs nothing; but anybody who reaches the port can send data, so it
is open to this machine only unless `listen_beyond_loopback=True` is said. One actor at a time.

Its messages (reference serl_family.md 4): REQ/REP of lz4(pickle) with "hash",
"get_last_update_id", "datastore" and the custom types; PUB of parameters.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robot_bridge.agentlace.plain_pickle import PickleRefusedError, dumps, loads
from robot_bridge.network.codec import CodecError
from robot_bridge.network.endpoints import UnsafeBindError, is_loopback
from robot_bridge.network.wake import Wake
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
MAX_BYTES = 64 * 2**20  # of a frame, packed and unpacked [bytes]
REJECTIONS: tuple[str, ...] = ("malformed", "refused_pickle", "unknown", "duplicate", "internal")

Rows = Sequence[Mapping[str, Any]]


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
        deliver: called with a store's name and its new rows, in order; in the server's thread.
        answer: called with type and payload of a custom request, returns a plain dict.
        host: loopback. Raises UnsafeBindError for another unless `listen_beyond_loopback`.
    """

    def __init__(
        self,
        config: AgentlaceConfig,
        *,
        stores: Sequence[str],
        deliver: Callable[[str, Rows], None],
        answer: Callable[[str, Any], Mapping[str, Any]] | None = None,
        host: str = "127.0.0.1",
        listen_beyond_loopback: bool = False,
    ) -> None:
        if not is_loopback(host) and not listen_beyond_loopback:
            raise UnsafeBindError(
                f"Host '{host}': agentlace has neither keys nor encryption, so others could send "
                "data; allowed: 127.0.0.1, or listen_beyond_loopback=True on a network of its own"
            )
        self._config, self._deliver = config, deliver
        self._answer_custom = answer or (lambda kind, payload: {})
        self._last = dict.fromkeys(stores, -1)
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
                socket.maxmsgsize, socket.handshake_ivl = MAX_BYTES, 2000
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
            reply: Mapping[str, Any] = self._reply(decompress(frames[2]))
        except (CodecError, PickleRefusedError) as error:
            self._count("malformed" if isinstance(error, CodecError) else "refused_pickle")
            reply = _failure(str(error))
        except Exception:  # our own side must not take the link down with it
            self._count("internal")
            _LOG.exception("The learner did not take a message")
            reply = _failure("the learner failed")
        self._requests.send_multipart([frames[0], b"", compress(reply)])

    def _reply(self, message: Any) -> Mapping[str, Any]:
        if not isinstance(message, dict):
            raise CodecError(f"Message: got {type(message).__name__}, allowed: a dict")
        kind, payload = _field(message, "type", str), message.get("payload")
        if kind == "hash":
            # Sent by an actor that starts: its ids begin again, and ours with them.
            self._last = dict.fromkeys(self._last, -1)
            return {"success": True, "payload": self._config.as_json()}
        if kind == "get_last_update_id":
            name = _field(payload, "store_name", str)
            return {"success": True, "payload": self._last[self._known(name)]}
        if kind == "datastore":
            return self._insert(self._known(message.get("store_name")), payload)
        if kind in self._config.request_types:
            return dict(self._answer_custom(kind, payload))
        return self._unknown("type", kind)

    def _insert(self, store: str, payload: Any) -> Mapping[str, Any]:
        rows, last = _field(payload, "data", list), _field(payload, "last_id", int)
        if not all(isinstance(row, dict) for row in rows):
            raise CodecError("Rows of a data store: allowed: dicts")
        # An actor whose answer was lost asks for our id first, so a repeat is a repeat of all.
        if last <= self._last[store]:
            self._count("duplicate")
            return {"success": True}
        self._deliver(store, rows)
        self._last[store] = last
        return {"success": True}

    def _known(self, store: Any) -> str:
        if not isinstance(store, str) or store not in self._last:
            raise CodecError(f"Data store: got {store!r:.60}, allowed: {', '.join(self._last)}")
        return store

    def _unknown(self, what: str, got: Any) -> Mapping[str, Any]:
        self._count("unknown")
        return _failure(f"Unknown {what}: {got!r:.60}")

    def _count(self, kind: str) -> None:
        self._counters[kind] += 1


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


def _failure(text: str) -> dict[str, Any]:
    return {"success": False, "message": text}


def _field(payload: Any, name: str, kind: type) -> Any:
    value = payload.get(name) if isinstance(payload, dict) else None
    if type(value) is not kind:
        raise CodecError(f"Message: '{name}' must be {kind.__name__}, got {type(value).__name__}")
    return value
