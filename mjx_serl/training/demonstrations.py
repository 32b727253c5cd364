"""Where the demonstrations of a run come from: a file, or the task's scripted expert."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import jax

from mjx_serl.data.demos import DemoContract, load_demos, select_episodes
from mjx_serl.envs.observation import Observer
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.evaluate import DEMOS
from mjx_serl.training.scan import run_once
from mjx_serl.types import PRNGKey, Transition
from scenes.contract.ranges import ranged

# Experts fail now and then: this many more episodes are played than are wanted.
SPARE_DEMOS = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Demonstrations for the demo half of each batch.

    Attributes:
        count: scripted episodes made at the start of the run; 0 trains without demonstrations.
        noise: standard deviation of the noise on the expert's end-effector steps [m]; None is what
            the task's own expert copes with.
        file: a file of recorded demonstrations (.npz) to use instead of scripted ones.
    """

    count: int = ranged(20, least=0)
    noise: float | None = ranged(None, least=0)
    file: Path | None = None

    def build(self, observer: Observer) -> "Demonstrations | None":
        """Return the source, None without demonstrations; reads the file, plays nothing."""
        if self.file is not None:
            return RecordedDemos(load_demos(self.file, demo_contract(observer)))
        return ScriptedDemos(observer, self) if self.count else None


class Demonstrations(Protocol):
    """Rows of demonstrations, made when they are asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        ...

    def shapes(self) -> Transition:
        """Return the rows [T, M, ...] as shapes or as they are."""
        ...

    def rows(self, key: PRNGKey) -> Transition:
        """Return the rows [T, M, ...] on the host."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedDemos:
    """Rows read from a file."""

    recorded: Transition

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        steps, episodes = self.recorded.reward.shape
        return steps, episodes

    def shapes(self) -> Transition:
        """Return the rows."""
        return self.recorded

    def rows(self, key: PRNGKey) -> Transition:
        """Return the rows; nothing is drawn."""
        del key
        return self.recorded


@dataclasses.dataclass(frozen=True, eq=False)
class ScriptedDemos:
    """Rows played by the task's expert."""

    observer: Observer
    config: DemoConfig

    @property
    def size(self) -> tuple[int, int]:
        """Steps and episodes of the rows."""
        return self.observer.env.task.episode_steps, self.config.count

    def shapes(self) -> Transition:
        """Return the rows as shapes."""
        return self._shapes

    @cached_property
    def _shapes(self) -> Transition:
        cfg = self.config
        play = partial(demonstrate, self.observer, episodes=cfg.count, noise=cfg.noise)
        return jax.eval_shape(play, jax.random.key(0))[0]

    def rows(self, key: PRNGKey) -> Transition:
        """Return solved episodes; ValueError where the expert solves too few."""
        count = self.config.count
        episodes = round(SPARE_DEMOS * count) + 4
        play = partial(demonstrate, self.observer, episodes=episodes, noise=self.config.noise)
        key = jax.random.fold_in(key, DEMOS)
        rows, solved = jax.device_get(run_once(play, key, traceable=self.observer.traceable))
        return select_episodes(rows, solved, count)


def demo_contract(observer: Observer) -> DemoContract:
    """What demonstrations for this task and these cameras must agree on."""
    env = observer.env
    return DemoContract.of(env.name, observer.stored_spec, env.action_spec)
