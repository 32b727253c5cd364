"""Random transitions, to fill a replay buffer with."""

from typing import Any


def random_transitions(key: Any, obs: dict[str, Any], action_dim: int) -> Any:
    """Transitions with observations [T, N, ...]: random actions and rewards, no episode ends."""
    import jax
    import jax.numpy as jnp

    from mjx_serl.types import Transition

    lead = next(iter(obs.values())).shape[:2]
    k_action, k_reward = jax.random.split(key)
    never = jnp.zeros(lead, bool)
    return Transition(
        obs=obs,
        action=jax.random.uniform(k_action, (*lead, action_dim), minval=-1.0, maxval=1.0),
        reward=jax.random.uniform(k_reward, lead),
        terminated=never,
        truncated=never,
        valid=~never,
        expert=never,
    )
