"""From one world to many: the only place where an environment is vmapped.

Ended worlds take a fresh state from a pool of resets in the same step, so the loop has one
shape and never waits for a reset. Pictures are drawn after that, once per step.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.types import Metrics, Obs, PRNGKey, PyTree, Transition
from scenes.contract.errors import InputError


@struct.dataclass
class EpisodeStats:
    """Sums over the episodes that ended; the return and length of those that run."""

    running_return: Float[Array, " N"]
    episodes: Int[Array, ""]
    successes: Int[Array, ""]
    returns: Float[Array, ""]
    steps: Int[Array, ""]
    nan_worlds: Int[Array, ""]


@struct.dataclass
class BadWorld:
    """The first world that left the finite numbers: its last good state and the action."""

    seen: Bool[Array, ""]
    world: Int[Array, ""]
    carry: PyTree
    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    action: Float[Array, " A"]


@struct.dataclass
class VecState:
    """All worlds, how they look, the pool that ended ones restart from, the episode sums.

    `pictures` are those of `worlds`, by camera; none without cameras.
    """

    worlds: EnvState
    look: PyTree
    pictures: Obs
    pool: EnvState
    stats: EpisodeStats
    bad: BadWorld
    key: PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class VecEnv:
    """`num_envs` worlds stepped together with auto-reset.

    Args:
        observer: one world, and what is seen of it.
        num_envs: worlds.
        pool_size: prepared resets; `refresh` draws new ones.
    """

    observer: Observer
    num_envs: int
    pool_size: int

    @property
    def env(self) -> Env:
        """One world."""
        return self.observer.env

    def reset(self, key: PRNGKey) -> VecState:
        """Start `num_envs` episodes and fill the pool."""
        k_worlds, k_pool, k_run = jax.random.split(key, 3)
        worlds = self._start_jit(k_worlds, self.num_envs)
        first = jax.tree.map(lambda x: jnp.zeros_like(x[0]), worlds)
        look = self.observer.looks(jax.random.fold_in(key, 3), self.num_envs)
        return VecState(
            worlds=worlds,
            look=look,
            pictures=self.observer.pictures(worlds, look),
            pool=self._start_jit(k_pool, self.pool_size),
            stats=EpisodeStats(jnp.zeros(self.num_envs), *_zero_sums()),
            bad=BadWorld(
                seen=jnp.zeros((), bool),
                world=jnp.zeros((), jnp.int32),
                carry=first.carry,
                qpos=first.sim.qpos,
                qvel=first.sim.qvel,
                action=jnp.zeros(self.env.action_dim),
            ),
            key=k_run,
        )

    def refresh(self, state: VecState) -> VecState:
        """Draw a new pool of resets."""
        key, k_pool = jax.random.split(state.key)
        return state.replace(pool=self._start(k_pool, self.pool_size), key=key)

    def observe(self, state: VecState) -> Obs:
        """What the policy sees of all worlds."""
        return self.observer.observe(state.worlds, state.pictures)

    def step(self, state: VecState, action: Float[Array, "N A"]) -> tuple[VecState, Transition]:
        """Step all worlds, restart the ended ones; returns what there is to learn from."""
        state, transition = self.advance(state, action)
        return self.draw(state), transition

    def advance(self, state: VecState, action: Float[Array, "N A"]) -> tuple[VecState, Transition]:
        """`step` without the pictures, which are those of before until `draw` is called."""
        before = state.worlds
        after = jax.vmap(self.env.step)(before, action)
        key, k_pick = jax.random.split(state.key)
        ended = after.terminated | after.truncated
        pick = jax.random.randint(k_pick, (self.num_envs,), 0, self.pool_size)
        fresh = jax.tree.map(lambda x: x[pick], state.pool)
        looks = self.observer.looks(jax.random.fold_in(k_pick, 1), self.num_envs)
        transition = Transition(
            obs=self.observe(state),
            action=action,
            reward=after.reward,
            terminated=after.terminated,
            truncated=after.truncated,
            valid=after.valid,
            expert=jnp.zeros_like(after.valid),
        )
        return state.replace(
            worlds=select_worlds(ended, fresh, after),
            look=select_worlds(ended, looks, state.look),
            stats=_count(state.stats, after, ended),
            bad=_remember_bad(state.bad, before, after, action),
            key=key,
        ), transition

    def draw(self, state: VecState) -> VecState:
        """Draw the pictures of the worlds as they are now."""
        return state.replace(pictures=self.observer.pictures(state.worlds, state.look))

    @functools.cached_property
    def _start_jit(self) -> Callable[[PRNGKey, int], EnvState]:
        # For a reset that is not traced as a whole; inside another jit it makes no difference.
        return jax.jit(self._start, static_argnums=1)

    def _start(self, key: PRNGKey, num: int) -> EnvState:
        return jax.vmap(self.env.reset)(split_keys(key, num))


def vectorize(env: Env | Observer, *, num_envs: int, pool_size: int | None = None) -> VecEnv:
    """Many worlds of `env`; raises ValueError where num_envs is not positive."""
    if num_envs < 1:
        raise InputError(f"num_envs must be at least 1, got {num_envs}")
    observer = env if isinstance(env, Observer) else Observer(env)
    return VecEnv(
        observer=observer, num_envs=num_envs, pool_size=pool_size or min(256, 4 * num_envs)
    )


def episode_metrics(stats: EpisodeStats) -> Metrics:
    """Sums of the episodes that ended since the last `clear_stats`, as metrics."""
    return {
        "episode/count": stats.episodes.astype(jnp.float32),
        "episode/successes": stats.successes.astype(jnp.float32),
        "episode/return_sum": stats.returns,
        "episode/step_sum": stats.steps.astype(jnp.float32),
        "env/nan_worlds": stats.nan_worlds.astype(jnp.float32),
    }


def clear_stats(state: VecState) -> VecState:
    """Forget the sums of ended episodes, keep the running ones."""
    return state.replace(stats=EpisodeStats(state.stats.running_return, *_zero_sums()))


def _zero_sums() -> tuple[Array, ...]:
    zero = jnp.zeros((), jnp.int32)
    return zero, zero, jnp.zeros(()), zero, zero


def select_worlds(ended: Bool[Array, " N"], fresh: PyTree, after: PyTree) -> PyTree:
    """`fresh` where a world ended, `after` elsewhere; leaves are [N, ...]."""

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, fresh, after)


def _count(stats: EpisodeStats, after: EnvState, ended: Bool[Array, " N"]) -> EpisodeStats:
    running = stats.running_return + after.reward
    return EpisodeStats(
        running_return=jnp.where(ended, 0.0, running),
        episodes=stats.episodes + ended.sum(),
        successes=stats.successes + (ended & after.success).sum(),
        returns=stats.returns + jnp.where(ended, running, 0.0).sum(),
        steps=stats.steps + jnp.where(ended, after.t, 0).sum(),
        nan_worlds=stats.nan_worlds + (~after.valid).sum(),
    )


def _remember_bad(
    bad: BadWorld, before: EnvState, after: EnvState, action: Float[Array, "N A"]
) -> BadWorld:
    world = jnp.argmin(after.valid)
    found = BadWorld(
        seen=~after.valid[world],
        world=world.astype(jnp.int32),
        carry=jax.tree.map(lambda x: x[world], before.carry),
        qpos=before.sim.qpos[world],
        qvel=before.sim.qvel[world],
        action=action[world],
    )
    keep = bad.seen | ~found.seen
    return jax.tree.map(lambda old, new: jnp.where(keep, old, new), bad, found)
