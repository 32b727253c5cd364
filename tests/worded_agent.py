"""A plug-in's agent that reads words: flow matching, with their numbers among the others."""

from dataclasses import dataclass, field, replace

import jax.numpy as jnp

from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.flow_bc import FlowBC, FlowBCConfig, FlowBCState
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey
from scenes.contract.specs import ActionSpec, ObsSpec


@AGENTS.register("worded")
@dataclass(frozen=True, kw_only=True)
class WordedConfig(AgentConfig):
    """Of the agent that it is but for words."""

    inner: FlowBCConfig = field(default_factory=FlowBCConfig)

    def build(self) -> "Worded":
        return Worded(self.inner.build())


@dataclass(frozen=True)
class Worded(OffPolicyAgent):
    """Shows another agent tokens as numbers from 0 to 1."""

    inner: FlowBC

    @property
    def horizon(self) -> int:
        return self.inner.horizon

    @property
    def n_step(self) -> int:
        return self.inner.n_step

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> FlowBCState:
        fields = [
            replace(f, dtype="float32", scale=1.0, modality=None) if f.kind == "tokens" else f
            for f in obs.fields
        ]
        return self.inner.init(key, ObsSpec(fields=tuple(fields)), action)

    def act(
        self, state: FlowBCState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        return self.inner.act(state, plain(obs), key, deterministic=deterministic)

    def explore(self, state: FlowBCState, obs: Obs, noise) -> Choice:
        return self.inner.explore(state, plain(obs), noise)

    def acting(self, state: FlowBCState) -> FlowBCState:
        return self.inner.acting(state)

    def exact(self) -> "Worded":
        return Worded(self.inner.exact())

    def update(self, state: FlowBCState, batch: Batch, key: PRNGKey) -> tuple[FlowBCState, Metrics]:
        return self.inner.update(state, batch.replace(obs=plain(batch.obs)), key)


def plain(obs: Obs) -> Obs:
    return {
        name: x.astype(jnp.float32) / 259.0 if x.dtype == jnp.int32 else x
        for name, x in obs.items()
    }
