"""The pilot's page at a real arm: what it shows, who drives, what stops it."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from bench_arm import Bench
from browser import Browser, needs_chromium, wait_until
from websockets.sync.client import ClientConnection, connect

from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import build_rig, rig_makers
from robot_bridge.operators.browser_operator import SILENCE
from robot_bridge.operators.page import PageOperator
from robot_bridge.operators.page_wire import pack_frame, unpack_pictures
from robot_bridge.policy.bundle import Bundle, load_bundle

pytestmark = pytest.mark.keeps_time

NAMES = ("x", "y", "z", "gripper")
PICTURE = np.full((16, 16, 3), (200, 40, 40), np.uint8)


class Stops:
    """Counts."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def stops() -> Stops:
    return Stops()


@pytest.fixture
def page(stops: Stops) -> Iterator[PageOperator]:
    operator = PageOperator(NAMES, port=0)
    operator.serve("peg on A7", stops)
    yield operator
    operator.shut()


def join(url: str, path: str) -> ClientConnection:
    parts = urlsplit(url)
    where = f"ws://{parts.netloc}/{path}?{parts.query}"
    return connect(where, origin=f"http://{parts.netloc}", open_timeout=10, close_timeout=1)


def push(socket: ClientConnection, until: Callable[[], object], *held: str, **axes: float) -> None:
    """Send frames as a held key does."""
    began, seq = time.monotonic(), round(time.monotonic() * 1e3)
    while not until():
        assert time.monotonic() - began < 10.0, "pushed in vain"
        seq += 1
        socket.send(pack_frame(seq, 0, axes, frozenset(held)))
        time.sleep(0.016)


def test_a_stop_is_heard_from_every_page_and_while_nobody_polls(
    page: PageOperator, stops: Stops
) -> None:
    with join(page.url, "input") as driver, join(page.url, "input") as watcher:
        for socket, role in ((driver, "driver"), (watcher, "watcher")):
            assert f'"role": "{role}"' in str(socket.recv(timeout=10))
        watcher.send(pack_frame(1, 0, {}, frozenset({"drive"})))
        watcher.send(pack_frame(2, 0, {}, frozenset({"stop"})))
        wait_until(lambda: stops.count == 1)
        driver.send(pack_frame(1, 0, {}, frozenset({"stop"})))
        driver.send(pack_frame(2, 0, {}, frozenset({"stop"})))  # still held
        wait_until(lambda: stops.count == 2)
        time.sleep(0.05)
        assert stops.count == 2 and page.poll(time.monotonic()) is None


def test_it_shows_what_the_policy_sees_and_nothing_that_is_old(
    page: PageOperator, monkeypatch: Any
) -> None:
    (tick,) = Bench().run(0.01)[-1:]
    page.event("begin", episode=4)
    page.put(tick, {"front": PICTURE, "ee_position": np.zeros(3)})
    with join(page.url, "pictures") as viewer:
        said, pictures = unpack_pictures(viewer.recv(timeout=10))
        assert list(pictures) == ["front"] and pictures["front"].startswith(b"\xff\xd8")
        assert said["driver"] == "policy" and said["state"].startswith("run, ")
        assert said["counts"][0] == "episode 5: goes on"
        assert said["counts"][2] == "gripper 80 mm"
        monkeypatch.setattr("robot_bridge.operators.page._OLD_S", 0.0)
        page.put(dataclasses.replace(tick, source="operator"))
        page.event("timeout", episode=4)
        viewer.send("1")
        while said["driver"] != "person" or pictures:
            said, pictures = unpack_pictures(viewer.recv(timeout=10))
            viewer.send(str(said["id"]))
        assert said["counts"][0] == "episode 5: timeout"


def test_a_page_that_falls_silent_has_let_go(page: PageOperator) -> None:
    page.open()
    with join(page.url, "input") as driver:
        push(driver, lambda: page.poll(time.monotonic()), "drive", x=1.0)
        time.sleep(1.5 * SILENCE)
        assert page.poll(time.monotonic()) is None


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


class Driven:
    """A session with no arm and the page, in a thread; its ticks."""

    def __init__(self, bundle: Bundle, seconds: float) -> None:
        self.ticks: list[Any] = []
        self.said: list[str] = []
        config = RigConfig(
            robot="null", objects=("cube=0.4,0.05,0.02",), operator="page", page_port=0
        )
        rig = build_rig(config, bundle.contract, rig_makers())
        rig = dataclasses.replace(rig, sinks=(self.ticks.append,))
        options = DeployConfig(seconds=seconds, separate=False, hands_only=True)
        self.deployment = Deployment(options, bundle, rig, Talk(self.said.append, lambda _: ""))
        self._thread = threading.Thread(target=self.deployment.run, daemon=True)
        self._thread.start()
        wait_until(lambda: any(line.startswith("episode") for line in self.said) or self.url)

    @property
    def url(self) -> str:
        return next((s.split()[1] for s in self.said if s.startswith("page ")), "")

    def join(self) -> Any:
        """How it ended."""
        self._thread.join(timeout=30)
        (report,) = self.deployment.reports
        return report


def test_a_person_drives_an_arm_from_the_page_and_stops_it(bundle: Bundle) -> None:
    driven = Driven(bundle, seconds=20.0)
    with join(driven.url, "input") as driver:
        wait_until(lambda: any(tick.phase.value == "run" for tick in driven.ticks))
        start = driven.ticks[-1].state.position[1]
        push(driver, lambda: driven.ticks[-1].state.position[1] > start + 0.03, "drive", y=1.0)
        assert driven.ticks[-1].intervened
        push(driver, lambda: driven.ticks[-1].phase.value == "fault", "stop")
    report = driven.join()
    assert report.ending == "fault" and "emergency_stop" in report.fault
    assert not any(driven.url in line for line in driven.said if not line.startswith("page"))


@needs_chromium
@pytest.mark.slow
def test_the_keys_of_the_page_are_those_of_an_arm(bundle: Bundle, tmp_path: Path) -> None:
    driven = Driven(bundle, seconds=60.0)
    with Browser(driven.url) as browser:
        wait_until(lambda: "STOP" in browser.text(), seconds=20)
        assert "hold: the policy may run" in browser.text() and "take back" not in browser.text()
        # Space is held, not latched.
        browser.key(" ", down=True)
        wait_until(lambda: browser.evaluate("state()[1].has('drive')"), seconds=10)
        browser.key(" ", down=False)
        wait_until(lambda: not browser.evaluate("state()[1].has('drive')"), seconds=10)
        start = driven.ticks[-1].state.position[1]
        browser.key("a", down=True)
        wait_until(lambda: driven.ticks[-1].state.position[1] > start + 0.02, seconds=20)
        browser.key("a", down=False)
        browser.evaluate("window.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert driven.join().ending == "fault"
