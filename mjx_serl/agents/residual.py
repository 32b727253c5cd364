"""A bounded correction learned over a frozen policy (residual RL; recipe of arXiv 2509.19301).

a = clip(a_base + scale * tanh(u(s, a_base)), -1, 1): the base is asked for every choice and never
trained; the actor sees its action; the critics see the combined one, so that demonstrations are
learned from as they are. The actor's last layer starts at zero: until the first actor step the
policy is the base, bit for bit. A base of chunks is corrected chunk by chunk.

The learner is TD3's (arXiv 1802.09477): a deterministic actor, noise of a fixed size within the
bound, the minimum of a random pair of critics as target (REDQ), their mean for the actor.

Which base it is over is told by `--init RUN`: its agent's config becomes `base`, its parameters and
observation statistics are taken along, so that they are in this run's checkpoints and bundle.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, Agent, AgentConfig, AgentState
from mjx_serl.agents.minibatches import take_minibatch
from mjx_serl.agents.networks import CriticParams, Networks, check_specs, with_zero_head
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_gradients,
    count_skipped,
    make_optimizer,
    trainable,
)
from mjx_serl.agents.over_base import OverBase
from mjx_serl.agents.sac import SACConfig
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.ensemble import random_members
from mjx_serl.nets.mlp import Activation, ComputeDtype, forward
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, chunk
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.serialize import open_field
from scenes.contract.specs import ActionSpec, ObsSpec


@AGENTS.register("residual")
@dataclass(frozen=True, kw_only=True)
class ResidualConfig(AgentConfig):
    """Hyper-parameters of the correction; numbers after arXiv 2509.19301 but for step sizes.

    Attributes:
        base: config of the frozen policy's agent, filled in from `--init`.
        scale: largest correction [action].
        noise: standard deviation of exploration, within `scale` [action].
        least_success: success rate of the base below which nothing is trained [1]: where it never
            succeeds there is nothing to correct.
        actor_delay: critic steps before the actor moves.
        hidden, activation: of actor and critics; each hidden layer is normalised.
        compute_dtype: as of `SACConfig`.
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none.
        critic_ensemble_size: number of Q functions.
        critic_subsample_size: members drawn for each target.
        gamma: discount per control step [1].
        n_step: rewards summed before the critics are asked [steps]; never fewer than the base's
            `horizon`.
        tau: Polyak rate of the target critics per critic step [1].
        lr: Adam step size of the critics [1/update].
        actor_lr: Adam step size of the actor [1/update].
        clip_norm: global gradient norm above which gradients are scaled down; None never.
        utd_ratio: critic steps per actor step.
    """

    base: Any = open_field(AGENTS, SACConfig)
    scale: float = ranged(0.1, above=0, most=2)
    noise: float = ranged(0.025, least=0)
    least_success: float = ranged(0.02, least=0, most=1)
    actor_delay: int = ranged(2000, least=0)
    hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    activation: Activation = "relu"
    compute_dtype: ComputeDtype = "float32"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    critic_ensemble_size: int = ranged(10, least=1)
    critic_subsample_size: int = ranged(2, least=1)
    gamma: float = ranged(0.97, least=0, below=1)
    n_step: int = ranged(3, least=1)
    tau: float = ranged(0.005, above=0, most=1)
    lr: float = ranged(3e-4, above=0)
    actor_lr: float = ranged(1e-4, above=0)
    clip_norm: float | None = ranged(1.0, above=0)
    utd_ratio: int = ranged(4, least=1)

    def over(self, base: AgentConfig) -> "ResidualConfig":
        """The config over the agent of the run that this one begins with."""
        return replace(self, base=base)

    def build(self) -> "Residual":
        """Return the agent; raises InputError on a field outside its range."""
        check_ranges(self)
        if self.critic_subsample_size > self.critic_ensemble_size:
            raise InputError(
                f"ResidualConfig: critic_subsample_size {self.critic_subsample_size}, allowed: "
                f"1 to {self.critic_ensemble_size} (the ensemble size)"
            )
        return Residual(self, self.base.build())


@struct.dataclass
class ResidualState:
    """The frozen base and everything that is learned over it."""

    base: AgentState  # what it acts by
    actor: Trainable
    critic: Trainable  # of CriticParams
    target_params: PyTree  # CriticParams
    step: Int[Array, ""]  # critic steps made
    skipped: Int[Array, ""]  # gradient steps dropped because they were not finite
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class Residual(OverBase):
    """The agent a `ResidualConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: ResidualConfig
    base: Agent

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> ResidualState:
        """Draw a fresh state, whose base is to be replaced; InputError for what it cannot read."""
        check_specs("Residual", obs, action)
        base_key, actor_key, critic_key, encoder_key = jax.random.split(key, 4)
        nets = self._networks(obs, action)
        dim = action.dim * self.horizon
        actor = nets.actor.init(actor_key, jnp.zeros((1, nets.encoder.policy.dim + dim)))
        actor = with_zero_head(actor)
        critic = nets.init_critic(critic_key, encoder_key, dim)
        return ResidualState(
            base=self.base.acting(self.base.init(base_key, obs, action)),
            actor=trainable(self._actor_optimizer, actor),
            critic=trainable(self._optimizer, critic),
            target_params=jax.tree.map(jnp.copy, critic),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
        )

    def act(
        self, state: ResidualState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """The base's actions, corrected; with noise within the bound unless `deterministic`."""
        nets = self._networks(state.obs, state.action)
        features = nets.policy_features(state.critic.params, obs)
        noise = None if deterministic else key
        action = self._corrected(state, state.actor.params, obs, features, noise)
        return chunk(action, self.horizon)

    def acting(self, state: ResidualState) -> ResidualState:
        """Base, actor and encoder; neither critics nor optimisers."""
        return state.replace(
            actor=state.actor.bare(),
            critic=Trainable(CriticParams(state.critic.params.encoder, None), None),
            target_params=None,
            step=None,
            skipped=None,
        )

    def update(
        self, state: ResidualState, batch: Batch, key: PRNGKey
    ) -> tuple[ResidualState, Metrics]:
        """Make `utd_ratio` critic steps, then one actor step on the last minibatch."""
        count = self.cfg.utd_ratio

        def critic_step(state: ResidualState, xs: tuple) -> tuple[ResidualState, Metrics]:
            index, key = xs
            return self._critic_step(state, take_minibatch(batch, index, count), key)

        keys = jax.random.split(key, count)
        state, metrics = jax.lax.scan(critic_step, state, (jnp.arange(count), keys))
        state, more = self._actor_step(state, take_minibatch(batch, count - 1, count))
        skipped = {"learner/skipped_updates": state.skipped.astype(jnp.float32)}
        return state, jax.tree.map(jnp.mean, metrics) | more | skipped

    # -- one step of each part ---------------------------------------------------------------

    def _critic_step(
        self, state: ResidualState, batch: Batch, key: PRNGKey
    ) -> tuple[ResidualState, Metrics]:
        crop_key, noise_key, subset_key = jax.random.split(key, 3)
        nets = self._networks(state.obs, state.action)
        batch = crop_batch(crop_key, batch, self.cfg.crop, cameras=nets.encoder.cameras)
        seen = nets.policy_features(state.critic.params, batch.next_obs)
        action = self._corrected(state, state.actor.params, batch.next_obs, seen, noise_key)
        target_params = state.target_params
        members = random_members(target_params.members, subset_key, self.cfg.critic_subsample_size)
        next_q = nets.q(members, nets.features(target_params, batch.next_obs), action)
        gamma = self.cfg.gamma**self.n_step
        target = objectives.critic_target(batch.reward, batch.terminated, next_q, gamma)
        return self._fit_critics(state, nets, batch, target)

    def _actor_step(self, state: ResidualState, batch: Batch) -> tuple[ResidualState, Metrics]:
        nets = self._networks(state.obs, state.action)
        features = jax.lax.stop_gradient(nets.features(state.critic.params, batch.obs))
        seen = features[:, : nets.encoder.policy.dim]
        base = self._base_action(state, batch.obs)

        def loss_fn(params: PyTree) -> tuple[Array, Array]:
            correction = self._correction(nets, params, seen, base)
            action = jnp.clip(base + correction, -1.0, 1.0)
            q = nets.q(state.critic.params.members, features, action)
            return -jnp.mean(q), jnp.mean(jnp.abs(correction))

        (loss, size), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.actor.params)
        stepped, fine = apply_gradients(self._actor_optimizer, state.actor, grads)
        moving = state.step > self.cfg.actor_delay
        actor = jax.tree.map(partial(jnp.where, moving), stepped, state.actor)
        state = state.replace(actor=actor, skipped=count_skipped(state.skipped, fine))
        return state, {"learner/actor_loss": loss, "learner/correction": size}

    # -- pieces ------------------------------------------------------------------------------

    def _base_action(self, state: ResidualState, obs: Obs) -> Float[Array, "B HA"]:
        """What the frozen policy does; it draws nothing."""
        policy = {f.name: obs[f.name] for f in state.obs.policy.fields}
        chosen = self.base.act(state.base, policy, jax.random.key(0), deterministic=True)
        return chosen.action.reshape(chosen.action.shape[0], -1)

    def _correction(
        self, nets: Networks, params: PyTree, seen: Float[Array, "B D"], base: Float[Array, "B HA"]
    ) -> Float[Array, "B HA"]:
        u = forward(nets.actor, params, jnp.concatenate([seen, base], axis=-1))
        return self.cfg.scale * jnp.tanh(u)

    def _corrected(
        self,
        state: ResidualState,
        params: PyTree,
        obs: Obs,
        seen: Float[Array, "B D"],
        key: PRNGKey | None,
    ) -> Float[Array, "B HA"]:
        """The combined action, with noise where there is a key; never more than `scale` away."""
        nets = self._networks(state.obs, state.action)
        base = self._base_action(state, obs)
        correction = self._correction(nets, params, seen, base)
        if key is not None:
            noisy = correction + self.cfg.noise * jax.random.normal(key, base.shape)
            correction = jnp.clip(noisy, -self.cfg.scale, self.cfg.scale)
        return jnp.clip(base + correction, -1.0, 1.0)

    def _networks(self, obs: ObsSpec, action: ActionSpec) -> Networks:
        return self._build_networks(obs, action, heads=1)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.actor_lr, clip_norm=self.cfg.clip_norm)
