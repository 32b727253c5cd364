"""What agents that learn over a frozen base policy have in common: `residual` and `dsrl`."""

from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mjx_serl.agents import objectives
from mjx_serl.agents.agent import Agent, AgentState, OffPolicyAgent
from mjx_serl.agents.networks import CriticParams, Networks
from mjx_serl.agents.optimizer import apply_gradients, count_skipped, make_optimizer
from mjx_serl.nets.encoders import ObsEncoder
from mjx_serl.nets.mlp import MLP, ComputeDtype
from mjx_serl.types import Batch, Metrics, Obs
from scenes.contract.specs import ActionSpec, ObsSpec


@dataclass(frozen=True)
class OverBase(OffPolicyAgent):
    """An agent whose base acts and is never trained.

    Attributes:
        cfg: hyper-parameters, named alike in all such agents.
        base: the agent that is frozen.
    """

    cfg: Any
    base: Agent

    @property
    def utd_ratio(self) -> int:
        """Critic steps per `update`."""
        return self.cfg.utd_ratio

    @property
    def horizon(self) -> int:
        """Actions of one choice: the base's."""
        return self.base.horizon

    @property
    def n_step(self) -> int:
        """Rewards summed in a batch."""
        return max(self.cfg.n_step, self.horizon)

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.gamma

    @property
    def least_success(self) -> float:
        """Success rate that the base must have."""
        return self.cfg.least_success

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.compute_dtype

    def exact(self) -> Self:
        """The same agent with float32 products, the base's too."""
        return replace(self, cfg=replace(self.cfg, compute_dtype="float32"), base=self.base.exact())

    def learned(self, state: AgentState) -> AgentState:
        """The base alone: what `--init` fills in."""
        return state.base

    def q_values(
        self, state: AgentState, obs: Obs, action: Float[Array, "B HA"]
    ) -> Float[Array, "E B"]:
        """Return Q of every online critic for leading axis [B]."""
        # The actor's heads, which differ between such agents, are no part of its critics.
        nets, params = self._build_networks(state.obs, state.action, heads=1), state.critic.params
        return nets.q(params.members, nets.features(params, obs), action)

    def _fit_critics(
        self, state: AgentState, nets: Networks, batch: Batch, target: Float[Array, " B"]
    ) -> tuple[AgentState, Metrics]:
        """Make one step of the critics, and their encoder, towards a target."""

        def loss_fn(params: CriticParams) -> tuple[Array, Array]:
            q = nets.q(params.members, nets.features(params, batch.obs), batch.action)
            return objectives.critic_loss(q, target), jnp.mean(q)

        (loss, q), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.critic.params)
        critic, fine = apply_gradients(self._optimizer, state.critic, grads)
        rate = self.cfg.tau
        state = state.replace(
            critic=critic,
            target_params=optax.incremental_update(critic.params, state.target_params, rate),
            step=optax.safe_increment(state.step),
            skipped=count_skipped(state.skipped, fine),
        )
        return state, {"learner/critic_loss": loss, "learner/q": q}

    def _build_networks(self, obs: ObsSpec, action: ActionSpec, *, heads: int) -> Networks:
        """Encoder, actor and critics; the actor gives `heads` numbers per entry of a choice."""
        cfg = self.cfg
        net = MLP(
            cfg.hidden,
            heads * action.dim * self.horizon,
            activation=cfg.activation,
            layer_norm=True,
            compute_dtype=cfg.compute_dtype,
        )
        critic = net.clone(out=1, members=cfg.critic_ensemble_size)
        return Networks(ObsEncoder(cfg.encoder, obs, cfg.compute_dtype), net, critic)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.lr, clip_norm=self.cfg.clip_norm)
