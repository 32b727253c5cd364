"""The control loop's end of the bridge: ticks out to all it allows, commands in from one.

`BridgeServer` lives beside the control loop, in a thread of its own that the loop never waits for.
The other end is in `robot_bridge.network.client`.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.messages import Command, Notice, Source, Tick
from robot_bridge.network.admission import (
    REJECTIONS,
    AdmissionConfig,
    Guest,
    Leases,
    Peer,
    Refused,
    Sessions,
    Throttle,
    require_role,
)
from robot_bridge.network.codec import (
    Beat,
    CodecError,
    Halt,
    Hello,
    Pulse,
    Refusal,
    Role,
    Welcome,
    decode,
    encode,
)
from robot_bridge.network.endpoints import (
    Doorkeeper,
    Endpoint,
    UnsafeBindError,
    check_bind,
    local_role,
    serve_our_user,
    serve_with_keys,
)
from robot_bridge.network.keys import Keyring
from robot_bridge.network.wake import Wake
from robot_bridge.reasons import Reason
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
_REQUESTS = ("hello", "beat", "command", "notice", "halt")
# A flood is read no faster than this; the rest waits in the flooder's own queue.
_TURN, _PER_TURN = 0.005, 32  # [s], messages


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Whom the server tells; called in its thread, so they must not block.

    Attributes:
        offer: `Arbiter.offer`.
        notice: `ControlLoop.notice`.
        fault: `Supervisor.fault`.
    """

    offer: Callable[[Command, float], None]
    notice: Callable[[Notice], None]
    fault: Callable[..., None]


