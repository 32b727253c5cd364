"""HG-DAgger: imitation that goes on in the worlds, where an expert takes over and is recorded.

The policy starts from demonstrations (`--loop.pretrain-updates`, or `--init` with another run) and
acts in all worlds. Where the gate says so the expert acts instead; what it did joins the
demonstrations' other half of each batch, and learning goes on (arXiv 1810.02890, algorithm 1, one
step at a time in place of one episode). The loop is that of every off-policy agent.
"""

import dataclasses
from typing import Any

from mjx_serl.agents.agent import AGENTS
from mjx_serl.agents.bc import BCConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.training.demonstrations import DemoConfig
from mjx_serl.training.off_policy import (
    LoopConfig,
    OffPolicy,
    OffPolicyConfig,
    require_single_actions,
)
from mjx_serl.training.takeover import TakeoverConfig
from mjx_serl.training.trainer import METHODS
from scenes.contract.ranges import check_ranges
from scenes.contract.serialize import open_field


@METHODS.register("hg_dagger")
@dataclasses.dataclass(frozen=True, kw_only=True)
class HGDAggerConfig:
    """Demonstrations, a policy that imitates, and an expert that takes over from it.

    Attributes:
        agent: the learner; one that learns from the expert's samples alone.
        loop: collection, storage and the number of updates.
        demos: demonstrations to begin with.
        takeover: when the expert takes over.
    """

    agent: Any = open_field(AGENTS, BCConfig)
    loop: LoopConfig = dataclasses.field(
        default_factory=lambda: LoopConfig(warmup_steps=0, pretrain_updates=5000, pool="epoch")
    )
    demos: DemoConfig = dataclasses.field(default_factory=DemoConfig)
    takeover: TakeoverConfig = dataclasses.field(default_factory=TakeoverConfig)

    def check(self, *, num_envs: int) -> None:
        """Raise ValueError, with what is allowed, for options that do not go together."""
        check_ranges(self.takeover, path="takeover")
        self.takeover.check()
        self._off_policy.check(num_envs=num_envs)
        require_single_actions(self.agent.build(), "hg_dagger")

    def pool_size(self, num_envs: int) -> int:
        """Prepared starts of so many worlds."""
        return self._off_policy.pool_size(num_envs)

    def label(self, *, images: bool) -> str:
        """What the learner is called in folders and tables."""
        del images
        return METHODS.name_of(type(self))

    def build(self, observer: Observer, *, num_envs: int) -> OffPolicy:
        """Return the trainer of an observer's task."""
        trainer = self._off_policy.build(observer, num_envs=num_envs)
        return dataclasses.replace(trainer, takeover=self.takeover.build(observer.env))

    @property
    def _off_policy(self) -> OffPolicyConfig:
        return OffPolicyConfig(agent=self.agent, loop=self.loop, demos=self.demos)
