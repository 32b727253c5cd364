"""What trainers have in common that act in worlds of their own by one agent."""

import dataclasses
from typing import Any, Self

from mjx_serl.data import normalize
from mjx_serl.envs.vector import VecEnv
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.training.state import PolicyParams, TrainState, tree_bytes
from mjx_serl.training.trainer import Share
from mjx_serl.types import Choice, Obs, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class OneAgent:
    """The part of a Trainer that its agent does.

    Attributes:
        agent: what learns.
        vec_env: what it acts in.
    """

    agent: Any
    vec_env: VecEnv

    @property
    def traceable(self) -> bool:
        """Whether `epoch` can be one compiled function."""
        return self.vec_env.observer.traceable

    @property
    def horizon(self) -> int:
        """Actions of one choice [control steps]."""
        return self.agent.horizon

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the agent's networks are made of."""
        return self.agent.compute_dtype

    def exact(self) -> Self:
        """The same trainer whose agent computes in float32."""
        return dataclasses.replace(self, agent=self.agent.exact())

    def worlds_share(self, state: TrainState) -> Share:
        """The worlds' part of the memory; their pool hardly shrinks with them and is not in it."""
        nbytes = tree_bytes(state.worlds) - tree_bytes(state.worlds.pool)
        return Share("worlds", nbytes, "--num-envs", self.vec_env.num_envs, 1)

    def policy_params(self, state: TrainState) -> PolicyParams:
        """What `choose` reads."""
        return PolicyParams(self.agent.acting(state.agent), state.normalizer)

    def learned_params(self, state: TrainState) -> PolicyParams:
        """What another run may begin with: all parameters and the observation statistics."""
        return PolicyParams(self.agent.learned(state.agent), state.normalizer)

    def begun(self, state: TrainState) -> TrainState:
        """The state after `learned_params` of another run have been put into it."""
        return state.replace(agent=self.agent.begun(state.agent))

    def choose(
        self, params: PolicyParams, obs: Obs, key: PRNGKey, *, deterministic: bool
    ) -> Choice:
        """Choose actions for raw observations."""
        seen = normalize.normalize(params.normalizer, obs)
        return self.agent.act(params.agent, seen, key, deterministic=deterministic)
