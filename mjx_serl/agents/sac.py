"""Soft actor-critic with critic ensembles: SAC, REDQ, and the learner inside RLPD.

One `update` is `utd_ratio` critic steps, each on its own minibatch, and one actor and
temperature step on the last of them. All maths is in `objectives`, all layers are in `nets`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl.agents import objectives
from mjx_serl.agents.optimizer import Trainable, apply_gradients, make_optimizer, tick
from mjx_serl.nets.distributions import split_mean_std, tanh_normal_sample
from mjx_serl.nets.encoders import encode_vectors, vector_dim
from mjx_serl.nets.ensemble import ensemble_q, random_members
from mjx_serl.nets.mlp import ACTIVATIONS, COMPUTE_DTYPES, MLP, Activation, ComputeDtype, forward
from mjx_serl.types import Batch, Metrics, Obs, ObsShapes, PRNGKey, PyTree

AdamTicks = Literal["own", "shared", "shared_apart"]


@dataclass(frozen=True, kw_only=True)
class SACConfig:
    """Hyper-parameters of SAC; the defaults are HIL-SERL's. `build()` returns the agent.

    hidden: widths of the hidden layers of actor and critics [units].
    activation: "tanh", "relu" or "swish", after each hidden layer.
    layer_norm: normalise each hidden layer before its activation.
    compute_dtype: "float32", or "bfloat16" for the hidden layers' products (twice their rate on a
        CPU with AVX512_BF16, see `nets.mlp.bfloat16_product`); parameters stay float32.
    critic_ensemble_size: number of Q functions.
    critic_subsample_size: members drawn for each target (REDQ); None takes them all.
    gamma: discount per control step [1].
    n_step: rewards summed before the critics are asked (uncorrected n-step returns, as Rainbow's,
        arXiv 1710.02298): reward reaches back n times faster [steps].
    tau: Polyak rate of the target critics per critic step [1].
    lr: Adam step size of actor, critics and temperature [1/update].
    lr_warmup_steps: optimiser ticks over which lr ramps up from 0 [ticks].
    clip_norm: global gradient norm above which gradients are scaled down; None never.
    init_temperature: alpha at the start [reward].
    target_entropy: entropy the temperature steers to [nat]; None is -action_dim / 2.
    backup_entropy: count the next action's entropy in the critic target.
    utd_ratio: critic steps per `update` and so per actor step.
    actor_q: "mean" (SERL) or "min" (SAC) over the ensemble in the actor's objective.
    bc_weight: weight of imitating the expert's samples of a batch in the actor's loss [1]; 0
        is SERL's and RLPD's.
    adam_ticks: who else's Adam clock runs in a critic step. "own": nobody's. "shared": actor and
        temperature tick with zero gradients in critic-only steps (HIL-SERL: utd_ratio ticks per
        actor gradient, whose step is then sqrt(utd_ratio) larger). "shared_apart": SERL's
        `update_high_utd`, where the actor's step is a call of its own (utd_ratio + 1 ticks).
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "tanh"
    layer_norm: bool = True
    compute_dtype: ComputeDtype = "float32"
    critic_ensemble_size: int = 2
    critic_subsample_size: int | None = None
    gamma: float = 0.97
    n_step: int = 1
    tau: float = 0.005
    lr: float = 3e-4
    lr_warmup_steps: int = 0
    clip_norm: float | None = None
    init_temperature: float = 0.01
    target_entropy: float | None = None
    backup_entropy: bool = False
    utd_ratio: int = 1
    actor_q: Literal["mean", "min"] = "mean"
    bc_weight: float = 0.0
    adam_ticks: AdamTicks = "own"

    def build(self) -> "SAC":
        """Return the agent; raises ValueError on a field outside its range."""
        for message in _config_errors(self):
            raise ValueError(f"SACConfig: {message}")
        return SAC(self)


