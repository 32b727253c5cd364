"""Critic ensembles: one network, parameters with a leading member axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.nets.mlp import MLP
from mjx_serl.types import PRNGKey, PyTree


def init_ensemble(net: MLP, key: PRNGKey, in_dim: int, size: int) -> PyTree:
    """Draw `size` independent members of `net` for inputs [in_dim]; leaves are [size, ...]."""
    example = jnp.zeros((1, in_dim), jnp.float32)
    return jax.vmap(lambda k: net.init(k, example))(jax.random.split(key, size))


def ensemble_q(
    net: MLP, params: PyTree, features: Float[Array, "B D"], action: Float[Array, "B A"]
) -> Float[Array, "E B"]:
    """Return Q of every member for (features, action)."""
    x = jnp.concatenate([features, action], axis=-1)
    return jax.vmap(net.apply, in_axes=(0, None))(params, x)[..., 0]


def random_members(params: PyTree, key: PRNGKey, count: int) -> PyTree:
    """Pick `count` different members at random (REDQ, arXiv 2101.05982, algorithm 1 line 8).

    Picking parameters, not outputs: the members left out are never evaluated.
    """
    size = jax.tree.leaves(params)[0].shape[0]
    chosen = jax.random.permutation(key, size)[:count]
    return jax.tree.map(lambda leaf: leaf[chosen], params)
