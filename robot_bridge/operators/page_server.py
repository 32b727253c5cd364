"""The server of the pilot's page: one person drives, others watch, pictures never queue up.

Input and pictures have a socket each, so that a slow picture does not hold a key back. All of it
runs in a thread of its own; what other threads may call says so.
"""

import asyncio
import contextlib
import io
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http import HTTPStatus
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_wire import (
    FrameError,
    InputFrame,
    Order,
    pack_pictures,
    parse_message,
)
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.local_page import (
    HOST,
    is_token,
    new_token,
    page_headers,
    ports_from,
    ports_taken,
)

# Pictures on their way to a page that it has not shown yet: more would be older when they are seen.
IN_FLIGHT = 2
MOST_PAGES = 16
# Largest message of a page [bytes]: a frame has 16, an echo a few more.
MOST_BYTES = 256
_KEPT = 600  # latencies
_QUALITY = 90  # of the JPEGs
_HEADERS = page_headers("img-src blob: data:")


class PilotServer:
    """Serves the page until it is closed.

    Attributes:
        url: its address, with the token without which nothing is shown and nobody drives.
        token: drawn anew each time.

    Args:
        operator: hears what the driver's page says.
        port: to serve on; the next free one of ten if it is taken, any free one if 0.
        about: told to every page once: what it shows beside the pictures; see `tell`.

    Raises MissingPackageError without websockets, InputError where no port is free.
    """

    def __init__(
        self,
        operator: BrowserOperator,
        *,
        port: int,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._websockets = require("websockets", "pilot", purpose="The pilot's page")
        self._serving = require("websockets.asyncio.server", "pilot")
        self._operator = operator
        self._about = {"undriven": list(operator.undriven), **(about or {})}
        self.token = new_token()
        self._page = resources.files("robot_bridge.operators").joinpath("page.html").read_bytes()
        self._drivers: list[Any] = []  # sockets; the first drives
        self._viewers: list[_Viewer] = []
        self._last: tuple[dict[str, Any], dict[str, bytes]] | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._telling: asyncio.Future[None] | None = None
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self.malformed = 0
        ready: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(port, ready), name="pilot page", daemon=True
        )
        self._thread.start()
        self.port = ready.result()
        self.url = f"http://{HOST}:{self.port}/?token={self.token}"

    # -- for other threads -----------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether any page is open."""
        return bool(self._viewers)

    @property
    def latencies(self) -> list[float]:
        """Times from a picture's sending to a page's word that it is shown, the latest [s]."""
        return list(self._latencies)

    def publish(self, told: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Show encoded pictures and what is said of them; what was not sent yet is dropped."""
        message = (dict(told), dict(pictures))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._publish, message)

    def tell(self, about: Mapping[str, Any]) -> None:
        """Change what every page is told once."""

        def told() -> None:
            self._about |= about
            self._telling = asyncio.ensure_future(self._tell_roles())

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(told)

    def close(self) -> None:
        """Stop serving; may be called twice."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5)

    # -- in the server's thread ------------------------------------------------------------------

    def _run(self, port: int, ready: "Future[int]") -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(port, ready))
        finally:
            self._loop.close()

    async def _serve(self, port: int, ready: "Future[int]") -> None:
        # Browsers open connections that they never use; each would print a traceback.
        quiet = logging.getLogger("robot_bridge.operators.page_server")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        try:
            server = await self._listen(port, quiet)
        except InputError as error:
            ready.set_exception(error)
            return
        async with server:
            ready.set_result(server.sockets[0].getsockname()[1])
            await self._stop.wait()

    async def _listen(self, port: int, logger: logging.Logger) -> Any:
        for candidate in ports_from(port):
            with contextlib.suppress(OSError):
                return await self._serving.serve(
                    self._handle,
                    HOST,
                    candidate,
                    process_request=self._admit,
                    compression=None,  # pictures are compressed
                    max_size=MOST_BYTES,
                    ping_interval=5,
                    ping_timeout=10,
                    close_timeout=1,
                    logger=logger,
                )
        raise InputError(ports_taken(port))

    def _admit(self, connection: Any, request: Any) -> Any:
        """Answer a request for the page; let a socket through, or refuse it (None lets through)."""
        where = urlsplit(request.path)
        # A name that somebody else's DNS points here would make their page ours (rebinding).
        names = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        host = request.headers.get("Host", "")
        if host not in names:
            return connection.respond(HTTPStatus.FORBIDDEN, "not this host\n")
        if where.path == "/":
            return self._answer(self._page)
        if where.path not in ("/input", "/pictures"):
            return connection.respond(HTTPStatus.NOT_FOUND, "nothing here\n")
        if request.headers.get("Origin") != f"http://{host}":
            return connection.respond(HTTPStatus.FORBIDDEN, "a page of another origin\n")
        token = parse_qs(where.query).get("token", [""])[0]
        if not is_token(token, self.token):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "wrong token\n")
        if len(self._drivers) + len(self._viewers) >= 2 * MOST_PAGES:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages\n")
        return None

    def _answer(self, body: bytes) -> Any:
        http, structures = (
            require(f"websockets.{name}", "pilot") for name in ("http11", "datastructures")
        )
        more = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))}
        headers = structures.Headers(**_HEADERS, **more)
        return http.Response(200, "OK", headers, body)

    async def _handle(self, socket: Any) -> None:
        path = urlsplit(socket.request.path).path
        with contextlib.suppress(self._websockets.ConnectionClosed):
            if not await (self._hear(socket) if path == "/input" else self._show(socket)):
                self.malformed += 1
                await socket.close(1007, "nothing of ours")

    async def _hear(self, socket: Any) -> bool:
        """Take a page's messages, which count while it drives; False once it sends others."""
        self._drivers.append(socket)
        try:
            await self._tell_roles()
            async for message in socket:
                try:
                    heard = parse_message(message)
                except FrameError:
                    return False
                if socket is not self._drivers[0]:
                    # Whoever watches may stop it.
                    if isinstance(heard, InputFrame) and "stop" in heard.held:
                        self._operator.stop()
                    continue
                if isinstance(heard, Order):
                    self._operator.order(heard)
                else:
                    self._operator.hear(heard, time.monotonic())
            return True
        finally:
            drove = socket is self._drivers[0]
            self._drivers.remove(socket)
            if drove:
                self._operator.release()
                await self._tell_roles()

    async def _tell_roles(self) -> None:
        for i, socket in enumerate(list(self._drivers)):
            role = "driver" if i == 0 else "watcher"
            with contextlib.suppress(self._websockets.ConnectionClosed):
                await socket.send(json.dumps({"role": role, **self._about}))

    async def _show(self, socket: Any) -> bool:
        """Send the newest pictures as fast as a page shows them; returns as `_hear` does."""
        viewer = _Viewer(socket, self._latencies.append)
        self._viewers.append(viewer)
        if self._last is not None:
            viewer.offer(self._last)
        sender = asyncio.ensure_future(viewer.send())
        try:
            async for message in socket:
                if not viewer.hear(message):
                    return False
            return True
        finally:
            self._viewers.remove(viewer)
            sender.cancel()

    def _publish(self, message: tuple[dict[str, Any], dict[str, bytes]]) -> None:
        self._last = message
        for viewer in self._viewers:
            viewer.offer(message)


