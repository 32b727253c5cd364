"""What is made of a rollout: advantages, then passes over it in a fresh order each."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.agents import objectives
from mjx_serl.agents.agent import AgentState, RolloutAgent
from mjx_serl.data import normalize
from mjx_serl.data.normalize import NormalizerState
from mjx_serl.types import Metrics, PRNGKey, RolloutBatch, Transition

VALUE = "value"  # which an on-policy agent notes with every sample


@struct.dataclass
class Played:
    """What is learned from of one step of all worlds, leading axes [N]; of a rollout [T, N].

    Attributes:
        step: the step, with what the agent noted of it; its `obs` are as they were observed.
        cut_value: where the step ended in a time-out, the value of the episode's last observation.
    """

    step: Transition
    cut_value: Float[Array, "*lead"]


def with_advantages(
    agent: RolloutAgent,
    normalizer: NormalizerState,
    played: Played,
    after: Float[Array, " N"],
) -> tuple[RolloutBatch, Metrics]:
    """The steps of a rollout [T, N] with their advantages, all on one axis [T * N].

    Args:
        agent: whose steps they are.
        normalizer: of what it observed.
        played: the rollout.
        after: the value of what follows it.
    """
    step = played.step
    value = step.extras[VALUE]
    next_value = jnp.concatenate([value[1:], after[None]])
    next_value = jnp.where(step.truncated, played.cut_value, next_value)
    steps = step.replace(reward=step.reward * agent.reward_scale)
    advantage = objectives.gae(
        steps, value, next_value, gamma=agent.gamma, gae_lambda=agent.gae_lambda
    )
    returns, valid = advantage + value, step.valid
    batch = RolloutBatch(
        obs=normalize.normalize(normalizer, step.obs),
        extras=step.extras,
        advantage=objectives.standardised(advantage, valid),
        returns=returns,
        valid=valid,
    )
    mean, spread = objectives.masked_mean, objectives.variance
    metrics = {
        "rollout/rewards_mean": mean(step.reward, valid),
        "rollout/returns_mean": mean(returns, valid),
        "rollout/advantages_mean": mean(advantage, valid),
        "rollout/explained_variance": 1.0
        - spread(advantage, valid) / (spread(returns, valid) + 1e-8),
    }
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch), metrics


def learn_in_passes(
    agent: RolloutAgent,
    state: AgentState,
    batch: RolloutBatch,
    key: PRNGKey,
    *,
    passes: int,
    minibatches: int,
) -> tuple[AgentState, Metrics]:
    """All gradient steps on a rollout, until one says to stop; means over those made."""
    rows = batch.returns.shape[0]
    order = jax.vmap(jax.random.permutation, (0, None))(jax.random.split(key, passes), rows)
    order = order.reshape(passes * minibatches, rows // minibatches)
    few = rows // minibatches
    shapes = jax.eval_shape(agent.improve, state, jax.tree.map(lambda x: x[:few], batch))

    def go_on(state: AgentState, some: Array) -> tuple[AgentState, Array, Metrics]:
        return agent.improve(state, jax.tree.map(lambda x: x[some], batch))

    def leave(state: AgentState, some: Array) -> tuple[AgentState, Array, Metrics]:
        del some
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[2])
        return state, jnp.ones((), bool), nothing

    def step(loop: tuple[AgentState, Array], some: Array) -> tuple[Any, Any]:
        state, over = loop
        state, stop, metrics = jax.lax.cond(over, leave, go_on, state, some)
        return (state, stop), (metrics, ~over, ~stop)

    (state, _), (metrics, seen, made) = jax.lax.scan(step, (state, jnp.zeros((), bool)), order)
    means = jax.tree.map(lambda x: objectives.masked_mean(x, seen), metrics)
    return state, means | {"actor/updates": jnp.sum(made, dtype=jnp.float32)}
