"""A peer that speaks to a bridge frame by frame, as an attacker would, and ports to meet at."""

import contextlib
import socket
import time
from typing import Any

import zmq

from robot_bridge.network import codec
from robot_bridge.network.codec import Hello, Stamp, encode
from robot_bridge.network.endpoints import ClientKeys, Endpoint, connect_with_keys


def free_ports() -> int:
    """A port whose successor is free too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError):
                two.bind(("127.0.0.1", port + 1))
                return port


class RawPeer:
    """Speaks to the server frame by frame, as an attacker would."""

    def __init__(
        self,
        endpoint: Endpoint,
        own: ClientKeys | None = None,
        *,
        kind: int = zmq.DEALER,
        identity: bytes = b"",
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.linger = 0
        if identity:
            self.socket.identity = identity
        if own is not None:
            connect_with_keys(self.socket, own)
        self.socket.connect(endpoint.requests)
        self.session = b""

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def answer(self, seconds: float = 3.0) -> Any:
        if not self.socket.poll(round(seconds * 1e3)):
            return None
        return codec.decode(self.socket.recv())[0]

    def send(self, message: object, seq: int, *, age: float = 0.0) -> bytes:
        data = encode(message, Stamp(self.session, seq, time.monotonic() - age))
        self.socket.send(data)
        return data

    def ask(self, message: object, seq: int, *, age: float = 0.0) -> Any:
        self.send(message, seq, age=age)
        return self.answer()

    def greet(self, name: str = "policy", *, ticket: str = "") -> codec.Welcome:
        welcome = self.ask(Hello(name=name, sent=0.0, ticket=ticket), 0)
        assert isinstance(welcome, codec.Welcome)
        self.session = welcome.session
        return welcome
