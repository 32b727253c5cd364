"""The leaves every room shares: what an observation, a transition and a batch are."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Key, Shaped

PRNGKey: TypeAlias = Key[Array, ""]
PyTree: TypeAlias = Any
Obs: TypeAlias = dict[str, Shaped[Array, "..."]]
Metrics: TypeAlias = dict[str, Float[Array, ""]]
# Of N worlds [N, A]; those of the next H control steps where chunks are played [N, H, A].
Actions: TypeAlias = Float[Array, "N *H A"]


@struct.dataclass
class Choice:
    """The actions of N worlds and how they were chosen.

    Attributes:
        action: in [-1, 1], the next H control steps of each world.
        extras: what is stored beside the transition (log_prob, value, stage), by name, [N, ...].
        expert: where a demonstrator or an intervening person chose; None nowhere.
    """

    action: Float[Array, "N H A"]
    extras: dict[str, Shaped[Array, "N ..."]] = struct.field(default_factory=dict)
    expert: Bool[Array, " N"] | None = None


def choice(action: Float[Array, "N A"]) -> Choice:
    """One action per world."""
    return Choice(action[:, None])


def chunk(actions: Float[Array, "N HA"], horizon: int) -> Choice:
    """`horizon` actions per world, given one after the other."""
    return choice(actions) if horizon == 1 else Choice(actions.reshape(len(actions), horizon, -1))


def one_by_one(chosen: Choice) -> Choice:
    """The H actions of a choice as H choices of one action each, on a leading axis."""
    horizon = chosen.action.shape[1]
    told = jax.tree.map(lambda x: jnp.broadcast_to(x, (horizon, *x.shape)), chosen)
    return told.replace(action=jnp.moveaxis(chosen.action, 1, 0)[:, :, None])


@struct.dataclass
class Transition:
    """One step of every world, as it is stored: the next observation is the next row.

    Leading axes are [T, N] in a rollout and [N] for one vector step.

    Attributes:
        obs: what the action answered.
        action: in [-1, 1].
        reward: of the step.
        terminated: the return ends here.
        truncated: only the row's successor ends here; never true where `terminated` is.
        valid: false where the step must not be learned from (non-finite physics, padding).
        expert: true where a demonstrator or an intervening person chose the action.
        extras: what the agent or the task keeps with a step, by name.
    """

    obs: Obs
    action: Float[Array, "*lead A"]
    reward: Float[Array, "*lead"]
    terminated: Bool[Array, "*lead"]
    truncated: Bool[Array, "*lead"]
    valid: Bool[Array, "*lead"]
    expert: Bool[Array, "*lead"]
    extras: dict[str, Shaped[Array, "..."]] = struct.field(default_factory=dict)


@struct.dataclass
class Batch:
    """Sampled transitions with their successors; leading axis [B].

    Attributes:
        obs: of the first row.
        action: of the first row; of a chunk its H actions one after the other, [H * A].
        reward: for n-step returns the discounted sum of n rewards.
        terminated: whether the episode ended within the n rows.
        expert: see `Transition`.
        next_obs: n rows later; meaningless where `terminated`.
        extras: of the first row.
        running: which steps of a chunk were taken before the episode's end: the actions of the
            others are arbitrary; None for single actions.
    """

    obs: Obs
    action: Float[Array, "*lead A"]
    reward: Float[Array, "*lead"]
    terminated: Bool[Array, "*lead"]
    expert: Bool[Array, "*lead"]
    next_obs: Obs
    extras: dict[str, Shaped[Array, "..."]] = struct.field(default_factory=dict)
    running: Bool[Array, "*lead H"] | None = None

    @property
    def played(self) -> Bool[Array, "*lead A"]:
        """Which entries of `action` were played before the episode's end."""
        if self.running is None:
            return jnp.ones_like(self.action, bool)
        entries = self.action.shape[-1] // self.running.shape[-1]
        return jnp.repeat(self.running, entries, axis=-1)


@struct.dataclass
class RolloutBatch:
    """Steps of a rollout, or some of them, for the agent that made them; leading axis [B].

    Attributes:
        obs: normalised, what the action answered.
        extras: what the agent noted when it chose.
        advantage: of the action, normalised over the whole rollout.
        returns: what the value network should have said.
        valid: false where the step must not be learned from.
    """

    obs: Obs
    extras: dict[str, Shaped[Array, "B ..."]]
    advantage: Float[Array, " B"]
    returns: Float[Array, " B"]
    valid: Bool[Array, " B"]
