"""Critic ensembles: one network, parameters with a leading member axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.nets.mlp import MLP, forward
from mjx_serl.types import PRNGKey, PyTree


def ensemble_q(
    net: MLP, params: PyTree, features: Float[Array, "B D"], action: Float[Array, "B A"]
) -> Float[Array, "E B"]:
    """Return Q of every member of `params` for (features, action)."""
    members = jax.tree.leaves(params)[0].shape[0]
    x = jnp.concatenate([features, action], axis=-1)
    return forward(net.clone(members=members), params, x)[..., 0]


def random_members(params: PyTree, key: PRNGKey, count: int) -> PyTree:
    """Return `count` different members at random (REDQ, arXiv 2101.05982, algorithm 1 line 8).

    Picking parameters, not outputs: the members left out are never evaluated.
    """
    size = jax.tree.leaves(params)[0].shape[0]
    chosen = jax.random.permutation(key, size)[:count]
    return jax.tree.map(lambda leaf: leaf[chosen], params)
