"""The dashboard's server: files and a few numbers over HTTP, commands for who has the token.

It reads run folders and nothing else, so that it works for runs of any process, live or finished.
"""

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mjx_serl.dashboard.replay import Replays
from mjx_serl.dashboard.runs import Runs, require_command
from mjx_serl.run.remote import tell
from scenes.contract.errors import InputError
from scenes.contract.local_page import (
    HOST,
    is_token,
    new_token,
    page_headers,
    ports_from,
    ports_taken,
)

PORT = 8012
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = page_headers("img-src 'self'; media-src 'self'")


class Dashboard:
    """Serves a folder of runs until it is closed.

    Attributes:
        url: its address, with the token that commands need.
        token: drawn anew each time.

    Args:
        root: a folder of runs, or one run's.
        host: to listen on; another than this machine's own shows the runs to whoever reaches it.
        port: to serve on; the next free one of ten if it is taken, any free one if 0.

    Raises InputError where there is no such folder or no port is free.
    """

    def __init__(self, root: Path, *, host: str = HOST, port: int = PORT) -> None:
        if not root.is_dir():
            raise InputError(f"'{root}' is no folder; allowed: one of runs, or one run's")
        self.token = new_token()
        state = _State(Runs(root), self.token, local=host in _LOCAL)
        self._server = _listen(host, port, state)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}/?token={self.token}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="dashboard", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _State:
    """What all requests share; the runs are read by one at a time."""

    def __init__(self, runs: Runs, token: str, *, local: bool) -> None:
        self.runs, self.token, self.local = runs, token, local
        self.lock = threading.Lock()
        self.answers = _answers(runs)
        self.page = resources.files("mjx_serl.dashboard").joinpath("page.html").read_bytes()


def _answers(runs: Runs) -> Mapping[str, Callable[[dict[str, str]], Any]]:
    """What is found for each path; none of it changes a run."""
    replays = Replays()

    def file(asked: dict[str, str]) -> Path:
        return runs.replay(asked["run"], asked["file"])

    return {
        "/api/lines": lambda asked: runs.lines(),
        "/api/curve": lambda asked: runs.curve(asked["run"]),
        "/api/config": lambda asked: runs.config(asked["run"]),
        "/api/episodes": lambda asked: replays.listing(file(asked)),
        "/api/steps": lambda asked: replays.steps(file(asked), asked["episode"]),
        "/pictures": lambda asked: replays.pictures(file(asked), asked["episode"], asked["camera"]),
    }


class _Server(ThreadingHTTPServer):
    """One that hands its state to the handlers."""

    daemon_threads = True
    # Else a port that is taken would be shared.
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], state: _State) -> None:
        self.state = state
        super().__init__(address, _Handler)


def _listen(host: str, port: int, state: _State) -> _Server:
    for candidate in ports_from(port):
        try:
            return _Server((host, candidate), state)
        except OSError:
            continue
    raise InputError(f"on {host} {ports_taken(port)}")


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer a question; nothing is changed."""
        path, asked = self._asked()
        if not self._is_ours():
            return
        if path == "/":
            self._send(self.server.state.page, "text/html; charset=utf-8")
        elif path == "/file":
            self._answer(lambda: self._runs.file(asked["run"], asked["name"]), self._send_file)
        elif path in (answers := self.server.state.answers):
            self._answer(lambda: answers[path](asked), self._send_found)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")

    def do_POST(self) -> None:
        """Tell a run something."""
        path, asked = self._asked()
        if not self._is_ours():
            return
        given = self.headers.get("X-Token", "")
        # A page of another origin cannot set this header without being asked, and is refused then.
        if not is_token(given, self.server.state.token):
            self._refuse(HTTPStatus.UNAUTHORIZED, "read-only: the address has no token")
        elif path != "/api/tell":
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
        else:
            self._answer(lambda: self._tell(asked), self._send_found)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Say nothing: the address holds the token."""

    @property
    def _runs(self) -> Runs:
        return self.server.state.runs

    def _asked(self) -> tuple[str, dict[str, str]]:
        where = urlsplit(self.path)
        return where.path, {name: values[0] for name, values in parse_qs(where.query).items()}

    def _is_ours(self) -> bool:
        """Refuse a page that somebody else's name points here (DNS rebinding)."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        if self.server.state.local and host not in _LOCAL:
            self._refuse(HTTPStatus.FORBIDDEN, "not this host")
            return False
        return True

    def _answer(self, find: Callable[[], Any], send: Callable[[Any], None]) -> None:
        """Send what is found; nobody else waits while it is sent."""
        try:
            with self.server.state.lock:
                found = find()
            send(found)
        except (LookupError, ValueError) as error:
            told = error.args[0] if error.args else "bad request"
            self._refuse(HTTPStatus.BAD_REQUEST, str(told))
        except ConnectionError:  # who asked has left
            self.close_connection = True
        except OSError as error:
            self._refuse(HTTPStatus.NOT_FOUND, error.strerror or "not there")

    def _tell(self, asked: dict[str, str]) -> dict[str, str]:
        require_command(asked["what"])
        path = self._runs.path(asked["run"])
        state = self._runs.line(asked["run"])["state"]
        if state not in ("training", "paused"):
            raise InputError(f"run '{asked['run']}' is {state}: nobody would hear it")
        tell(path, asked["what"])
        return {"told": asked["what"]}

    def _send_file(self, found: tuple[Path, str]) -> None:
        path, kind = found
        with path.open("rb") as file:
            size = path.stat().st_size
            start, end = _range(self.headers.get("Range"), size)
            partial = (start, end) != (0, size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            self._head(kind, end - start)
            self.send_header("Accept-Ranges", "bytes")
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            file.seek(start)
            if partial:
                self.wfile.write(file.read(end - start))
            else:
                shutil.copyfileobj(file, self.wfile)

    def _send_found(self, value: Any) -> None:
        if isinstance(value, bytes):
            self._send(value, "application/octet-stream")
        else:
            self._send(json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self._head(kind, len(body))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(json.dumps({"error": why}).encode(), "application/json", status)

    def _head(self, kind: str, size: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        for name, value in _HEADERS.items():
            self.send_header(name, value)


def _range(asked: str | None, size: int) -> tuple[int, int]:
    """First and last but one byte of a request for a part (RFC 9110 14.2); all for what is none."""
    first, _, last = (asked or "").removeprefix("bytes=").partition("-")
    if not first.isdecimal() or int(first) >= size:
        return 0, size
    return int(first), min(int(last) + 1, size) if last.isdecimal() else size