def encode(picture: NDArray[np.uint8]) -> bytes:
    """Return a JPEG of uint8 [H, W, 3 or more]."""
    image = require("PIL.Image", "pilot", package="pillow", purpose="The pilot's page")
    buffer = io.BytesIO()
    image.fromarray(np.ascontiguousarray(picture[..., :3])).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


class _Viewer:
    """A page that is shown pictures: at most `IN_FLIGHT` are on their way, the newest waits."""

    def __init__(self, socket: Any, took: Callable[[float], None]) -> None:
        self._socket, self._took = socket, took
        self._newest: tuple[dict[str, Any], dict[str, bytes]] | None = None
        self._news = asyncio.Event()
        self._sent: dict[int, float] = {}
        self._count = 0
        self._latency = 0.0

    def offer(self, message: tuple[dict[str, Any], dict[str, bytes]]) -> None:
        """Show this next."""
        self._newest = message
        self._news.set()

    def hear(self, message: bytes | str) -> bool:
        """Take a page's word that it shows a picture; False for anything else."""
        if not isinstance(message, str) or not message.isdecimal():
            return False
        sent = self._sent.pop(int(message), None)
        if sent is not None:
            self._latency = time.monotonic() - sent
            self._took(self._latency)
            self._news.set()
        return True

    async def send(self) -> None:
        """Send until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._newest is None or len(self._sent) >= IN_FLIGHT:
                continue
            (told, pictures), self._newest = self._newest, None
            self._count += 1
            self._sent[self._count] = time.monotonic()
            mine = {"id": self._count, "latency_ms": round(1000 * self._latency, 1)}
            await self._socket.send(pack_pictures(told | mine, pictures))
