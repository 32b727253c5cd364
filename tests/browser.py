"""A headless Chromium driven over its DevTools socket: load a page, look, press its buttons."""

import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium")
# WebGL in software; no look-ups of the vendor's hosts.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--window-size=1000,700"),
]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Debian's chromium (apt-get install chromium)"
)


class Browser:
    """One tab; use it in a `with` block."""

    def __init__(self, url: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={self._profile}", url]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        self._count = 0
        self._socket = connect(self._target(), max_size=None)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)
        shutil.rmtree(self._profile, ignore_errors=True)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        return done["result"].get("value")

    def text(self) -> str:
        """What stands on the page."""
        return self.evaluate("document.body.innerText") or ""

    def heap(self) -> int:
        """What JavaScript holds once its garbage is collected [bytes]."""
        self._call("HeapProfiler.collectGarbage")
        return int(self._call("Runtime.getHeapUsage")["usedSize"])

    def press(self, label: str) -> None:
        """Click the button with this text."""
        buttons = "[...document.querySelectorAll('button')]"
        wanted = f"{buttons}.find(b => b.innerText.trim() === {json.dumps(label)})"
        assert self.evaluate(f"(b => b ? (b.click(), true) : false)({wanted})"), label

    def key(self, key: str, *, down: bool) -> None:
        """Press or release a key, as a person's keyboard does."""
        kind = "keyDown" if down else "keyUp"
        self._call("Input.dispatchKeyEvent", type=kind, key=key, text=key if down else "")

    def screenshot(self) -> np.ndarray:
        """The page as uint8 [H, W, 3]."""
        data = self._call("Page.captureScreenshot", format="png")["data"]
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
        return np.round(255 * image[..., :3]).astype(np.uint8)

    def _call(self, method: str, **params: Any) -> Any:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _target(self) -> str:
        """Address of the first tab's socket."""
        port_file = Path(self._profile) / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and port_file.read_text().count("\n") > 0)
        port, path = port_file.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
            while True:
                socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                found = json.loads(socket.recv(timeout=60))["result"]["targetInfos"]
                tabs = [target["targetId"] for target in found if target["type"] == "page"]
                if tabs:
                    return f"ws://127.0.0.1:{port}/devtools/page/{tabs[0]}"
                time.sleep(0.1)


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Poll until true; fails the test after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
