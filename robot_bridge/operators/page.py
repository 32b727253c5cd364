"""The pilot's page at a real arm: what the policy sees, what the bridge says, and the driver."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import Tick
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import PilotServer, encode
from robot_bridge.reasons import Phase, describe
from scenes.contract.extras import require

PORT = 8012
_SHOWN_S = 1 / 20  # between two pictures at least: a policy sees ten a second [s]
_OLD_S = 1.0  # pictures that came longer ago are not shown: they are not what is there now [s]
_DRIVERS: Mapping[str | None, str] = {"operator": "person", "policy": "policy"}

Pictures = Mapping[str, NDArray[np.uint8]]


class PageOperator(BrowserOperator):
    """An operator's device that shows what happens: also a witness of the control loop's ticks.

    The key that lets the policy run is held, never latched, and what is held counts as let go as
    soon as the page is silent. A stop is heard by itself, from every open page, also while nobody
    polls.

    Attributes:
        url: the page's address, which holds its token; "" while it is not served.

    Args:
        names: of the action's entries.
        facing: as of `Axes`.
        port: as of `PilotServer`.
    """

    help_text = (
        "the page: W/S forward/back   A/D left/right   J/K up/down   L gripper\n"
        "space held: the policy may run   Esc STOP   Y success   N failure   R start again"
    )

    def __init__(self, names: Sequence[str], *, facing: float = 0.0, port: int = PORT) -> None:
        super().__init__(names, facing=facing)
        self.url = ""
        self._port = port
        self._server: PilotServer | None = None
        self._newest: tuple[Tick, float, Pictures] | None = None
        self._episode = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def serve(self, title: str, stop: Callable[[], None]) -> str:
        """Begin to serve and return the page's address, which holds its token.

        Args:
            title: of the page.
            stop: called from the server's thread when anybody presses stop.

        Raises MissingPackageError without websockets or pillow, InputError where no port is free.
        """
        require("PIL.Image", "pilot", package="pillow", purpose="The operator's page")
        self.on_stop = stop
        self._server = PilotServer(self, port=self._port, about={"title": title, "arm": True})
        self._thread = threading.Thread(target=self._show, name="page pictures", daemon=True)
        self._thread.start()
        self.url = self._server.url
        return self.url

    def shut(self) -> None:
        """Serve no more; may be called twice."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._server is not None:
            self._server.close()

    def put(self, tick: Tick, obs: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Take a tick, with what the policy has seen since the last one; never waits."""
        before, now = self._newest, time.monotonic()
        if obs is not None:
            seen = {n: x for n, x in obs.items() if x.dtype == np.uint8 and x.ndim == 3}
            self._newest = tick, now, seen
        elif before is None or now - before[1] > _OLD_S:
            self._newest = tick, -np.inf, {}
        else:
            self._newest = tick, *before[1:]
        return True

    def event(self, name: str, **facts: Any) -> bool:
        """Hear that an episode begins, or how it ended."""
        if "episode" in facts:
            said = "goes on" if name == "begin" else name
            part = f" ({facts['part']})" if "part" in facts else ""
            self._episode = f"episode {facts['episode'] + 1}{part}: {said}"
        return True

    # -- in its thread -----------------------------------------------------------------------------

    def _show(self) -> None:
        server = self._server
        assert server is not None
        while not self._over.wait(_SHOWN_S):
            newest = self._newest
            if newest is not None and server.watched:
                pictures = {name: encode(picture) for name, picture in newest[2].items()}
                server.publish(self._told(newest[0]), pictures)

    def _told(self, tick: Tick) -> dict[str, Any]:
        """What is said beside the pictures."""
        driver = _DRIVERS.get(tick.source, "waits") if tick.phase is Phase.RUN else "waits"
        x, y, z = tick.state.position
        told: dict[str, Any] = {
            "driver": driver,
            "state": f"{tick.phase.value}, {describe(tick.reasons)}",
            "counts": [
                self._episode,
                f"tool {x:+.3f} {y:+.3f} {z:+.3f} m",
                f"gripper {tick.state.gripper_width * 1e3:.0f} mm",
            ],
        }
        frame = self.frame
        return told | ({"input_t": frame.sent} if driver == "person" and frame is not None else {})
