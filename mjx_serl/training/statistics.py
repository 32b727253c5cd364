"""Statistics of the observations, gathered for a while and then left alone."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mjx_serl import devices
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.training.state import TrainState
from mjx_serl.types import Obs

MAX_COUNT = 2**31 - 1  # where a counter of a state, int32, stays


def observed(
    state: TrainState, obs: Obs, valid: Bool[Array, "*lead"], *, steps: int, steps_per_epoch: int
) -> NormalizerState:
    """Return the statistics with observations added; frozen after `steps` env steps, 0 always."""
    if steps == 0:
        return state.normalizer
    # In epochs: a count of env steps passes 2^31 in a long run.
    epochs = min(-(-steps // steps_per_epoch), MAX_COUNT)
    done = state.epoch >= epochs
    update = partial(normalize.update, state.normalizer, obs, valid)
    if devices.count() > 1:  # which exchange what they have seen only until it is enough
        return jax.lax.cond(done, lambda: state.normalizer, update)
    return jax.tree.map(partial(jnp.where, done), state.normalizer, update())