def _config_errors(cfg: SACConfig) -> list[str]:
    subsample = cfg.critic_subsample_size
    size = cfg.critic_ensemble_size
    checks = [
        (
            cfg.activation in ACTIVATIONS,
            f"activation '{cfg.activation}', allowed: {[*ACTIVATIONS]}",
        ),
        (
            cfg.compute_dtype in COMPUTE_DTYPES,
            f"compute_dtype '{cfg.compute_dtype}', allowed: {[*COMPUTE_DTYPES]}",
        ),
        (size >= 1, f"critic_ensemble_size {size}, allowed: >= 1"),
        (
            subsample is None or 1 <= subsample <= size,
            f"critic_subsample_size {subsample}, allowed: None or 1..{size} (the ensemble size)",
        ),
        (0.0 <= cfg.gamma < 1.0, f"gamma {cfg.gamma}, allowed: [0, 1)"),
        (cfg.n_step >= 1, f"n_step {cfg.n_step}, allowed: >= 1"),
        (0.0 < cfg.tau <= 1.0, f"tau {cfg.tau}, allowed: (0, 1]"),
        (cfg.lr > 0.0, f"lr {cfg.lr}, allowed: > 0"),
        (cfg.init_temperature > 0.0, f"init_temperature {cfg.init_temperature}, allowed: > 0"),
        (cfg.utd_ratio >= 1, f"utd_ratio {cfg.utd_ratio}, allowed: >= 1"),
        (cfg.bc_weight >= 0.0, f"bc_weight {cfg.bc_weight}, allowed: >= 0"),
        (cfg.actor_q in ("mean", "min"), f"actor_q '{cfg.actor_q}', allowed: mean, min"),
        (
            cfg.adam_ticks in ("own", "shared", "shared_apart"),
            f"adam_ticks '{cfg.adam_ticks}', allowed: own, shared, shared_apart",
        ),
    ]
    return [message for passed, message in checks if not passed]


@struct.dataclass
class SACState:
    """Everything SAC learns. `target_params` is a copy, so the state can be donated."""

    actor: Trainable
    critic: Trainable
    target_params: PyTree
    log_temperature: Trainable
    step: Int[Array, ""]  # critic steps made
    skipped: Int[Array, ""]  # gradient steps dropped because they were not finite
    action_dim: int = struct.field(pytree_node=False)
    obs_shapes: tuple[tuple[str, jax.ShapeDtypeStruct], ...] = struct.field(pytree_node=False)


@struct.dataclass
class _Minibatch:
    """A batch after encoding: obs and next_obs are feature vectors [B, D]."""

    features: Float[Array, "B D"]
    next_features: Float[Array, "B D"]
    batch: Batch


