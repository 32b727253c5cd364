"""The page's server: who may see, who drives, what is thrown away."""

import contextlib
import json
import queue
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from browser import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import IN_FLIGHT, PilotServer
from robot_bridge.operators.page_wire import Order, pack_frame, unpack_pictures

pytestmark = pytest.mark.keeps_time

HELD = frozenset({"drive"})


@pytest.fixture
def operator() -> BrowserOperator:
    return BrowserOperator(("x", "y", "z", "gripper"))


@pytest.fixture
def server(operator: BrowserOperator) -> Iterator[PilotServer]:
    served = PilotServer(operator, port=0, about={"title": "toy"})
    yield served
    served.close()


def join(server: PilotServer, path: str = "input", **changes: Any) -> ClientConnection:
    origin = changes.pop("origin", f"http://127.0.0.1:{server.port}")
    token = changes.pop("token", server.token)
    url = f"ws://127.0.0.1:{server.port}/{path}?token={token}"
    return connect(url, origin=origin, open_timeout=10, close_timeout=1, **changes)


def role(socket: ClientConnection) -> str:
    return json.loads(socket.recv(timeout=10))["role"]


def drives(operator: BrowserOperator) -> bool:
    found = operator.poll(time.monotonic())
    return found is not None and found.enabled


def test_the_page_is_served_on_this_machine_alone(server: PilotServer) -> None:
    with urlopen(f"http://127.0.0.1:{server.port}/", timeout=10) as answer:
        assert b"<title>pilot</title>" in answer.read()
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
    assert server.url.startswith(f"http://127.0.0.1:{server.port}/?token=")
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"http://127.0.0.1:{server.port}/etc", timeout=10)
    rebound = Request(f"http://127.0.0.1:{server.port}/", headers={"Host": "evil.example"})
    with pytest.raises(HTTPError, match="403"):
        urlopen(rebound, timeout=10)


@pytest.mark.parametrize("path", ["input", "pictures"])
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"token": "guessed"}, 401),
        ({"token": ""}, 401),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": None}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
    ],
)
def test_nobody_else_gets_in(
    server: PilotServer, path: str, changes: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        join(server, path, **changes)
    assert refused.value.response.status_code == status
    assert not server.watched


def test_one_drives_and_the_next_takes_over_when_it_leaves(
    server: PilotServer, operator: BrowserOperator
) -> None:
    first, second = join(server), join(server)
    assert (role(first), role(second)) == ("driver", "watcher")
    assert role(first) == "driver"  # told again with each that comes
    second.send(pack_frame(1, 0, {"x": 1.0}, HELD))
    first.send(pack_frame(1, 0, {"y": 1.0}, HELD))
    wait_until(lambda: drives(operator), seconds=5)
    found = operator.poll(time.monotonic())
    assert found is not None and list(found.action) == [0, 1, 0, 0]
    first.close()
    assert role(second) == "driver"
    assert not drives(operator), "a page that is closed lets go at once"
    second.send(pack_frame(2, 0, {"x": 1.0}, HELD))
    wait_until(lambda: drives(operator), seconds=5)
    second.close()
    wait_until(lambda: not drives(operator), seconds=5)


def test_only_who_drives_gives_orders_and_pages_are_told_what_changes(
    server: PilotServer, operator: BrowserOperator
) -> None:
    with join(server) as first, join(server) as second:
        assert (role(first), role(second), role(first)) == ("driver", "watcher", "driver")
        second.send("delete 1")
        second.send(pack_frame(1, 0, {}, HELD))
        first.send("delete 2")
        first.send("replay 3")
        orders: list[Order] = []

        def taken() -> int:
            order = operator.take_order()
            orders.extend([] if order is None else [order])
            return len(orders)

        wait_until(lambda: taken() == 2, seconds=5)
        assert orders == [Order("delete", 2), Order("replay", 3)]
        server.tell({"episodes": [[1, 50, 1.0]]})
        told = [json.loads(page.recv(timeout=5)) for page in (first, second)]
        assert [t["episodes"] for t in told] == [[[1, 50, 1.0]]] * 2
        assert told[1]["title"] == "toy"
        first.send("delete everything")
        with pytest.raises(ConnectionClosed):
            first.recv(timeout=5)
    assert server.malformed == 1


def test_malformed_frames_end_their_page_and_nobody_elses(
    server: PilotServer, operator: BrowserOperator
) -> None:
    good = join(server)
    role(good)

    def throw(count: int) -> None:
        for i in range(count):
            with contextlib.suppress(ConnectionClosed, InvalidStatus), join(server) as bad:
                bad.send([b"x" * 15, "text", bytes([0xFF] * 16), b"y" * 200][i % 4])
                while True:
                    bad.recv(timeout=10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(throw, [50] * 4))
    assert server.malformed == 200
    good.send(pack_frame(1, 0, {"x": 1.0}, HELD))
    wait_until(lambda: drives(operator), seconds=5)
    # Thousands in one breath, from who drives: it is closed at the first, and its arm let go.
    good.close()
    with contextlib.suppress(ConnectionClosed), join(server) as bad:
        bad.send(pack_frame(1, 0, {"x": 1.0}, HELD))
        wait_until(lambda: drives(operator), seconds=5)
        begun = time.monotonic()
        bad.send(b"z")
        wait_until(lambda: not drives(operator), seconds=5)
        assert time.monotonic() - begun < 1.0
        for _ in range(10_000):
            bad.send(b"z")
    with join(server) as good:
        assert role(good) == "driver"
        good.send(pack_frame(1, 0, {"x": 1.0}, HELD))
        wait_until(lambda: drives(operator), seconds=5)


def test_a_message_too_large_is_refused(server: PilotServer) -> None:
    with join(server) as socket, pytest.raises(ConnectionClosed):
        role(socket)
        socket.send(b"x" * 100_000)
        socket.recv(timeout=10)


def test_only_the_newest_picture_waits(server: PilotServer) -> None:
    with join(server, "pictures") as page:
        wait_until(lambda: server.watched, seconds=5)
        for i in range(50):
            server.publish({"n": i}, {"front": b"jpeg"})
            time.sleep(0.002)
        seen = [unpack_pictures(page.recv(timeout=5))[0] for _ in range(IN_FLIGHT)]
        with pytest.raises(TimeoutError):
            page.recv(timeout=0.3)
        page.send(str(seen[0]["id"]))
        assert unpack_pictures(page.recv(timeout=5))[0]["n"] == 49
        wait_until(lambda: len(server.latencies) == 1, seconds=5)
    wait_until(lambda: not server.watched, seconds=5)


def test_who_comes_later_sees_what_was_shown_last(server: PilotServer) -> None:
    server.publish({"n": 7}, {})
    with join(server, "pictures") as page:
        assert unpack_pictures(page.recv(timeout=5))[0]["n"] == 7


class SlowNetwork:
    """A way to a port on which everything comes later, and now and then much later.

    Args:
        port: where it leads.
        delay: of every piece, either way [s].
        loss: share of the pieces that are lost once, which TCP makes good `again` [s] later.
        again: see above.
    """

    def __init__(self, port: int, *, delay: float, loss: float, again: float = 0.25) -> None:
        self._delay, self._loss, self._again = delay, loss, again
        self._draw = random.Random(0)
        with socket.create_server(("127.0.0.1", 0)) as way:
            self.end = socket.create_connection(way.getsockname())
            near, _ = way.accept()
        far = socket.create_connection(("127.0.0.1", port))
        self._ends = (near, far, self.end)
        self._threads = []
        for a, b in ((near, far), (far, near)):
            pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            self._threads.append(threading.Thread(target=self._take, args=(a, pieces)))
            self._threads.append(threading.Thread(target=self._give, args=(b, pieces)))
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> socket.socket:
        return self.end

    def __exit__(self, *error: object) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        for end in self._ends:
            end.close()

    def _take(self, source: socket.socket, pieces: queue.SimpleQueue) -> None:
        while data := _received(source):
            late = self._again if self._draw.random() < self._loss else 0.0
            pieces.put((time.monotonic() + self._delay + late, data))
        pieces.put((time.monotonic(), b""))

    def _give(self, target: socket.socket, pieces: queue.SimpleQueue) -> None:
        while True:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)
            if not data:
                return


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(4096)
    except OSError:
        return b""


