"""A task's scripted expert in the place of the person who takes over from a policy.

It stands for the person of HG-DAgger and of HIL-SERL alike, so that learning with one can be
measured and tested without one: it watches some episodes, sees that the policy strays or stalls,
takes a while to react, drives with an unsteady hand and not for one step alone, and watches less
and less.
"""

import dataclasses
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.training.collect import noisy_expert
from mjx_serl.training.episodes import Act
from mjx_serl.types import Choice, PRNGKey, Transition
from scenes.contract.ranges import ranged, require_number
from scenes.contract.serialize import later_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class TakeoverConfig:
    """When the expert takes over, the gate of HG-DAgger (arXiv 1810.02890), and what is kept.

    There is a need for it in a world where one of `far` and `patience` says so. Both are asked at
    every step, so that it also gives back.

    Attributes:
        far: the policy's action differs from its own by more than this in some entry [1]; an
            action goes from -1 to 1, so above 2 never.
        patience: the episode is not solved after this share of its time limit, for want of
            progress [1]; 1 never.
        keep: "expert" learns from what the expert did alone, as HG-DAgger; "all" from every step.
        attend: share of the episodes that it watches at first; 0 watches none.
        half_life: env steps after which it watches half as many; 0 always as many.
        reaction: time for which there is a need before it takes over [s]. People take 0.2 to 0.3
            from a light to a key, and longer where they have to judge what they see.
        hold: time for which it drives at least [s]; SERL's device gives back 0.5 after the last
            push (reference serl_family.md 1.4).
        noise: standard deviation of the noise on its end-effector steps [m]; None is what
            the task's expert copes with.
    """

    far: float = ranged(1.0, least=0)
    patience: float = ranged(0.5, least=0, most=1)
    keep: Literal["expert", "all"] = "expert"
    attend: float = later_field(1.0)
    half_life: float = later_field(0.0)
    reaction: float = later_field(0.0)
    hold: float = later_field(0.0)
    noise: float | None = later_field(0.0)

    def check(self) -> None:
        """Raise InputError for a number out of range."""
        require_number("takeover.attend", self.attend, least=0, most=1)
        for name in ("half_life", "reaction", "hold", "noise"):
            if getattr(self, name) is not None:
                require_number(f"takeover.{name}", getattr(self, name), least=0)

    def build(self, env: Env) -> "Takeover":
        """Return the expert of a task that has one."""
        return Takeover(self, env)


@struct.dataclass
class TakeoverState:
    """What the expert is at in each world.

    Attributes:
        watching: whether it watches the episode.
        need: control steps in a row in which there has been a need for it.
        left: control steps that it goes on driving.
    """

    watching: Bool[Array, " N"]
    need: Int[Array, " N"]
    left: Int[Array, " N"]


@dataclasses.dataclass(frozen=True)
class Takeover:
    """A task's expert that takes over by a `TakeoverConfig`."""

    config: TakeoverConfig
    env: Env

    def init(self, num_envs: int) -> TakeoverState:
        """All worlds before their first step."""
        nothing = jnp.zeros(num_envs, jnp.int32)
        return TakeoverState(jnp.full(num_envs, self.config.attend > 0), nothing, nothing)

    def choose(
        self,
        state: TakeoverState,
        worlds: EnvState,
        chosen: Choice,
        key: PRNGKey,
        env_steps: Float[Array, ""],
    ) -> tuple[TakeoverState, Choice]:
        """The actions of worlds [N], the expert's where it has taken over, and where that is.

        Args:
            state: what it was at.
            worlds: before the step.
            chosen: by the policy.
            key: draws which episodes it watches, and its noise.
            env_steps: taken in all worlds so far.
        """
        k_watch, k_act = jax.random.split(key)
        own, expert = chosen.action[:, 0], self._act(worlds, {}, k_act)
        new = worlds.t == 0
        watching = jax.random.uniform(k_watch, new.shape) < self.share(env_steps)
        watching = jnp.where(new, watching, state.watching)
        need = jnp.where(new, 0, state.need) + 1
        need = jnp.where(watching & self._needed(worlds, own, expert), need, 0)
        left = jnp.where(new, 0, jnp.maximum(state.left - 1, 0))
        left = jnp.where(need > self._steps(self.config.reaction), self._hold, left)
        taken = left > 0
        action = jnp.where(taken[:, None], expert, own)
        state = TakeoverState(watching, need, left)
        return state, chosen.replace(action=action[:, None], expert=taken)

    def share(self, env_steps: Float[Array, ""]) -> Float[Array, ""]:
        """The share of the episodes that it watches after so many env steps."""
        half_life, attend = self.config.half_life, jnp.float32(self.config.attend)
        return attend * 0.5 ** (env_steps / half_life) if half_life else attend

    def _needed(
        self, worlds: EnvState, own: Float[Array, "N A"], expert: Float[Array, "N A"]
    ) -> Bool[Array, " N"]:
        far = jnp.any(jnp.abs(own - expert) > self.config.far, axis=-1)
        return far | (worlds.t >= self.config.patience * self.env.task.episode_steps)

    @cached_property
    def _act(self) -> Act:
        return noisy_expert(self.env, self.config.noise)

    @property
    def _hold(self) -> int:
        """Steps that it drives once it does; it always takes the one that it sees the need in."""
        return max(1, self._steps(self.config.hold))

    def _steps(self, seconds: float) -> int:
        return round(seconds / self.env.ctrl_dt)

    def shown(self, steps: Transition) -> Transition:
        """Steps of which the policy's own are not learned from where only the expert's are kept."""
        if self.config.keep == "all":
            return steps
        return steps.replace(valid=steps.valid & steps.expert)
