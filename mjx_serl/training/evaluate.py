"""Success of a policy on episodes it was not trained on."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.env import EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.training.policies import Policy
from mjx_serl.training.scan import scan
from mjx_serl.types import Obs, PRNGKey

# Streams of episode starts: training worlds, demonstrations, the evaluations during a run and
# the final one never share a key.
TRAIN, DEMOS, CHECK, FINAL, ON_DEMAND = range(5)


@struct.dataclass
class EvalResult:
    """One entry per episode: solved, undiscounted return, control steps."""

    success: Bool[Array, " E"]
    returns: Float[Array, " E"]
    steps: Int[Array, " E"]


def stream_key(seed: int, stream: int) -> PRNGKey:
    """Key of one of the streams of a run."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def evaluate(observer: Observer, policy: Policy, key: PRNGKey, *, episodes: int) -> EvalResult:
    """Play one episode in each of `episodes` fresh worlds, to its end."""
    env = observer.env
    k_start, k_act = jax.random.split(key)
    start = jax.jit(jax.vmap(env.reset))(split_keys(k_start, episodes))
    look = observer.looks(jax.random.fold_in(key, 2), episodes)

    @jax.jit
    def play(loop: tuple[EnvState, Array, EvalResult], pictures: Obs, key: PRNGKey) -> tuple:
        state, over, result = loop
        action = policy(observer.observe(state, pictures), key)
        after = jax.vmap(env.step)(state, action)
        result = EvalResult(
            success=result.success | (after.success & ~over),
            returns=result.returns + jnp.where(over, 0.0, after.reward),
            steps=result.steps + ~over,
        )
        return after, over | after.terminated | after.truncated, result

    def step(loop: tuple[EnvState, Array, EvalResult], key: PRNGKey) -> tuple[tuple, None]:
        return play(loop, observer.pictures(loop[0], look), key), None

    nothing = EvalResult(
        jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    )
    keys = jax.random.split(k_act, env.task.episode_steps)
    begin = (start, jnp.zeros(episodes, bool), nothing)
    (_, _, result), _ = scan(step, begin, keys, traceable=observer.traceable)
    return result
