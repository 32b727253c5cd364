"""What becomes of the episodes that a person records by hand."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.pilot.episode import EpisodeRows
from mjx_serl.pilot.stage import Shown, Stage
from mjx_serl.pilot.wire import Order
from mjx_serl.viewing.live_world import LiveWorld
from scenes.contract.demonstrations import OBS, STATE, Arrays


class Keeper:
    """Counts what is played, and keeps nothing of it.

    Attributes:
        wants_states: the simulator's states are to be recorded.
    """

    wants_states = False

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

    def undone(self) -> None:
        """Take the last one back."""

    def obey(self, order: Order, stage: Stage) -> None:
        """Do what was chosen on the page."""


class Recording(Keeper):
    """Keeps solved episodes in a file, shows them and deletes them.

    Args:
        file: of demonstrations.
        wanted: solved episodes in it.
    """

    def __init__(self, file: DemoFile, *, wanted: int) -> None:
        super().__init__()
        self._file, self._wanted = file, wanted
        self.wants_states = bool(file.contract.states)

    @property
    def complete(self) -> bool:
        """Whether all that is wanted is in the file."""
        return len(self._file) >= self._wanted

    @property
    def told(self) -> list[str]:
        """Lines for the page."""
        return [
            f"{len(self._file)} of {self._wanted} demonstrations in {self._file.path.name}",
            f"now: {self._solved} solved, {self._failed} not (not kept)",
            "they are kept at once; take the last back with its key",
        ]

    @property
    def about(self) -> dict[str, Any]:
        """What the page lists: of each episode its key, steps and return."""
        return {"file": self._file.path.name, "episodes": list(self._file.episodes)}

    def ended(self, episode: EpisodeRows) -> None:
        """Keep it, where it was solved."""
        super().ended(episode)
        if episode.solved:
            self._file.append(episode.rows())

    def undone(self) -> None:
        """Take the last one back."""
        self._file.take_back()

    def obey(self, order: Order, stage: Stage) -> None:
        """Replay an episode or delete it; nothing where it is gone."""
        if order.name == "delete":
            self._file.delete(order.number)
        elif (arrays := self._file.arrays(order.number)) is not None:
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
