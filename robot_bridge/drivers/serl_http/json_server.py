"""Small JSON questions to a server that is not trusted: bounded in time and in size."""

import http.client
import ipaddress
import json
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any, NoReturn

# A state of SERL's servers is 2 kB.
_MOST_BYTES = 64_000


class HttpError(RuntimeError):
    """No usable answer; the message says which question and why."""


@dataclass(frozen=True)
class JsonServer:
    """An address to post to; ValueError unless it is this machine, or `allow_remote` is said.

    Attributes:
        url: http://host:port.
        allow_remote: these servers have no authentication, so anybody on the way moves the arm.
    """

    url: str
    allow_remote: bool = False

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        extra = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
        if parts.scheme != "http" or not parts.hostname or any(extra):
            raise ValueError(f"The server is {self.url!r}, allowed http://HOST:PORT")
        if not self.allow_remote and not _is_here(parts.hostname):
            raise ValueError(
                f"{parts.hostname} is not this machine and its server asks for no key; "
                "say allow_remote=True if nobody else can reach it"
            )

    def post(self, path: str, body: dict[str, Any] | None = None, *, timeout: float) -> bytes:
        """Return the answer, at most 64 kB, within `timeout` [s]; HttpError otherwise."""
        deadline = time.monotonic() + timeout
        parts = urllib.parse.urlsplit(self.url)
        link = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
        try:
            text = json.dumps(body or {}, allow_nan=False)
            link.request("POST", path, text, {"Content-Type": "application/json"})
            answer = link.getresponse()
            if answer.status != 200:
                raise HttpError(f"{path}: status {answer.status}")
            return _read(answer, path, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise HttpError(f"{path}: {error or type(error).__name__}") from None
        finally:
            link.close()

    def ask(self, path: str, *, timeout: float) -> dict[str, Any]:
        """Return the answer as a JSON object of finite numbers; HttpError otherwise."""
        try:
            value = json.loads(self.post(path, timeout=timeout), parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise HttpError(f"{path}: the answer is not JSON") from None
        if not isinstance(value, dict):
            raise HttpError(f"{path}: the answer is {type(value).__name__}, allowed an object")
        return value


def _read(answer: http.client.HTTPResponse, path: str, deadline: float) -> bytes:
    # The socket's time-out is per packet: one byte now and then would never end.
    data = b""
    while chunk := answer.read1(4096):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise HttpError(f"{path}: the answer is larger than {_MOST_BYTES} bytes")
        if time.monotonic() > deadline:
            raise HttpError(f"{path}: timed out")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
