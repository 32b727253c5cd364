"""VICE: a reward that is learned beside the agent, from pictures of the goal alone.

Variational inverse control with events (Fu et al. 2018, arXiv 1805.11686), regularised as SERL's
(reference serl_family.md 1.3, `vice.py`): a classifier tells states of the goal from states that
the agent visits; mix-up with Beta(1, 1), labels smoothed by y * 0.8 + 0.1, and a gradient penalty
of 10 on the encoded features, as WGAN-GP's (arXiv 1704.00028, eq. 3), keep it from overfitting. The
reward of a state is 1 where it says goal, sigmoid >= 0.5, and it is asked anew whenever a batch is
drawn.

SERL's class cannot run (serl_family.md 7, 12) and encodes outside of its loss, so that an encoder
which is not pre-trained stays as it was drawn; here the classifier's loss trains it. Its own
dropout and leaky ReLU are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.agents.optimizer import (
    Trainable,
    apply_gradients,
    make_optimizer,
    trainable,
)
from mjx_serl.nets.augment import crop_images
from mjx_serl.nets.classifier import Head
from mjx_serl.nets.encoders import EncoderConfig, ObsEncoder
from mjx_serl.types import Batch, Metrics, Obs, PRNGKey, PyTree, Transition
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged
from scenes.contract.specs import ObsSpec

SMOOTH = 0.2  # of a label that is one half whatever is shown
PENALTY = 10.0  # weight of the gradient penalty


@dataclass(frozen=True, kw_only=True)
class ViceConfig:
    """A learned reward in place of the task's; off unless `updates` is above 0.

    Attributes:
        updates: steps of the classifier per vector step; 0 leaves the task's reward.
        batch_size: states per step, one half goals, one half visited.
        lr: Adam's step size [1/update].
        hidden: width of the head [units].
        encoder: of images; picture features of a frozen encoder are taken as they are.
        crop: random shift of images while learning, at most [px].
        goals: last states of each demonstration that are goals.
    """

    updates: int = ranged(0, least=0)
    batch_size: int = ranged(256, least=2)
    lr: float = ranged(3e-4, above=0)
    hidden: int = ranged(256, least=1)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    crop: int = ranged(4, least=0)
    goals: int = ranged(5, least=1)

    def build(self, obs: ObsSpec, names: Sequence[str]) -> "Vice | None":
        """Return the reward that reads the fields `names` of observations, None where it is off."""
        if not self.updates:
            return None
        return Vice(self, ObsSpec(fields=tuple(obs[name] for name in names)))


@struct.dataclass
class ViceState:
    """The classifier with its optimiser, and the goals: what it reads of them, [G, ...]."""

    net: Trainable
    goals: Obs


@dataclass(frozen=True)
class Vice:
    """The reward that a `ViceConfig` builds.

    Attributes:
        cfg: of it.
        obs: what it reads.
    """

    cfg: ViceConfig
    obs: ObsSpec

    def part(self, among: int) -> "Vice":
        """The reward of one of so many devices that share its batches equally."""
        return replace(self, cfg=replace(self.cfg, batch_size=self.cfg.batch_size // among))

    def init(self, key: PRNGKey, demos: Transition) -> ViceState:
        """Draw parameters; the goals are the ends of demonstrations [T, M, ...]."""
        k_encoder, k_head = jax.random.split(key)
        encoder = self._encoder
        head = self._head.init(k_head, jnp.zeros((1, encoder.dim)))
        params = {"encoder": encoder.init(k_encoder), "head": head}
        net = trainable(self._optimizer, params)
        return ViceState(net, self._read(goals_of(demos, self.cfg.goals)))

    def update(self, state: ViceState, visited: Obs, key: PRNGKey) -> tuple[ViceState, Metrics]:
        """Learn to tell the goals from visited states [batch_size / 2, ...]."""
        k_goal, k_loss = jax.random.split(key)
        visited = self._read(visited)
        half = jax.tree.leaves(visited)[0].shape[0]
        count = jax.tree.leaves(state.goals)[0].shape[0]
        pick = jax.random.randint(k_goal, (half,), 0, count)
        goals = jax.tree.map(lambda x: x[pick], state.goals)
        grad = jax.value_and_grad(self._loss, has_aux=True)
        (loss, norm), grads = grad(state.net.params, goals, visited, k_loss)
        net, _ = apply_gradients(self._optimizer, state.net, grads)
        metrics = {"vice/loss": loss, "vice/gradient_norm": norm}
        return state.replace(net=net), metrics

    def says(self, state: ViceState, obs: Obs) -> Bool[Array, " B"]:
        """Whether states [B] are the goal: sigmoid >= 0.5."""
        params = state.net.params
        features = self._encoder(params["encoder"], self._read(obs))
        return self._logit(params["head"], features) >= 0.0

    def reward(self, state: ViceState, batch: Batch) -> Float[Array, " B"]:
        """1 where a step leads to the goal; a step that ended the return led nowhere."""
        return (self.says(state, batch.next_obs) & ~batch.terminated).astype(jnp.float32)

    def _loss(
        self, params: PyTree, goals: Obs, visited: Obs, key: PRNGKey
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy and penalty; also the mean norm of the gradient that is penalised."""
        k_crop, k_mix, k_gp, k_drop = jax.random.split(key, 4)
        seen = jax.tree.map(lambda *xs: jnp.concatenate(xs), goals, visited)
        cameras = self._encoder.cameras
        if cameras:
            # Each picture as it is and shifted, goals first again.
            shifted = crop_images(k_crop, seen, self.cfg.crop, cameras=cameras)
            seen = jax.tree.map(_interleaved, seen, shifted)
        features = self._encoder(params["encoder"], seen)
        half = features.shape[0] // 2
        target = smooth(jnp.concatenate([jnp.ones(half), jnp.zeros(half)]))
        mixed, other, share = mix_up(k_mix, features, target)
        logit = partial(self._logit, params["head"], key=k_drop)
        cross = optax.sigmoid_binary_cross_entropy
        said = logit(mixed)
        loss = share * cross(said, target).mean() + (1 - share) * cross(said, other).mean()
        penalty, norm = gradient_penalty(logit, jax.lax.stop_gradient(mixed), k_gp)
        return loss + PENALTY * penalty, norm

    def _logit(
        self, head: PyTree, features: Float[Array, "B D"], key: PRNGKey | None = None
    ) -> Float[Array, " B"]:
        rngs = None if key is None else {"dropout": key}
        logits = self._head.apply(head, features, train=key is not None, rngs=rngs)
        return cast(Array, logits)[:, 0]

    def _read(self, obs: Obs) -> Obs:
        return {name: obs[name] for name in self.obs.names}

    @property
    def _encoder(self) -> ObsEncoder:
        return ObsEncoder(self.cfg.encoder, self.obs)

    @property
    def _head(self) -> Head:
        return Head(self.cfg.hidden, 1, jax.nn.leaky_relu)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.cfg.lr)


