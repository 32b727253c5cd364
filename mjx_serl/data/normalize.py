"""Running mean and variance of the observations, and the scaling made from them."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl import devices
from mjx_serl.types import Obs
from scenes.contract.specs import ObsSpec

CLIP = 10.0  # [std] as in brax and Stable-Baselines3
STD_FLOOR = 1e-2  # [obs units] a constant entry must not blow up when it first moves


@struct.dataclass
class NormalizerState:
    """Count of samples, and per float entry its mean and sum of squared deviations."""

    count: Float[Array, ""]
    mean: Obs
    m2: Obs


def init(spec: ObsSpec, *, scaled: bool = False) -> NormalizerState:
    """Return the state before any sample; only vectors are normalised.

    `scaled` takes the magnitudes that the spec declares for one sample with zero mean, so that
    the state can be used without any.
    """
    vectors = spec.of_kind("vector")
    mean = {f.name: jnp.zeros(f.shape, jnp.float32) for f in vectors}
    if not scaled:
        return NormalizerState(jnp.float32(0.0), mean, jax.tree.map(jnp.copy, mean))
    m2 = {f.name: jnp.full(f.shape, f.scale**2, jnp.float32) for f in vectors}
    return NormalizerState(jnp.float32(1.0), mean, m2)


def update(state: NormalizerState, obs: Obs, mask: Bool[Array, "*lead"]) -> NormalizerState:
    """Take in observations with the leading axes of `mask`; where it is false they are ignored.

    Merges the batch's moments as Chan, Golub, LeVeque (1983) eq. 2.1: exact for any batch size,
    and never the difference of two large sums. Masked samples may be non-finite.
    """
    axes = tuple(range(mask.ndim))
    keep = {n: mask.reshape(*mask.shape, *([1] * old.ndim)) for n, old in state.mean.items()}
    x = {n: jnp.where(of, obs[n].astype(jnp.float32), 0.0) for n, of in keep.items()}
    found = jnp.sum(mask, dtype=jnp.float32), {n: jnp.sum(of, axes) for n, of in x.items()}
    added, sums = devices.total(found)  # of the batches of all devices
    batch_mean = {n: of / jnp.maximum(added, 1.0) for n, of in sums.items()}
    square = {n: jnp.where(keep[n], jnp.square(x[n] - of), 0.0) for n, of in batch_mean.items()}
    batch_m2 = devices.total({n: jnp.sum(of, axes) for n, of in square.items()})
    total = state.count + added
    mean, m2 = {}, {}
    for name, old in state.mean.items():
        delta = batch_mean[name] - old
        mean[name] = old + delta * added / jnp.maximum(total, 1.0)
        weight = state.count * added / jnp.maximum(total, 1.0)
        m2[name] = state.m2[name] + batch_m2[name] + jnp.square(delta) * weight
    return NormalizerState(total, mean, m2)


def normalize(state: NormalizerState, obs: Obs) -> Obs:
    """Scale vectors to zero mean and unit variance, clipped to +-10; the rest passes through.

    Before the first sample this is the identity (apart from the clip). What critics alone see may
    be missing.
    """
    scaled = dict(obs)
    for name, mean in state.mean.items():
        if name not in obs:
            continue
        variance = state.m2[name] / jnp.maximum(state.count, 1.0)
        std = jnp.where(state.count > 0, jnp.sqrt(variance), 1.0)
        x = (obs[name] - mean) / jnp.maximum(std, STD_FLOOR)
        scaled[name] = jnp.clip(x, -CLIP, CLIP)
    return scaled
