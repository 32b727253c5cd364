"""A task's scripted expert in the place of the human who takes over from a policy."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from mjx_serl.envs.env import EnvState
from mjx_serl.envs.task import Task
from mjx_serl.types import Choice, Transition
from scenes.contract.ranges import ranged


@dataclasses.dataclass(frozen=True, kw_only=True)
class TakeoverConfig:
    """When the expert takes over, the gate of HG-DAgger (arXiv 1810.02890), and what is kept.

    It acts in a world where one of these holds; both are asked at every step, so that it also
    gives back.

    Attributes:
        far: the policy's action differs from its own by more than this in some entry [1]; an
            action goes from -1 to 1, so above 2 never.
        patience: the episode is not solved after this share of its time limit, for want of
            progress [1]; 1 never.
        keep: "expert" learns from what the expert did alone, as HG-DAgger; "all" from every step.
    """

    far: float = ranged(1.0, least=0)
    patience: float = ranged(0.5, least=0, most=1)
    keep: Literal["expert", "all"] = "expert"

    def build(self, task: Task) -> "Takeover":
        """Return the expert of a task that has one."""
        return Takeover(self, task)


@dataclasses.dataclass(frozen=True)
class Takeover:
    """A task's expert that takes over by a `TakeoverConfig`."""

    config: TakeoverConfig
    task: Task

    def choose(self, worlds: EnvState, chosen: Choice) -> Choice:
        """The actions of worlds [N], the expert's where it has taken over, and where that is."""
        own = chosen.action[:, 0]
        expert = jax.vmap(self.task.demonstrate)(worlds.sim, worlds.command, worlds.task_state)
        expert = jnp.clip(expert, -1.0, 1.0)
        far = jnp.any(jnp.abs(own - expert) > self.config.far, axis=-1)
        late = worlds.t >= self.config.patience * self.task.episode_steps
        taken = far | late
        action = jnp.where(taken[:, None], expert, own)
        return chosen.replace(action=action[:, None], expert=taken)

    def shown(self, steps: Transition) -> Transition:
        """Steps of which the policy's own are not learned from where only the expert's are kept."""
        if self.config.keep == "all":
            return steps
        return steps.replace(valid=steps.valid & steps.expert)