class BridgeServer:
    """Publishes ticks and takes commands, beside the control loop.

    Args:
        endpoint: where. Raises UnsafeBindError for what others can reach, unless `keys` are given.
        callbacks: into the control loop.
        guests: who may command as each source; a source without one is the control loop's own
            process's. UnsafeBindError where nothing would prove who somebody is: on loopback,
            without keys.
        keys: switches CURVE on; each client's role is then the one that they list.
        contract: digest that clients are told, so that a wrong policy is noticed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        callbacks: Callbacks,
        *,
        guests: Mapping[Source, Guest] | None = None,
        keys: Keyring | None = None,
        contract: str = "",
        clock: Clock | None = None,
        config: AdmissionConfig | None = None,
    ) -> None:
        for address in endpoint.addresses:
            check_bind(address, keyed=keys is not None)
        if guests and keys is None and not endpoint.private:
            raise UnsafeBindError(
                f"'{endpoint.ticks}' without keys does not tell who commands; allowed: a folder "
                "of yours, or keys (python -m robot_bridge keys server)"
            )
        self._endpoint, self._callbacks, self._keys = endpoint, callbacks, keys
        self._contract, self._clock = contract, clock or MonotonicClock()
        self._config = config or AdmissionConfig()
        self._counters = dict.fromkeys(REJECTIONS, 0)
        self._throttle = Throttle(self._config)
        self._sessions = Sessions(self._config)
        self._leases = Leases(self._config, guests or {})
        self._tick: Tick | None = None
        self._unsent = False
        self._stopping = threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._run, name="bridge server", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Mapping[str, int]:
        """How many messages were rejected, by kind of `admission.REJECTIONS`."""
        return dict(self._counters)

    def publish(self, tick: Tick) -> None:
        """Send a tick as soon as the thread comes to it; a newer one takes its place. Never waits.

        A ControlLoop takes it as a sink.
        """
        self._tick, self._unsent = tick, True
        self._wake.set()

    def keep(self, source: Source, *, timeout: float) -> None:
        """Wait for who commands as `source`, and from then on let nobody else.

        TimeoutError where nobody has come within `timeout` [s].
        """
        deadline = time.monotonic() + timeout
        while not self._leases.keep(source, self._clock.now()):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"No {source} came to {self._endpoint.requests} in {timeout:g} s"
                )
            time.sleep(0.005)

    def close(self) -> None:
        """Stop and let go of the sockets."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> "BridgeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _open(self) -> None:
        zmq = require("zmq", "bridge")
        self._zmq, self._context, self._wake = zmq, zmq.Context(), Wake()
        self._door = None
        if self._keys is not None:
            self._door = Doorkeeper(self._context, self._keys, lambda: self._count("denied_key"))
        self._ticks = self._socket(zmq.PUB, 1024)
        self._ticks.conflate = True
        self._requests = self._socket(zmq.ROUTER, 4 * self._config.max_request)
        self._requests.rcvhwm = self._requests.sndhwm = _PER_TURN
        self._monitor = self._requests.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        try:
            self._ticks.bind(self._endpoint.ticks)
            self._requests.bind(self._endpoint.requests)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(f"Cannot listen at {self._endpoint.addresses}: {error}") from None

    def _socket(self, kind: int, most: int) -> Any:
        socket = self._context.socket(kind)
        socket.linger, socket.maxmsgsize = 0, most
        socket.handshake_ivl, socket.heartbeat_ivl = 2000, 2000  # [ms]: the dead are let go of
        if self._keys is not None:
            serve_with_keys(socket, self._keys)
        if self._endpoint.private:
            serve_our_user(socket)
        return socket

    def _run(self) -> None:
        poller, closed_until = self._zmq.Poller(), 0.0
        for source in (self._wake, self._monitor, *([self._door.socket] if self._door else [])):
            poller.register(source, self._zmq.POLLIN)
        while not self._stopping.is_set():
            wait = closed_until - time.monotonic()
            if wait <= 0:
                poller.register(self._requests, self._zmq.POLLIN)
            ready = dict(poller.poll(max(1, round(wait * 1e3)) if wait > 0 else 500))
            self._send_tick()
            if self._door is not None and self._door.socket in ready:
                self._door.answer()
            if self._monitor in ready:
                self._monitor.recv_multipart()
                self._count("handshake")
            if self._requests in ready and self._take_some() == _PER_TURN:
                poller.unregister(self._requests)
                closed_until = time.monotonic() + _TURN
        self._requests.disable_monitor()
        self._context.destroy(linger=0)
        self._wake.close()

    def _send_tick(self) -> None:
        self._wake.clear()
        if self._unsent and self._tick is not None:
            self._unsent = False
            try:
                self._ticks.send(encode(self._tick))
            except CodecError:
                self._count("internal")
                _LOG.exception("A tick cannot be published")

    def _take_some(self) -> int:
        for taken in range(_PER_TURN):
            try:
                frames = self._requests.recv_multipart(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                return taken
            self._take(frames)
        return _PER_TURN

    def _take(self, frames: Sequence[Any]) -> None:
        """Judge one message and answer it; nothing that comes can end the thread."""
        address, now = frames[0].bytes, self._clock.now()
        try:
            answer = self._answer(address, frames, now)
        except CodecError as error:
            self._count("malformed")
            _LOG.debug("malformed: %s", error)
            return
        except Refused as refused:
            self._count(refused.kind)
            if refused.kind in ("flooded", "oversized"):
                return
            answer = Refusal(kind=refused.kind, text=str(refused))
        except Exception:  # our own mistake must not take the link down with it
            self._count("internal")
            _LOG.exception("The control loop did not take a message")
            return
        if answer is not None:
            self._requests.send_multipart([address, encode(answer)])

    def _answer(self, address: bytes, frames: Sequence[Any], now: float) -> Any:
        name = frames[-1].get("User-Id") if self._keys is not None else ""
        self._throttle.admit(name.encode() or address, now)
        if len(frames) != 2:
            raise CodecError(f"Frames: got {len(frames)}, allowed: 2")
        if len(frames[1]) > self._config.max_request:
            raise Refused("oversized", f"at most {self._config.max_request} bytes")
        message, stamp = decode(frames[1].bytes, _REQUESTS)
        if isinstance(message, Hello):
            return self._greet(address, name, message, now)
        peer = self._sessions.admit(address, stamp, now)
        if isinstance(message, Beat):
            return self._pulse(peer, message, now)
        return self._obey(peer, message, now)

    def _greet(self, address: bytes, known_as: str, hello: Hello, now: float) -> Welcome:
        name, role = known_as or hello.name[:64], self._role(known_as)
        peer = self._sessions.open(address, name, role, now, ticket=hello.ticket)
        return Welcome(
            session=peer.session, role=role, sent=hello.sent, now=now, contract=self._contract
        )

    def _role(self, name: str) -> Role:
        if self._keys is None:
            return local_role(self._endpoint.requests)
        for client in self._keys.clients().values():
            if client.name == name:
                return client.role
        raise Refused("denied_key", f"{name} has been struck off the list")

    def _pulse(self, peer: Peer, beat: Beat, now: float) -> Pulse:
        granted: list[Source] = []
        refused: dict[str, str] = {}
        for source in ("policy", "operator"):
            if source not in beat.want:
                self._leases.release(peer, source)
                continue
            try:
                self._leases.take(peer, source, now)
                granted.append(source)
            except Refused as why:
                self._count(why.kind)
                refused[source] = str(why)
        tick = self._tick
        return Pulse(
            sent=beat.sent,
            now=self._clock.now(),
            granted=tuple(granted),
            refused=refused,
            holders=self._leases.holders(now),
            phase=None if tick is None else tick.phase,
            reasons=Reason.NONE if tick is None else tick.reasons,
            tick=-1 if tick is None else tick.index,
            counters=self._counters,
        )

    def _obey(self, peer: Peer, message: Command | Notice | Halt, now: float) -> None:
        """Pass a message on to the control loop, if the peer may."""
        if isinstance(message, Halt):
            require_role(peer, "command")
            reasons = message.reasons or Reason.EMERGENCY_STOP
            self._callbacks.fault(reasons, protective=message.protective)
            return
        source = message.source if isinstance(message, Command) else "policy"
        self._leases.require(peer, source, now)
        if isinstance(message, Command):
            self._callbacks.offer(message, now)
        else:
            self._callbacks.notice(message)

    def _count(self, kind: str) -> None:
        self._counters[kind] += 1
