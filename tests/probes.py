"""Probe environments whose Q is known on paper, as data that feeds a replay buffer directly.

The first five are Andy Jones' ("Debugging RL, without the agonizing pain"): each adds one thing a
learner may get wrong, so the first that fails names it. The sixth ends episodes by a time limit
alone: its return does not end, and Q must be r / (1 - gamma).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from specs_of import action_spec_of, obs_spec_of

from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.types import Batch, Transition

GAMMA = 0.9
NUM_ENVS, NUM_STEPS, TIME_LIMIT = 8, 128, 4


@dataclass(frozen=True)
class Probe:
    """Recorded steps [T, N] under random actions, and what must be learned from them.

    expected_q: rows (obs, action, Q). expected_action: rows (obs, action), empty if any will do.
    """

    steps: Transition
    expected_q: tuple[tuple[float, float, float], ...]
    expected_action: tuple[tuple[float, float], ...] = ()


def _record(
    obs: np.ndarray, reward: Callable, terminated: np.ndarray, truncated: np.ndarray | None = None
) -> Transition:
    action = np.random.default_rng(1).uniform(-1, 1, obs.shape)
    no = np.zeros_like(terminated)
    return Transition(
        obs={"state": jnp.asarray(obs, jnp.float32)[..., None]},
        action=jnp.asarray(action, jnp.float32)[..., None],
        reward=jnp.asarray(reward(obs, action), jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(no if truncated is None else truncated),
        valid=jnp.asarray(~no),
        expert=jnp.asarray(no),
    )


def _signs() -> np.ndarray:
    return np.random.default_rng(0).choice([-1.0, 1.0], (NUM_STEPS, NUM_ENVS))


def _always() -> np.ndarray:
    return np.ones((NUM_STEPS, NUM_ENVS), bool)


def constant_reward() -> Probe:
    """One step, reward 1: isolates the critic's regression."""
    steps = _record(np.zeros_like(_signs()), lambda obs, action: np.ones_like(obs), _always())
    return Probe(steps, ((0.0, 0.0, 1.0), (0.0, 0.9, 1.0)))


def obs_reward() -> Probe:
    """One step, reward = obs: isolates the path from observation to critic."""
    steps = _record(_signs(), lambda obs, action: obs, _always())
    return Probe(steps, ((1.0, 0.0, 1.0), (-1.0, 0.0, -1.0)))


def two_step() -> Probe:
    """Reward 1 on the second of two steps: isolates discount and bootstrapping."""
    second = np.broadcast_to((np.arange(NUM_STEPS) % 2 == 1)[:, None], (NUM_STEPS, NUM_ENVS))
    steps = _record(second.astype(float), lambda obs, action: obs, second)
    return Probe(steps, ((0.0, 0.3, GAMMA), (1.0, -0.3, 1.0)))


def action_reward() -> Probe:
    """One step, reward 1 - (a - 0.5)^2: isolates the actor's gradient."""
    steps = _record(np.zeros_like(_signs()), lambda obs, action: 1 - (action - 0.5) ** 2, _always())
    return Probe(steps, ((0.0, 0.5, 1.0), (0.0, -0.5, 0.0)), ((0.0, 0.5),))


def obs_action_reward() -> Probe:
    """One step, reward 1 - (a - obs / 2)^2: the actor must read the observation."""
    steps = _record(_signs(), lambda obs, action: 1 - (action - obs / 2) ** 2, _always())
    return Probe(steps, ((1.0, -0.5, 0.0), (-1.0, -0.5, 1.0)), ((1.0, 0.5), (-1.0, -0.5)))


def time_limit(*, truncation_is_termination: bool = False) -> Probe:
    """Reward 1 for ever, cut every `TIME_LIMIT` steps: Q = 1 / (1 - gamma) = 10.

    With the flag the recording makes the mistake this probe exists for.
    """
    last = np.arange(NUM_STEPS) % TIME_LIMIT == TIME_LIMIT - 1
    last = np.broadcast_to(last[:, None], (NUM_STEPS, NUM_ENVS))
    terminated, truncated = (last, ~_always()) if truncation_is_termination else (~_always(), last)
    zeros = np.zeros_like(_signs())
    steps = _record(zeros, lambda obs, action: np.ones_like(obs), terminated, truncated)
    return Probe(steps, ((0.0, 0.0, 1 / (1 - GAMMA)),))


PROBES: dict[str, Callable[[], Probe]] = {
    probe.__name__: probe
    for probe in (
        constant_reward, obs_reward, two_step, action_reward, obs_action_reward, time_limit,
    )
}  # fmt: skip


@functools.cache
def compiled(agent: Any, method: str) -> Callable:
    """A method of an agent under jit; equal agents, whoever built them, share its programs."""
    function = getattr(agent, method)
    if method == "init":
        return jax.jit(function, static_argnums=(1, 2))
    return jax.jit(function, static_argnames="deterministic" if method == "act" else ())


def make_learn(agent, *, updates: int, batch_size: int) -> Callable:
    """Return a jitted `learn(steps, key) -> agent state`: fill a buffer, scan the updates."""
    buffer = ReplayBuffer(NUM_STEPS, NUM_ENVS)
    rows = agent.utd_ratio * batch_size

    @jax.jit
    def learn(steps: Transition, key: jax.Array):
        init_key, sample_key, update_key = jax.random.split(key, 3)
        example = jax.tree.map(lambda x: x[0, 0], steps)
        stored = buffer.add(buffer.init(example), steps)
        start = agent.init(init_key, obs_spec_of(example.obs), action_spec_of(1))
        batches = buffer.sample(stored, sample_key, (updates, rows))
        keys = jax.random.split(update_key, updates)
        state, metrics = jax.lax.scan(
            lambda s, x: agent.update(s, *x),
            start,
            (batches, keys),
        )
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return learn


def learned_action(agent: Any, obs: Any, action: Any) -> tuple[Any, Any, Any]:
    """An agent before and after 800 updates where the reward is 1 - (a - 0.5)^2."""
    learn = make_learn(agent, updates=800, batch_size=32)
    first = jax.random.split(jax.random.key(0), 3)[0]
    start = compiled(agent, "init")(first, obs, action)
    return agent, start, learn(action_reward().steps, jax.random.key(0))[0]


def action_at_zero(agent: Any, state: Any) -> float:
    """What it does where the state is zero."""
    zero = {"state": np.zeros((16, 1), np.float32)}
    chosen = compiled(agent, "act")(state, zero, jax.random.key(1), deterministic=True)
    return float(chosen.action[0, 0, 0])


def random_batch(agent: Any) -> Batch:
    """Rows of one state and one action for one `update`."""
    rng, rows = np.random.default_rng(0), 16 * agent.utd_ratio
    draw = lambda *shape: jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)  # noqa: E731
    return Batch(
        obs={"state": draw(rows, 1)},
        action=draw(rows, 1),
        reward=draw(rows),
        terminated=jnp.zeros(rows, bool),
        expert=jnp.zeros(rows, bool),
        next_obs={"state": draw(rows, 1)},
    )
