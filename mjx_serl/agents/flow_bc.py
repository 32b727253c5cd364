"""Behaviour cloning of action chunks by flow matching: no critic, no reward.

What is learned from is the whole batch, whoever chose its actions. Images are read by an encoder
of its own, which the same loss trains, and shifted at random as in DrQ.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.networks import check_specs
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_gradients,
    count_skipped,
    make_optimizer,
    trainable,
)
from mjx_serl.nets.augment import crop_images
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, chunk
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import ActionSpec, ObsSpec


@AGENTS.register("flow_bc")
@dataclass(frozen=True, kw_only=True)
class FlowBCConfig(AgentConfig):
    """Hyper-parameters of flow-matching behaviour cloning; those of QC's base policy.

    Attributes:
        flow: the policy's network and how it is followed.
        horizon: actions of a chunk [control steps].
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none.
        lr: Adam step size [1/update].
    """

    flow: FlowNetConfig = field(default_factory=FlowNetConfig)
    horizon: int = ranged(5, least=1, most=100)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    lr: float = ranged(3e-4, above=0)

    def label(self, *, images: bool, demos: bool) -> str:
        """Behaviour cloning."""
        del images, demos
        return "bc"

    def build(self) -> "FlowBC":
        """Return the agent; raises InputError on a field outside its range."""
        check_ranges(self)
        return FlowBC(self)


@struct.dataclass
class FlowBCState:
    """Everything it learns."""

    policy: Trainable  # of {"encoder", "flow"}
    step: Int[Array, ""]  # updates made
    skipped: Int[Array, ""]  # of those, dropped because a gradient was not finite
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class FlowBC(OffPolicyAgent):
    """The agent a `FlowBCConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: FlowBCConfig

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.cfg.horizon

    @property
    def n_step(self) -> int:
        """Rows of a sample: those of its chunk."""
        return self.cfg.horizon

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> FlowBCState:
        """Draw a fresh state; InputError for what it cannot read or give."""
        check_specs("FlowBC", obs, action)
        encoder_key, flow_key = jax.random.split(key)
        encoder = self._encoder(obs)
        flow = self.cfg.flow.build(action.dim * self.horizon)
        params = {"encoder": encoder.init(encoder_key), "flow": flow.init(flow_key, encoder.dim)}
        return FlowBCState(
            policy=trainable(self._optimizer, params),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
        )

    def act(
        self, state: FlowBCState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """Carry noise to a chunk; the mean of the noise if `deterministic`."""
        count = next(iter(obs.values())).shape[0]
        shape = (count, state.action.dim * self.horizon)
        noise = jnp.zeros(shape) if deterministic else jax.random.normal(key, shape)
        return chunk(self.carried(state, obs, noise), self.horizon)

    def explore(self, state: FlowBCState, obs: Obs, noise: Float[Array, "N H A"]) -> Choice:
        """The chunks that noise is carried to, given in place of a key."""
        return chunk(self.carried(state, obs, noise.reshape(len(noise), -1)), self.horizon)

    def carried(
        self, state: FlowBCState, obs: Obs, noise: Float[Array, "B HA"]
    ) -> Float[Array, "B HA"]:
        """Return the chunks that noise is carried to."""
        params = state.policy.params
        features = self._encoder(state.obs)(params["encoder"], obs)
        return self.cfg.flow.build(noise.shape[-1]).transport(params["flow"], features, noise)

    def acting(self, state: FlowBCState) -> FlowBCState:
        """The networks."""
        policy = state.policy.bare()
        return state.replace(policy=policy, step=None, skipped=None)

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.flow.compute_dtype

    def exact(self) -> "FlowBC":
        """The same agent with float32 products."""
        return FlowBC(replace(self.cfg, flow=replace(self.cfg.flow, compute_dtype="float32")))

    def update(self, state: FlowBCState, batch: Batch, key: PRNGKey) -> tuple[FlowBCState, Metrics]:
        """Make one step on the flow-matching loss."""
        crop_key, flow_key = jax.random.split(key)
        encoder, flow = self._encoder(state.obs), self.cfg.flow.build(batch.action.shape[-1])
        obs = crop_images(crop_key, batch.obs, pad=self.cfg.crop, cameras=encoder.cameras)

        def loss_fn(params: PyTree) -> Array:
            features = encoder(params["encoder"], obs)
            return flow.loss(params["flow"], features, batch.action, flow_key, counted=batch.played)

        loss, grads = jax.value_and_grad(loss_fn)(state.policy.params)
        policy, finite = apply_gradients(self._optimizer, state.policy, grads)
        skipped = count_skipped(state.skipped, finite)
        step = optax.safe_increment(state.step)
        state = state.replace(policy=policy, step=step, skipped=skipped)
        skips = skipped.astype(jnp.float32)
        return state, {"learner/bc_loss": loss, "learner/skipped_updates": skips}

    def _encoder(self, obs: ObsSpec) -> ObsEncoder:
        return ObsEncoder(self.cfg.encoder, obs, self.compute_dtype).policy

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.lr)
