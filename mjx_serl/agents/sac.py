"""Soft actor-critic with critic ensembles: SAC, REDQ, DrQ, and the learner inside RLPD.

One `update` is `utd_ratio` critic steps, each on its own minibatch, and one actor and
temperature step on the last of them. All maths is in `objectives`, all layers are in `nets`.

Observations with images (uint8) make it DrQ (arXiv 2004.13649), by two additions. Images are
shifted at random when a batch is learned from, obs and next_obs apart. And they pass an encoder
that belongs to the critic, as SERL's: the critic's loss trains it, its Polyak copy feeds the
target critic. The actor sees the online encoder's features and sends no gradient back: not into
the embedding of the vectors either, through which SERL's actor moves its critic; here actor and
critics each have their own. The actor step reuses the features that the critic step has computed,
one optimiser step old, as DrQ-v2 does (arXiv 2107.09645, `drqv2.py` update), which saves a pass
of the encoder. Nothing of a critic but the encoder is shared by its ensemble (SERL shares the
heads too), and there is no dropout to differ between actor and critic.

Where the observation has fields for critics alone (`ObsField.critic_only`), the actor reads the
rest, and the encoder is also trained to tell them (`Networks.probe_loss`).

With a `horizon` it is QC-RLPD (Q-chunking, arXiv 2507.07969 sections 4 and 5): actor and critics
know the actions of the next H control steps as one action of H * A entries, which is chosen once
and played to its end. The target is then sum_i gamma^i r_(t+i) + gamma^H Q'(s_(t+H), a'), an
H-step return that is exact, for the critic has seen all H actions.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl import devices
from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.minibatches import take_minibatch
from mjx_serl.agents.networks import (
    CriticParams,
    Networks,
    build_mlp,
    check_networks,
    check_specs,
)
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_common,
    apply_gradients,
    count_skipped,
    make_optimizer,
    tick,
    trainable,
)
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.distributions import tanh_normal_sample
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.ensemble import random_members
from mjx_serl.nets.mlp import Activation, ComputeDtype
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, chunk
from scenes.contract.ranges import ranged, require_number
from scenes.contract.serialize import later_field
from scenes.contract.specs import ActionSpec, ObsSpec

AdamTicks = Literal["own", "shared", "shared_apart"]
MOST_HORIZON = 100  # actions of a chunk; pi0's are 50


@AGENTS.register("sac")
@dataclass(frozen=True, kw_only=True)
class SACConfig(AgentConfig):
    """Hyper-parameters of SAC; the defaults are HIL-SERL's. `build()` returns the agent.

    Attributes:
        hidden: widths of the hidden layers of actor and critics [units].
        activation: "tanh", "relu" or "swish", after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        compute_dtype: "float32", or "bfloat16" for the hidden layers' and the encoder's products
            (twice their rate on a CPU with AVX512_BF16, see `nets.mlp.bfloat16_product`);
            parameters stay float32.
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none.
        critic_ensemble_size: number of Q functions.
        critic_subsample_size: members drawn for each target (REDQ); None takes them all.
        gamma: discount per control step [1].
        n_step: rewards summed before the critics are asked (uncorrected n-step returns, as
            Rainbow's, arXiv 1710.02298): reward reaches back n times faster [steps]. Never fewer
            than `horizon`, which needs no correction.
        tau: Polyak rate of the target critics per critic step [1].
        lr: Adam step size of actor, critics and temperature [1/update].
        lr_warmup_steps: optimiser ticks over which lr ramps up from 0 [ticks].
        clip_norm: global gradient norm above which gradients are scaled down; None never.
        init_temperature: alpha at the start [reward].
        target_entropy: entropy the temperature steers to [nat]; None is -action_dim / 2, of all
            actions of a chunk.
        backup_entropy: count the next action's entropy in the critic target.
        utd_ratio: critic steps per `update` and so per actor step.
        actor_q: "mean" (SERL) or "min" (SAC) over the ensemble in the actor's objective.
        horizon: actions that are chosen at once and then played [control steps].
        bc_weight: weight of imitating the expert's samples of a batch in the actor's loss [1]; 0
            is SERL's and RLPD's.
        adam_ticks: whose Adam clock else runs in a critic step. "own": none. "shared": actor and
            temperature tick with zero gradients in critic-only steps (HIL-SERL: utd_ratio ticks per
            actor gradient, whose step is then sqrt(utd_ratio) larger). "shared_apart": SERL's
            `update_high_utd`, where the actor's step is a call of its own (utd_ratio + 1 ticks).
        actor_average: how much of their running average the parameters that act without noise keep
            per actor step (Polyak averaging) [1]; 0 acts with the newest. Where tenths of a
            millimetre decide, the newest ones come and go.
    """

    hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    activation: Activation = "tanh"
    layer_norm: bool = True
    compute_dtype: ComputeDtype = "float32"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    critic_ensemble_size: int = ranged(2, least=1)
    critic_subsample_size: int | None = ranged(None, least=1)
    gamma: float = ranged(0.97, least=0, below=1)
    n_step: int = ranged(1, least=1)
    tau: float = ranged(0.005, above=0, most=1)
    lr: float = ranged(3e-4, above=0)
    lr_warmup_steps: int = ranged(0, least=0)
    clip_norm: float | None = ranged(None, above=0)
    init_temperature: float = ranged(0.01, above=0)
    target_entropy: float | None = None
    backup_entropy: bool = False
    utd_ratio: int = ranged(1, least=1)
    actor_q: Literal["mean", "min"] = "mean"
    bc_weight: float = ranged(0.0, least=0)
    adam_ticks: AdamTicks = "own"
    horizon: int = later_field(1)
    actor_average: float = later_field(0.0)

    def label(self, *, images: bool, demos: bool) -> str:
        """SAC's name in the literature: with images DrQ, with demonstrations RLPD."""
        return "drq" if images else "rlpd" if demos else "sac"

    def build(self) -> "SAC":
        """Return the agent; raises ValueError on a field outside its range, KeyError on a name."""
        require_number("agent.horizon", self.horizon, least=1, most=MOST_HORIZON, whole=True)
        require_number("agent.actor_average", self.actor_average, least=0, below=1)
        check_networks(self, *_config_errors(self))
        return SAC(self)


def _config_errors(cfg: SACConfig) -> list[str]:
    subsample, size = cfg.critic_subsample_size, cfg.critic_ensemble_size
    checks = [
        (
            subsample is None or subsample <= size,
            f"critic_subsample_size {subsample}, allowed: None or 1..{size} (the ensemble size)",
        ),
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
    critic: Trainable  # of CriticParams
    target_params: PyTree  # CriticParams
    log_temperature: Trainable
    step: Int[Array, ""]  # critic steps made
    skipped: Int[Array, ""]  # gradient steps dropped because they were not finite
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)
    average: PyTree = None  # of the actor's parameters; None where the newest act


@struct.dataclass
class _Seen:
    """What the critic step leaves for the policy step of the same minibatch."""

    features: Float[Array, "B D"]  # of obs, by the encoder before the step
    entropy: Float[Array, ""]  # of the policy at next_obs


@dataclass(frozen=True)
class SAC(OffPolicyAgent):
    """The agent a `SACConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: SACConfig

    @property
    def utd_ratio(self) -> int:
        """Critic steps per `update`."""
        return self.cfg.utd_ratio

    @property
    def n_step(self) -> int:
        """Rewards summed in a batch."""
        return max(self.cfg.n_step, self.cfg.horizon)

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.cfg.horizon

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.gamma

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> SACState:
        """Draw a fresh state.

        Raises ValueError for observations the encoder cannot read, or actions with choices or a
        horizon.
        """
        check_specs("SAC", obs, action)
        nets = self._networks(obs, action)
        actor_key, critic_key, encoder_key = jax.random.split(key, 3)
        critic = nets.init_critic(critic_key, encoder_key, action.dim * self.cfg.horizon)
        theta = jnp.float32(objectives.initial_log_temperature(self.cfg.init_temperature))
        actor = nets.init_actor(actor_key)
        return SACState(
            actor=self._trainable(actor),
            critic=self._trainable(critic),
            target_params=jax.tree.map(jnp.copy, critic),
            log_temperature=self._trainable(theta),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
            average=jax.tree.map(jnp.copy, actor) if self.cfg.actor_average else None,
        )

    def act(
        self, state: SACState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """Sample actions, or take tanh of the mean if `deterministic`; images are not shifted."""
        nets = self._nets_of(state)
        features = nets.policy_features(state.critic.params, obs)
        averaged = deterministic and state.average is not None
        params = state.average if averaged else state.actor.params
        mean, std = nets.policy(params, features)
        action = jnp.tanh(mean) if deterministic else tanh_normal_sample(key, mean, std)[0]
        return chunk(action, self.cfg.horizon)

    def explore(self, state: SACState, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """tanh(mean + std noise): a sample of the policy."""
        nets = self._nets_of(state)
        features = nets.policy_features(state.critic.params, obs)
        mean, std = nets.policy(state.actor.params, features)
        return chunk(jnp.tanh(mean + std * noise.reshape(mean.shape)), self.cfg.horizon)

    def acting(self, state: SACState) -> SACState:
        """Actor and encoder; neither critics nor optimisers."""
        encoder = CriticParams(state.critic.params.encoder, None)
        return state.replace(
            actor=state.actor.bare(),
            critic=Trainable(encoder, None),
            target_params=None,
            log_temperature=None,
            step=None,
            skipped=None,
        )

    def learned(self, state: SACState) -> SACState:
        """All networks and the temperature, without optimisers, counters and averages."""
        return state.replace(
            actor=state.actor.bare(),
            critic=state.critic.bare(),
            log_temperature=state.log_temperature.bare(),
            step=None,
            skipped=None,
            average=None,
        )

    def begun(self, state: SACState) -> SACState:
        """One whose average is of the actor that it begins with."""
        if state.average is None:
            return state
        return state.replace(average=jax.tree.map(jnp.copy, state.actor.params))

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.compute_dtype

    def exact(self) -> "SAC":
        """The same agent with float32 products."""
        return SAC(replace(self.cfg, compute_dtype="float32"))

    def update(self, state: SACState, batch: Batch, key: PRNGKey) -> tuple[SACState, Metrics]:
        """Make `utd_ratio` critic steps, then one actor and temperature step.

        Raises ValueError at trace time if the batch does not divide by `utd_ratio`.
        """
        count = self.cfg.utd_ratio
        keys = jax.random.split(key, count + 1)
        if count > 1:
            critic_only = partial(self._critic_only, batch)
            state, _ = jax.lax.scan(critic_only, state, (jnp.arange(count - 1), keys[1:-1]))
        minibatch = take_minibatch(batch, count - 1, count)
        state, seen, critic_metrics = self._critic_step(state, minibatch, keys[-1])
        if self.cfg.adam_ticks == "shared_apart":
            state = self._tick_policy(state)
        state, actor_metrics = self._policy_step(state, minibatch, seen, keys[0])
        if self.cfg.adam_ticks == "shared_apart":
            state = state.replace(critic=tick(self.optimizer, state.critic))
        return state, self._metrics(state) | critic_metrics | actor_metrics

    def q_values(
        self, state: SACState, obs: Obs, action: Float[Array, "B A"]
    ) -> Float[Array, "E B"]:
        """Return Q of every online critic for leading axis [B]."""
        nets, params = self._nets_of(state), state.critic.params
        return nets.q(params.members, nets.features(params, obs), action)

    def policy_features(
        self, state: SACState, obs: Obs, *, target: bool = False
    ) -> Float[Array, "B D"]:
        """What the policy reads of observations, by the critic's encoder or its Polyak copy."""
        params = state.target_params if target else state.critic.params
        return self._nets_of(state).policy_features(params, obs)

    # -- one step of each part ---------------------------------------------------------------

    def _critic_only(
        self, batch: Batch, state: SACState, inputs: tuple[Int[Array, ""], PRNGKey]
    ) -> tuple[SACState, None]:
        index, key = inputs
        minibatch = take_minibatch(batch, index, self.cfg.utd_ratio)
        state, _, _ = self._critic_step(state, minibatch, key)
        if self.cfg.adam_ticks != "own":
            state = self._tick_policy(state)
        return state, None

    def _critic_step(
        self, state: SACState, batch: Batch, key: PRNGKey
    ) -> tuple[SACState, _Seen, Metrics]:
        action_key, subset_key, crop_key = jax.random.split(key, 3)
        nets = self._nets_of(state)
        batch = crop_batch(crop_key, batch, self.cfg.crop, cameras=nets.encoder.cameras)
        target, entropy = self._target(state, batch, action_key, subset_key)

        def loss_fn(params: CriticParams) -> tuple[Array, tuple[Array, Array, Metrics]]:
            features = nets.features(params, batch.obs)
            q = nets.q(params.members, features, batch.action)
            loss = objectives.critic_loss(q, target)
            if nets.probe is None:
                return loss, (jnp.mean(q), features, {})
            told = nets.probe_loss(params, features)
            more = {"learner/critic_loss": loss, "learner/probe_loss": told}
            return loss + told, (jnp.mean(q), features, more)

        (loss, (mean_q, features, more)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.critic.params
        )
        critic, finite = apply_gradients(self.optimizer, state.critic, grads)
        state = state.replace(
            critic=critic,
            target_params=optax.incremental_update(
                critic.params, state.target_params, self.cfg.tau
            ),
            step=optax.safe_increment(state.step),
            skipped=count_skipped(state.skipped, finite),
        )
        metrics = {"learner/critic_loss": loss, "learner/q": mean_q} | more
        return state, _Seen(features, entropy), metrics

    def _target(
        self, state: SACState, batch: Batch, action_key: PRNGKey, subset_key: PRNGKey
    ) -> tuple[Float[Array, " B"], Float[Array, ""]]:
        """Return the critics' regression target and the policy's entropy at next_obs."""
        nets, target_params = self._nets_of(state), state.target_params
        features = nets.features(state.critic.params, batch.next_obs)
        action, log_prob = tanh_normal_sample(
            action_key, *nets.policy(state.actor.params, features)
        )
        members = target_params.members
        if self.cfg.critic_subsample_size is not None:
            members = random_members(members, subset_key, self.cfg.critic_subsample_size)
        alpha = objectives.temperature_of(state.log_temperature.params)
        target = objectives.critic_target(
            batch.reward,
            batch.terminated,
            nets.q(members, nets.features(target_params, batch.next_obs), action),
            self.cfg.gamma**self.n_step,
            entropy_bonus=-alpha * log_prob if self.cfg.backup_entropy else 0.0,
        )
        return target, -jnp.mean(log_prob)

    def _policy_step(
        self, state: SACState, batch: Batch, seen: _Seen, key: PRNGKey
    ) -> tuple[SACState, Metrics]:
        nets, members = self._nets_of(state), state.critic.params.members
        alpha = objectives.temperature_of(state.log_temperature.params)

        def loss_fn(params: PyTree) -> Array:
            mean, std = nets.policy(params, seen.features)
            action, log_prob = tanh_normal_sample(key, mean, std)
            q = nets.q(members, seen.features, action)
            loss = objectives.actor_loss(q, log_prob, alpha, reduce=self.cfg.actor_q)
            if self.cfg.bc_weight == 0.0:
                return loss
            own, wanted = jnp.tanh(mean), batch.action
            if batch.running is not None:
                wanted = jnp.where(batch.played, wanted, own)
            imitation = objectives.imitation_loss(own, wanted, batch.expert)
            return loss + self.cfg.bc_weight * imitation

        loss, actor_grads = jax.value_and_grad(loss_fn)(state.actor.params)
        target_entropy = self.cfg.target_entropy
        if target_entropy is None:
            target_entropy = -state.action.dim * self.cfg.horizon / 2
        temperature_grad = jax.grad(objectives.temperature_loss)(
            state.log_temperature.params, seen.entropy, target_entropy
        )
        actor_grads, temperature_grad = devices.mean((actor_grads, temperature_grad))
        actor, actor_ok = apply_common(self.optimizer, state.actor, actor_grads)
        theta, theta_ok = apply_common(self.optimizer, state.log_temperature, temperature_grad)
        skipped = count_skipped(count_skipped(state.skipped, actor_ok), theta_ok)
        average = state.average
        if average is not None:
            average = optax.incremental_update(actor.params, average, 1 - self.cfg.actor_average)
        state = state.replace(actor=actor, log_temperature=theta, skipped=skipped, average=average)
        return state, {"learner/actor_loss": loss, "learner/entropy": seen.entropy}

    # -- pieces ------------------------------------------------------------------------------

    def _tick_policy(self, state: SACState) -> SACState:
        run = partial(tick, self.optimizer)
        return state.replace(actor=run(state.actor), log_temperature=run(state.log_temperature))

    def _metrics(self, state: SACState) -> Metrics:
        return {
            "learner/temperature": objectives.temperature_of(state.log_temperature.params),
            "learner/skipped_updates": state.skipped.astype(jnp.float32),
        }

    def _nets_of(self, state: SACState) -> Networks:
        return self._networks(state.obs, state.action)

    def _networks(self, obs: ObsSpec, action: ActionSpec) -> Networks:
        cfg = self.cfg
        encoder = ObsEncoder(cfg.encoder, obs, cfg.compute_dtype)
        net = build_mlp(cfg, encoder.policy, 2 * action.dim * cfg.horizon)
        critic = build_mlp(cfg, encoder, 1).clone(members=cfg.critic_ensemble_size)
        hidden = encoder.dim - encoder.policy.dim
        probe = net.clone(hidden=cfg.hidden[:1], out=hidden) if hidden and encoder.learned else None
        return Networks(encoder, net, critic, probe)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Of all its networks."""
        cfg = self.cfg
        return make_optimizer(cfg.lr, warmup_steps=cfg.lr_warmup_steps, clip_norm=cfg.clip_norm)

    def _trainable(self, params: PyTree) -> Trainable:
        return trainable(self.optimizer, params)
