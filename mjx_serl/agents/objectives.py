"""The mathematics of all learners, without networks, keys or state.

Symbols: Q_i ensemble members, a' ~ pi(.|s'), alpha temperature, d terminated. A time-out is not
d: the caller passes `terminated` alone.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mjx_serl import devices
from mjx_serl.types import Transition


def critic_target(
    reward: Float[Array, " B"],
    terminated: Bool[Array, " B"],
    next_q: Float[Array, "E B"],
    gamma: float,
    *,
    entropy_bonus: Float[Array, " B"] | float = 0.0,
) -> Float[Array, " B"]:
    """y = r + gamma (1 - d) (min_i Q'_i(s', a') + bonus), bonus = -alpha log pi(a'|s').

    SAC, arXiv 1812.05905 eq. 3 and 5; without the bonus ("backup_entropy" off) as in SERL's
    presets. SERL adds its bonus outside gamma and the mask; here it is inside, as in the paper.
    """
    value = jnp.min(next_q, axis=0) + entropy_bonus
    return reward + gamma * jnp.where(terminated, 0.0, value)


def critic_loss(q: Float[Array, "E B"], target: Float[Array, " B"]) -> Float[Array, ""]:
    """J_Q = mean over members and batch of (Q_i - y)^2, y fixed (serl_launcher `sac.py`)."""
    return jnp.mean(jnp.square(q - jax.lax.stop_gradient(target)))


def actor_loss(
    q: Float[Array, "E B"],
    log_prob: Float[Array, " B"],
    temperature: Float[Array, ""],
    *,
    reduce: Literal["mean", "min"] = "mean",
) -> Float[Array, ""]:
    """J_pi = mean(alpha log pi(a|s) - Q(s, a)), Q the mean (SERL, REDQ) or min (SAC) member.

    arXiv 1812.05905 eq. 7; the mean is arXiv 2101.05982 algorithm 1 line 12.
    """
    value = jnp.mean(q, axis=0) if reduce == "mean" else jnp.min(q, axis=0)
    return jnp.mean(jax.lax.stop_gradient(temperature) * log_prob - value)


def imitation_loss(
    action: Float[Array, "B A"], wanted: Float[Array, "B A"], expert: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Mean of |pi(s) - a|^2 over the expert's samples; 0 where the batch has none.

    Added to the actor's loss as in Nair et al. 2018, arXiv 1709.10089 eq. 3.
    """
    return masked_mean(jnp.sum(jnp.square(action - wanted), axis=-1), expert)


def likelihood_loss(log_prob: Float[Array, " B"], expert: Bool[Array, " B"]) -> Float[Array, ""]:
    """-log pi(a|s), its mean over the expert's samples (serl_launcher `bc.py`); 0 without any."""
    return -masked_mean(log_prob, expert)


def masked_mean(x: Float[Array, "*lead"], mask: Bool[Array, "*lead"]) -> Float[Array, ""]:
    """Mean over the samples where `mask` is true; 0 where it never is."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def variance(x: Float[Array, "*lead"], mask: Bool[Array, "*lead"]) -> Float[Array, ""]:
    """Variance over the samples where `mask` is true; 0 where it never is."""
    return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def double_dqn_target(
    reward: Float[Array, " B"],
    terminated: Bool[Array, " B"],
    online_q: Float[Array, "B K"],
    target_q: Float[Array, "B K"],
    gamma: float,
) -> Float[Array, " B"]:
    """y = r + gamma (1 - d) Q'(s', argmax_k Q(s', k)), of choices k.

    The online network chooses, the target network values (arXiv 1509.06461 eq. 4).
    """
    best = jnp.argmax(online_q, axis=-1, keepdims=True)
    value = jnp.take_along_axis(target_q, best, axis=-1)[:, 0]
    return reward + gamma * jnp.where(terminated, 0.0, value)


def temperature_of(log_temperature: Float[Array, ""]) -> Float[Array, ""]:
    """alpha = softplus(theta), SERL's Lagrange multiplier."""
    return jax.nn.softplus(log_temperature)


def initial_log_temperature(temperature: float) -> float:
    """theta_0 with softplus(theta_0) = alpha: log(e^alpha - 1)."""
    return math.log(math.expm1(temperature))


def temperature_loss(
    log_temperature: Float[Array, ""], entropy: Float[Array, ""], target_entropy: float
) -> Float[Array, ""]:
    """J_alpha = alpha (H - H_target), H fixed: alpha grows while the policy is too narrow.

    arXiv 1812.05905 eq. 18 with alpha = softplus(theta) (serl_launcher `lagrange.py`, "geq").
    """
    gap = jax.lax.stop_gradient(entropy) - target_entropy
    return temperature_of(log_temperature) * gap


def gae(
    steps: Transition,
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Float[Array, "T N"]:
    """Generalised advantage estimation, arXiv 1506.02438 eq. 16, of rows [T, N] in their order.

    delta_t = r_t + gamma (1 - d_t) V'_t - V_t,  A_t = delta_t + gamma lambda (1 - end_t) A_(t+1).
    V' is the value of what the step led to: where a time-out cut the episode off, of its last
    observation. `end` is d or a time-out. A step that is not valid counts as nothing, and what
    led to it looks no further than its value.
    """
    delta = steps.reward + gamma * jnp.where(steps.terminated, 0.0, next_value) - value
    delta = jnp.where(steps.valid, delta, 0.0)
    on = ~(steps.terminated | steps.truncated) & steps.valid
    decay = gamma * gae_lambda * on

    def back(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        advantage = row[0] + row[1] * after
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(value[0]), (delta, decay), reverse=True)[1]


def standardised(x: Float[Array, "*lead"], valid: Bool[Array, "*lead"]) -> Float[Array, "*lead"]:
    """Zero mean and unit deviation over the valid entries, of all devices that learn together."""

    counted = jnp.sum(valid, dtype=jnp.float32)

    def common(x: Float[Array, "*lead"]) -> Float[Array, ""]:
        total, count = devices.total((jnp.sum(jnp.where(valid, x, 0.0)), counted))
        return total / jnp.maximum(count, 1)

    centred = x - common(x)
    return centred / (jnp.sqrt(common(jnp.square(centred))) + 1e-8)


def clipped_policy_loss(
    ratio: Float[Array, " B"],
    advantage: Float[Array, " B"],
    valid: Bool[Array, " B"],
    clip: float,
) -> Float[Array, ""]:
    """-E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] (PPO, arXiv 1707.06347 eq. 7)."""
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -masked_mean(jnp.minimum(ratio * advantage, clipped * advantage), valid)


def clipped_value_loss(
    value: Float[Array, " B"],
    old_value: Float[Array, " B"],
    returns: Float[Array, " B"],
    valid: Bool[Array, " B"],
    clip: float | None,
    huber: float | None = None,
) -> Float[Array, ""]:
    """E[max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)] / 2; None does not clip.

    OpenAI baselines' `ppo2`, `model.py`. Beyond `huber` the square goes on as a straight line
    (RLinf's `huber_delta`).
    """
    error = _squared(value - returns, huber)
    if clip is not None:
        near = old_value + jnp.clip(value - old_value, -clip, clip)
        error = jnp.maximum(error, _squared(near - returns, huber))
    return 0.5 * masked_mean(error, valid)


def _squared(error: Float[Array, " B"], huber: float | None) -> Float[Array, " B"]:
    """e^2, beyond delta 2 delta |e| - delta^2 (twice Huber's function)."""
    if huber is None:
        return jnp.square(error)
    inside = jnp.clip(error, -huber, huber)
    return jnp.square(inside) + 2.0 * huber * (jnp.abs(error) - jnp.abs(inside))


def approximate_kl(log_ratio: Float[Array, " B"], valid: Bool[Array, " B"]) -> Float[Array, ""]:
    """KL(old, new) as E[rho - 1 - log rho] of samples of the old: unbiased, never below 0.

    Schulman, "Approximating KL divergence" (2020), k3.
    """
    return masked_mean(jnp.expm1(log_ratio) - log_ratio, valid)
