"""Steers a frozen flow policy by the noise that it starts from (DSRL-NA, arXiv 2506.15799).

A policy that carries noise w to actions, a = flow(s, w), does other things for other noise. A small
soft actor-critic chooses w in [-m, m]; the flow is never trained nor differentiated through, and
only what it would do anyway is ever done. Two critics: Q(s, a) learns from what was done, whoever
did it (demonstrations have no noise); Q_w(s, w) is fitted to Q(s, flow(s, w)) and tells the actor.
The actor's last layer starts at zero: until its first step the deterministic policy is the base's,
bit for bit, and the noise it draws is about as wide as the base's own.

Formulas and numbers: reference next_capabilities.md A.6. As elsewhere here the actor moves once per
`update`, where the paper's code moves it after each critic step.

Which base it steers is told by `--init RUN`, as of `residual`.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl import devices
from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, AgentState
from mjx_serl.agents.flow_bc import FlowBC, FlowBCConfig
from mjx_serl.agents.minibatches import take_minibatch
from mjx_serl.agents.networks import CriticParams, Networks, check_specs, with_zero_head
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_common,
    apply_gradients,
    count_skipped,
    trainable,
)
from mjx_serl.agents.over_base import OverBase
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.distributions import tanh_normal_sample
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.mlp import Activation, ComputeDtype
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, chunk
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.serialize import open_field
from scenes.contract.specs import ActionSpec, ObsSpec


@AGENTS.register("dsrl")
@dataclass(frozen=True, kw_only=True)
class DSRLConfig(AgentConfig):
    """Hyper-parameters of the steering; numbers after arXiv 2506.15799 but for smaller networks.

    Attributes:
        base: config of the frozen flow policy's agent, filled in from `--init`.
        magnitude: largest entry of the noise [standard deviations of the base's].
        least_success: success rate of the base below which nothing is trained [1].
        hidden, activation: of actor and critics; each hidden layer is normalised.
        compute_dtype: as of `SACConfig`.
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none.
        critic_ensemble_size: Q functions of each kind; the smallest counts.
        gamma: discount per control step [1].
        n_step: rewards summed before the critics are asked [steps]; never fewer than the base's
            `horizon`.
        tau: Polyak rate of the target critics per critic step [1].
        lr: Adam step size [1/update].
        clip_norm: global gradient norm above which gradients are scaled down; None never.
        init_temperature: alpha at the start [reward].
        target_entropy: of the noise, which the temperature is moved towards [nat].
        utd_ratio: critic steps per actor step.
        distill_ratio: steps of the noise's critics per actor step.
    """

    base: Any = open_field(AGENTS, FlowBCConfig)
    magnitude: float = ranged(1.5, above=0, most=10)
    least_success: float = ranged(0.02, least=0, most=1)
    hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    activation: Activation = "tanh"
    compute_dtype: ComputeDtype = "float32"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    critic_ensemble_size: int = ranged(2, least=1)
    gamma: float = ranged(0.97, least=0, below=1)
    n_step: int = ranged(1, least=1)
    tau: float = ranged(0.005, above=0, most=1)
    lr: float = ranged(3e-4, above=0)
    clip_norm: float | None = ranged(1.0, above=0)
    init_temperature: float = ranged(0.01, above=0)
    target_entropy: float = 0.0
    utd_ratio: int = ranged(4, least=1)
    distill_ratio: int = ranged(2, least=1)

    def over(self, base: AgentConfig) -> "DSRLConfig":
        """The config over the agent of the run that this one begins with."""
        if not isinstance(base, FlowBCConfig):
            raise InputError(
                f"agent dsrl steers the noise of a flow, --init is of '{AGENTS.name_of(type(base))}"
                "', which starts from none; allowed: a run of --agent flow_bc"
            )
        return replace(self, base=base)

    def build(self) -> "DSRL":
        """Return the agent; raises InputError on a field outside its range."""
        check_ranges(self)
        if not math.isfinite(self.target_entropy):
            raise InputError(f"DSRLConfig: target_entropy {self.target_entropy}, allowed: finite")
        return DSRL(self, self.base.build())


@struct.dataclass
class DSRLState:
    """The frozen base and everything that is learned to steer it."""

    base: AgentState  # what it acts by
    actor: Trainable  # chooses noise
    critic: Trainable  # of CriticParams: of observation and actions
    target_params: PyTree  # CriticParams
    noise_critic: Trainable  # of observation and noise, on the critic's features
    log_temperature: Trainable
    step: Int[Array, ""]  # critic steps made
    skipped: Int[Array, ""]  # gradient steps dropped because they were not finite
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class DSRL(OverBase):
    """The agent a `DSRLConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: DSRLConfig
    base: FlowBC

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> DSRLState:
        """Draw a fresh state, whose base is to be replaced; InputError for what it cannot read."""
        check_specs("DSRL", obs, action)
        base_key, actor_key, critic_key, encoder_key, noise_key = jax.random.split(key, 5)
        nets, dim = self._networks(obs, action), action.dim * self.horizon
        critic = nets.init_critic(critic_key, encoder_key, dim)
        noise_critic = nets.critic.init(noise_key, jnp.zeros((1, nets.encoder.dim + dim)))
        theta = jnp.float32(objectives.initial_log_temperature(self.cfg.init_temperature))
        return DSRLState(
            base=self.base.acting(self.base.init(base_key, obs, action)),
            actor=self._trainable(with_zero_head(nets.init_actor(actor_key))),
            critic=self._trainable(critic),
            target_params=jax.tree.map(jnp.copy, critic),
            noise_critic=self._trainable(noise_critic),
            log_temperature=self._trainable(theta),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
        )

    def act(
        self, state: DSRLState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """What the base makes of noise that is drawn, or of its mean if `deterministic`."""
        nets = self._networks(state.obs, state.action)
        features = nets.policy_features(state.critic.params, obs)
        if deterministic:
            mean, _ = nets.policy(state.actor.params, features)
            noise = self.cfg.magnitude * jnp.tanh(mean)
        else:
            noise, _ = self._draw(nets, state.actor.params, features, key)
        return chunk(self._carried(state, obs, noise), self.horizon)

    def acting(self, state: DSRLState) -> DSRLState:
        """Base, actor and encoder; neither critics nor optimisers."""
        return state.replace(
            actor=state.actor.bare(),
            critic=Trainable(CriticParams(state.critic.params.encoder, None), None),
            target_params=None,
            noise_critic=None,
            log_temperature=None,
            step=None,
            skipped=None,
        )

    def update(self, state: DSRLState, batch: Batch, key: PRNGKey) -> tuple[DSRLState, Metrics]:
        """Make `utd_ratio` critic steps, `distill_ratio` of the noise's critics, one of the actor.

        Raises ValueError at trace time if the batch does not divide by `utd_ratio`.
        """
        count, more = self.cfg.utd_ratio, self.cfg.distill_ratio
        critic_key, noise_key, actor_key = jax.random.split(key, 3)

        def critic_step(state: DSRLState, xs: tuple) -> tuple[DSRLState, Metrics]:
            index, key = xs
            return self._critic_step(state, take_minibatch(batch, index, count), key)

        def noise_step(state: DSRLState, xs: tuple) -> tuple[DSRLState, Metrics]:
            index, key = xs
            return self._noise_step(state, take_minibatch(batch, index % count, count), key)

        keys = jax.random.split(critic_key, count)
        state, told = jax.lax.scan(critic_step, state, (jnp.arange(count), keys))
        keys = jax.random.split(noise_key, more)
        state, fitted = jax.lax.scan(noise_step, state, (jnp.arange(more), keys))
        state, moved = self._actor_step(state, take_minibatch(batch, count - 1, count), actor_key)
        metrics = jax.tree.map(jnp.mean, told | fitted) | moved
        return state, metrics | {
            "learner/temperature": objectives.temperature_of(state.log_temperature.params),
            "learner/skipped_updates": state.skipped.astype(jnp.float32),
        }

    # -- one step of each part ---------------------------------------------------------------

    def _critic_step(
        self, state: DSRLState, batch: Batch, key: PRNGKey
    ) -> tuple[DSRLState, Metrics]:
        crop_key, noise_key = jax.random.split(key)
        nets = self._networks(state.obs, state.action)
        batch = crop_batch(crop_key, batch, self.cfg.crop, cameras=nets.encoder.cameras)
        seen = nets.policy_features(state.critic.params, batch.next_obs)
        noise, log_prob = self._draw(nets, state.actor.params, seen, noise_key)
        action = self._carried(state, batch.next_obs, noise)
        target = objectives.critic_target(
            batch.reward,
            batch.terminated,
            nets.q(
                state.target_params.members,
                nets.features(state.target_params, batch.next_obs),
                action,
            ),
            self.cfg.gamma**self.n_step,
            entropy_bonus=-self._temperature(state) * log_prob,
        )
        return self._fit_critics(state, nets, batch, target)

    def _noise_step(
        self, state: DSRLState, batch: Batch, key: PRNGKey
    ) -> tuple[DSRLState, Metrics]:
        """Fit Q_w(s, w) to Q(s, flow(s, w)) at noise as the base draws it, cut at the magnitude."""
        nets, magnitude = self._networks(state.obs, state.action), self.cfg.magnitude
        features = jax.lax.stop_gradient(nets.features(state.critic.params, batch.obs))
        drawn = jax.random.normal(key, batch.action.shape)
        noise = jnp.clip(drawn, -magnitude, magnitude)
        action = self._carried(state, batch.obs, noise)
        wanted = jax.lax.stop_gradient(nets.q(state.critic.params.members, features, action))

        def loss_fn(members: PyTree) -> Array:
            return jnp.mean(jnp.square(nets.q(members, features, noise) - wanted))

        loss, grads = jax.value_and_grad(loss_fn)(state.noise_critic.params)
        noise_critic, fine = apply_gradients(self._optimizer, state.noise_critic, grads)
        skipped = count_skipped(state.skipped, fine)
        return state.replace(noise_critic=noise_critic, skipped=skipped), {
            "learner/noise_critic_loss": loss
        }

    def _actor_step(
        self, state: DSRLState, batch: Batch, key: PRNGKey
    ) -> tuple[DSRLState, Metrics]:
        nets, alpha = self._networks(state.obs, state.action), self._temperature(state)
        features = jax.lax.stop_gradient(nets.features(state.critic.params, batch.obs))

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            noise, log_prob = self._draw(nets, params, features, key)
            q = nets.q(state.noise_critic.params, features, noise)
            return objectives.actor_loss(q, log_prob, alpha, reduce="min"), (noise, log_prob)

        (loss, (noise, log_prob)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.actor.params
        )
        entropy = -jnp.mean(log_prob)
        grad = jax.grad(objectives.temperature_loss)(
            state.log_temperature.params, entropy, self.cfg.target_entropy
        )
        grads, grad = devices.mean((grads, grad))
        actor, actor_fine = apply_common(self._optimizer, state.actor, grads)
        theta, theta_fine = apply_common(self._optimizer, state.log_temperature, grad)
        skipped = count_skipped(count_skipped(state.skipped, actor_fine), theta_fine)
        state = state.replace(actor=actor, log_temperature=theta, skipped=skipped)
        return state, {
            "learner/actor_loss": loss,
            "learner/entropy": entropy,
            "learner/noise_size": jnp.mean(jnp.abs(noise)),
            "learner/noise_at_limit": jnp.mean(jnp.abs(noise) > 0.9 * self.cfg.magnitude),
        }

    # -- pieces ------------------------------------------------------------------------------

    def _carried(self, state: DSRLState, obs: Obs, noise: Float[Array, "B HA"]) -> Array:
        """What the frozen base does from this noise."""
        policy = {f.name: obs[f.name] for f in state.obs.policy.fields}
        return self.base.carried(state.base, policy, noise)

    def _draw(
        self, nets: Networks, params: PyTree, features: Float[Array, "B D"], key: PRNGKey
    ) -> tuple[Float[Array, "B HA"], Float[Array, " B"]]:
        """Noise w = m tanh(u) and log pi(w), whose density is that of tanh(u) over m per entry."""
        share, log_prob = tanh_normal_sample(key, *nets.policy(params, features))
        magnitude = self.cfg.magnitude
        return magnitude * share, log_prob - share.shape[-1] * math.log(magnitude)

    def _temperature(self, state: DSRLState) -> Float[Array, ""]:
        return objectives.temperature_of(state.log_temperature.params)

    def _networks(self, obs: ObsSpec, action: ActionSpec) -> Networks:
        return self._build_networks(obs, action, heads=2)

    def _trainable(self, params: PyTree) -> Trainable:
        return trainable(self._optimizer, params)
