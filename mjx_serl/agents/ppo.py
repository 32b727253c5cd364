"""Proximal policy optimisation (arXiv 1707.06347): one gradient step on part of a rollout.

The policy is a diagonal Normal squashed by tanh, whose network says mean and standard deviation, as
brax's (and SAC's here). A plain Normal that is clipped on its way to the world, with standard
deviations of its own (Stable-Baselines3, CleanRL, rsl_rl), lets its mean leave the box where one
end is good for a while; noise then changes nothing any more, and on `franka/pick_cube_dense` the
gripper stayed open for good. What is learned from is the sample before tanh: the derivative of
tanh drops out of every ratio.

Actor and value network are two networks. Observations with images pass one encoder that both losses
train. Where the observation has fields for critics alone the value network reads all of it, the
policy the rest.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, OnPolicyAgent
from mjx_serl.agents.networks import build_mlp, check_networks, check_specs, with_zero_head
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_common,
    count_skipped,
    global_norm,
    make_optimizer,
    trainable,
)
from mjx_serl.nets.distributions import (
    STD_MAX,
    STD_MIN,
    normal_log_prob,
    split_mean_std,
    tanh_normal_entropy,
)
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.mlp import MLP, Activation, ComputeDtype, forward
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, PyTree, RolloutBatch, choice
from scenes.contract.ranges import ranged
from scenes.contract.specs import ActionSpec, ObsSpec

Schedule = Literal["constant", "linear", "cosine", "adaptive"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine", "adaptive")
# What a sample leaves for learning.
DRAWN, LOG_PROB, VALUE = "drawn", "log_prob", "value"
# Of "adaptive", as rsl_rl's `ppo.py`: a step's factor, and how far lr may go from where it began.
LR_FACTOR, LR_REACH = 1.5, 30.0


@AGENTS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOConfig(AgentConfig):
    """Hyper-parameters of PPO; `build()` returns the agent.

    Attributes:
        hidden: widths of the hidden layers of actor and value network [units].
        activation: "tanh", "relu" or "swish", after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        compute_dtype: as of `SACConfig`.
        encoder: of images, where the observation has any.
        gamma: discount per control step [1].
        gae_lambda: how far advantages look beyond the value network [1]; 1 is the whole return.
        reward_scale: rewards are multiplied by it, so that values are of the order of one [1].
        clip_ratio: how far the probability of an action may move before it is no longer pushed [1].
        clip_value: how far a value may move in the same way [scaled reward]; None any far.
        value_weight: of the value network's loss beside the policy's [1].
        entropy_weight: of the bonus for a wide policy [1/nat].
        gripper_entropy_weight: the same of grippers; None is `entropy_weight`.
        init_std: standard deviation of the policy before tanh at the start.
        gripper_std: the same of grippers, which are opened or closed, with little in between.
        lr: Adam step size of all networks at the start [1/update].
        lr_schedule: "constant"; "linear" or "cosine" falls to `lr_end` within `lr_steps`;
            "adaptive" divides by 1.5 where a minibatch is further from the policy that sampled than
            twice `target_kl`, multiplies where it is nearer than half, up to 30 times either way.
        lr_steps: gradient steps until "linear" and "cosine" reach their end.
        lr_end: share of `lr` that is left then [1].
        target_kl: what "adaptive" aims at [nat].
        stop_kl: no more steps on a rollout once a minibatch is further than this from the policy
            that sampled it [nat]; None never stops.
        clip_norm: global gradient norm above which gradients are scaled down; None never.
        actor_average: as of `SACConfig`, per gradient step.
    """

    hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    activation: Activation = "tanh"
    layer_norm: bool = False
    compute_dtype: ComputeDtype = "float32"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    gamma: float = ranged(0.99, least=0, below=1)
    gae_lambda: float = ranged(0.95, least=0, most=1)
    reward_scale: float = ranged(1.0, above=0)
    clip_ratio: float = ranged(0.2, above=0, below=1)
    clip_value: float | None = ranged(0.2, above=0)
    value_weight: float = ranged(0.5, least=0)
    entropy_weight: float = ranged(0.0, least=0)
    gripper_entropy_weight: float | None = ranged(None, least=0)
    init_std: float = ranged(1.0, least=STD_MIN, most=STD_MAX)
    gripper_std: float = ranged(1.0, least=STD_MIN, most=STD_MAX)
    lr: float = ranged(3e-4, above=0)
    lr_schedule: Schedule = "constant"
    lr_steps: int = ranged(10_000, least=1)
    lr_end: float = ranged(0.1, least=0, most=1)
    target_kl: float = ranged(0.01, above=0)
    stop_kl: float | None = ranged(0.03, above=0)
    clip_norm: float | None = ranged(1.0, above=0)
    actor_average: float = ranged(0.0, least=0, below=1)

    def build(self) -> "PPO":
        """Return the agent; raises ValueError on a field outside its range, KeyError on a name."""
        known = self.lr_schedule in SCHEDULES
        wrong = f"lr_schedule '{self.lr_schedule}', allowed: {', '.join(SCHEDULES)}"
        check_networks(self, *([] if known else [wrong]))
        return PPO(self)


@struct.dataclass
class PPOParams:
    """What the loss trains."""

    encoder: PyTree  # of images, {} without
    actor: PyTree
    critic: PyTree


@struct.dataclass
class PPOState:
    """Everything PPO learns."""

    policy: Trainable  # of PPOParams
    lr: Float[Array, ""]  # of the next gradient step
    step: Int[Array, ""]  # gradient steps made
    skipped: Int[Array, ""]  # of these, dropped because they were not finite
    average: PyTree  # of all but the value network; None where the newest act
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class PPO(OnPolicyAgent):
    """The agent a `PPOConfig` builds; see `OnPolicyAgent` for what its methods promise."""

    cfg: PPOConfig

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.gamma

    @property
    def gae_lambda(self) -> float:
        """How far advantages look."""
        return self.cfg.gae_lambda

    @property
    def reward_scale(self) -> float:
        """What rewards are multiplied by."""
        return self.cfg.reward_scale

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.compute_dtype

    def exact(self) -> "PPO":
        """The same agent with float32 products."""
        return PPO(replace(self.cfg, compute_dtype="float32"))

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> PPOState:
        """Draw a fresh state: a policy around zero, of `init_std`.

        Raises ValueError for observations the encoder cannot read, or actions with choices or a
        horizon.
        """
        check_specs("PPO", obs, action)
        nets = self._networks(obs, action)
        encoder_key, actor_key, critic_key = jax.random.split(key, 3)
        blank = jnp.zeros((1, nets.encoder.dim))
        params: PyTree = PPOParams(
            encoder=nets.encoder.init(encoder_key),
            actor=with_zero_head(nets.actor.init(actor_key, blank[:, : nets.encoder.policy.dim])),
            critic=nets.critic.init(critic_key, blank),
        )
        lr = jnp.float32(self.cfg.lr)
        policy = trainable(self._optimizer(lr), params)
        average = _copy(_acting(params)) if self.cfg.actor_average else None
        return PPOState(policy, lr, jnp.int32(0), jnp.int32(0), average, obs=obs, action=action)

    def act(
        self, state: PPOState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """Sample actions, or take tanh of the mean if `deterministic`."""
        averaged = deterministic and state.average is not None
        nets = self._nets_of(state)
        params: PyTree = state.average if averaged else state.policy.params
        mean, std = nets.policy(params, nets.encoder.policy(params.encoder, obs))
        if deterministic:
            return choice(jnp.tanh(mean))
        return choice(jnp.tanh(mean + std * jax.random.normal(key, mean.shape)))

    def sample(self, state: PPOState, obs: Obs, noise: Float[Array, "N A"]) -> Choice:
        """Sample actions; the extras are the sample before tanh, its density and the value."""
        nets, params = self._nets_of(state), state.policy.params
        features = nets.encoder(params.encoder, obs)
        mean, std = nets.policy(params, features)
        drawn = mean + std * noise
        noted = {
            DRAWN: drawn,
            LOG_PROB: normal_log_prob(drawn, mean, std),
            VALUE: nets.value(params, features),
        }
        return choice(jnp.tanh(drawn)).replace(extras=noted)

    def value(self, state: PPOState, obs: Obs) -> Float[Array, " B"]:
        """What the value network says."""
        nets, params = self._nets_of(state), state.policy.params
        return nets.value(params, nets.encoder(params.encoder, obs))

    def acting(self, state: PPOState) -> PPOState:
        """Policy and encoder; neither value network nor optimiser."""
        policy = Trainable(_acting(state.policy.params), None)
        return state.replace(policy=policy, lr=None, step=None, skipped=None)

    def learned(self, state: PPOState) -> PPOState:
        """All networks, without optimiser, step size, counters and average."""
        bare = state.policy.bare()
        return state.replace(policy=bare, lr=None, step=None, skipped=None, average=None)

    def begun(self, state: PPOState) -> PPOState:
        """One whose average is of the policy that it begins with."""
        if state.average is None:
            return state
        return state.replace(average=_copy(_acting(state.policy.params)))

    def improve(
        self, state: PPOState, batch: RolloutBatch
    ) -> tuple[PPOState, Bool[Array, ""], Metrics]:
        """Take one gradient step, none where the policy is further than `stop_kl` from its past."""
        loss_fn = partial(self._loss, state, batch)
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.policy.params)
        # What decides whether to go on is of all devices too.
        grads, kl = devices.mean((grads, metrics["actor/approx_kl"]))
        policy, finite = apply_common(self._optimizer(state.lr), state.policy, grads)
        step = jnp.asarray(optax.safe_increment(state.step))
        average = state.average
        if average is not None:
            kept = 1 - self.cfg.actor_average
            average = optax.incremental_update(_acting(policy.params), average, kept)
        skipped = count_skipped(state.skipped, finite)
        after = state.replace(policy=policy, step=step, skipped=skipped, average=average)
        stop = jnp.zeros((), bool) if self.cfg.stop_kl is None else kl > self.cfg.stop_kl
        after = jax.tree.map(lambda new, old: jnp.where(stop, old, new), after, state)
        # Also where it stops: a step size that is too large would else never fall.
        after = after.replace(lr=self._next_lr(state.lr, after.step, kl))
        metrics |= {
            "actor/grad_norm": global_norm(grads),
            "actor/lr": state.lr,
            "learner/skipped_updates": after.skipped.astype(jnp.float32),
        }
        return after, stop, metrics

    def _loss(
        self, state: PPOState, batch: RolloutBatch, params: PPOParams
    ) -> tuple[Float[Array, ""], Metrics]:
        cfg, nets, valid = self.cfg, self._nets_of(state), batch.valid
        features = nets.encoder(params.encoder, batch.obs)
        (mean, std), value = nets.policy(params, features), nets.value(params, features)
        log_prob = normal_log_prob(batch.extras[DRAWN], mean, std)
        log_ratio = log_prob - batch.extras[LOG_PROB]
        ratio, old_value = jnp.exp(log_ratio), batch.extras[VALUE]
        policy_loss = objectives.clipped_policy_loss(ratio, batch.advantage, valid, cfg.clip_ratio)
        value_loss = objectives.clipped_value_loss(
            value, old_value, batch.returns, valid, cfg.clip_value
        )
        entropy = tanh_normal_entropy(mean, std)
        bonus = objectives.masked_mean(entropy @ self._entropy_weights(state.action), valid)
        moved = jnp.abs(ratio - 1.0) > cfg.clip_ratio
        revalued = jnp.abs(value - old_value) > (cfg.clip_value or jnp.inf)
        metrics = {
            "actor/loss": policy_loss,
            "actor/value_loss": value_loss,
            "actor/entropy": objectives.masked_mean(jnp.sum(entropy, axis=-1), valid),
            "actor/std": jnp.mean(std),
            "actor/approx_kl": objectives.approximate_kl(log_ratio, valid),
            "actor/pg_clipfrac": objectives.masked_mean(moved.astype(jnp.float32), valid),
            "actor/value_clip_ratio": objectives.masked_mean(revalued.astype(jnp.float32), valid),
        }
        return policy_loss + cfg.value_weight * value_loss - bonus, metrics

    def _entropy_weights(self, action: ActionSpec) -> Float[Array, " A"]:
        arm, gripper = self.cfg.entropy_weight, self.cfg.gripper_entropy_weight
        return jnp.where(jnp.array(action.grippers), arm if gripper is None else gripper, arm)

    def _next_lr(
        self, lr: Float[Array, ""], step: Int[Array, ""], kl: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Step size after `step` gradient steps, the last of which found `kl`."""
        cfg = self.cfg
        done = jnp.minimum(step / cfg.lr_steps, 1.0)
        if cfg.lr_schedule == "linear":
            return cfg.lr * (1.0 + (cfg.lr_end - 1.0) * done)
        if cfg.lr_schedule == "cosine":
            return cfg.lr * (cfg.lr_end + (1.0 - cfg.lr_end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done)))
        if cfg.lr_schedule == "adaptive":
            factor = jnp.where(kl > 2.0 * cfg.target_kl, 1.0 / LR_FACTOR, 1.0)
            factor = jnp.where(kl < 0.5 * cfg.target_kl, LR_FACTOR, factor)
            return jnp.clip(lr * factor, cfg.lr / LR_REACH, cfg.lr * LR_REACH)
        return lr

    def _nets_of(self, state: PPOState) -> "_Networks":
        return self._networks(state.obs, state.action)

    def _networks(self, obs: ObsSpec, action: ActionSpec) -> "_Networks":
        encoder = ObsEncoder(self.cfg.encoder, obs, self.cfg.compute_dtype)
        actor = build_mlp(self.cfg, encoder.policy, 2 * action.dim)
        stds = (self.cfg.init_std, self.cfg.gripper_std)
        init_std = tuple(stds[gripper] for gripper in action.grippers)
        return _Networks(encoder, actor, build_mlp(self.cfg, encoder, 1), init_std)

    def _optimizer(self, lr: Float[Array, ""]) -> optax.GradientTransformation:
        return make_optimizer(lr, clip_norm=self.cfg.clip_norm)


def _acting(params: PyTree) -> PyTree:
    """The parameters that acting reads."""
    return params.replace(critic=None)


def _copy(params: PyTree) -> PyTree:
    """Arrays of their own, which can be donated beside the others."""
    return jax.tree.map(jnp.copy, params)


@dataclass(frozen=True)
class _Networks:
    """The encoder of all that is observed, and what reads its features."""

    encoder: ObsEncoder
    actor: MLP
    critic: MLP
    init_std: tuple[float, ...]  # per entry of an action

    def policy(
        self, params: PPOParams, features: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B A"], Float[Array, "B A"]]:
        """Mean and standard deviation before tanh.

        It reads the first features; the rest need not be there.
        """
        out = forward(self.actor, params.actor, features[:, : self.encoder.policy.dim])
        mean, log_ratio = jnp.split(out, 2, axis=-1)
        log_std = log_ratio + jnp.log(jnp.array(self.init_std))
        return split_mean_std(jnp.concatenate([mean, log_std], axis=-1))

    def value(self, params: PPOParams, features: Float[Array, "B D"]) -> Float[Array, " B"]:
        """Of all features."""
        return forward(self.critic, params.critic, features)[:, 0]
