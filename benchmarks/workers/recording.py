"""Controls that our environment applied, for engines that are measured without it."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from benchmarks.worker import Params
from benchmarks.workers.env import build_env


@dataclass(frozen=True)
class Recording:
    """Random actions played in our environment.

    Attributes:
        model: the scene, the same on both sides of a comparison.
        qpos: starts.
        ctrl: control of the last of the inner steps, per control step.
        substeps: physics steps per control step.
        ctrl_dt: simulated time per control step [s].
    """

    model: mujoco.MjModel
    qpos: Float[np.ndarray, "N nq"]
    ctrl: Float[np.ndarray, "T N nu"]
    substeps: int
    ctrl_dt: float


def record(params: Params, *, steps: int = 10, worlds: int = 64) -> Recording:
    """Play `steps` random actions; the worlds are repeated up to `num_envs`."""
    import jax

    from mjx_serl.envs.vector import vectorize

    env = build_env({**params, "physics": "native", "num_envs": worlds})
    vec_env = vectorize(env, num_envs=worlds)
    state = jax.jit(vec_env.reset)(jax.random.key(0))
    qpos = np.asarray(state.envs.sim.qpos, np.float64)
    step, controls = jax.jit(vec_env.step), []
    for key in jax.random.split(jax.random.key(1), steps):
        action = jax.random.uniform(key, (worlds, env.action_dim), minval=-1.0, maxval=1.0)
        state, _ = step(state, action)
        controls.append(np.asarray(state.envs.sim.ctrl, np.float64))
    pick = np.arange(params["num_envs"]) % worlds
    return Recording(
        model=env.scene.model,
        qpos=qpos[pick],
        ctrl=np.stack(controls)[:, pick],
        substeps=env.controller.inner_steps * env.controller.n_substeps,
        ctrl_dt=env.ctrl_dt,
    )
