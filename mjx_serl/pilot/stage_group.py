"""Worlds side by side at one page, of which the person drives one."""

from collections.abc import Sequence
from typing import Any

from mjx_serl.pilot.stage import Stage
from mjx_serl.viewing.policies import WorldPolicy


class StageGroup:
    """Stages that are stepped together; the person is at the chosen one.

    Attributes:
        stages: all of them.

    Args:
        stages: see above, one at least; the first is chosen.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._chosen = 0

    @property
    def chosen(self) -> Stage:
        """The one that the person drives."""
        return self.stages[self._chosen]

    def choose(self, number: int) -> None:
        """Let the person drive another, counted from 1; nothing where there is none."""
        if 1 <= number <= len(self.stages):
            self._chosen = number - 1

    @property
    def dt(self) -> float:
        """Time per step [s]."""
        return self.chosen.dt

    @property
    def pushed_at(self) -> float:
        """When a person last moved something [s]."""
        return max(stage.pushed_at for stage in self.stages)

    def play(self, policy: WorldPolicy) -> None:
        """Let a policy play where nobody drives."""
        for stage in self.stages:
            stage.policy = policy

    def tell(self, lines: list[str]) -> None:
        """Set the lines beside the pictures."""
        for stage in self.stages:
            stage.told = lines

    def tick(self, now: float) -> bool:
        """Make a step of each; returns whether there is anything new to see."""
        driven_at = max(stage.driven_at for stage in self.stages)
        for stage in self.stages:
            stage.driven_at = driven_at  # who drives one looks at all
        news = [stage.tick(now, driver=stage is self.chosen) for stage in self.stages]
        return any(news)

    def cut(self) -> None:
        """End the episodes in progress."""
        for stage in self.stages:
            stage.cut()

    def state(self) -> dict[str, Any]:
        """What the page says of the moment; of several worlds also of each, and which is chosen."""
        told = self.chosen.state()
        if len(self.stages) == 1:
            return told
        each = [stage.state() for stage in self.stages]
        worlds = [{name: state[name] for name in ("driver", "state")} for state in each]
        return told | {"worlds": worlds, "chosen": self._chosen + 1}

    def pictures(self) -> dict[str, bytes]:
        """What all cameras see, as JPEGs; of several worlds by NUMBER:CAMERA."""
        if len(self.stages) == 1:
            return self.chosen.pictures()
        return {
            f"{number}:{name}": picture
            for number, stage in enumerate(self.stages, start=1)
            for name, picture in stage.pictures().items()
        }
