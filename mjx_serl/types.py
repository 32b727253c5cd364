"""The leaves every room shares: what an observation, a transition and a batch are."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Key, Shaped

PRNGKey: TypeAlias = Key[Array, ""]
PyTree: TypeAlias = Any
Obs: TypeAlias = dict[str, Shaped[Array, "..."]]
ObsShapes: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]
Metrics: TypeAlias = dict[str, Float[Array, ""]]


@struct.dataclass
class Transition:
    """One step of every world, as it is stored: the next observation is the next row.

    Leading axes are [T, N] in a rollout and [N] for one vector step. `terminated` ends the
    return, `truncated` only ends the row's successor; both are never true together.
    `valid` is false where the step must not be learned from (non-finite physics, padding).
    `expert` is true where a demonstrator or an intervening human chose the action.
    """

    obs: Obs
    action: Float[Array, "*lead A"]
    reward: Float[Array, "*lead"]
    terminated: Bool[Array, "*lead"]
    truncated: Bool[Array, "*lead"]
    valid: Bool[Array, "*lead"]
    expert: Bool[Array, "*lead"]


@struct.dataclass
class Batch:
    """Sampled transitions with their successors; leading axis [B].

    For n-step returns `reward` is the discounted sum of n rewards, `next_obs` lies n rows later
    and `terminated` says whether the episode ended on the way.
    """

    obs: Obs
    action: Float[Array, "*lead A"]
    reward: Float[Array, "*lead"]
    terminated: Bool[Array, "*lead"]
    expert: Bool[Array, "*lead"]
    next_obs: Obs
