"""A world that failed in a run, as it was before, to look at and to go on from."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from mjx_serl.config import TrainConfig
from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.physics.protocol import VariedCarry
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.nan_world import NanWorld, read_nan_world
from mjx_serl.types import PRNGKey, PyTree
from mjx_serl.viewing.play import Playable
from mjx_serl.viewing.policies import build_policies
from mjx_serl.viewing.recorded_env import RecordedEnv, build_recorded_env
from scenes.contract.errors import InputError

ITS_ACTION = "its action"


def build_dumped(path: Path, run: Path | None, *, size: int) -> Playable:
    """Return the task of a run from where the world was, played by the action that it failed at.

    Args:
        path: of the file.
        run: its folder; None is the file's own.
        size: width and height of the cameras that the run has not [px].

    Raises FileNotFoundError where a file or the run is missing, InputError where they do not fit.
    """
    found = read_nan_world(path)
    folder = RunFolder.open(path.parent if run is None else run)
    cfg = folder.read_config(TrainConfig)
    observer = cfg.build_observer()
    env = observer.env
    _check(path, found, env)
    policies = build_policies(env)
    action = jnp.asarray(found.action)[None]
    policies.register(ITS_ACTION)(Partial(lambda action, *_: action, action))
    recorded = build_recorded_env(observer, cfg.pixels, size=size)
    start = partial(_begin, recorded, found)
    return Playable(recorded, policies, ITS_ACTION, start=start)


def _check(path: Path, found: NanWorld, env: Env) -> None:
    model = env.scene.model
    want = {"qpos": model.nq, "qvel": model.nv, "action": env.action_dim}
    for name, size in want.items():
        got = getattr(found, name).shape
        if got != (size,):
            raise InputError(f"{path}: {name} is of shape {[*got]}, the run's task has [{size}]")


def _begin(recorded: RecordedEnv, found: NanWorld, key: PRNGKey) -> tuple[EnvState, PyTree]:
    """One world as it was before; what the file does not hold is a fresh episode's.

    That is what the task remembers of its start, and where the arm was sent to before.
    """
    worlds, look = recorded.start(key, 1)
    env = recorded.env
    physics: Any = env.physics

    def put(world: EnvState) -> EnvState:
        own = (world.carry.values,) if isinstance(world.carry, VariedCarry) else ()
        carry, sim = physics.reset(jnp.asarray(found.qpos), jnp.asarray(found.qvel), *own)
        sim = env.marked(sim, world.task_state)
        return world.replace(carry=_carry(found, carry), sim=sim, command=env.controller.start(sim))

    return jax.vmap(put)(worlds), look


def _carry(found: NanWorld, fresh: PyTree) -> PyTree:
    """What the physics goes on from, bit for bit where the file has it of the same physics."""
    leaves, structure = jax.tree.flatten(fresh)
    kinds = [(leaf.shape, leaf.dtype) for leaf in leaves]
    if [(leaf.shape, leaf.dtype) for leaf in found.carry] != kinds:
        return fresh
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in found.carry])
