"""A flow-matching policy of action chunks: imitation, then PPO through its random denoising.

Imitation is flow matching (pi0, arXiv 2410.24164), PPO is pi_RL's (Flow-SDE and Flow-Noise,
arXiv 2510.25889; formulas as RLinf has them: reference vla_and_real2sim.md 2.2 and 3), or FPO's
(reference next_capabilities.md A.8). A choice is a chunk of actions, played to its end; its density
is that of the random steps from noise to it (`nets.denoising`), of the entries that are played.
Without noise the policy follows the ODE from the middle of the noise.

The velocity net is anything that `nets.velocity` knows. Parts of it that `trained` does not name
stay as imitation left them. The value network reads the net's features of the observation, and what
critics alone see.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AGENTS, AgentConfig, ChunkAgent
from mjx_serl.agents.chunks import ActionScale
from mjx_serl.agents.flow_parts import CRITIC, FROZEN, NET, NOISE, FlowParts, held, labels_of
from mjx_serl.agents.networks import with_zero_head
from mjx_serl.agents.optimizer import (
    Trainable,
    apply_common,
    apply_gradients,
    count_skipped,
    global_norm,
    make_adamw,
    trainable,
)
from mjx_serl.nets import denoising
from mjx_serl.nets.augment import crop_images, replace_words
from mjx_serl.nets.denoising import FPO, Chunk, Denoiser, FlowNoise, FlowSDE
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.nets.velocity import (
    VELOCITY_NETS,
    MLPVelocityConfig,
    VelocityNet,
)
from mjx_serl.types import (
    Batch,
    Choice,
    Metrics,
    Obs,
    PRNGKey,
    PyTree,
    RolloutBatch,
    Transition,
)
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged, require_number
from scenes.contract.serialize import later_field, open_field
from scenes.contract.specs import ActionSpec, ObsSpec

LOG_PROB, VALUE = "log_prob", "value"  # what a choice leaves, beside `Denoiser.sample`'s
_WORDS = 2  # the stream of their keys in a step of imitation
NOISES = ("flow_sde", "flow_noise", "fpo")


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """How the flow learns from demonstrations.

    Attributes:
        lr: AdamW step size, reached after `warmup` and falling to a tenth by a cosine [1/update].
        warmup: updates over which the step size grows from zero.
        decay: updates after which it has fallen.
        weight_decay: of AdamW [1/update].
        ema: weight of the old in the running average of the parameters, which is what acts; 0
            takes the newest.
        crop: random shift of images, at most [px]; 0 none.
        misheard: share of an instruction's words that are replaced by any other, so that words that
            nobody trained with matter less [1].
    """

    lr: float = ranged(1e-3, above=0)
    warmup: int = ranged(100, least=0)
    decay: int = ranged(3000, least=1)
    weight_decay: float = ranged(1e-4, least=0)
    ema: float = ranged(0.99, least=0, below=1)
    crop: int = ranged(4, least=0)
    misheard: float = later_field(0.0)


@AGENTS.register("flow_ppo")
@dataclass(frozen=True, kw_only=True)
class FlowPPOConfig(AgentConfig):
    """Hyper-parameters of a flow policy under PPO; after RLinf's for pi0.5 but for step sizes.

    Attributes:
        net: the velocity field, of a registered kind.
        horizon: actions of a chunk that are played [control steps].
        steps: of denoising, K.
        noise: "flow_sde" makes one step of K random, by a given amount; "flow_noise" all, by an
            amount that is learned between two bounds, for PPO alone; "fpo" none but the noise that
            it starts from, and the loss of imitation stands for the density: give it a `clip_ratio`
            of 0.05.
        noise_level: a of Flow-SDE: the first step's standard deviation [normalised actions].
        noise_range: bounds of Flow-Noise's standard deviations [normalised actions].
        noise_hidden: widths of the layers that tell them apart [units].
        fpo_points: of each choice at which "fpo" asks how well the net fits it.
        imitation: the first part of learning.
        value_hidden: widths of the value network [units].
        value_detached: the value's loss does not train the net whose features it reads.
        gamma: discount per choice, which is a chunk of control steps, as in RLinf [1].
        gae_lambda: how far advantages look beyond the value network [1].
        reward_scale: rewards are multiplied by it [1].
        clip_ratio: how far the probability of a chunk may move before it is no longer pushed [1].
        clip_value: how far a value may move in the same way [scaled reward]; None any far.
        huber: error of a value beyond which its loss grows along a line [scaled reward].
        entropy_weight: of the bonus for more noise, of Flow-Noise [1/nat].
        lr: AdamW step size of the net under PPO [1/update].
        value_lr: the same of the value network.
        weight_decay: of both [1/update].
        clip_norm: gradient norm of each above which its gradients are scaled down; None never.
        critic_warmup: gradient steps of PPO in which the value network alone learns.
        accumulate: parts of a minibatch whose gradients are made one after the other and added up.
        stop_kl: no more steps on a rollout once a minibatch is further than this from the policy
            that played it [nat]; None never stops.
        trained: patterns of the net's parameters that PPO trains, with * for any part of a path.
        actor_average: as of `SACConfig`, per gradient step of PPO.
        least_success: success rate of the imitation below which nothing more is trained [1].
    """

    net: Any = open_field(VELOCITY_NETS, MLPVelocityConfig)
    horizon: int = ranged(5, least=1, most=100)
    steps: int = ranged(5, least=2, most=100)
    noise: Literal["flow_sde", "flow_noise", "fpo"] = "flow_sde"
    noise_level: float = ranged(0.5, above=0, most=10)
    noise_range: tuple[float, float] = ranged((0.08, 0.16), above=0, most=10, filled=True)
    noise_hidden: tuple[int, ...] = ranged((128, 64), least=1, filled=True)
    fpo_points: int = later_field(8)
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    value_hidden: tuple[int, ...] = ranged((256, 256), least=1, filled=True)
    value_detached: bool = True
    gamma: float = ranged(0.99, least=0, below=1)
    gae_lambda: float = ranged(0.95, least=0, most=1)
    reward_scale: float = ranged(1.0, above=0)
    clip_ratio: float = ranged(0.2, above=0, below=1)
    clip_value: float | None = ranged(0.2, above=0)
    huber: float | None = ranged(10.0, above=0)
    entropy_weight: float = ranged(0.0, least=0)
    lr: float = ranged(5e-5, above=0)
    value_lr: float = ranged(1e-3, above=0)
    weight_decay: float = ranged(1e-4, least=0)
    clip_norm: float | None = ranged(1.0, above=0)
    critic_warmup: int = ranged(0, least=0)
    accumulate: int = ranged(1, least=1)
    stop_kl: float | None = ranged(None, above=0)
    trained: tuple[str, ...] = ("*",)
    actor_average: float = ranged(0.0, least=0, below=1)
    least_success: float = ranged(0.02, least=0, most=1)

    def build(self) -> "FlowPPO":
        """Return the agent; raises InputError on a field outside its range."""
        if not self.noise_level:
            raise InputError(
                "noise_level 0: without noise a chunk has no density, every ratio is 1 and PPO "
                "learns nothing; allowed: above 0, for example 0.5"
            )
        check_ranges(self)
        require_number("agent.fpo_points", self.fpo_points, least=1, most=100, whole=True)
        require_number("agent.imitation.misheard", self.imitation.misheard, least=0, most=1)
        low, high = self.noise_range
        for wrong, said in (
            (self.noise not in NOISES, f"noise '{self.noise}', allowed: {', '.join(NOISES)}"),
            (low >= high, f"noise_range {low:g} {high:g}, allowed: a smaller and a larger number"),
            (
                self.entropy_weight > 0 and self.noise != "flow_noise",
                f"entropy_weight {self.entropy_weight:g} with noise {self.noise}, whose noise is "
                "given; allowed: 0, or --agent.noise flow_noise",
            ),
        ):
            if wrong:
                raise InputError(f"FlowPPOConfig: {said}")
        return FlowPPO(self)


@struct.dataclass
class FlowPPOState:
    """Everything it learns.

    Attributes:
        policy: parameters that act, of the net, the value network and the learned noise; under PPO
            with their optimiser.
        student: in imitation the net's newest parameters, of which the acting ones are a running
            average, with their optimiser; None under PPO.
        average: under PPO, of what acts without noise; None where the newest act.
        scale: of normalised actions.
        step: gradient steps made since imitation or PPO began.
        skipped: of these, dropped because they were not finite.
    """

    policy: Trainable
    student: Trainable | None
    average: PyTree
    scale: ActionScale
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    obs: ObsSpec = struct.field(pytree_node=False)
    action: ActionSpec = struct.field(pytree_node=False)


@dataclass(frozen=True)
class FlowPPO(ChunkAgent):
    """The agent a `FlowPPOConfig` builds; see `ChunkAgent` for what its methods promise."""

    cfg: FlowPPOConfig

    @property
    def horizon(self) -> int:
        """Actions that are played of one choice."""
        return self.cfg.horizon

    @property
    def n_step(self) -> int:
        """Rows of a sample of demonstrations: those of its chunk."""
        return self.cfg.horizon

    @property
    def gamma(self) -> float:
        """Discount per choice."""
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
    def least_success(self) -> float:
        """What imitation must reach."""
        return self.cfg.least_success

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What the products of the net are made of."""
        return self.cfg.net.compute_dtype

    def exact(self) -> "FlowPPO":
        """The same agent with float32 products."""
        return FlowPPO(replace(self.cfg, net=self.cfg.net.exact()))

    def init(self, key: PRNGKey, obs: ObsSpec, action: ActionSpec) -> FlowPPOState:
        """Draw a fresh state, a pupil's; InputError for what the net cannot read or give."""
        if any(action.choices) or action.horizon != 1:
            raise InputError(
                f"FlowPPO gives chunks of continuous actions, asked for choices {action.choices} "
                f"and horizon {action.horizon}"
            )
        parts = self._parts(obs, action)
        net_key, critic_key, noise_key = jax.random.split(key, 3)
        params = {
            NET: parts.net.init(net_key),
            CRITIC: with_zero_head(parts.critic.init(critic_key, parts.blank(parts.critic_dim))),
        }
        if self.cfg.noise == "flow_noise":
            # In the middle of the range at first.
            noise = parts.noise.init(noise_key, parts.blank(parts.noise_dim))
            params[NOISE] = with_zero_head(noise)
        # Now, so that a pattern without a match is said now.
        labels_of(params, self.cfg.trained)
        state = FlowPPOState(
            policy=Trainable(params, None),
            student=None,
            average=None,
            scale=ActionScale.unit(action.dim),
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            obs=obs,
            action=action,
        )
        return self.pupil(state)

    # -- acting ------------------------------------------------------------------------------

    def act(
        self, state: FlowPPOState, obs: Obs, key: PRNGKey, *, deterministic: bool = False
    ) -> Choice:
        """Follow the ODE from zero noise, or draw as in rollouts."""
        if not deterministic:
            return Choice(self._played(state, self._drawn(state, obs, key)[0]))
        parts = self._parts_of(state)
        net = state.policy.params[NET] if state.average is None else state.average
        cache, _ = parts.net.encode_prefix(net, obs)
        start = jnp.zeros((_rows(obs), parts.net.horizon, parts.net.width))
        chunk = denoising.follow(partial(parts.net.velocity, net, cache), start, self.cfg.steps)
        return Choice(self._played(state, chunk))

    def draw(self, state: FlowPPOState, obs: Obs, key: PRNGKey) -> Choice:
        """Draw chunks, with their log-density, value and the way they were drawn."""
        chunk, noted, fields, features = self._drawn(state, obs, key)
        # Of a pass of its own, as `improve` will ask: the first ratio is then one.
        log_prob, _ = self._log_prob(state, fields, noted)
        value = self._parts_of(state).value(state.policy.params, features, obs)
        noted = noted | {LOG_PROB: log_prob, VALUE: value}
        return Choice(self._played(state, chunk), extras=noted)

    def _drawn(self, state: FlowPPOState, obs: Obs, key: PRNGKey) -> tuple:
        """Chunks, how they were drawn, the fields that were followed and the features."""
        parts, params = self._parts_of(state), state.policy.params
        start_key, key = jax.random.split(key)
        cache, features = parts.net.encode_prefix(params[NET], obs)
        shape = (_rows(obs), parts.net.horizon, parts.net.width)
        start = devices.drawn(partial(jax.random.normal, start_key), shape)
        fields = parts.fields(params, cache, features)
        return *self._denoiser.sample(*fields, start, key), fields, features

    def value(self, state: FlowPPOState, obs: Obs) -> Float[Array, " B"]:
        """What the value network says."""
        parts, params = self._parts_of(state), state.policy.params
        _, features = parts.net.encode_prefix(params[NET], obs)
        return parts.value(params, features, obs)

    def acting(self, state: FlowPPOState) -> FlowPPOState:
        """The net and the noise, without value network and optimisers."""
        policy = Trainable({k: x for k, x in state.policy.params.items() if k != CRITIC}, None)
        return state.replace(policy=policy, student=None, step=None, skipped=None)

    def learned(self, state: FlowPPOState) -> FlowPPOState:
        """All parameters that act and the scale of actions; no optimisers, counters, average."""
        bare = state.policy.bare()
        return state.replace(policy=bare, student=None, step=None, skipped=None, average=None)

    def begun(self, state: FlowPPOState) -> FlowPPOState:
        """One whose other parts begin with the parameters that it was given."""
        return self.pupil(state) if state.student is not None else self.taught(state)

    def _played(self, state: FlowPPOState, chunk: Chunk) -> Float[Array, "B H A"]:
        """The actions of a normalised chunk that are played, in [-1, 1]."""
        chunk = chunk[:, : self.horizon, : state.action.dim]
        return jnp.clip(state.scale.actions(chunk), -1.0, 1.0)

    # -- imitation ---------------------------------------------------------------------------

    def shown(self, state: FlowPPOState, demos: Transition) -> FlowPPOState:
        """The state whose scale is that of the actions of demonstrations."""
        return state.replace(scale=ActionScale.of(demos.action, demos.valid))

    def pupil(self, state: FlowPPOState) -> FlowPPOState:
        """One that begins to imitate with the parameters that it has."""
        student = trainable(self._tutor, _copy(state.policy.params[NET]))
        return state.replace(
            policy=state.policy.bare(),
            student=student,
            average=None,
            step=jnp.int32(0),
            skipped=jnp.int32(0),
        )

    def taught(self, state: FlowPPOState) -> FlowPPOState:
        """One that acts by the average of what was learned, and goes on from there."""
        params = state.policy.params
        average = _copy(params[NET]) if self.cfg.actor_average else None
        policy = trainable(self._optimizer(params), params)
        return state.replace(
            policy=policy,
            student=None,
            average=average,
            step=jnp.int32(0),
            skipped=jnp.int32(0),
        )

    def update(
        self, state: FlowPPOState, batch: Batch, key: PRNGKey
    ) -> tuple[FlowPPOState, Metrics]:
        """Make one step on the flow-matching loss of chunks [B, H * A]; what was not played is
        left out, and entries that no action has are learned as zeros.
        """
        parts, student = self._parts_of(state), state.student
        assert student is not None, "under PPO there is nothing to imitate"
        crop_key, flow_key = jax.random.split(key)
        obs = crop_images(
            crop_key, batch.obs, pad=self.cfg.imitation.crop, cameras=parts.net.cameras
        )
        if self.cfg.imitation.misheard:
            word_key = jax.random.fold_in(key, _WORDS)
            obs = replace_words(word_key, obs, state.obs, share=self.cfg.imitation.misheard)
        data, counted = self._shown_chunk(state, parts.net, batch)
        x, time, wanted = denoising.noisy_point(flow_key, data)

        def loss_fn(params: PyTree) -> Array:
            cache, _ = parts.net.encode_prefix(params, obs)
            error = parts.net.velocity(params, cache, x, time) - wanted
            return jnp.mean(jnp.where(counted, jnp.square(error), 0.0))

        loss, grads = jax.value_and_grad(loss_fn)(student.params)
        student, finite = apply_gradients(self._tutor, student, grads)
        acting = state.policy.params
        mean = optax.incremental_update(student.params, acting[NET], 1.0 - self.cfg.imitation.ema)
        skipped = count_skipped(state.skipped, finite)
        state = state.replace(
            policy=Trainable(acting | {NET: mean}, None),
            student=student,
            step=jnp.asarray(optax.safe_increment(state.step)),
            skipped=skipped,
        )
        skips = skipped.astype(jnp.float32)
        return state, {"learner/bc_loss": loss, "learner/skipped_updates": skips}

    def _shown_chunk(
        self, state: FlowPPOState, net: VelocityNet, batch: Batch
    ) -> tuple[Chunk, Bool[Array, "B H D"]]:
        """The normalised chunks of a batch as large as the net's, and which entries count."""
        rows, dim = batch.action.shape[0], state.action.dim
        data = state.scale.normalised(batch.action.reshape(rows, -1, dim))
        played = batch.played.reshape(data.shape)
        more, wider = net.horizon - data.shape[1], net.width - dim
        data = jnp.pad(data, ((0, 0), (0, more), (0, wider)))
        played = jnp.pad(played, ((0, 0), (0, 0), (0, wider)), mode="edge")
        return data, jnp.pad(played, ((0, 0), (0, more), (0, 0)))

    # -- PPO ---------------------------------------------------------------------------------

    def improve(
        self, state: FlowPPOState, batch: RolloutBatch
    ) -> tuple[FlowPPOState, Bool[Array, ""], Metrics]:
        """Take one gradient step, none where the policy is further than `stop_kl` from its past."""
        params = state.policy.params
        grads, metrics = self._gradients(state, batch)
        # What decides whether to go on is of all devices too.
        grads, kl = devices.mean((grads, metrics["actor/approx_kl"]))
        policy, finite = apply_common(self._optimizer(params), state.policy, grads)
        average = state.average
        if average is not None:
            kept = 1 - self.cfg.actor_average
            average = optax.incremental_update(policy.params[NET], average, kept)
        skipped = count_skipped(state.skipped, finite)
        step = jnp.asarray(optax.safe_increment(state.step))
        after = state.replace(policy=policy, average=average, step=step, skipped=skipped)
        stop = jnp.zeros((), bool) if self.cfg.stop_kl is None else kl > self.cfg.stop_kl
        after = jax.tree.map(lambda new, old: jnp.where(stop, old, new), after, state)
        return (
            after,
            stop,
            metrics
            | {
                "actor/grad_norm": global_norm(grads),
                "learner/skipped_updates": after.skipped.astype(jnp.float32),
            },
        )

    def _gradients(self, state: FlowPPOState, batch: RolloutBatch) -> tuple[PyTree, Metrics]:
        """Gradients of the mean over all valid rows, made part by part, and metrics."""
        count, rows = self.cfg.accumulate, batch.returns.shape[0]
        if rows % count:
            raise InputError(
                f"agent.accumulate {count}, allowed: what divides a minibatch's {rows} choices"
            )
        total = jnp.maximum(jnp.sum(batch.valid), 1)

        # Gradients of what is split are of all devices, whose shares differ: weighed before.
        before = devices.has_split(state.policy.params)

        def part(batch: RolloutBatch) -> tuple[PyTree, Metrics]:
            share = jnp.sum(batch.valid) / total

            def loss_fn(params: PyTree) -> tuple[Array, Metrics]:
                loss, told = self._loss(state, batch, params)
                return (share * loss if before else loss), told

            (_, told), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.policy.params)
            told = jax.tree.map(lambda x: share * x, told)
            return grads if before else jax.tree.map(lambda x: share * x, grads), told

        if count == 1:
            return part(batch)
        parts = jax.tree.map(lambda x: x.reshape(count, rows // count, *x.shape[1:]), batch)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, batch))

        def add(so_far: PyTree, some: RolloutBatch) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, so_far, part(some)), None

        return jax.lax.scan(add, zero, parts)[0]

    def _loss(
        self, state: FlowPPOState, batch: RolloutBatch, params: PyTree
    ) -> tuple[Float[Array, ""], Metrics]:
        cfg, parts, valid = self.cfg, self._parts_of(state), batch.valid
        params = held(params, self.cfg.trained)
        cache, features = parts.net.encode_prefix(params[NET], batch.obs)
        log_prob, entropy = self._log_prob(
            state, parts.fields(params, cache, features), batch.extras
        )
        value = parts.value(params, features, batch.obs)
        log_ratio = log_prob - batch.extras[LOG_PROB]
        ratio, old_value = jnp.exp(log_ratio), batch.extras[VALUE]
        policy_loss = objectives.clipped_policy_loss(ratio, batch.advantage, valid, cfg.clip_ratio)
        value_loss = objectives.clipped_value_loss(
            value, old_value, batch.returns, valid, cfg.clip_value, cfg.huber
        )
        bonus = cfg.entropy_weight * objectives.masked_mean(entropy, valid)
        moved = jnp.abs(ratio - 1.0) > cfg.clip_ratio
        revalued = jnp.abs(value - old_value) > (cfg.clip_value or jnp.inf)
        metrics = {
            "actor/loss": policy_loss,
            "actor/value_loss": value_loss,
            "actor/entropy": objectives.masked_mean(entropy, valid),
            "actor/ratio": objectives.masked_mean(ratio, valid),
            "actor/approx_kl": objectives.approximate_kl(log_ratio, valid),
            "actor/pg_clipfrac": objectives.masked_mean(moved.astype(jnp.float32), valid),
            "actor/value_clip_ratio": objectives.masked_mean(revalued.astype(jnp.float32), valid),
        }
        return policy_loss + value_loss - bonus, metrics

    def _log_prob(
        self, state: FlowPPOState, fields: tuple[Any, Any], noted: denoising.Noted
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Log-density of the entries that are played, and the mean entropy of one of them."""
        density, entropy = (
            x[:, : self.horizon, : state.action.dim]
            for x in self._denoiser.log_density(*fields, noted=noted)
        )
        return density.sum(axis=(1, 2)), entropy.mean(axis=(1, 2))

    # -- pieces ------------------------------------------------------------------------------

    @property
    def _denoiser(self) -> Denoiser:
        if self.cfg.noise == "flow_noise":
            return FlowNoise(self.cfg.steps)
        if self.cfg.noise == "fpo":
            return FPO(self.cfg.steps, self.cfg.fpo_points)
        return FlowSDE(self.cfg.steps, self.cfg.noise_level)

    @property
    def _tutor(self) -> optax.GradientTransformation:
        cfg = self.cfg.imitation
        # A run that is told to do fewer updates than it warms up for still has a schedule.
        decay = max(cfg.decay, cfg.warmup + 1)
        lr = optax.warmup_cosine_decay_schedule(0.0, cfg.lr, cfg.warmup, decay, 0.1 * cfg.lr)
        return make_adamw(lr, weight_decay=cfg.weight_decay, clip_norm=1.0)

    def _optimizer(self, params: PyTree) -> optax.GradientTransformation:
        """Two step sizes, and none for what is frozen."""
        cfg = self.cfg
        decay = {"weight_decay": cfg.weight_decay, "clip_norm": cfg.clip_norm}

        def later(count: Any) -> Array:
            return jnp.where(count < cfg.critic_warmup, 0.0, cfg.lr)

        return optax.multi_transform(
            {
                NET: make_adamw(later if cfg.critic_warmup else cfg.lr, **decay),
                CRITIC: make_adamw(cfg.value_lr, **decay),
                FROZEN: optax.set_to_zero(),
            },
            labels_of(params, self.cfg.trained),
        )

    def _parts_of(self, state: FlowPPOState) -> FlowParts:
        return self._parts(state.obs, state.action)

    def _parts(self, obs: ObsSpec, action: ActionSpec) -> FlowParts:
        net = self.cfg.net.build(obs, horizon=self.horizon, dim=action.dim)
        return FlowParts(
            net=net,
            more=tuple(f for f in obs.of_kind("vector") if f.critic_only),
            value_hidden=self.cfg.value_hidden,
            value_detached=self.cfg.value_detached,
            noise_hidden=self.cfg.noise_hidden,
            noise_range=self.cfg.noise_range,
        )


def _copy(params: PyTree) -> PyTree:
    """Arrays of their own, which can be donated beside the others."""
    return jax.tree.map(jnp.copy, params)


def _rows(obs: Obs) -> int:
    return next(iter(obs.values())).shape[0]
