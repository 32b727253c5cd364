"""Behaviour cloning: a Normal policy fitted to what the expert did.

SERL's (`serl_launcher/agents/continuous/bc.py`): one network gives mean and standard deviation,
nothing squashes them, and the loss is the negative log-likelihood of the expert's actions. The
encoder of images belongs to the policy and is trained with it.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.networks import build_mlp, check_networks, check_specs
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_gradients,
    count_skipped,
    make_optimizer,
    trainable,
)
from mjx_serl.nets.augment import crop_images
from mjx_serl.nets.distributions import normal_log_prob, split_mean_std
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.mlp import MLP, Activation, ComputeDtype, forward
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, choice
from scenes.contract.ranges import ranged
from scenes.contract.specs import ActionSpec, ObsSpec


@AGENTS.register("bc")
@dataclass(frozen=True, kw_only=True)
class BCConfig(AgentConfig):
    """Hyper-parameters of behaviour cloning; the defaults are SERL's (`bc_policy.py`) and a norm.

    Attributes:
        hidden: widths of the hidden layers [units].
        activation: "tanh", "relu" or "swish", after each hidden layer.
        layer_norm: normalise each hidden layer before its activation. SERL's has none, and so
            learned when to close a gripper far too slowly (the presets `bc` and `bc_serl`).
        dropout: share of each hidden layer that is left out while learning [1]; HIL-SERL: 0.25.
        compute_dtype: as of `SACConfig`.
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none, HIL-SERL: 4.
        lr: Adam step size [1/update].
        leave_out: names of observed vectors that the policy does not read, against causal
            confusion (SERL's `remove_xy` leaves out where the hand is on the table).
    """

    hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    activation: Activation = "tanh"
    layer_norm: bool = True
    dropout: float = ranged(0.0, least=0, below=1)
    compute_dtype: ComputeDtype = "float32"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(0, least=0)
    lr: float = ranged(3e-4, above=0)
    leave_out: tuple[str, ...] = ()

    def build(self) -> "BC":
        """Return the agent; raises ValueError on a field outside its range, KeyError on a name."""
        check_networks(self)
        return BC(self)


@struct.dataclass
class BCParams:
    """What the loss trains."""

    encoder: PyTree  # of images, {} without
    actor: PyTree


@struct.dataclass
class BCState:
    """Everything behaviour cloning learns."""

    policy: Trainable  # of BCParams
    step: Int[Array, ""]  # gradient steps made
    skipped: Int[Array, ""]  # of these, dropped because they were not finite
    obs: ObsSpec = struct.field(pytree_node=False)  # what the policy reads
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class BC(OffPolicyAgent):
    """The agent a `BCConfig` builds; it learns from the samples of a batch that are an expert's."""

    cfg: BCConfig

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> BCState:
        """Draw a fresh state.

        Raises ValueError for observations the encoder cannot read, or actions with choices or a
        horizon, KeyError for a field to leave out that is not observed.
        """
        check_specs("BC", obs, action)
        left_out = {obs[name].name for name in self.cfg.leave_out}
        read = ObsSpec(fields=tuple(f for f in obs.policy.fields if f.name not in left_out))
        encoder = self._encoder(read)
        encoder_key, actor_key = jax.random.split(key)
        blank = jnp.zeros((1, encoder.dim))
        params: PyTree = BCParams(
            encoder.init(encoder_key), self._actor(encoder, action).init(actor_key, blank)
        )
        policy = trainable(self._optimizer, params)
        return BCState(policy, jnp.int32(0), jnp.int32(0), obs=read, action=action)

    def act(self, state: BCState, obs: Obs, key: PRNGKey, *, deterministic: bool = False) -> Choice:
        """Sample actions, or take the mean if `deterministic`; both are clipped to [-1, 1]."""
        mean, std = self._policy(state, state.policy.params, obs)
        if not deterministic:
            mean = mean + std * jax.random.normal(key, mean.shape)
        return choice(jnp.clip(mean, -1.0, 1.0))

    def acting(self, state: BCState) -> BCState:
        """Policy and encoder, without their optimiser."""
        policy = state.policy.bare()
        return state.replace(policy=policy, step=None, skipped=None)

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.compute_dtype

    def exact(self) -> "BC":
        """The same agent with float32 products."""
        return BC(replace(self.cfg, compute_dtype="float32"))

    def update(self, state: BCState, batch: Batch, key: PRNGKey) -> tuple[BCState, Metrics]:
        """Take one gradient step on the expert's samples of a batch; none where it has none."""
        crop_key, dropout_key = jax.random.split(key)
        cameras = self._encoder(state.obs).cameras
        obs = crop_images(crop_key, batch.obs, self.cfg.crop, cameras=cameras)

        def loss_fn(params: BCParams) -> tuple[Array, Array]:
            mean, std = self._policy(state, params, obs, dropout_key=dropout_key)
            log_prob = normal_log_prob(batch.action, mean, std)
            error = objectives.imitation_loss(mean, batch.action, batch.expert)
            return objectives.likelihood_loss(log_prob, batch.expert), error

        (loss, error), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.policy.params)
        policy, finite = apply_gradients(self._optimizer, state.policy, grads)
        skipped = count_skipped(state.skipped, finite)
        metrics = {
            "learner/bc_loss": loss,
            "learner/bc_square_error": error,
            "learner/skipped_updates": skipped.astype(jnp.float32),
        }
        step = optax.safe_increment(state.step)
        return state.replace(policy=policy, step=step, skipped=skipped), metrics

    def _policy(
        self, state: BCState, params: BCParams, obs: Obs, *, dropout_key: PRNGKey | None = None
    ) -> tuple[Float[Array, "B A"], Float[Array, "B A"]]:
        """Mean and standard deviation for observations [B, ...]."""
        encoder = self._encoder(state.obs)
        actor = self._actor(encoder, state.action)
        features = encoder(params.encoder, obs)
        return split_mean_std(forward(actor, params.actor, features, dropout_key=dropout_key))

    def _encoder(self, obs: ObsSpec) -> ObsEncoder:
        return ObsEncoder(self.cfg.encoder, obs, self.cfg.compute_dtype)

    def _actor(self, encoder: ObsEncoder, action: ActionSpec) -> MLP:
        return build_mlp(self.cfg, encoder, 2 * action.dim).clone(dropout=self.cfg.dropout)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.lr)
