"""The mathematics of soft actor-critic, imitation and choices, without networks, keys or state.

Symbols: Q_i ensemble members, a' ~ pi(.|s'), alpha temperature, d terminated. A time-out is not
d: the caller passes `terminated` alone.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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
    return expert_mean(jnp.sum(jnp.square(action - wanted), axis=-1), expert)


def likelihood_loss(log_prob: Float[Array, " B"], expert: Bool[Array, " B"]) -> Float[Array, ""]:
    """-log pi(a|s), its mean over the expert's samples (serl_launcher `bc.py`); 0 without any."""
    return -expert_mean(log_prob, expert)


def expert_mean(x: Float[Array, " B"], expert: Bool[Array, " B"]) -> Float[Array, ""]:
    """Mean over the expert's samples; 0 where the batch has none."""
    return jnp.sum(jnp.where(expert, x, 0.0)) / jnp.maximum(jnp.sum(expert), 1)


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
