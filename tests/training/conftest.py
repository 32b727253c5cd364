"""Trainers on the toy worlds, small enough to compile in a second."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from toy_env import ToyEnv

from mjx_serl.agents.reward_model import ViceConfig
from mjx_serl.agents.sac import SACConfig
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.envs.judge import Judge
from mjx_serl.envs.observation import Observer
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.demonstrations import DemoConfig, RecordedDemos
from mjx_serl.training.off_policy import LoopConfig, OffPolicyConfig, Source
from mjx_serl.training.state import TrainState
from mjx_serl.types import Batch, Choice, Metrics, Obs, Transition, chunk
from scenes.contract.specs import ActionSpec, ObsSpec

NUM_ENVS, DEMOS = 6, 5


@struct.dataclass
class Counted:
    """All that `Idle` knows: how many critic steps it would have made."""

    step: jax.Array


@dataclasses.dataclass(frozen=True)
class Idle:
    """An agent that plays at random and learns nothing: its epoch compiles in a third of the time.

    For what the loop does whoever learns. It reads all of a batch, as a learner does.
    """

    utd_ratio: int = 1
    n_step: int = 1
    gamma: float = 0.9
    horizon: int = 1

    def build(self) -> "Idle":
        return self

    def init(self, key: jax.Array, obs: ObsSpec, action: ActionSpec) -> Counted:
        return Counted(jnp.int32(0))

    def shown(self, state: Counted, demos: Transition) -> Counted:
        return state

    def act(
        self, state: Counted, obs: Obs, key: jax.Array, *, deterministic: bool = False
    ) -> Choice:
        actions = jax.random.uniform(key, (len(obs["x"]), 2 * self.horizon), minval=-1.0)
        return chunk(actions, self.horizon)

    def acting(self, state: Counted) -> Counted:
        return state

    def beside(self, steps: Transition, action: ActionSpec) -> dict[str, jax.Array]:
        return {}

    def update(self, state: Counted, batch: Batch, key: jax.Array) -> tuple[Counted, Metrics]:
        seen = sum(jnp.mean(x) for x in jax.tree.leaves(batch))
        return Counted(state.step + self.utd_ratio), {"learner/seen": seen}


@functools.cache
def toy_demos() -> Transition:
    """Demonstrations [T, DEMOS] by the toy expert."""
    return jax.jit(lambda key: demonstrate(Observer(ToyEnv()), key, episodes=DEMOS, noise=0.0)[0])(
        jax.random.key(9)
    )


class Toy:
    """A trainer on toy worlds, its first state and its compiled epoch."""

    def __init__(
        self,
        *,
        demos: bool = True,
        agent: Any = None,
        vice: ViceConfig | None = None,
        **loop: Any,
    ) -> None:
        sizes = {"batch_size": 32, "updates_per_step": 2, "steps_per_epoch": 5}
        loop = sizes | {"warmup_steps": 60, "buffer_size": 600} | loop
        # Only where they are wanted: worlds may be patched here, and demonstrations are kept.
        rows = toy_demos() if demos else None
        self.demos = rows
        method = OffPolicyConfig(
            agent=agent or SACConfig(hidden=(8, 8)),
            loop=LoopConfig(**loop),
            demos=DemoConfig(count=0),
        )
        trainer = method.build(Observer(ToyEnv()), num_envs=NUM_ENVS)
        if rows is not None:
            share = trainer.config.demo_fraction
            online = trainer.sources["online"].buffer
            shown = ReplayBuffer(*rows.reward.shape)
            sources = {"online": Source(online, 1.0 - share), "demos": Source(shown, share)}
            trainer = dataclasses.replace(trainer, sources=sources, demos=RecordedDemos(rows))
        if vice is not None:
            worlds = dataclasses.replace(trainer.vec_env.observer, judge=Judge(ToyEnv()))
            vec_env = dataclasses.replace(trainer.vec_env, observer=worlds)
            learned = vice.build(worlds.obs_spec, worlds.obs_spec.names)
            trainer = dataclasses.replace(trainer, vec_env=vec_env, vice=learned)
        self.trainer = trainer
        self.epoch = jax.jit(self.trainer.epoch)
        # What `init` compiles anew at every call.
        self._init = jax.jit(self.trainer.first_state)
        self.sample = jax.jit(self.trainer._sample, static_argnums=2)

    def start(self, seed: int = 0) -> TrainState:
        """The state before the first epoch."""
        return self._init(jax.random.key(seed), self.demos)


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., Toy]:
    """Return the maker of toy trainers."""
    return Toy


@pytest.fixture(scope="session")
def make_idle() -> Callable[..., Toy]:
    """Return the maker of toy trainers whose agent does not learn."""

    def make(*, utd_ratio: int = 1, n_step: int = 1, horizon: int = 1, **changes: Any) -> Toy:
        idle = Idle(utd_ratio=utd_ratio, n_step=max(n_step, horizon), horizon=horizon)
        return Toy(agent=idle, **changes)

    return make


@pytest.fixture(scope="session")
def toy() -> Toy:
    """A toy trainer with demonstrations."""
    return Toy()
