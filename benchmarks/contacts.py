"""Do contacts hold? Random actions in many worlds of every task: what blows up, how deep things go.

    python -m benchmarks.contacts --only franka/peg_insertion --worlds 100

On native physics. Each row is filed once it is there, so that a stopped run goes on where it was;
`--again` measures anew. Depths are of the deepest contact of a world, looked at every few steps,
where anything touches.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from jaxtyping import Float

from benchmarks.results import Recorder
from benchmarks.resumable import drop, go_on, is_wanted, named_tasks
from benchmarks.workers.platform import prepare
from scenes.contract.ranges import MOST_SEED, ranged

if TYPE_CHECKING:
    from mjx_serl.envs.env import Env

QUESTION = "contacts"
LIMIT_MM = 2.0  # of the 99th percentile, issue 11


@dataclass(frozen=True, kw_only=True)
class ContactsConfig:
    """Which tasks, how thoroughly.

    Attributes:
        only: names of tasks; all registered ones by default.
        worlds: played at once.
        steps: control steps of each.
        every: control steps between two looks at the contacts.
        seed: of starts and actions.
        again: measure once more what is filed already.
    """

    only: tuple[str, ...] = ()
    worlds: int = ranged(1000, least=1)
    steps: int = ranged(1000, least=1)
    every: int = ranged(20, least=1)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    again: bool = False


@dataclass(frozen=True)
class Health:
    """What random actions led to.

    Attributes:
        blown_up: worlds whose state was not finite at some time.
        depths: of the deepest contact of each world at each look, 0 without one [m].
    """

    blown_up: int
    depths: Float[np.ndarray, "T N"]


def play(env: "Env", *, worlds: int, steps: int, every: int, seed: int) -> Health:
    """Return what became of worlds; ended ones go back to their start."""
    import jax

    start, advance = _program(env, worlds, every)
    k_start, k_act = jax.random.split(jax.random.key(seed))
    begun = start(k_start)
    state, bad = begun, np.zeros(worlds, bool)
    depths, data = [], mujoco.MjData(env.scene.model)
    for key in jax.random.split(k_act, max(1, steps // every)):
        state, valid = advance(begun, state, key)
        bad |= ~np.asarray(valid)
        depths.append([deepest(env.scene.model, data, q) for q in np.asarray(state.sim.qpos)])
    return Health(blown_up=int(bad.sum()), depths=np.asarray(depths))


def _program(env: "Env", worlds: int, every: int) -> tuple[Callable[[Any], Any], Callable]:
    import jax
    import jax.numpy as jnp

    from mjx_serl.envs.vector import select_worlds

    def start(key: Any) -> Any:
        return jax.vmap(env.reset)(jax.random.split(key, worlds))

    def advance(begun: Any, state: Any, key: Any) -> tuple[Any, Any]:
        def step(loop: tuple, key: Any) -> tuple[tuple, None]:
            state, valid = loop
            state = select_worlds(state.terminated | state.truncated, begun, state)
            action = jax.random.uniform(key, (worlds, env.action_dim), minval=-1.0, maxval=1.0)
            state = jax.vmap(env.step)(state, action)
            return (state, valid & state.valid), None

        first = (state, jnp.ones(worlds, bool))
        return jax.lax.scan(step, first, jax.random.split(key, every))[0]

    return jax.jit(start), jax.jit(advance)


def deepest(model: mujoco.MjModel, data: mujoco.MjData, qpos: Float[np.ndarray, " nq"]) -> float:
    """Return how deep the deepest contact of a pose goes, 0 without one [m]."""
    if not np.isfinite(qpos).all():
        return 0.0  # counted as blown up
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    return max(0.0, -data.contact.dist.min()) if data.ncon else 0.0


def run(cfg: ContactsConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    prepare()
    for task in named_tasks(cfg.only):
        if is_wanted(recorder, f"{task}: worlds that blow up", again=cfg.again):
            drop(recorder, _depth_row(task))  # of the same run
            _measure(cfg, task, recorder)


def _depth_row(task: str) -> str:
    return f"{task}: penetration, 99th percentile"


def _measure(cfg: ContactsConfig, task: str, recorder: Recorder) -> None:
    from mjx_serl.envs.env import make_env

    begun = time.perf_counter()
    env = make_env(task, physics="native", max_worlds=cfg.worlds)
    health = play(env, worlds=cfg.worlds, steps=cfg.steps, every=cfg.every, seed=cfg.seed)
    # Looks at worlds in which nothing touches would only dilute the figures.
    touching = health.depths[health.depths > 0]
    depths = 1e3 * touching if touching.size else np.zeros(1)
    params = {
        "task": task,
        "num_envs": cfg.worlds,
        "steps": cfg.steps,
        "looks": health.depths.size,
        "touching": touching.size / health.depths.size,
        "median_mm": float(np.median(depths)),
        "worst_mm": float(depths.max()),
        "limit_mm": LIMIT_MM,
        "seconds": time.perf_counter() - begun,
    }
    recorder.add(f"{task}: worlds that blow up", float(health.blown_up), "worlds", params)
    recorder.add(_depth_row(task), float(np.percentile(depths, 99)), "mm", params)


if __name__ == "__main__":
    go_on(ContactsConfig, __doc__, QUESTION, run)
