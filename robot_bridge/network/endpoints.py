"""Where the bridge listens, and who is let through the door.

By default nobody beyond this machine: an ipc socket in a folder that only its owner can enter, or
loopback. Beyond that only CURVE, whose keys a Keyring lists; without one the bind is refused.
"""

import contextlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from robot_bridge.network.codec import Role
from robot_bridge.network.keys import KeyFileError, KeyPair, Keyring, private_folder
from scenes.contract.errors import InputError
from scenes.contract.extras import require

_MAX_IPC_PATH = 107  # characters: sockaddr_un on Linux, unix(7)
_ZAP = "inproc://zeromq.zap.01"  # ZeroMQ RFC 27


class UnsafeBindError(InputError):
    """What was asked for would let strangers in."""


@dataclass(frozen=True)
class Endpoint:
    """ZeroMQ addresses.

    Attributes:
        ticks: where they are published.
        requests: where messages are taken.
    """

    ticks: str
    requests: str

    @classmethod
    def ipc(cls, folder: Path) -> "Endpoint":
        """Sockets in a folder of mode 0700, which is made if need be."""
        return cls(f"ipc://{folder}/ticks", f"ipc://{folder}/requests")

    @classmethod
    def tcp(cls, port: int, *, host: str = "127.0.0.1") -> "Endpoint":
        """`port` for ticks and the next one for messages."""
        return cls(f"tcp://{host}:{port}", f"tcp://{host}:{port + 1}")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        host = urlsplit(self.ticks).hostname or ""
        return self.private or is_loopback(host)

    @property
    def private(self) -> bool:
        """Whether only our own user can reach it: sockets in a folder of ours."""
        return self.ticks.startswith("ipc://")

    @property
    def addresses(self) -> tuple[str, str]:
        """Both."""
        return self.ticks, self.requests


@dataclass(frozen=True)
class ClientKeys:
    """What a client proves itself and the bridge by.

    Attributes:
        server: the bridge's public key, pinned.
        own: the client's pair.
    """

    server: str
    own: KeyPair


def parse_endpoint(text: str) -> Endpoint:
    """Read a folder (ipc) or HOST:PORT (tcp); ValueError for anything else."""
    if "/" in text:
        return Endpoint.ipc(Path(text).expanduser().resolve())
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65535):
        raise InputError(f"Endpoint '{text}', allowed: a folder or HOST:PORT, e.g. 127.0.0.1:7400")
    return Endpoint.tcp(int(port), host=host)


def parse_address(text: str) -> tuple[str, bool]:
    """Read a folder (ipc) or HOST:PORT (tcp) as one address, and whether it takes keys.

    It does beyond this machine. ValueError for anything else.
    """
    endpoint = parse_endpoint(text)
    address = endpoint.ticks
    if endpoint.private:
        address = address.removesuffix("ticks") + "learner"
    return address, not endpoint.local


def is_loopback(host: str) -> bool:
    """Whether a host is this machine whatever a resolver says: an address, or "localhost"."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(address: str, *, keyed: bool) -> None:
    """Refuse an address that others can reach.

    Raises UnsafeBindError for anything but ipc in a private folder or loopback, unless `keyed`;
    for a folder open to others in any case.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        _check_ipc(rest)
        return
    host = urlsplit(address).hostname or ""
    if scheme != "tcp":
        raise UnsafeBindError(f"Address: got '{address}', allowed: ipc://PATH or tcp://HOST:PORT")
    if not keyed and not is_loopback(host):
        raise UnsafeBindError(
            f"'{address}' can be reached from other machines and no keys are given; allowed "
            "without keys: ipc or 127.0.0.1. Make keys with: python -m robot_bridge keys server"
        )


def local_role(address: str) -> Role:
    """What a peer without a key may do where `check_bind` lets it in.

    A private folder proves that it is our user; on loopback any user of the machine may knock, and
    such a one does not outrank the policy.
    """
    return "admin" if address.startswith("ipc://") else "command"


def serve_our_user(socket: Any) -> None:
    """Have the kernel refuse other users' processes at an ipc socket, whatever its folder's mode.

    What ZeroMQ knows of a peer is SO_PEERCRED, which not every system has; the folder remains.
    """
    zmq = require("zmq", "bridge")
    with contextlib.suppress(zmq.ZMQError):
        socket.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())


def _check_ipc(path: str) -> None:
    if not path.startswith("/") or len(path) > _MAX_IPC_PATH:
        allowed = f"an absolute path of at most {_MAX_IPC_PATH} characters"
        raise UnsafeBindError(f"ipc path: got '{path}', allowed: {allowed}")
    try:
        private_folder(Path(path).parent)
    except KeyFileError as error:
        raise UnsafeBindError(str(error)) from None


def serve_with_keys(socket: Any, keys: Keyring) -> None:
    """Make a socket a CURVE server whose clients a Doorkeeper has to let in."""
    socket.curve_server = True
    socket.curve_publickey = keys.pair.public.encode()
    socket.curve_secretkey = keys.pair.secret.encode()
    socket.zap_domain = b"robot_bridge"
    # Without a doorkeeper ZeroMQ lets every key in; with this it then lets in none.
    socket.setsockopt(require("zmq", "bridge").ZAP_ENFORCE_DOMAIN, 1)


def connect_with_keys(socket: Any, keys: ClientKeys) -> None:
    """Make a socket a CURVE client that talks to the pinned server only."""
    socket.curve_serverkey = keys.server.encode()
    socket.curve_publickey = keys.own.public.encode()
    socket.curve_secretkey = keys.own.secret.encode()


class Doorkeeper:
    """Answers ZeroMQ's question (ZAP, RFC 27) whether a key may enter, with the client's name.

    Its socket is served by the thread that owns it: call `answer` when it is readable.
    """

    def __init__(self, context: Any, keys: Keyring, denied: Callable[[], None]) -> None:
        self.socket = context.socket(require("zmq", "bridge").REP)
        self.socket.linger = 0
        self.socket.bind(_ZAP)
        self._encode = require("zmq.utils.z85", "bridge").encode
        self._keys, self._denied = keys, denied

    def answer(self) -> None:
        """Answer one question."""
        version, request, _domain, _address, _identity, mechanism, *proof = (
            self.socket.recv_multipart()
        )
        name = self._name(proof[0]) if mechanism == b"CURVE" and len(proof) == 1 else None
        if name is None:
            self._denied()
        verdict = (b"200", b"OK") if name else (b"400", b"unknown key")
        self.socket.send_multipart([version, request, *verdict, (name or "").encode(), b""])

    def _name(self, raw: bytes) -> str | None:
        try:
            client = self._keys.clients().get(self._encode(raw).decode())
        except (KeyFileError, OSError):
            return None  # a list that cannot be trusted lets nobody in
        return None if client is None else client.name
