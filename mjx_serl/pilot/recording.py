"""What becomes of the episodes that a person records by hand."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.data.frames import FrameFile
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.stage import Shown, Stage
from mjx_serl.viewing.live_world import LiveWorld
from robot_bridge.operators.page_wire import Order
from scenes.contract.demonstrations import OBS, STATE, Arrays


class Keeper:
    """Counts what is played, and keeps nothing of it.

    Attributes:
        wants_states: the simulator's states are to be recorded.
        wants_marks: the person is to mark what shows success.
    """

    wants_states = wants_marks = False

    def __init__(self) -> None:
        self._failed, self._solved = 0, 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return False

    @property
    def told(self) -> list[str]:
        """Lines for the page."""
        return [f"{self._solved} solved, {self._failed} not; nothing is kept"]

    @property
    def about(self) -> dict[str, Any]:
        """What the page is told once."""
        return {}

    def ended(self, episode: EpisodeRows) -> None:
        """Hear of an episode that has ended."""
        self._solved += episode.solved
        self._failed += not episode.solved

    def left(self, episode: EpisodeRows) -> None:
        """Hear that the world of the last one is left."""

    def undone(self) -> None:
        """Take the last one back."""

    def obey(self, order: Order, stage: Stage) -> None:
        """Do what was chosen on the page."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames for a classifier of success.

    Attributes:
        file: that they go to.
        wanted: successes in it.
    """

    file: FrameFile
    wanted: int

    @property
    def complete(self) -> bool:
        """Whether there are as many successes as are wanted."""
        return self.file.counts[1] >= self.wanted

    def __str__(self) -> str:
        failures, successes = self.file.counts
        return (
            f"frames: {successes} of {self.wanted} successes, {failures} others, in "
            f"{self.file.path.name}"
        )


class Recording(Keeper):
    """Keeps solved episodes in a file, shows them and deletes them.

    Args:
        file: of demonstrations.
        wanted: solved episodes in it.
        frames: where those of all episodes go to, for a classifier.
    """

    def __init__(self, file: DemoFile, *, wanted: int, frames: Frames | None = None) -> None:
        super().__init__()
        self._file, self._wanted, self._frames = file, wanted, frames
        self.wants_states = bool(file.contract.states)
        self.wants_marks = frames is not None
        self._kept = self._framed = False  # whether the last episode is in the files
        self._open = False  # it is over, and may still be marked

    @property
    def complete(self) -> bool:
        """Whether all that is wanted is there."""
        marked = self._frames is None or self._frames.complete
        return marked and not self._open and len(self._file) >= self._wanted

    @property
    def told(self) -> list[str]:
        """Lines for the page."""
        return [
            f"{len(self._file)} of {self._wanted} demonstrations in {self._file.path.name}",
            f"now: {self._solved} solved, {self._failed} not (not kept)",
            "they are kept at once; take the last back with its key",
            *([] if self._frames is None else [str(self._frames)]),
        ]

    @property
    def about(self) -> dict[str, Any]:
        """What the page lists: of each episode its key, steps and return."""
        episodes = list(self._file.episodes)
        return {"file": self._file.path.name, "episodes": episodes, "marks": self.wants_marks}

    def ended(self, episode: EpisodeRows) -> None:
        """Keep it, where it was solved."""
        super().ended(episode)
        self._kept, self._open = episode.solved, self.wants_marks
        if episode.solved:
            self._file.append(episode.rows())

    def left(self, episode: EpisodeRows) -> None:
        """Keep its frames, marked or not."""
        self._open = False
        if self._frames is not None:
            file = self._frames.file
            file.append(*episode.frames(file.cameras))
            self._framed = True

    def undone(self) -> None:
        """Take the last one back; with frames the last that was played, once, solved or not."""
        if self._frames is None:
            self._file.take_back()
        elif self._framed:
            self._frames.file.take_back()
            if self._kept:
                self._file.take_back()
        self._framed = False

    def obey(self, order: Order, stage: Stage) -> None:
        """Replay an episode or delete it; nothing where it is gone."""
        if order.name == "delete":
            self._file.delete(order.number)
        arrays = self._file.arrays(order.number)
        if order.name == "replay" and arrays is not None:
            number = [e.key for e in self._file.episodes].index(order.number) + 1
            stage.replay(replayed(f"episode {number}", arrays, stage.world))


def replayed(name: str, arrays: Arrays, world: LiveWorld) -> Iterator[Shown]:
    """Yield what is said of each step of an episode, and its pictures.

    Those that were recorded; where there are none, those that the cameras of a world would see in
    the simulator's states; where there are none either, that is said.

    Args:
        name: of the episode.
        arrays: its own [T, ...], by the names of a file of demonstrations.
        world: of its task.
    """
    steps = len(arrays["reward"])
    pictures = _under(OBS, {n: x for n, x in arrays.items() if x.dtype == np.uint8 and x.ndim == 4})
    states = _under(STATE, arrays)
    if not pictures and not states:
        for _ in range(round(3.0 / world.dt)):
            yield f"{name} was recorded without pictures and states: it cannot be shown", {}
        return
    for t in range(steps):
        now = {n: x[t] for n, x in (pictures or states).items()}
        yield f"{name}, step {t + 1} of {steps}", now if pictures else world.pictures_of(now)


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
