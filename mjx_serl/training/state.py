"""The run as one pytree: save it, restore it, donate it."""

import math
from typing import Any

import jax
from flax import struct
from jaxtyping import Array, Int

from mjx_serl.agents.agent import AgentState
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.envs.vector import VecState
from mjx_serl.types import PRNGKey, PyTree


@struct.dataclass
class TrainState:
    """Everything the next epoch depends on.

    Attributes:
        agent: what is learned, with its optimisers.
        worlds: all environments; () where none is stepped.
        data: what the trainer keeps between epochs, of its own making; replay rings by source for
            an off-policy one.
        normalizer: observation statistics.
        key: of all that is random from here on.
        epoch: finished epochs; env steps and updates follow from it on the host, where integers
            do not overflow.
    """

    agent: AgentState
    worlds: VecState
    data: PyTree
    normalizer: NormalizerState
    key: PRNGKey
    epoch: Int[Array, ""]


@struct.dataclass
class PolicyParams:
    """What a policy reads of a training state, under the same names.

    Attributes:
        agent: what `Agent.acting` leaves of its state.
        normalizer: observation statistics.
    """

    agent: PyTree
    normalizer: NormalizerState


def shapes_of(tree: PyTree) -> PyTree:
    """The same pytree with the shape and dtype of each array in its place."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def device_bytes(tree: PyTree) -> int:
    """Bytes that a device holds of a pytree, which devices may share."""

    def held(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(held, jax.tree.leaves(tree)))


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays in a pytree (arrays or shapes)."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
