"""Rollouts: the policy in the worlds, and the scripted expert that makes demonstrations."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import expert_noise
from mjx_serl.envs.vector import VecEnv, VecState
from mjx_serl.training.episodes import Act, EpisodeStep, episode_keys, play_episodes
from mjx_serl.training.policies import Policy
from mjx_serl.training.relabel import states_of
from mjx_serl.training.scan import scan
from mjx_serl.types import Obs, PRNGKey, Transition, choice


def rollout(
    vec_env: VecEnv, policy: Policy, state: VecState, key: PRNGKey, length: int
) -> tuple[VecState, Transition]:
    """Return the worlds after `length` steps, and the transitions [length, N, ...]."""

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
    observer: Observer,
    key: PRNGKey,
    *,
    episodes: int,
    noise: float | None = None,
    states: bool = False,
) -> tuple[Transition, Bool[Array, " N"]]:
    """Let the scripted expert play one episode in each of `episodes` worlds.

    Args:
        observer: of a task with `demonstrate`.
        key: draws the starts and the noise.
        episodes: worlds.
        noise: standard deviation of Gaussian noise on the end-effector steps [m], and on turns of
            as large a share of a full action; none on the gripper, where it would drop what is
            held. None is what the task's expert copes with.
        states: keep those of the simulator as extras (`mjx_serl.training.relabel`).

    Returns:
        Transitions [episode_steps, N, ...], `valid` false after an episode's end, and whether
        each episode succeeded.
    """
    act = noisy_expert(observer.env, noise)

    def keep(step: EpisodeStep) -> Transition:
        return Transition(
            obs=observer.stored(observer.observe(step.before, step.pictures)),
            action=step.action,
            reward=step.after.reward,
            terminated=step.after.terminated,
            truncated=step.after.truncated,
            valid=step.after.valid & step.running,
            expert=jnp.ones_like(step.running),
            extras=states_of(step.before, step.after) if states else {},
        )

    keys = episode_keys(key, episodes=episodes, steps=observer.env.task.episode_steps)
    result, rows = play_episodes(observer, act, keys, keep=keep)
    return rows, result.success


def noisy_expert(env: Env, noise: float | Float[Array, ""] | None) -> Act:
    """Return the scripted expert with `noise` as of `demonstrate`."""
    noise = expert_noise(env.task) if noise is None else noise
    scale = jnp.full(env.action_dim, noise / env.task.control.scale)
    for i in np.flatnonzero(env.action_spec.grippers):
        scale = scale.at[i].set(0.0)

    def act(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        del pictures  # an expert reads the simulator's state
        action = jax.vmap(env.task.demonstrate)(worlds.sim, worlds.command, worlds.task_state)
        return jnp.clip(action + scale * jax.random.normal(key, action.shape), -1.0, 1.0)

    return act
