"""Rollouts: the policy in the worlds, and the scripted expert that makes demonstrations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.envs.vector import VecEnv, VecState
from mjx_serl.training.policies import Policy
from mjx_serl.training.scan import scan
from mjx_serl.types import Obs, PRNGKey, Transition, choice


def rollout(
    vec_env: VecEnv, policy: Policy, state: VecState, key: PRNGKey, length: int
) -> tuple[VecState, Transition]:
    """Step the worlds `length` times; transitions are [length, N, ...]."""

    @jax.jit
    def act(state: VecState, key: PRNGKey) -> tuple[VecState, Transition]:
        chosen = choice(policy(vec_env.observe(state), key))
        return vec_env.advance(state, chosen)[:2]

    def step(state: VecState, key: PRNGKey) -> tuple[VecState, Transition]:
        state, row = act(state, key)
        return vec_env.draw(state), row

    keys = jax.random.split(key, length)
    return scan(step, state, keys, traceable=vec_env.observer.traceable)


def demonstrate(
    observer: Observer, key: PRNGKey, *, episodes: int, noise: float
) -> tuple[Transition, Bool[Array, " N"]]:
    """Let the scripted expert play one episode in each of `episodes` worlds.

    Args:
        observer: of a task with `demonstrate`.
        key: draws the starts and the noise.
        episodes: worlds.
        noise: standard deviation of Gaussian noise on the end-effector steps [m]; none on the
            gripper, where it would drop what is held.

    Returns:
        Transitions [episode_steps, N, ...], `valid` false after an episode's end, and whether
        each episode succeeded.
    """
    env = observer.env
    k_start, k_noise = jax.random.split(key)
    look = observer.looks(jax.random.fold_in(key, 2), episodes)
    start = jax.jit(jax.vmap(env.reset))(split_keys(k_start, episodes))
    scale = jnp.full(env.action_dim, noise / env.task.control.scale).at[-1].set(0.0)

    @jax.jit
    def play(loop: tuple, pictures: Obs, key: PRNGKey) -> tuple[tuple, Transition]:
        state, over, solved = loop
        action = jax.vmap(env.task.demonstrate)(state.sim, state.command, state.task_state)
        action = jnp.clip(action + scale * jax.random.normal(key, action.shape), -1.0, 1.0)
        after = jax.vmap(env.step)(state, action)
        row = Transition(
            obs=observer.observe(state, pictures),
            action=action,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            valid=after.valid & ~over,
            expert=jnp.ones_like(over),
        )
        solved |= after.success & ~over
        return (after, over | after.terminated | after.truncated, solved), row

    def step(loop: tuple, key: PRNGKey) -> tuple[tuple, Transition]:
        return play(loop, observer.pictures(loop[0], look), key)

    nobody = jnp.zeros(episodes, bool)
    keys = jax.random.split(k_noise, env.task.episode_steps)
    begin = (start, nobody, nobody)
    (_, _, solved), rows = scan(step, begin, keys, traceable=observer.traceable)
    return rows, solved
