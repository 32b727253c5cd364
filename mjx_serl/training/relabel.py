"""Demonstrations judged anew: reward and end of each step from the state that it led to.

What a policy observes does not say what a task pays for, so a file keeps the states of the
simulator themselves: everything that `Task.advance`, `reward` and `terminated` read. No physics is
stepped, and whoever judges sees the numbers that the first judge saw.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Shaped

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.types import PyTree, Transition
from scenes.contract.demonstrations import Field

States = Mapping[str, Shaped[Array, "..."]]
# What is kept of a step, and of which of its two worlds: the task's own state is the one that the
# step began with, which `Task.advance` carries on.
_PARTS = {"sim": "after", "command": "after", "task_state": "before"}


def states_of(before: EnvState, after: EnvState) -> dict[str, Shaped[Array, "N ..."]]:
    """Return the state that each world's step led to, by name, and the task's before it.

    Args:
        before: worlds [N] that were acted in.
        after: that this led to.
    """
    worlds = {"before": before, "after": after}
    return {
        name: leaf
        for part, when in _PARTS.items()
        for name, leaf in _named(part, getattr(worlds[when], part))
    }


def in_states(worlds: EnvState, states: States) -> EnvState:
    """Return worlds [N] in the states [N, ...] of `states_of`: to be drawn, not to be stepped."""
    return worlds.replace(**{part: _tree(part, getattr(worlds, part), states) for part in _PARTS})


def state_fields(env: Env) -> tuple[Field, ...]:
    """Return name, shape and dtype of each array of `states_of`, sorted by name."""
    start = _start_shapes(env)
    fields = [
        (name, tuple(leaf.shape), str(leaf.dtype))
        for part in _PARTS
        for name, leaf in _named(part, getattr(start, part))
    ]
    return tuple(sorted(fields))


def scene_digest(model: mujoco.MjModel) -> str:
    """Sha256 of what the numbers of a state are about: names, tree, joints, shapes and sensors."""
    parts = (model.body_parentid, model.jnt_type, model.geom_type, model.geom_size)
    arrays = (np.ascontiguousarray(x) for x in (*parts, model.sensor_type))
    return hashlib.sha256(b"|".join([model.names, *(x.tobytes() for x in arrays)])).hexdigest()


def relabel(env: Env, rows: Transition) -> Transition:
    """Return rows [T, M, ...] as the task of `env` pays and ends them.

    The task's own state goes on from the recorded one of each episode's first step. An episode
    ends where this task ends it or its time limit does; where the recording stops before, the last
    step is truncated. A step that physics failed in stays what it was.

    Args:
        env: one world of the task.
        rows: with the arrays of `state_fields(env)` as `extras`.
    """
    judged = jax.jit(jax.vmap(lambda states: _judge(env, states), in_axes=1, out_axes=1))
    reward, ends = jax.device_get(judged(rows.extras))
    valid, over = np.asarray(rows.valid), np.asarray(rows.terminated | rows.truncated)
    failed = over & ~valid
    limit = np.arange(1, len(over) + 1)[:, None] >= env.task.episode_steps
    terminated = failed | (np.asarray(ends) & valid)
    truncated = ~terminated & (over | (limit & valid))
    last = np.cumsum(terminated | truncated, axis=0) - (terminated | truncated)
    running = last == 0  # no step before has ended the episode
    valid = valid & running
    return rows.replace(
        reward=np.where(valid, reward, 0.0).astype(np.float32),
        terminated=terminated & running,
        truncated=truncated & running,
        valid=valid,
        extras={},
    )


def _judge(env: Env, states: States) -> tuple[Array, Array]:
    """Reward and end of each step [T] of one episode."""
    start = _start_shapes(env)
    sims, commands, own = (_tree(part, getattr(start, part), states) for part in _PARTS)

    def step(task_state: PyTree, reached: tuple[PyTree, PyTree]) -> tuple[PyTree, tuple]:
        sim, command = reached
        sim, task_state = env.advanced(sim, command, task_state)
        reward, _ = env.task.reward(sim, command, task_state)
        return task_state, (reward, env.task.terminated(sim, task_state))

    first = jax.tree.map(lambda x: x[0], own)
    return jax.lax.scan(step, first, (sims, commands))[1]


def _start_shapes(env: Env) -> EnvState:
    return jax.eval_shape(env.reset, jax.random.key(0))


def _named(part: str, tree: PyTree) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join((part, jax.tree_util.keystr(path, simple=True, separator="/"))), leaf


def _tree(part: str, template: PyTree, states: States) -> PyTree:
    leaves = [jnp.asarray(states[name]) for name, _ in _named(part, template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
