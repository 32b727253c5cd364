"""A person at a keyboard, as far as a test can be one: looks, and presses keys."""

import time
from collections.abc import Callable

import numpy as np
from browser import Browser

from mjx_serl.viewing.live_world import LiveWorld

KEYS = (("s", "w"), ("d", "a"), ("k", "j"))  # down and up along x, y, z
NEAR = 0.012  # a key is let go this close to where it should lead [m]


class KeyboardPlayer:
    """Presses the page's keys until the cube is lifted.

    Args:
        browser: with the page open.
        world: which it sees as the page does.
    """

    def __init__(self, browser: Browser, world: LiveWorld) -> None:
        self._browser, self._world = browser, world
        self._held: set[str] = set()

    @property
    def tool(self) -> np.ndarray:
        """Where the tool is [m]."""
        return np.asarray(self._world._world.sim.site_xpos[0, self._site])

    @property
    def cube(self) -> np.ndarray:
        """Where the cube is [m]."""
        body = self._scene.objects["cube"].body_id
        return np.asarray(self._world._world.sim.xpos[0, body])

    @property
    def _scene(self):
        return self._world.env.scene

    @property
    def _site(self) -> int:
        return self._scene.arm.ee_site_id

    def lift(self, *, seconds: float = 60.0) -> None:
        """Go above it, down, close, and up until the episode is over."""
        cube = self.cube
        self._go_to(cube + np.array([0, 0, 0.08]), seconds)
        self._go_to(cube, seconds)
        self.press("l")
        time.sleep(1.0)
        self._go_to(cube + np.array([0, 0, 0.3]), seconds)

    def press(self, key: str) -> None:
        """Tap a key."""
        self._browser.key(key, down=True)
        time.sleep(0.05)
        self._browser.key(key, down=False)

    def _go_to(self, place: np.ndarray, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._world.ended:
            assert time.monotonic() < end, f"not at {place} in {seconds} s, but at {self.tool}"
            away = place - self.tool
            if np.abs(away).max() < NEAR:
                break
            wanted = {KEYS[i][int(d > 0)] for i, d in enumerate(away) if abs(d) >= NEAR}
            self._hold(wanted)
            time.sleep(0.03)
        self._hold(set())

    def _hold(self, wanted: set[str]) -> None:
        for key in self._held - wanted:
            self._browser.key(key, down=False)
        for key in wanted - self._held:
            self._browser.key(key, down=True)
        self._held = wanted


def until(condition: Callable[[], bool], *, seconds: float) -> float:
    """Wait until true; returns how long that took [s]."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - begun
