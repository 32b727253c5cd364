"""Trainers on the toy worlds, small enough to compile in a second."""

from collections.abc import Callable
from typing import Any

import jax
import pytest
from toy_env import ToyEnv, toy_worlds

from mjx_serl.agents.sac import SACConfig
from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.envs.observation import Observer
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.off_policy import OffPolicy, OffPolicyConfig, buffer_rows
from mjx_serl.training.state import TrainState

NUM_ENVS, DEMOS = 6, 5


class Toy:
    """A trainer on toy worlds, its first state and its compiled epoch."""

    def __init__(self, *, demos: bool = True, agent: SACConfig | None = None, **loop: Any) -> None:
        sizes = {"batch_size": 32, "updates_per_step": 2, "steps_per_epoch": 5}
        config = OffPolicyConfig(**(sizes | {"warmup_steps": 60, "buffer_size": 600} | loop))
        rows, _ = demonstrate(Observer(ToyEnv()), jax.random.key(9), episodes=DEMOS, noise=0.0)
        self.demos = rows if demos else None
        self.trainer = OffPolicy(
            agent=(agent or SACConfig(hidden=(8, 8))).build(),
            vec_env=toy_worlds(NUM_ENVS),
            buffer=ReplayBuffer(buffer_rows(config, NUM_ENVS), NUM_ENVS),
            demo_buffer=ReplayBuffer(*rows.reward.shape) if demos else None,
            config=config,
        )
        self.epoch = jax.jit(self.trainer.epoch)

    def start(self, seed: int = 0) -> TrainState:
        """The state before the first epoch."""
        k_worlds, k_run = jax.random.split(jax.random.key(seed))
        worlds = self.trainer.vec_env.reset(k_worlds)
        return jax.jit(self.trainer.init)(k_run, worlds, self.demos)


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., Toy]:
    """Return the maker of toy trainers."""
    return Toy


@pytest.fixture(scope="session")
def toy() -> Toy:
    """A toy trainer with demonstrations."""
    return Toy()
