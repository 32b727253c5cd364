"""From one world to many: the only place where an environment is vmapped.

Ended worlds take a fresh state from a pool of resets in the same step, so the loop has one
shape and never waits for a reset. Pictures are drawn after that, once per step.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mjx_serl import devices
from mjx_serl.envs.env import Env, EnvState, lost
from mjx_serl.envs.growth import Growth, by_all, count_tested, draw_grown, grow, no_growth
from mjx_serl.envs.judge import clear_judged
from mjx_serl.envs.observation import Observer
from mjx_serl.envs.task import split_keys
from mjx_serl.types import Choice, Metrics, Obs, PRNGKey, PyTree, Transition, choice
from scenes.contract.errors import InputError

Autoreset = Literal["pool", "next_step", "never", "lost"]


@struct.dataclass
class EpisodeStats:
    """Sums over the episodes that ended since the sums were last cleared.

    Attributes:
        running_return: of the episode that each world is in.
        episodes: number that ended.
        successes: of those, how many ended solved.
        returns: sum of their returns.
        steps: sum of their control steps.
        nan_worlds: number of times that a world's state was not finite.
        SUMS: what is summed over all worlds, on whichever device they are.
    """

    SUMS: ClassVar = ("episodes", "successes", "returns", "steps", "nan_worlds")

    running_return: Float[Array, " N"]
    episodes: Int[Array, ""]
    successes: Int[Array, ""]
    returns: Float[Array, ""]
    steps: Int[Array, ""]
    nan_worlds: Int[Array, ""]


@struct.dataclass
class BadWorld:
    """The first world whose state became non-finite, as it was before.

    Attributes:
        seen: whether there was one.
        world: its index.
        carry: of the physics, before the step.
        qpos: before the step.
        qvel: before the step.
        action: of the step.
    """

    seen: Bool[Array, ""]
    world: Int[Array, ""]
    carry: PyTree
    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    action: Float[Array, " A"]


@struct.dataclass
class VecState:
    """All worlds between two steps.

    Attributes:
        envs: the worlds.
        look: their appearance; () without cameras.
        pictures: what is observed of their pictures, by name; {} without cameras.
        pool: states that ended worlds restart from.
        stats: sums over episodes.
        bad: the first world whose state became non-finite.
        key: of everything random in the steps to come.
        growth: `Growth` of the ranges that worlds draw from; () where they do not grow.
        judged: what the observer's judge remembers; () where the task judges itself.
    """

    envs: EnvState
    look: PyTree
    pictures: Obs
    pool: EnvState
    stats: EpisodeStats
    bad: BadWorld
    key: PRNGKey
    growth: PyTree = ()
    judged: PyTree = ()


@dataclasses.dataclass(frozen=True, eq=False)
class VecEnv:
    """`num_envs` worlds stepped together with auto-reset.

    Attributes:
        observer: one world, and what is seen of it.
        num_envs: worlds.
        pool_size: prepared resets; `refresh` draws new ones.
        stagger: the first episode of each world is cut short by another share of the time limit, so
            that worlds do not all time out in one step. Those cuts are time-outs like any other;
            the sums of `EpisodeStats` take their steps for whole episodes'.
        autoreset: "pool" restarts ended worlds in the step that ended them; "next_step" in the
            step after it, whose action is ignored (as Gymnasium's NEXT_STEP); "never" lets the
            next episode begin where the last one ended, as on a real arm, unless the physics
            failed; "lost" as well, but takes worlds that ended by themselves unsolved, from which
            there is no way on, from the pool.
        grow: step by which the ranges of what the task randomises grow with success, as a share of
            them (`mjx_serl.envs.growth`); 0 draws from the whole ranges.
    """

    observer: Observer
    num_envs: int
    pool_size: int
    autoreset: Autoreset = "pool"
    stagger: bool = False
    grow: float = 0.0

    @property
    def env(self) -> Env:
        """One world."""
        return self.observer.env

    def part(self, among: int) -> "VecEnv":
        """Return the worlds, and prepared resets, of one of so many devices that share them."""
        num, pool = self.num_envs // among, self.pool_size // among
        return dataclasses.replace(self, num_envs=num, pool_size=pool)

    def reset(self, key: PRNGKey) -> VecState:
        """Return `num_envs` worlds at the start of an episode, and a full pool."""
        k_worlds, k_pool, k_run = jax.random.split(key, 3)
        growth = self._no_growth
        worlds = self._start_jit(k_worlds, self.num_envs, growth)
        if self.stagger:
            limit = self.env.task.episode_steps
            every = self.num_envs * devices.count()
            spread = devices.numbers(self.num_envs) / every * limit
            worlds = worlds.replace(t=spread.astype(worlds.t.dtype))
        first = jax.tree.map(lambda x: jnp.zeros_like(x[0]), worlds)
        look = self.observer.looks(jax.random.fold_in(key, 3), self.num_envs)
        return VecState(
            envs=worlds,
            look=look,
            pictures=self.observer.pictures(worlds, look),
            pool=self._start_jit(k_pool, self.pool_size, growth),
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
            growth=growth,
            judged=() if self.observer.judge is None else self.observer.judge.start(self.num_envs),
        )

    def refresh(self, state: VecState) -> VecState:
        """Return the state with a new pool of resets."""
        key, k_pool = jax.random.split(state.key)
        growth = state.growth
        if isinstance(growth, Growth):
            growth = by_all(growth, partial(grow, step=self.grow))
        pool = self._start(k_pool, self.pool_size, growth)
        return state.replace(pool=pool, key=key, growth=growth)

    def observe(self, state: VecState) -> Obs:
        """Return what the policy sees of all worlds."""
        return self.observer.observe(state.envs, state.pictures)

    def step(self, state: VecState, action: Float[Array, "N A"]) -> tuple[VecState, Transition]:
        """Step all worlds, restart the ended ones; returns what there is to learn from."""
        state, transition, _ = self.advance(state, choice(action))
        return self.draw(state), transition

    def advance(
        self, state: VecState, chosen: Choice, *, wait: Bool[Array, ""] | None = None
    ) -> tuple[VecState, Transition, EnvState]:
        """`step` without the pictures, which are those of before until `draw` is called.

        The third is the worlds as the step left them, ended ones not restarted: what a time-out
        cut off (`observe_last`).

        Args:
            state: the worlds.
            chosen: of which the first action is played.
            wait: in an action chunk, whose worlds start together: ended ones stay as they are, and
                are restarted where this is false, with the chunk's last step. Their rows are not
                valid. None waits for nobody. Not for the autoreset "next_step".
        """
        before, action = state.envs, chosen.action[:, 0]
        after, judged = jax.vmap(self.env.step)(before, action), state.judged
        if self.observer.judge is not None:
            judged, after, _ = self.observer.judge(judged, before, state.pictures, after)
        key, k_pick = jax.random.split(state.key)
        if wait is None:
            stepped = _RESTARTS[self.autoreset](self, state, after, k_pick)
        else:
            after = select_worlds(before.terminated | before.truncated, before, after)
            stepped = _restart_together(self, state, after, k_pick, wait)
        transition = Transition(
            obs=self.observer.stored(self.observe(state)),
            action=action,
            reward=stepped.after.reward,
            terminated=stepped.after.terminated,
            truncated=stepped.after.truncated,
            valid=stepped.after.valid & ~stepped.idle,
            expert=jnp.zeros_like(after.valid) if chosen.expert is None else chosen.expert,
            extras=chosen.extras,
        )
        ended = (stepped.after.terminated | stepped.after.truncated) & ~stepped.idle
        return (
            state.replace(
                envs=stepped.worlds,
                look=stepped.look,
                stats=_count(state.stats, stepped.after, ended),
                bad=_remember_bad(state.bad, before, after, action),
                key=key,
                growth=_tested(state.growth, stepped.after, ended),
                judged=judged,
            ),
            transition,
            stepped.after,
        )

    def observe_last(self, last: EnvState, state: VecState) -> Obs:
        """What is seen of worlds before they are restarted; with cameras they are drawn for it.

        Args:
            last: from `advance`.
            state: before that `advance`.
        """
        pictures = self.observer.pictures(last, state.look, state.pictures)
        return self.observer.observe(last, pictures)

    def draw(self, state: VecState) -> VecState:
        """Return the state with the pictures of the worlds as they are now."""
        pictures = self.observer.pictures(state.envs, state.look, state.pictures)
        return state.replace(pictures=pictures)

    @functools.cached_property
    def _start_jit(self) -> Callable[[PRNGKey, int, PyTree], EnvState]:
        # For a reset that is not traced as a whole; inside another jit it makes no difference.
        return jax.jit(self._start, static_argnums=1)

    def _start(self, key: PRNGKey, num: int, growth: PyTree) -> EnvState:
        keys, variation = split_keys(key, num), self.env.variation
        if variation is None:
            return jax.vmap(self.env.reset)(keys)
        grows = isinstance(growth, Growth)
        draw = partial(draw_grown, variation, growth) if grows else variation.draw
        return jax.vmap(self.env.reset)(keys, jax.vmap(draw)(keys, devices.numbers(num)))

    @property
    def _no_growth(self) -> Growth | tuple:
        variation = self.env.variation
        return () if variation is None or not self.grow else no_growth(variation)


def require_worlds(num_envs: int) -> None:
    """Raise InputError for what is no number of worlds."""
    if not isinstance(num_envs, Integral) or num_envs < 1:
        raise InputError(f"num_envs must be at least 1, got {num_envs!r}")


def vectorize(
    env: Env | Observer,
    *,
    num_envs: int,
    pool_size: int | None = None,
    autoreset: Autoreset = "pool",
    stagger: bool = False,
    grow: float = 0.0,
) -> VecEnv:
    """Return many worlds of `env`; raises ValueError where num_envs is not positive.

    Args:
        env, num_envs, autoreset, stagger, grow: as of `VecEnv`.
        pool_size: prepared resets; None is `default_pool`.
    """
    require_worlds(num_envs)
    if autoreset not in _RESTARTS:
        raise InputError(f"autoreset '{autoreset}', allowed: {', '.join(_RESTARTS)}")
    observer = env if isinstance(env, Observer) else Observer(env)
    if grow and observer.env.variation is None:
        raise InputError(
            f"grow {grow:g} where '{observer.env.name}' randomises nothing, allowed: 0; "
            "or a task that does, for example franka/pick_cube_randomized"
        )
    return VecEnv(
        observer=observer,
        num_envs=num_envs,
        pool_size=pool_size or default_pool(num_envs),
        autoreset=autoreset,
        stagger=stagger,
        grow=grow,
    )


def default_pool(num_envs: int) -> int:
    """Prepared resets of so many worlds."""
    return min(256, 4 * num_envs)


def epoch_pool(num_envs: int, steps_per_epoch: int) -> int:
    """Prepared resets in proportion to the episodes that can end in an epoch.

    Four for each that would end if all lasted 25 steps, at most 4096: less than one start in eight
    is then taken twice.
    """
    return min(4096, 4 * num_envs * max(1, -(-steps_per_epoch // 25)))


@struct.dataclass
class _Stepped:
    """How a step ends: the worlds to go on with, their looks, what the step led to.

    `idle` worlds were only restarted: there is nothing to learn from them.
    """

    worlds: EnvState
    look: PyTree
    after: EnvState
    idle: Bool[Array, " N"]


def _restart_from_pool(vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey) -> _Stepped:
    ended = after.terminated | after.truncated
    return _Stepped(*_fresh(vec_env, state, after, ended, key), after, jnp.zeros_like(ended))


def _restart_next_step(vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey) -> _Stepped:
    waiting = state.envs.terminated | state.envs.truncated
    worlds, look = _fresh(vec_env, state, after, waiting, key)
    return _Stepped(worlds, look, worlds, waiting)


def _restart_never(vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey) -> _Stepped:
    return _go_on(vec_env, state, after, key, unless=~after.valid)


def _restart_lost(vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey) -> _Stepped:
    return _go_on(vec_env, state, after, key, unless=lost(after))


def _go_on(
    vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey, *, unless: Bool[Array, " N"]
) -> _Stepped:
    """Begin the next episodes where the last ones ended, `unless` those worlds are renewed."""
    ended = after.terminated | after.truncated
    k_pool, k_episode = jax.random.split(key)
    keys = split_keys(k_episode, vec_env.num_envs)
    going_on = select_worlds(ended, jax.vmap(vec_env.env.carry_on)(after, keys), after)
    state = state.replace(envs=going_on)
    worlds, look = _fresh(vec_env, state, going_on, unless, k_pool)
    return _Stepped(worlds, look, after, jnp.zeros_like(ended))


def _restart_together(
    vec_env: VecEnv, state: VecState, after: EnvState, key: PRNGKey, wait: Bool[Array, ""]
) -> _Stepped:
    ended = state.envs.terminated | state.envs.truncated
    stepped = _RESTARTS[vec_env.autoreset](vec_env, state, after, key)
    waiting = jnp.broadcast_to(wait, ended.shape)
    return _Stepped(
        worlds=select_worlds(waiting, after, stepped.worlds),
        look=select_worlds(waiting, state.look, stepped.look),
        # What ended has been paid and counted.
        after=after.replace(reward=jnp.where(ended, 0.0, after.reward), valid=after.valid | ended),
        idle=ended,
    )


def _fresh(
    vec_env: VecEnv, state: VecState, after: EnvState, which: Bool[Array, " N"], key: PRNGKey
) -> tuple[EnvState, PyTree]:
    """Worlds and looks with those of `which` taken from the pool and drawn anew."""
    every = vec_env.num_envs * devices.count()
    pick = devices.own_rows(jax.random.randint(key, (every,), 0, vec_env.pool_size))
    fresh = jax.tree.map(lambda x: x[pick], state.pool)
    looks = vec_env.observer.looks(jax.random.fold_in(key, 1), vec_env.num_envs)
    return select_worlds(which, fresh, after), select_worlds(which, looks, state.look)


_RESTARTS = {
    "pool": _restart_from_pool,
    "next_step": _restart_next_step,
    "never": _restart_never,
    "lost": _restart_lost,
}


def episode_metrics(stats: EpisodeStats) -> Metrics:
    """Return the sums of the episodes that ended since the last `clear_stats`, as metrics."""
    return {
        "episode/count": stats.episodes.astype(jnp.float32),
        "episode/successes": stats.successes.astype(jnp.float32),
        "episode/return_sum": stats.returns,
        "episode/step_sum": stats.steps.astype(jnp.float32),
        "env/nan_worlds": stats.nan_worlds.astype(jnp.float32),
    }


def growth_metrics(growth: Growth | tuple) -> Metrics:
    """Return how far ranges have grown, on average and the least of them, where they do."""
    if not isinstance(growth, Growth):
        return {}
    return {"growth/mean": growth.reach.mean(), "growth/least": growth.reach.min()}


def clear_stats(state: VecState) -> VecState:
    """Return the state without the sums of ended episodes; the running ones are kept."""
    stats = EpisodeStats(state.stats.running_return, *_zero_sums())
    return state.replace(stats=stats, judged=clear_judged(state.judged))


def _zero_sums() -> tuple[Array, ...]:
    zero = jnp.zeros((), jnp.int32)
    return zero, zero, jnp.zeros(()), zero, zero


def select_worlds(ended: Bool[Array, " N"], fresh: PyTree, after: PyTree) -> PyTree:
    """Return `fresh` where a world ended, `after` elsewhere; leaves are [N, ...]."""

    def pick(x: Array, y: Array) -> Array:
        return jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, fresh, after)


def _tested(growth: Growth | tuple, after: EnvState, ended: Bool[Array, " N"]) -> Growth | tuple:
    if not isinstance(growth, Growth):
        return growth
    return count_tested(growth, after.varied.drawn.tested, ended, after.success)


def _count(stats: EpisodeStats, after: EnvState, ended: Bool[Array, " N"]) -> EpisodeStats:
    running = stats.running_return + after.reward
    return EpisodeStats(
        running_return=jnp.where(ended, 0.0, running),
        episodes=_add(stats.episodes, ended.sum()),
        successes=_add(stats.successes, (ended & after.success).sum()),
        returns=stats.returns + jnp.where(ended, running, 0.0).sum(),
        steps=_add(stats.steps, jnp.where(ended, after.t, 0).sum()),
        nan_worlds=_add(stats.nan_worlds, (~after.valid).sum()),
    )


def _add(count: Int[Array, ""], more: Int[Array, ""]) -> Int[Array, ""]:
    """Add to a counter that stays at the largest int32: nobody may ever clear the sums."""
    total = count + more
    return jnp.where(total < count, jnp.iinfo(jnp.int32).max, total)


def _remember_bad(
    bad: BadWorld, before: EnvState, after: EnvState, action: Float[Array, "N A"]
) -> BadWorld:
    world = jnp.argmin(after.valid)
    found = BadWorld(
        seen=~after.valid[world],
        world=devices.numbers(after.valid.size)[world].astype(jnp.int32),
        carry=jax.tree.map(lambda x: x[world], before.carry),
        qpos=before.sim.qpos[world],
        qvel=before.sim.qvel[world],
        action=action[world],
    )
    keep = bad.seen | ~found.seen
    return jax.tree.map(lambda old, new: jnp.where(keep, old, new), bad, found)
