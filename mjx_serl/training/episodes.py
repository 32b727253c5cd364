"""One episode in each of N worlds, to its end: the loop that evaluation, demonstrations, videos
and golden samples share.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from mjx_serl import devices
from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.judge import Judge
from mjx_serl.envs.task import split_keys
from mjx_serl.training.scan import scan
from mjx_serl.types import Actions, PRNGKey, PyTree


class DrawnEnv(Protocol):
    """One world and how its pictures are drawn: an `Observer`, or one with further cameras."""

    @property
    def env(self) -> Env:
        """One world."""
        ...

    @property
    def traceable(self) -> bool:
        """Whether `pictures` may be called under jit."""
        ...

    def looks(self, key: PRNGKey, num: int) -> PyTree:
        """Return the appearance of `num` new episodes."""
        ...

    def pictures(self, worlds: EnvState, look: PyTree, before: PyTree) -> Any:
        """Return the pictures of worlds [N], in any pytree; `before` is `remembered`."""
        ...

    def remembered(self, pictures: Any) -> PyTree:
        """Return what the pictures of the next step have to know of these."""
        ...

    def nothing_seen(self, num: int) -> PyTree:
        """Return `remembered` before the first step of `num` worlds."""
        ...


@struct.dataclass
class EpisodeKeys:
    """The random streams of N episodes of at most T steps.

    Attributes:
        starts: one key per episode's start.
        look: key of their appearance.
        steps: one key per control step, of all worlds together.
        drawn: what the worlds have drawn of what their task randomises (`Drawn`); None draws it
            with the keys of the starts.
    """

    starts: Key[Array, " N"]
    look: PRNGKey
    steps: Key[Array, " T"]
    drawn: PyTree = None


@struct.dataclass
class EpisodeResult:
    """How N episodes went.

    Attributes:
        success: whether the task was solved before the episode's end.
        returns: undiscounted sum of rewards.
        steps: control steps.
        part: of a task by turns, which of its `parts` each was of; None of any other.
        parts: their names.
        judged: whether a judge (`mjx_serl.envs.judge`) called it solved; None where there is none.
    """

    success: Bool[Array, " N"]
    returns: Float[Array, " N"]
    steps: Int[Array, " N"]
    part: Int[Array, " N"] | None = None
    parts: tuple[str, ...] = struct.field(pytree_node=False, default=())
    judged: Bool[Array, " N"] | None = None


@struct.dataclass
class EpisodeStep:
    """One control step of N worlds, those whose episode is over included.

    Attributes:
        before: worlds that were acted in.
        pictures: of `before`, as `DrawnEnv.pictures` returns them.
        action: what was done, in [-1, 1].
        after: worlds that this led to.
        running: whether the episode had not ended before this step.
    """

    before: EnvState
    pictures: Any
    action: Float[Array, "N A"]
    after: EnvState
    running: Bool[Array, " N"]


# Actions for worlds whose pictures are drawn.
Act = Callable[[EnvState, Any, PRNGKey], Actions]


def episode_keys(key: PRNGKey, *, episodes: int, steps: int) -> EpisodeKeys:
    """Return the streams of `episodes` episodes of at most `steps` control steps.

    The same `key` and `episodes` give the same starts and looks, so that an arm in simulation
    can play what an evaluation played.
    """
    k_start, k_act = jax.random.split(key)
    return EpisodeKeys(
        starts=split_keys(k_start, episodes),
        look=jax.random.fold_in(key, 2),
        steps=jax.random.split(devices.own_key(k_act), steps),
    )


def start_episodes(
    drawn: DrawnEnv, starts: Key[Array, " N"], look: PRNGKey, numbers: PyTree = None
) -> tuple[EnvState, PyTree]:
    """Return worlds [N] at the start of their episodes, and their looks; all as `EpisodeKeys`."""
    args = (starts,) if numbers is None else (starts, numbers)
    worlds = jax.jit(jax.vmap(drawn.env.reset))(*args)
    return worlds, drawn.looks(look, starts.shape[0])


def play_episodes(
    drawn: DrawnEnv,
    act: Act,
    keys: EpisodeKeys,
    *,
    keep: Callable[[EpisodeStep], PyTree] = lambda step: None,
    horizon: int = 1,
    pause: bool = False,
) -> tuple[EpisodeResult, PyTree]:
    """Play one episode in each of N worlds; it can be jitted where `drawn` is traceable.

    Args:
        drawn: what is played, and what is drawn of it.
        act: chooses the actions.
        keys: as many starts as episodes and as many step keys as steps.
        keep: what to return of each step.
        horizon: of the actions of one answer; more than 1 are all played before `act` is asked
            again. Worlds that end on the way are stepped on, as they are after any end.
        pause: leave worlds alone after their end, where their physics can; what is kept of them
            then means nothing.

    Returns:
        How the episodes went, and what was kept, stacked to [T, ...]. Worlds are stepped on
        after their end: those rows are not `running`.
    """
    worlds, look = start_episodes(drawn, keys.starts, keys.look, keys.drawn)
    judge: Judge | None = getattr(drawn, "judge", None)
    num = keys.starts.shape[0]
    pause = pause and getattr(drawn.env, "can_pause", False)

    @jax.jit
    def advance(loop: tuple, pictures: Any, key: PRNGKey) -> tuple[tuple, PyTree]:
        before, over, judged, result, plan = loop
        if plan is None:
            action = act(before, pictures, key)
        else:
            plan = _planned(plan, lambda: act(before, pictures, key))
            action = plan.actions[:, plan.played - 1]
        after = jax.vmap(drawn.env.step)(before, action, *((~over,) if pause else ()))
        if judge is not None:
            judged, after, done = judge(judged, before, pictures, after)
            result = result.replace(judged=result.judged | (done & ~over))
        kept = keep(EpisodeStep(before, pictures, action, after, ~over))
        over_now = over | after.terminated | after.truncated
        return (after, over_now, judged, _count(result, after, over), plan), kept

    def step(carry: tuple[tuple, PyTree], key: PRNGKey) -> tuple[tuple[tuple, PyTree], PyTree]:
        loop, before = carry
        pictures = drawn.pictures(loop[0], look, before)
        loop, kept = advance(loop, pictures, key)
        return (loop, drawn.remembered(pictures)), kept

    none_over = jnp.zeros(num, bool)
    result, judged = _no_result(drawn.env, worlds), ()
    if judge is not None:
        result, judged = result.replace(judged=none_over), judge.start(num)
    plan = None if horizon == 1 else _no_plan(num, horizon, drawn.env.action_dim)
    begin = (worlds, none_over, judged, result, plan)
    carry = (begin, drawn.nothing_seen(num))
    ((_, _, _, result, _), _), kept = scan(step, carry, keys.steps, traceable=drawn.traceable)
    return result, kept


@struct.dataclass
class _Plan:
    """A chunk of actions, and how many of them have been played."""

    actions: Float[Array, "N H A"]
    played: Int[Array, ""]


def _no_plan(num: int, horizon: int, action_dim: int) -> _Plan:
    return _Plan(jnp.zeros((num, horizon, action_dim)), jnp.int32(horizon))


def _planned(plan: _Plan, ask: Callable[[], Float[Array, "N H A"]]) -> _Plan:
    """The plan with one more action played; another one where it had been played to its end."""
    done = plan.played == plan.actions.shape[1]
    actions = jax.lax.cond(done, ask, lambda: plan.actions)
    return _Plan(actions, jnp.where(done, 1, plan.played + 1))


def _no_result(env: Env, worlds: EnvState) -> EpisodeResult:
    episodes, part = worlds.t.shape[0], getattr(env.task, "part", None)
    return EpisodeResult(
        success=jnp.zeros(episodes, bool),
        returns=jnp.zeros(episodes),
        steps=jnp.zeros(episodes, jnp.int32),
        part=None if part is None else part(worlds.task_state),
        parts=getattr(env.task, "parts", ()),
    )


def _count(result: EpisodeResult, after: EnvState, over: Bool[Array, " N"]) -> EpisodeResult:
    """Add one step to the episodes that are not over."""
    return result.replace(
        success=result.success | (after.success & ~over),
        returns=result.returns + jnp.where(over, 0.0, after.reward),
        steps=result.steps + ~over,
    )
