"""Diagonal Normal policies, squashed by tanh or not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.types import PRNGKey

STD_MIN, STD_MAX = 1e-5, 5.0  # serl_launcher `networks/actor_critic_nets.py`, std "exp"
_LOG_SQRT_2PI = 0.9189385332046727
_LOG_2 = 0.6931471805599453


def split_mean_std(
    out: Float[Array, "*lead A2"],
) -> tuple[Float[Array, "*lead A"], Float[Array, "*lead A"]]:
    """Split a network head [..., 2A] into mean and std = clip(exp(.), 1e-5, 5), before tanh."""
    mean, log_std = jnp.split(out, 2, axis=-1)
    # Clipping the logarithm is the same function and cannot overflow.
    return mean, jnp.exp(jnp.clip(log_std, jnp.log(STD_MIN), jnp.log(STD_MAX)))


def tanh_log_det(pre_tanh: Float[Array, "*lead A"]) -> Float[Array, "*lead A"]:
    """Return log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + e^(-2|u|))), stable for large |u|."""
    size = jnp.abs(pre_tanh)
    return 2.0 * (_LOG_2 - size - jnp.log(1.0 + jnp.exp(-2.0 * size)))


def tanh_normal_sample(
    key: PRNGKey, mean: Float[Array, "*lead A"], std: Float[Array, "*lead A"]
) -> tuple[Float[Array, "*lead A"], Float[Array, "*lead"]]:
    """Draw a = tanh(mean + std eps) and its log-density over the A dimensions.

    log pi(a) = sum_i [-eps_i^2/2 - log std_i - log sqrt(2 pi) - log(1 - a_i^2)]
    (SAC, arXiv 1812.05905, appendix C). Reparameterised: gradients flow into mean and std.
    """
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    pre_tanh = mean + std * noise
    normal = _log_density(noise, std)
    return jnp.tanh(pre_tanh), jnp.sum(normal - tanh_log_det(pre_tanh), axis=-1)


def tanh_normal_log_prob(
    action: Float[Array, "*lead A"], mean: Float[Array, "*lead A"], std: Float[Array, "*lead A"]
) -> Float[Array, "*lead"]:
    """Return the log-density of given actions in [-1, 1]; +-1 is moved inside by 1e-6."""
    pre_tanh = jnp.arctanh(jnp.clip(action, -1.0 + 1e-6, 1.0 - 1e-6))
    return jnp.sum(_log_density((pre_tanh - mean) / std, std) - tanh_log_det(pre_tanh), axis=-1)


def tanh_normal_entropy(
    mean: Float[Array, "*lead A"], std: Float[Array, "*lead A"]
) -> Float[Array, "*lead A"]:
    """Return the entropy of each entry of tanh(Normal) [nat].

    H = log std + log sqrt(2 pi e) + E log(1 - tanh(u)^2), which has no closed form: the mean over u
    is a Gauss-Hermite sum of three points, exact up to fifth powers.
    """
    reach = jnp.sqrt(3.0) * std
    middle, ends = tanh_log_det(mean), tanh_log_det(mean + reach) + tanh_log_det(mean - reach)
    return jnp.log(std) + _LOG_SQRT_2PI + 0.5 + (4.0 * middle + ends) / 6.0


def normal_log_prob(
    x: Float[Array, "*lead A"], mean: Float[Array, "*lead A"], std: Float[Array, "*lead A"]
) -> Float[Array, "*lead"]:
    """Return the log-density over A dimensions of a Normal that nothing squashes."""
    return jnp.sum(normal_log_density(x, mean, std), axis=-1)


def normal_log_density(
    x: Float[Array, "*lead A"], mean: Float[Array, "*lead A"], std: Float[Array, "*#lead A"]
) -> Float[Array, "*lead A"]:
    """Return the log-density of each entry of a Normal."""
    return _log_density((x - mean) / std, std)


def _log_density(
    noise: Float[Array, "*lead A"], std: Float[Array, "*lead A"]
) -> Float[Array, "*lead A"]:
    """Log-density of each entry at `noise` standard deviations from its mean."""
    return -0.5 * jnp.square(noise) - jnp.log(std) - _LOG_SQRT_2PI