@dataclass(frozen=True)
class SAC:
    """The agent a `SACConfig` builds; see `Agent` for the contract of its methods."""

    cfg: SACConfig

    @property
    def utd_ratio(self) -> int:
        """Critic steps per `update`."""
        return self.cfg.utd_ratio

    @property
    def n_step(self) -> int:
        """Rewards summed in a batch."""
        return self.cfg.n_step

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.gamma

    def init(self, key: PRNGKey, obs_shapes: ObsShapes, action_dim: int) -> SACState:
        """Draw a fresh state; raises ValueError for image observations."""
        dim = vector_dim(obs_shapes)
        actor_key, critic_key = jax.random.split(key)
        actor = self._actor(action_dim).init(actor_key, jnp.zeros((1, dim)))
        critic = self._critic.init(critic_key, jnp.zeros((1, dim + action_dim)))
        theta = jnp.float32(objectives.initial_log_temperature(self.cfg.init_temperature))
        return SACState(
            actor=self._trainable(actor),
            critic=self._trainable(critic),
            target_params=jax.tree.map(jnp.copy, critic),
            log_temperature=self._trainable(theta),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            action_dim=action_dim,
            obs_shapes=tuple(sorted(obs_shapes.items())),
        )

    def act(
        self, state: SACState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Float[Array, "N A"]:
        """Sample actions, or take tanh of the mean if `deterministic`."""
        features = encode_vectors(obs, dict(state.obs_shapes))
        mean, std = self._policy(state, state.actor.params, features)
        if deterministic:
            return jnp.tanh(mean)
        return tanh_normal_sample(key, mean, std)[0]

    def update(self, state: SACState, batch: Batch, key: PRNGKey) -> tuple[SACState, Metrics]:
        """Make `utd_ratio` critic steps, then one actor and temperature step.

        Raises ValueError at trace time if the batch does not divide by `utd_ratio`.
        """
        minibatches = split_batch(batch, self.cfg.utd_ratio)
        keys = jax.random.split(key, self.cfg.utd_ratio + 1)
        rest, last = (
            jax.tree.map(lambda x: x[:-1], (minibatches, keys[1:])),
            jax.tree.map(lambda x: x[-1], (minibatches, keys[1:])),
        )
        if self.cfg.utd_ratio > 1:
            state, _ = jax.lax.scan(self._critic_only, state, rest)
        minibatch = self._encode(state, last[0])
        state, critic_metrics, entropy = self._critic_step(state, minibatch, last[1])
        if self.cfg.adam_ticks == "shared_apart":
            state = self._tick_policy(state)
        state, actor_metrics = self._policy_step(state, minibatch, entropy, keys[0])
        if self.cfg.adam_ticks == "shared_apart":
            state = state.replace(critic=tick(self._optimizer, state.critic))
        return state, self._metrics(state) | critic_metrics | actor_metrics

    def q_values(
        self, state: SACState, obs: Obs, action: Float[Array, "B A"]
    ) -> Float[Array, "E B"]:
        """Return Q of every online critic for leading axis [B]."""
        features = encode_vectors(obs, dict(state.obs_shapes))
        return ensemble_q(self._critic, state.critic.params, features, action)

    # -- one step of each part ---------------------------------------------------------------

    def _critic_only(self, state: SACState, inputs: tuple[Batch, PRNGKey]) -> tuple[SACState, None]:
        batch, key = inputs
        state, _, _ = self._critic_step(state, self._encode(state, batch), key)
        if self.cfg.adam_ticks != "own":
            state = self._tick_policy(state)
        return state, None

    def _critic_step(
        self, state: SACState, minibatch: _Minibatch, key: PRNGKey
    ) -> tuple[SACState, Metrics, Float[Array, ""]]:
        target, entropy = self._target(state, minibatch, key)

        def loss_fn(params: PyTree) -> tuple[Array, Array]:
            q = ensemble_q(self._critic, params, minibatch.features, minibatch.batch.action)
            return objectives.critic_loss(q, target), jnp.mean(q)

        (loss, mean_q), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.critic.params)
        critic, finite = apply_gradients(self._optimizer, state.critic, grads)
        state = state.replace(
            critic=critic,
            target_params=optax.incremental_update(
                critic.params, state.target_params, self.cfg.tau
            ),
            step=state.step + 1,
            skipped=state.skipped + ~finite,
        )
        return state, {"learner/critic_loss": loss, "learner/q": mean_q}, entropy

    def _target(
        self, state: SACState, minibatch: _Minibatch, key: PRNGKey
    ) -> tuple[Float[Array, " B"], Float[Array, ""]]:
        """Return the critics' regression target and the policy's entropy at next_obs."""
        action_key, subset_key = jax.random.split(key)
        mean, std = self._policy(state, state.actor.params, minibatch.next_features)
        action, log_prob = tanh_normal_sample(action_key, mean, std)
        members = state.target_params
        if self.cfg.critic_subsample_size is not None:
            members = random_members(members, subset_key, self.cfg.critic_subsample_size)
        alpha = objectives.temperature_of(state.log_temperature.params)
        target = objectives.critic_target(
            minibatch.batch.reward,
            minibatch.batch.terminated,
            ensemble_q(self._critic, members, minibatch.next_features, action),
            self.cfg.gamma**self.cfg.n_step,
            entropy_bonus=-alpha * log_prob if self.cfg.backup_entropy else 0.0,
        )
        return target, -jnp.mean(log_prob)

    def _policy_step(
        self, state: SACState, minibatch: _Minibatch, entropy: Float[Array, ""], key: PRNGKey
    ) -> tuple[SACState, Metrics]:
        alpha = objectives.temperature_of(state.log_temperature.params)

        def loss_fn(params: PyTree) -> Array:
            mean, std = self._policy(state, params, minibatch.features)
            action, log_prob = tanh_normal_sample(key, mean, std)
            q = ensemble_q(self._critic, state.critic.params, minibatch.features, action)
            loss = objectives.actor_loss(q, log_prob, alpha, reduce=self.cfg.actor_q)
            if self.cfg.bc_weight == 0.0:
                return loss
            batch = minibatch.batch
            imitation = objectives.imitation_loss(jnp.tanh(mean), batch.action, batch.expert)
            return loss + self.cfg.bc_weight * imitation

        loss, actor_grads = jax.value_and_grad(loss_fn)(state.actor.params)
        target_entropy = self.cfg.target_entropy
        if target_entropy is None:
            target_entropy = -state.action_dim / 2
        temperature_grad = jax.grad(objectives.temperature_loss)(
            state.log_temperature.params, entropy, target_entropy
        )
        actor, actor_ok = apply_gradients(self._optimizer, state.actor, actor_grads)
        theta, theta_ok = apply_gradients(self._optimizer, state.log_temperature, temperature_grad)
        skipped = state.skipped + ~actor_ok + ~theta_ok
        state = state.replace(actor=actor, log_temperature=theta, skipped=skipped)
        return state, {"learner/actor_loss": loss, "learner/entropy": entropy}

    # -- pieces ------------------------------------------------------------------------------

    def _tick_policy(self, state: SACState) -> SACState:
        run = partial(tick, self._optimizer)
        return state.replace(actor=run(state.actor), log_temperature=run(state.log_temperature))

    def _metrics(self, state: SACState) -> Metrics:
        return {
            "learner/temperature": objectives.temperature_of(state.log_temperature.params),
            "learner/skipped_updates": state.skipped.astype(jnp.float32),
        }

    def _encode(self, state: SACState, batch: Batch) -> _Minibatch:
        shapes = dict(state.obs_shapes)
        return _Minibatch(
            encode_vectors(batch.obs, shapes), encode_vectors(batch.next_obs, shapes), batch
        )

    def _policy(
        self, state: SACState, params: PyTree, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B A"], Float[Array, "B A"]]:
        return split_mean_std(forward(self._actor(state.action_dim), params, features))

    def _actor(self, action_dim: int) -> MLP:
        return self._net(2 * action_dim)

    @property
    def _critic(self) -> MLP:
        return self._net(1).clone(members=self.cfg.critic_ensemble_size)

    def _net(self, out: int) -> MLP:
        cfg = self.cfg
        return MLP(
            cfg.hidden,
            out,
            activation=cfg.activation,
            layer_norm=cfg.layer_norm,
            compute_dtype=cfg.compute_dtype,
        )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        cfg = self.cfg
        return make_optimizer(cfg.lr, warmup_steps=cfg.lr_warmup_steps, clip_norm=cfg.clip_norm)

    def _trainable(self, params: PyTree) -> Trainable:
        return Trainable(params, self._optimizer.init(params))


def split_batch(batch: Batch, count: int) -> Batch:
    """Reshape leading [count * B] into [count, B], dealing rows out like cards.

    Minibatch m gets rows m, m + count, ...; each then holds the same share of a mixture whose
    parts lie one after the other in the batch (RLPD's half and half).
    """
    rows = batch.reward.shape[0]
    if rows % count:
        raise ValueError(f"update: batch of {rows} rows, allowed: a multiple of utd_ratio {count}")
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(rows // count, count, *x.shape[1:]), 1, 0), batch
    )