def test_a_slow_network_delays_pictures_and_never_queues_them(server: PilotServer) -> None:
    """100 ms each way and 5 % loss: what is seen is never older than the way takes."""
    network = SlowNetwork(server.port, delay=0.1, loss=0.05)
    ages = []
    with network as end, join(server, "pictures", sock=end) as page:
        wait_until(lambda: server.watched, seconds=5)
        over = threading.Event()

        def publish() -> None:
            while not over.wait(0.02):
                server.publish({"at": time.monotonic()}, {"front": b"x" * 3000})

        thread = threading.Thread(target=publish)
        thread.start()
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            told = unpack_pictures(page.recv(timeout=5))[0]
            ages.append(time.monotonic() - told["at"])
            page.send(str(told["id"]))
        over.set()
        thread.join()
    assert len(ages) > 10 and max(ages) < 0.1 + 2 * 0.25 + 0.4
    # The last ones are no older than the first: nothing has piled up.
    assert np.median(ages[-8:]) < np.median(ages[:8]) + 0.15


def test_on_a_slow_network_silence_lets_go(server: PilotServer, operator: BrowserOperator) -> None:
    network = SlowNetwork(server.port, delay=0.1, loss=0.0)
    with network as end, join(server, sock=end) as page:
        role(page)
        for seq in range(1, 12):
            page.send(pack_frame(seq, 0, {"x": 1.0}, HELD))
            time.sleep(0.03)
        assert drives(operator), "while frames come"
        wait_until(lambda: not drives(operator), seconds=1)


def test_an_echo_that_is_none_ends_the_page(server: PilotServer) -> None:
    with join(server, "pictures") as page:
        page.send("-1; drop table")
        with pytest.raises(ConnectionClosed):
            page.recv(timeout=5)
    assert server.malformed == 1


def test_the_next_port_is_taken_where_one_is_in_use(operator: BrowserOperator) -> None:
    first = PilotServer(operator, port=0)
    second = PilotServer(operator, port=first.port)
    try:
        assert second.port != first.port and second.token != first.token
    finally:
        first.close()
        second.close()
    assert not any("pilot" in thread.name for thread in threading.enumerate())