def smooth(label: Float[Array, " B"]) -> Float[Array, " B"]:
    """Labels 0 and 1 as 0.1 and 0.9."""
    return label * (1.0 - SMOOTH) + 0.5 * SMOOTH


def mix_up(
    key: PRNGKey, features: Float[Array, "B D"], target: Float[Array, " B"]
) -> tuple[Float[Array, "B D"], Float[Array, " B"], Float[Array, ""]]:
    """Mix each row with another (arXiv 1710.09412): the mixture, the others' targets, the share.

    One share for all, from Beta(1, 1), which is uniform.
    """
    k_share, k_order = jax.random.split(key)
    share = jax.random.uniform(k_share)
    order = jax.random.permutation(k_order, features.shape[0])
    return share * features + (1 - share) * features[order], target[order], share


def gradient_penalty(
    logit: "partial[Array]", features: Float[Array, "B D"], key: PRNGKey
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean of (|gradient| - 1)^2 between the rows' first and second halves, and mean |gradient|."""
    first, second = jnp.split(features, 2)
    share = jax.random.uniform(key, (first.shape[0], 1))
    # Rows do not touch each other, so the gradient of the sum is each row's own.
    grads = jax.grad(lambda x: logit(x).sum())(share * first + (1 - share) * second)
    norm = jnp.sqrt(jnp.sum(jnp.square(grads) + 1e-6, axis=-1))
    return jnp.mean(jnp.square(norm - 1.0)), jnp.mean(norm)


def goals_of(demos: Transition, count: int) -> Obs:
    """Return the last `count` observations of each demonstration [T, M, ...], as [M * count, ...].

    One that is shorter repeats its first.
    """
    steps, episodes = demos.valid.shape
    last = steps - 1 - jnp.argmax(jnp.asarray(demos.valid)[::-1], axis=0)
    row = jnp.maximum(last - jnp.arange(count)[:, None], 0)
    return {
        name: jnp.asarray(x)[row, jnp.arange(episodes)].reshape(-1, *x.shape[2:])
        for name, x in demos.obs.items()
    }


def unpaid(demos: Transition) -> Transition:
    """Demonstrations whose success is not known: what it ended is cut off as by a time limit.

    Where recorded ones ended solved there is nothing to ask the classifier about after it.
    """
    solved = demos.terminated & (demos.reward > 0)
    return demos.replace(terminated=demos.terminated & ~solved, truncated=demos.truncated | solved)


def require_demos(demos: object | None) -> None:
    """Raise InputError where there is nothing to take goals from."""
    if demos is None:
        raise InputError(
            "--vice.updates takes its goals from the ends of demonstrations: --demos.count 20 or "
            "--demos.file FILE"
        )


def _interleaved(one: Array, other: Array) -> Array:
    """[goals, goals', visited, visited'] of [goals, visited] and [goals', visited']."""
    half = one.shape[0] // 2
    return jnp.concatenate([one[:half], other[:half], one[half:], other[half:]])
