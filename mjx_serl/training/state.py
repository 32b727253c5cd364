"""The run as one pytree: save it, restore it, donate it."""

import jax
from flax import struct
from jaxtyping import Array, Int

from mjx_serl.agents.agent import AgentState
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.data.replay import ReplayState
from mjx_serl.envs.vector import VecState
from mjx_serl.types import PRNGKey, PyTree


@struct.dataclass
class TrainState:
    """Everything the next epoch depends on.

    `demos` has no rows where the run uses no demonstrations. `epoch` counts finished epochs;
    env steps and updates follow from it on the host, where integers do not overflow.
    """

    agent: AgentState
    worlds: VecState
    buffer: ReplayState
    demos: ReplayState | None
    normalizer: NormalizerState
    key: PRNGKey
    epoch: Int[Array, ""]


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays in a pytree (arrays or shapes)."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
