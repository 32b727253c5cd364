"""The far end of the bridge: what a policy, an operator or an observer runs in its own process.

Times on the wire are the server's monotonic clock. A client estimates its own clock's offset from
each Beat and Pulse (the answer came halfway through the round trip, give or take half of it) and
converts, so that whoever receives a time compares it with its own clock. Where the estimate cannot
be told from zero, as on one machine, nothing is converted.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.messages import Command, Notice, Source, Tick
from robot_bridge.network.clock_offset import ClockOffset
from robot_bridge.network.codec import (
    MAX_BYTES,
    Beat,
    CodecError,
    Halt,
    Hello,
    Pulse,
    Refusal,
    Role,
    Stamp,
    Welcome,
    decode,
    encode,
)
from robot_bridge.network.endpoints import ClientKeys, Endpoint, connect_with_keys
from robot_bridge.network.wake import Wake
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.limits import Limits
from scenes.contract.extras import require

_LOG = logging.getLogger(__name__)
_ANSWERS = ("welcome", "pulse", "refusal")
_BEAT = 0.25  # seconds between Beats: four fit into a lease
_DEAD = 4 * _BEAT  # without an answer the link is said to be down [s]


class BridgeClient:
    """A policy's, an operator's or an observer's end; all its methods return at once.

    Args:
        endpoint: the server's.
        name: for people, in its answers; with keys the server knows the client by its key.
        want: what to command, () to observe only. The lease is asked for until it is granted and
            renewed four times a second.
        keys: for a server with CURVE.
        contract: digest that the server must tell, empty for any.
        ticket: see Hello; of a process that the bridge has started.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        want: Sequence[Source] = (),
        keys: ClientKeys | None = None,
        contract: str = "",
        ticket: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.refusals: collections.deque[Refusal] = collections.deque(maxlen=16)
        self._name, self._want, self._contract = name, tuple(want), contract
        self._ticket = ticket
        self._clock, self._offset = clock or MonotonicClock(), ClockOffset()
        self._latest: Tick | None = None
        self._pulse: tuple[Pulse, float] | None = None
        self._welcome: Welcome | None = None
        self._seq = 0
        self._commands: dict[Source, Command] = {}
        self._notices: collections.deque[Notice] = collections.deque(maxlen=16)
        self._halt: Halt | None = None
        self._said: Halt | None = None
        self._stopping = threading.Event()
        self._open(endpoint, keys)
        self._thread = threading.Thread(target=self._run, name=f"bridge {name}", daemon=True)
        self._thread.start()

    @property
    def latest(self) -> Tick | None:
        """The newest tick, its times on our clock; None before the first."""
        return self._latest

    @property
    def pulse(self) -> Pulse | None:
        """The server's newest answer, None where the last one is older than a second."""
        if self._pulse is None or self._clock.now() - self._pulse[1] > _DEAD:
            return None
        return self._pulse[0]

    @property
    def role(self) -> Role | None:
        """What the server lets us do, None before it has answered."""
        return None if self._welcome is None else self._welcome.role

    def may_command(self, source: Source = "policy") -> bool:
        """Whether the lease is ours now."""
        pulse = self.pulse
        return pulse is not None and source in pulse.granted

    def offer(self, command: Command) -> bool:
        """Send a command, its times on our clock; a newer one takes its place until it is sent.

        False, and nothing is sent, without the lease.
        """
        if not self.may_command(command.source):
            return False
        self._commands[command.source] = command
        self._wake.set()
        return True

    def notice(self, notice: Notice) -> None:
        """Send why there are no commands."""
        self._notices.append(notice)
        self._wake.set()

    def halt(self, reasons: Reason = Reason.EMERGENCY_STOP, *, protective: bool = False) -> None:
        """Fault the bridge; said again until its ticks show the fault.

        It is no replacement for the emergency stop: networks fail.
        """
        self._halt = Halt(reasons=reasons, protective=protective)
        self._wake.set()

    def wait(self, seconds: float) -> None:
        """Block until the server has answered and, where we want to command, granted it.

        TimeoutError says what was missing.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pulse = self.pulse
            if pulse is not None and set(self._want) <= set(pulse.granted):
                return
            time.sleep(0.005)
        raise TimeoutError(self._missing(seconds))

    def close(self) -> None:
        """Give the lease back and let go of the sockets."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> "BridgeClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _open(self, endpoint: Endpoint, keys: ClientKeys | None) -> None:
        zmq = require("zmq", "bridge")
        self._zmq, self._context, self._wake = zmq, zmq.Context(), Wake()
        self._ticks = self._context.socket(zmq.SUB)
        self._requests = self._context.socket(zmq.DEALER)
        self._ticks.conflate = True
        self._ticks.subscribe(b"")
        # What cannot be sent now is not wanted later.
        self._requests.immediate, self._requests.sndhwm = True, 16
        for socket, address in zip((self._ticks, self._requests), endpoint.addresses, strict=True):
            socket.linger, socket.maxmsgsize = 0, MAX_BYTES
            socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 1000  # [ms]
            if keys is not None:
                connect_with_keys(socket, keys)
            socket.connect(address)

    def _run(self) -> None:
        zmq, due = self._zmq, 0.0
        poller = zmq.Poller()
        for source in (self._wake, self._ticks, self._requests):
            poller.register(source, zmq.POLLIN)
        while not self._stopping.is_set():
            wait = due - time.monotonic()
            ready = dict(poller.poll(max(0, round(wait * 1e3))))
            self._wake.clear()
            if self._ticks in ready:
                self._receive(self._ticks, ("tick",))
            if self._requests in ready:
                self._receive(self._requests, _ANSWERS)
            beat = time.monotonic() >= due
            self._flush(again=beat)
            if beat:
                self._beat(self._want)
                due = time.monotonic() + _BEAT
        self._beat(())
        # A moment for the farewell; the lease would else end by itself.
        self._requests.close(linger=50)
        self._context.destroy(linger=50)
        self._wake.close()

    def _receive(self, socket: Any, kinds: tuple[str, ...]) -> None:
        try:
            message, _ = decode(socket.recv(), kinds)
        except CodecError as error:
            _LOG.warning("The bridge sent nonsense: %s", error)
            return
        now = self._clock.now()
        if isinstance(message, Tick):
            self._latest = _moved_tick(message, -self._offset.seconds)
        elif isinstance(message, Welcome):
            self._offset.note(message.sent, message.now, message.now, now)
            self._welcome, self._seq = self._accepted(message), 0
            self._beat(self._want)
        elif isinstance(message, Pulse):
            self._offset.note(message.sent, message.now, message.now, now)
            self._pulse = message, now
            if message.phase is Phase.FAULT:
                self._halt = None
        else:
            self._hear(message)

    def _accepted(self, welcome: Welcome) -> Welcome | None:
        if self._contract and welcome.contract != self._contract:
            text = f"contract: got {welcome.contract[:12]}, allowed: {self._contract[:12]}"
            self.refusals.append(Refusal(kind="contract", text=text))
            return None
        return welcome

    def _hear(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        if refusal.kind == "unknown_session":  # the server was started anew
            self._welcome, self._pulse = None, None

    def _beat(self, want: tuple[Source, ...]) -> None:
        sent = self._clock.now()
        if self._welcome is None:
            self._send(Hello(name=self._name, sent=sent, ticket=self._ticket))
        else:
            self._send(Beat(sent=sent, want=want))

    def _flush(self, *, again: bool) -> None:
        """Send what is waiting; `again`: also a halt that has not shown yet."""
        offset, halt = self._offset.seconds, self._halt
        if halt is not None and (again or halt is not self._said):
            self._said = halt
            self._send(halt)
        while self._notices:
            notice = self._notices.popleft()
            self._send(dataclasses.replace(notice, t=notice.t + offset))
        for source in tuple(self._commands):
            command = self._commands.pop(source)
            self._send(dataclasses.replace(command, t=command.t + offset))

    def _send(self, message: Hello | Beat | Command | Notice | Halt) -> None:
        session = b"" if self._welcome is None else self._welcome.session
        stamp = Stamp(session, self._seq, self._clock.now() + self._offset.seconds)
        self._seq += 1
        try:
            self._requests.send(encode(message, stamp), self._zmq.NOBLOCK)
        except self._zmq.Again:
            return  # nobody is there, or it does not read: what is old by then is not wanted
        except CodecError as error:
            self.refusals.append(Refusal(kind="malformed", text=str(error)))

    def _missing(self, seconds: float) -> str:
        pulse = self.pulse
        if pulse is not None:
            return f"No lease after {seconds:g} s: {'; '.join(pulse.refused.values())}"
        said = self.refusals[-1].text if self.refusals else "wrong address, wrong key, or not up"
        return f"No answer from the bridge after {seconds:g} s: {said}"


class RemotePolicySide:
    """The `policy_loop.ControlSide` of a PolicyLoop in another process.

    Args:
        client: that wants to command as the policy.
        limits: the same as the control loop's; it checks them again.
    """

    def __init__(self, client: BridgeClient, limits: Limits, clock: Clock | None = None) -> None:
        self.clock = clock or MonotonicClock()
        self.limits = limits
        self._client = client

    @property
    def latest(self) -> Tick | None:
        """The newest tick; None while the link is down, so that nothing is observed of the past."""
        return None if self._client.pulse is None else self._client.latest

    def offer(self, command: Command) -> None:
        """Send a command; without the lease it is dropped and the arm holds."""
        self._client.offer(command)

    def notice(self, notice: Notice) -> None:
        """Send why there are no commands."""
        self._client.notice(notice)

    def fault(self, reasons: Reason) -> None:
        """Stop the arm until a person has looked."""
        self._client.halt(reasons)


def _moved_tick(tick: Tick, offset: float) -> Tick:
    """A tick with its monotonic times moved by `offset` [s]."""
    if offset == 0.0:
        return tick
    state = dataclasses.replace(tick.state, t=tick.state.t + offset)
    return dataclasses.replace(tick, t=tick.t + offset, state=state)
