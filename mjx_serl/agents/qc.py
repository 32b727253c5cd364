"""Q-chunking (arXiv 2507.07969): chunks of a flow that imitates, chosen by critics.

A flow learns the chunks of the data by imitation alone (`agents.flow_bc`); critics learn Q of whole
chunks, y = sum_i gamma^i r_(t+i) + gamma^H mean_i Q'_i(s_(t+H), A'). The policy is one of three:

"best_of" (QC): of `candidates` samples of the flow the one with the best mean Q, for acting and for
A' in the target. It stays within what the data does, and has no network of its own.

"one_step" (QC-FQL, its flow Q-learning is arXiv 2502.02538): a network that maps noise to a chunk
at once, held near the flow's answer to the same noise while it climbs Q.

"edited" (EXPO, arXiv 2507.07986): as "best_of", but each sample is also offered with a small edit,
which a tanh-Gaussian policy makes of it, and target critics judge. The edit climbs Q with an
entropy term, as SAC's actor, from samples of the flow; the flow never sees a value.

Images pass an encoder that belongs to the critics, as in `agents.sac`.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, OffPolicyAgent
from mjx_serl.agents.chunks import FlowNetConfig
from mjx_serl.agents.networks import CriticParams, Networks, check_specs
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_common,
    apply_gradients,
    make_optimizer,
    trainable,
)
from mjx_serl.nets.augment import crop_batch
from mjx_serl.nets.distributions import split_mean_std, tanh_normal_sample
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.nets.flow import Flow, repeat_rows
from mjx_serl.nets.mlp import MLP, Activation, ComputeDtype, forward
from mjx_serl.types import Batch, Choice, Metrics, Obs, PRNGKey, PyTree, chunk
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import ActionSpec, ObsSpec

Actor = Literal["best_of", "one_step", "edited"]
ACTORS: tuple[Actor, ...] = get_args(Actor)


@AGENTS.register("qc")
@dataclass(frozen=True, kw_only=True)
class QCConfig(AgentConfig):
    """Hyper-parameters of Q-chunking; numbers after the paper but for sizes fit for a CPU.

    Attributes:
        horizon: actions of a chunk [control steps].
        actor: "best_of" (QC), "one_step" (QC-FQL) or "edited" (EXPO).
        candidates: samples that are chosen from, of "edited" each also with its edit; the paper's
            32 cost a CPU most (EXPO: 8).
        edit_scale: largest edit [action]; EXPO's.
        init_temperature: alpha of the edit at the start [reward]. It steers the entropy of
            edits, as shares of `edit_scale`, to minus half their entries [nat].
        flow: the imitating policy.
        imitation: weight of staying near the flow, of "one_step" [reward]. It is per task in the
            paper (100 where returns are about -100); here returns are about 1.
        hidden, activation, layer_norm: of critics and one-step actor, whose layers are not
            normalised.
        encoder: of images, where the observation has any.
        crop: random shift of images while learning, at most [px]; 0 none.
        critic_ensemble_size: number of Q functions; their mean counts.
        gamma: discount per control step [1].
        tau: Polyak rate of the target critics per update [1].
        lr: Adam step size [1/update].
    """

    horizon: int = ranged(5, least=1, most=100)
    actor: Actor = "best_of"
    candidates: int = ranged(8, least=1)
    edit_scale: float = ranged(0.05, above=0, most=2)
    init_temperature: float = ranged(0.01, above=0)
    flow: FlowNetConfig = field(default_factory=FlowNetConfig)
    imitation: float = ranged(1.0, least=0)
    hidden: tuple[int, ...] = ranged((256, 256, 256), least=1, filled=True)
    activation: Activation = "swish"
    layer_norm: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    critic_ensemble_size: int = ranged(2, least=1)
    gamma: float = ranged(0.99, least=0, below=1)
    tau: float = ranged(0.005, above=0, most=1)
    lr: float = ranged(3e-4, above=0)

    def build(self) -> "QC":
        """Return the agent; raises InputError on a field outside its range."""
        check_ranges(self)
        if self.actor not in ACTORS:
            raise InputError(f"QCConfig: actor '{self.actor}', allowed: {', '.join(ACTORS)}")
        return QC(self)


@struct.dataclass
class QCState:
    """Everything it learns. `target_params` is a copy, so the state can be donated."""

    flow: Trainable
    one_step: Trainable | None  # of "one_step"
    edit: Trainable | None  # of "edited"
    log_temperature: Trainable | None  # of "edited"
    critic: Trainable  # of CriticParams
    target_params: PyTree  # CriticParams
    step: Int[Array, ""]  # updates made
    skipped: Int[Array, ""]  # gradient steps dropped because they were not finite
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class QC(OffPolicyAgent):
    """The agent a `QCConfig` builds; see `OffPolicyAgent` for what its methods promise."""

    cfg: QCConfig

    @property
    def horizon(self) -> int:
        """Actions of one choice."""
        return self.cfg.horizon

    @property
    def n_step(self) -> int:
        """Rewards summed in a batch: those of its chunk."""
        return self.cfg.horizon

    @property
    def gamma(self) -> float:
        """Discount per control step."""
        return self.cfg.gamma

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> QCState:
        """Draw a fresh state; InputError for what it cannot read or give."""
        check_specs("QC", obs, action)
        flow_key, actor_key, critic_key, encoder_key = jax.random.split(key, 4)
        nets, flow = self._networks(obs, action), self._flow(action)
        seen = nets.encoder.policy.dim
        if self.cfg.actor != "one_step" and seen != nets.encoder.dim:
            raise InputError(
                f"QC's actor '{self.cfg.actor}' asks its critics when it acts, so they may see no "
                "more than the policy. Hint: --agent.actor one_step"
            )
        critic = nets.init_critic(critic_key, encoder_key, flow.dim)
        theta = jnp.float32(objectives.initial_log_temperature(self.cfg.init_temperature))
        own = self._trainable(nets.actor.init(actor_key, jnp.zeros((1, seen + flow.dim))))
        edits = self.cfg.actor == "edited"
        return QCState(
            flow=self._trainable(flow.init(flow_key, seen)),
            one_step=own if self.cfg.actor == "one_step" else None,
            edit=own if edits else None,
            log_temperature=self._trainable(theta) if edits else None,
            critic=self._trainable(critic),
            target_params=jax.tree.map(jnp.copy, critic),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
        )

    def act(self, state: QCState, obs: Obs, key: PRNGKey, *, deterministic: bool = False) -> Choice:
        """Choose a chunk; from always the same noise if `deterministic`."""
        nets = self._networks(state.obs, state.action)
        features = nets.policy_features(state.critic.params, obs)
        shape = self._noise_shape(state, features.shape[0])
        if deterministic:
            return chunk(self._choose(state, features, _same_noise(shape), None), self.horizon)
        noise = jax.random.normal(key, shape)
        edit_key = jax.random.fold_in(key, 1)
        return chunk(self._choose(state, features, noise, edit_key), self.horizon)

    def acting(self, state: QCState) -> QCState:
        """What the policy reads: the critics too where they choose."""
        encoder = CriticParams(state.critic.params.encoder, None)
        alone, edits = state.one_step is not None, state.edit is not None
        return state.replace(
            flow=None if alone else _frozen(state.flow),
            one_step=_frozen(state.one_step),
            edit=_frozen(state.edit),
            log_temperature=None,
            critic=Trainable(encoder if alone or edits else state.critic.params, None),
            target_params=state.target_params if edits else None,
            step=None,
            skipped=None,
        )

    def learned(self, state: QCState) -> QCState:
        """All networks, without optimisers and counters."""
        parts = ("flow", "one_step", "edit", "log_temperature", "critic")
        return state.replace(
            **{name: _frozen(getattr(state, name)) for name in parts},
            step=None,
            skipped=None,
        )

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of its networks are made of."""
        return self.cfg.flow.compute_dtype

    def exact(self) -> "QC":
        """The same agent with float32 products."""
        return QC(replace(self.cfg, flow=replace(self.cfg.flow, compute_dtype="float32")))

    def q_values(
        self, state: QCState, obs: Obs, action: Float[Array, "B HA"]
    ) -> Float[Array, "E B"]:
        """Return Q of every online critic for leading axis [B]."""
        nets, params = self._networks(state.obs, state.action), state.critic.params
        return nets.q(params.members, nets.features(params, obs), action)

    def update(self, state: QCState, batch: Batch, key: PRNGKey) -> tuple[QCState, Metrics]:
        """Make one step of the critics, of the flow and, where there is one, of the actor."""
        crop_key, next_key, flow_key, noise_key = jax.random.split(key, 4)
        nets = self._networks(state.obs, state.action)
        batch = crop_batch(crop_key, batch, self.cfg.crop, cameras=nets.encoder.cameras)
        target = self.target(state, batch, next_key)

        def critic_loss(params: CriticParams) -> tuple[Array, tuple[Array, Array]]:
            features = nets.features(params, batch.obs)
            q = nets.q(params.members, features, batch.action)
            return objectives.critic_loss(q, target), (jnp.mean(q), features)

        (loss, (mean_q, features)), grads = jax.value_and_grad(critic_loss, has_aux=True)(
            state.critic.params
        )
        seen = features[:, : nets.encoder.policy.dim]
        counted = partial(self._flow(state.action).loss, counted=batch.played)
        bc_loss, flow_grads = jax.value_and_grad(counted)(
            state.flow.params, seen, batch.action, flow_key
        )
        grads, flow_grads = devices.mean((grads, flow_grads))
        critic, fine = apply_common(self._optimizer, state.critic, grads)
        flow, flow_fine = apply_common(self._optimizer, state.flow, flow_grads)
        metrics = {"learner/critic_loss": loss, "learner/q": mean_q, "learner/bc_loss": bc_loss}
        bad = (~fine).astype(jnp.int32) + ~flow_fine
        target_params = optax.incremental_update(critic.params, state.target_params, self.cfg.tau)
        state = state.replace(critic=critic, flow=flow, target_params=target_params)
        if state.one_step is not None:
            actor_loss = partial(self._actor_loss, state, features)
            loss, grads = jax.value_and_grad(actor_loss)(state.one_step.params, noise_key)
            one_step, actor_fine = apply_gradients(self._optimizer, state.one_step, grads)
            state, bad = state.replace(one_step=one_step), bad + ~actor_fine
            metrics["learner/actor_loss"] = loss
        if state.edit is not None:
            state, edit_fine, more = self._edit_step(state, features, noise_key)
            bad, metrics = bad + ~edit_fine, metrics | more
        skipped = state.skipped + bad
        metrics["learner/skipped_updates"] = skipped.astype(jnp.float32)
        step = optax.safe_increment(state.step)
        return state.replace(step=step, skipped=skipped), metrics

    def target(self, state: QCState, batch: Batch, key: PRNGKey) -> Float[Array, " B"]:
        """y = R + gamma^H (1 - d) mean_i Q'_i(s', A'), A' chosen as for acting (eq. 8)."""
        nets, target_params = self._networks(state.obs, state.action), state.target_params
        seen = nets.policy_features(state.critic.params, batch.next_obs)
        noise = jax.random.normal(key, self._noise_shape(state, seen.shape[0]))
        action = self._choose(state, seen, noise, jax.random.fold_in(key, 1))
        features = nets.features(target_params, batch.next_obs)
        value = jnp.mean(nets.q(target_params.members, features, action), axis=0, keepdims=True)
        gamma = self.cfg.gamma**self.horizon
        return objectives.critic_target(batch.reward, batch.terminated, value, gamma)

    # -- pieces ------------------------------------------------------------------------------

    def _choose(
        self,
        state: QCState,
        features: Float[Array, "B D"],
        noise: Float[Array, "N B HA"],
        key: PRNGKey | None,
    ) -> Float[Array, "B HA"]:
        """The policy's chunk for features that it sees; edits are drawn where there is a key."""
        nets = self._networks(state.obs, state.action)
        if state.one_step is not None:
            return self._one_step(state.one_step.params, features, noise[0])
        drawn = self._flow(state.action).candidates(state.flow.params, features, noise)
        members = state.critic.params.members
        if state.edit is not None:
            members = state.target_params.members
            flat = drawn.reshape(-1, drawn.shape[-1])
            repeated = repeat_rows(features, drawn.shape[0])
            edit, _ = self._edits(state.edit.params, repeated, flat, key)
            edited = jnp.clip(flat + edit, -1.0, 1.0).reshape(drawn.shape)
            drawn = jnp.concatenate([drawn, edited])
        repeated = repeat_rows(features, drawn.shape[0])
        q = nets.q(members, repeated, drawn.reshape(repeated.shape[0], -1))
        return best_of(drawn, jnp.mean(q, axis=0).reshape(drawn.shape[:2]))

    def _edits(
        self,
        params: PyTree,
        features: Float[Array, "B D"],
        action: Float[Array, "B HA"],
        key: PRNGKey | None,
    ) -> tuple[Float[Array, "B HA"], Float[Array, " B"]]:
        """Edits of actions, and the log-density of what they are as shares of `edit_scale`."""
        net = self._net(2 * action.shape[-1])
        mean, std = split_mean_std(forward(net, params, jnp.concatenate([features, action], -1)))
        if key is None:
            return self.cfg.edit_scale * jnp.tanh(mean), jnp.zeros(action.shape[0])
        share, log_prob = tanh_normal_sample(key, mean, std)
        return self.cfg.edit_scale * share, log_prob

    def _edit_step(
        self, state: QCState, features: Float[Array, "B D"], key: PRNGKey
    ) -> tuple[QCState, Bool[Array, ""], Metrics]:
        """One step of mean(alpha log pi(e|s,a) - Q(s, a + e)), a from the flow, and of alpha."""
        assert state.edit is not None and state.log_temperature is not None
        flow_key, edit_key = jax.random.split(key)
        nets, flow = self._networks(state.obs, state.action), self._flow(state.action)
        noise = jax.random.normal(flow_key, (features.shape[0], flow.dim))
        drawn = jax.lax.stop_gradient(flow.transport(state.flow.params, features, noise))
        alpha = objectives.temperature_of(state.log_temperature.params)

        def loss_fn(params: PyTree) -> tuple[Array, Array]:
            edit, log_prob = self._edits(params, features, drawn, edit_key)
            action = jnp.clip(drawn + edit, -1.0, 1.0)
            q = nets.q(state.critic.params.members, features, action)
            return objectives.actor_loss(q, log_prob, alpha), -jnp.mean(log_prob)

        (loss, entropy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.edit.params)
        grad = jax.grad(objectives.temperature_loss)(
            state.log_temperature.params, entropy, -flow.dim / 2
        )
        grads, grad = devices.mean((grads, grad))
        edit, fine = apply_common(self._optimizer, state.edit, grads)
        theta, _ = apply_common(self._optimizer, state.log_temperature, grad)
        metrics = {"learner/actor_loss": loss, "learner/entropy": entropy}
        return state.replace(edit=edit, log_temperature=theta), fine, metrics

    def _one_step(
        self, params: PyTree, features: Float[Array, "B D"], noise: Float[Array, "B HA"]
    ) -> Float[Array, "B HA"]:
        return jnp.clip(self._raw_one_step(params, features, noise), -1.0, 1.0)

    def _raw_one_step(
        self, params: PyTree, features: Float[Array, "B D"], noise: Float[Array, "B HA"]
    ) -> Float[Array, "B HA"]:
        return forward(self._net(noise.shape[-1]), params, jnp.concatenate([features, noise], -1))

    def _actor_loss(
        self, state: QCState, features: Float[Array, "B D"], params: PyTree, key: PRNGKey
    ) -> Float[Array, ""]:
        """Weight * mean |mu(s, z) - flow(s, z)|^2 - mean Q(s, mu(s, z)), arXiv 2502.02538 eq. 8."""
        nets, flow = self._networks(state.obs, state.action), self._flow(state.action)
        seen = features[:, : nets.encoder.policy.dim]
        noise = jax.random.normal(key, (seen.shape[0], flow.dim))
        wanted = jax.lax.stop_gradient(flow.transport(state.flow.params, seen, noise))
        action = self._raw_one_step(params, seen, noise)
        q = nets.q(state.critic.params.members, features, jnp.clip(action, -1.0, 1.0))
        return self.cfg.imitation * jnp.mean(jnp.square(action - wanted)) - jnp.mean(q)

    def _noise_shape(self, state: QCState, rows: int) -> tuple[int, int, int]:
        count = 1 if state.one_step is not None else self.cfg.candidates
        return count, rows, state.action.dim * self.horizon

    def _flow(self, action: ActionSpec) -> Flow:
        return self.cfg.flow.build(action.dim * self.horizon)

    def _net(self, out: int) -> MLP:
        cfg = self.cfg
        return MLP(
            cfg.hidden,
            out,
            activation=cfg.activation,
            layer_norm=False,
            compute_dtype=self.compute_dtype,
        )

    def _networks(self, obs: ObsSpec, action: ActionSpec) -> Networks:
        cfg = self.cfg
        dim = action.dim * self.horizon
        net = self._net(2 * dim if cfg.actor == "edited" else dim)
        critic = net.clone(out=1, members=cfg.critic_ensemble_size, layer_norm=cfg.layer_norm)
        return Networks(ObsEncoder(cfg.encoder, obs, self.compute_dtype), net, critic)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.lr)

    def _trainable(self, params: PyTree) -> Trainable:
        return trainable(self._optimizer, params)


def best_of(candidates: Float[Array, "N B HA"], value: Float[Array, "N B"]) -> Float[Array, "B HA"]:
    """Return for each row the candidate of the largest value, the first of equal ones."""
    best, most = candidates[0], value[0]
    # One by one, in operations that a bundle can hold.
    for i in range(1, len(candidates)):
        better = value[i] > most
        best = jnp.where(better[:, None], candidates[i], best)
        most = jnp.maximum(most, value[i])
    return best


def _same_noise(shape: tuple[int, int, int]) -> Float[Array, "N B HA"]:
    """The same N draws for every row, as constants: a bundle draws nothing."""
    count, rows, dim = shape
    drawn = np.random.default_rng(0).standard_normal((count, 1, dim)).astype(np.float32)
    return jnp.broadcast_to(jnp.asarray(drawn if count > 1 else 0.0 * drawn), (count, rows, dim))


def _frozen(part: Trainable | None) -> Trainable | None:
    """Parameters without their optimiser."""
    return None if part is None else part.bare()
