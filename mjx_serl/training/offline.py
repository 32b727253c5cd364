"""Learning from demonstrations alone: epochs of updates, no step in any world.

Such a run takes no env steps. It ends after `--total-updates`, and its console, curve and rates
count updates; checks, checkpoints, resuming, the final evaluation and the bundle are those of
every run.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import optax

from mjx_serl.agents.agent import AGENTS, require_off_policy
from mjx_serl.agents.bc import BCConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.training.demonstrations import DemoConfig, Demonstrations
from mjx_serl.training.evaluate import TRAIN
from mjx_serl.training.off_policy import DEMOS, LoopConfig, OffPolicyConfig
from mjx_serl.training.over_learner import OverLearner
from mjx_serl.training.scan import run_once
from mjx_serl.training.sharing import check_divides
from mjx_serl.training.state import TrainState, shapes_of, tree_bytes
from mjx_serl.training.trainer import METHODS, Share
from mjx_serl.types import Metrics, PRNGKey, Transition
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.serialize import open_field

GATHERED = 10  # batches that are gathered at once, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineLoopConfig:
    """The loop around an agent that learns from demonstrations alone.

    Attributes:
        batch_size: samples per gradient step.
        updates_per_epoch: calls of `agent.update` per compiled epoch.
    """

    batch_size: int = ranged(256, least=2)
    updates_per_epoch: int = ranged(500, least=1)


@METHODS.register("offline")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """Demonstrations and an agent that learns from them alone: behaviour cloning.

    Attributes:
        agent: the learner; any that learns from batches.
        loop: the number of updates and their size.
        demos: demonstrations.
    """

    agent: Any = open_field(AGENTS, BCConfig)
    loop: OfflineLoopConfig = dataclasses.field(default_factory=OfflineLoopConfig)
    demos: DemoConfig = dataclasses.field(default_factory=lambda: DemoConfig(count=100))

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        del num_envs  # none is stepped
        check_ranges(self)
        require_off_policy(self.agent.build(), "offline")
        if self.demos.count == 0 and self.demos.file is None:
            raise InputError(
                "method offline learns from demonstrations alone and there are none; allowed: "
                "--demos.count above 0, or --demos.file FILE"
            )

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        return self.agent.label(images=images, demos=True)

    def build(self, observer: Observer, *, num_envs: int) -> "Offline":
        """Return the trainer of an observer's task."""
        loop, gathered = self.loop, math.gcd(self.loop.updates_per_epoch, GATHERED)
        method = OffPolicyConfig(
            agent=self.agent,
            loop=LoopConfig(
                batch_size=loop.batch_size,
                updates_per_step=gathered,
                steps_per_epoch=loop.updates_per_epoch // gathered,
            ),
            demos=self.demos,
        )
        return Offline(method.build(observer, num_envs=num_envs))


@dataclasses.dataclass(frozen=True, eq=False)
class Offline(OverLearner):
    """A Trainer whose TrainState has no worlds and whose data is the demonstrations' ring."""

    @property
    def env_steps_per_epoch(self) -> int:
        """None: no world is stepped."""
        return 0

    def state_shapes(self) -> TrainState:
        """The state as shapes."""
        if self.traceable:
            return jax.eval_shape(self.first_state, jax.random.key(0), self.given_shapes())
        # Demonstrations that cannot be traced have to be made to be measured.
        return shapes_of(self.init(jax.random.key(0)))

    def init(self, key: PRNGKey) -> TrainState:
        """The state before the first epoch, demonstrations included."""
        return run_once(self.first_state, key, self.given(key), traceable=True)

    def part(self, among: int) -> "Offline":
        """The trainer of one of so many devices that share each batch equally."""
        config = self.learner.config
        check_divides(among, {"--loop.batch-size": config.batch_size})
        config = dataclasses.replace(config, batch_size=config.batch_size // among)
        return Offline(dataclasses.replace(self.learner, config=config))

    def given(self, key: PRNGKey) -> Transition:
        """The demonstrations, which are made or read and not traced."""
        return self._demos.rows(key)

    def given_shapes(self) -> Transition:
        """The same as shapes."""
        return self._demos.shapes()

    @property
    def pretraining(self) -> None:
        """Nothing is learned before the first epoch."""

    def first_state(self, key: PRNGKey, demos: Transition) -> TrainState:
        """The state before the first epoch."""
        k_agent, key = jax.random.split(jax.random.fold_in(key, TRAIN))
        return self.learner.gather((), {DEMOS: demos}, k_agent, key)

    def epoch(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """`updates_per_epoch` updates; their metrics."""
        state, metrics = self._jit_learn(state)
        return state.replace(epoch=optax.safe_increment(state.epoch)), metrics

    def memory(self, state: TrainState) -> Sequence[Share]:
        """The demonstrations."""
        _, episodes = self._demos.size
        return [Share("demonstrations", tree_bytes(state.data), "--demos.count", episodes, 1)]

    @property
    def _demos(self) -> Demonstrations:
        assert self.learner.demos is not None, "OfflineConfig.check refuses a run without any"
        return self.learner.demos

    @cached_property
    def _jit_learn(self) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        # Compiled also where the renderer is not traced; inside another jit it is a plain call.
        steps = self.learner.config.steps_per_epoch
        return jax.jit(lambda state: self.learner.learn_shown(state, steps), donate_argnums=0)
