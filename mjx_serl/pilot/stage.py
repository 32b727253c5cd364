"""One world at the pace of a clock, which a policy plays until a person takes it over."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.viewing.live_world import LiveWorld
from mjx_serl.viewing.policies import WorldPolicy
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import PilotServer, encode
from scenes.contract.operator import Operator, OperatorInput

# After somebody has driven with a device that is not the page's, as the page after a touch [s].
AWAKE_S = 20.0
HOLD_S = 0.7  # an ended episode stays in view [s]
_SHOWN_S = 1 / 32  # between two pictures at least: a task of 50 Hz is shown at 25 [s]
_STILL_S = 0.5  # a world that stands still is shown anew this often [s]
_IDLE_S = 0.05  # between two looks whether a page has been opened [s]

Shown = tuple[str, Mapping[str, np.ndarray]]  # what is said of pictures [H, W, 3], and these


class Playing(Protocol):
    """A stage, or several."""

    @property
    def dt(self) -> float:
        """Time per step [s]."""
        ...

    def tick(self, now: float) -> bool:
        """Make a step, or wait; returns whether there is anything new to see."""
        ...

    def state(self) -> dict[str, Any]:
        """What the page says of the moment."""
        ...

    def pictures(self) -> dict[str, bytes]:
        """What is seen, as JPEGs."""
        ...


class Stage:
    """Steps a world, tells what came of its episodes.

    Attributes:
        world: in which it plays.
        policy: plays where nobody drives; None lets the world stand still. It does too while
            nobody is at the page, which costs nothing then.
        told: lines for the page beside the pictures.
        driven_at: when a person drove last [s].
        pushed_at: when one moved something, as against keeping it still [s].

    Args:
        world: see above.
        operator: the person's devices.
        page: the one among them that is the page, if any.
        keep_states: the simulator's states are kept with each step.
        on_end: is given each episode that has ended.
        on_leave: is given it again when its world is left. With it the person may mark what is
            seen as a success, which goes on after the end as long as that is held.
        on_undo: is called where the last episode is to be taken back.
    """

    def __init__(
        self,
        world: LiveWorld,
        operator: Operator,
        *,
        page: BrowserOperator | None = None,
        keep_states: bool = False,
        on_end: Callable[[EpisodeRows], None],
        on_leave: Callable[[EpisodeRows], None] | None = None,
        on_undo: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy: WorldPolicy | None = None
        self.told: list[str] = []
        self.world = world
        self._operator, self._page, self._keep_states = operator, page, keep_states
        self._nothing = np.zeros(world.env.action_dim, np.float32)
        self._on_end, self._on_leave, self._on_undo = on_end, on_leave, on_undo
        self._episode = EpisodeRows()
        self._last: EpisodeRows | None = None  # that has ended and was not left
        self._over_at: float | None = None
        self.driven_at = self.pushed_at = -np.inf
        self._driver, self._verdict = "waits", ""
        self._replay: Iterator[Shown] | None = None
        self._shown: Shown | None = None  # of the replay

    @property
    def dt(self) -> float:
        """Time per step [s]."""
        return self.world.dt

    def tick(self, now: float, *, driver: bool = True) -> bool:
        """Make a step, or wait; returns whether there is anything new to see.

        Args:
            now: monotonic time [s].
            driver: whether the person is at this world.
        """
        if driver and self._page is not None and self._page.take_undo():
            self._undo()
        found = self._operator.poll(now) if driver else None
        if self._replay is not None:
            if found is None:
                return self._replay_on()
            self.replay(None)
        if self._over_at is not None:
            if self._last is not None and self._marks(now):
                return self._linger(found, self._last, now)
            return now - self._over_at >= HOLD_S and self._restart()
        event = None if found is None or found.event == "stop" else found.event
        if event is not None and (len(self._episode) or event == "cut"):
            self._episode.judge(event)
            return self._end(now) if len(self._episode) else self._restart()
        return self._step(found, now)

    def replay(self, shown: Iterator[Shown] | None) -> None:
        """Show pictures in place of the world's, one a step, until they end or a person acts.

        Args:
            shown: what is said of them, and pictures by camera; None goes back to the world.
        """
        self._replay, self._shown = shown, None

    def cut(self) -> None:
        """End the episode in progress, as when the program ends."""
        if len(self._episode):
            self._episode.judge("cut")
            self._end(0.0)
        self._leave()

    def _replay_on(self) -> bool:
        assert self._replay is not None
        self._shown = next(self._replay, None)
        if self._shown is None:
            self._replay = None
        return True

    def _step(self, found: OperatorInput | None, now: float) -> bool:
        driving = found is not None and found.enabled
        policy = self.policy
        if driving:
            self.driven_at = now
        if self._wanted(found) is not self._nothing:
            self.pushed_at = now
        asleep = (
            self._page is not None and not self._page.awake(now) and now - self.driven_at > AWAKE_S
        )
        if not driving and (policy is None or asleep):
            # Nobody drives, or looks.
            shown, self._driver = self._driver, "waits" if policy is None else "sleeps"
            return shown != self._driver
        own = self._nothing if policy is None else np.asarray(self.world.choose(policy)[0])
        action = own
        if driving:
            action = self._wanted(found)
            self.world.forget_plan()
        self._driver = "person" if driving else "policy"
        obs = self.world.observed()
        self.world.play(jnp.asarray(action, jnp.float32)[None])
        states = self.world.states() if self._keep_states else None
        outcome = self.world.outcome()
        self._episode.add(
            obs, action, own, outcome, person=driving, marked=self._marks(now), states=states
        )
        if self.world.ended:
            self._end(now)
        return True

    def _linger(self, found: OperatorInput | None, last: EpisodeRows, now: float) -> bool:
        """Go on after the end, as long as what is seen is marked."""
        last.after.append(self.world.observed())
        self.world.play(jnp.asarray(self._wanted(found), jnp.float32)[None])
        self._over_at = now
        return True

    def _wanted(self, found: OperatorInput | None) -> np.ndarray:
        """The person's action, which is none where nothing is pushed."""
        if found is None or not found.enabled or found.action is None:
            return self._nothing
        return found.action

    def _marks(self, now: float) -> bool:
        page = None if self._on_leave is None else self._page
        return page is not None and page.marks(now)

    def _leave(self) -> None:
        last, self._last = self._last, None
        if last is not None and self._on_leave is not None:
            self._on_leave(last)

    def _end(self, now: float) -> bool:
        episode, self._episode = self._episode, EpisodeRows()
        self._over_at = now
        if len(episode):
            self._last = episode
            self._on_end(episode)
        self._verdict = "solved" if episode.solved else "over"
        return True

    def _restart(self) -> bool:
        self._leave()
        self.world.restart()
        self._episode, self._over_at = EpisodeRows(), None
        return True

    def _undo(self) -> None:
        """Drop the episode in progress, or take the last one back."""
        if self._over_at is None and len(self._episode):
            self._restart()
        else:
            self._leave()
            self._on_undo()

    def state(self) -> dict[str, Any]:
        """What the page says of the moment."""
        driver = self._driver
        moment = self._verdict if self._over_at is not None else f"step {len(self._episode)}"
        if self._on_leave is not None:
            episode = self._episode if self._over_at is None else self._last
            moment += f", {0 if episode is None else episode.marks} marked"
        if self._shown is not None:
            driver, moment = "replay", self._shown[0]
        told: dict[str, Any] = {"driver": driver, "state": moment, "counts": self.told}
        if self._page is not None and self._page.frame is not None:
            told["input_t"] = self._page.frame.sent
        return told

    def pictures(self) -> dict[str, bytes]:
        """What the cameras see, or have seen, as JPEGs."""
        seen = self.world.pictures() if self._shown is None else self._shown[1]
        return {name: encode(x) for name, x in seen.items()}


def run_stage(
    stage: Playing,
    server: PilotServer,
    until: threading.Event,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Play at the pace of the clock while a page is open, until `until`.

    Args:
        stage: what plays.
        server: the page.
        until: ends it.
        before: called before each step.
        after: called when there is something new to see.
    """
    due, shown = time.monotonic(), -np.inf
    while not until.is_set():
        if not server.watched:
            until.wait(_IDLE_S)
            continue
        now = time.monotonic()
        if now < due:
            until.wait(due - now)
            continue
        # What was missed is not made up for: time would rush.
        due = max(due, now - stage.dt) + stage.dt
        before()
        if (stage.tick(now) and now - shown > _SHOWN_S) or now - shown > _STILL_S:
            shown = now
            server.publish(stage.state(), stage.pictures())
            after()
