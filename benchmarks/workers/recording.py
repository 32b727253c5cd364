"""Controls that our environment applied, for engines that are measured without it."""

import dataclasses
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from benchmarks.worker import Params
from benchmarks.workers.env import build_env

if TYPE_CHECKING:
    from mjx_serl.envs.env import Env


@dataclasses.dataclass(frozen=True)
class Recording:
    """Random actions played in our environment.

    Attributes:
        model: the scene, the same on both sides of a comparison.
        qpos: at the start of each control step.
        ended: whose episode a control step ended: the next one begins elsewhere.
        ctrl: of each of the K inner steps of a control step. An engine that held the last for all
            of them would move a torque-controlled arm along another way.
        n_substeps: physics steps per inner step.
        ctrl_dt: simulated time per control step [s].
    """

    model: mujoco.MjModel
    qpos: Float[np.ndarray, "T N nq"]
    ended: Bool[np.ndarray, "T N"]
    ctrl: Float[np.ndarray, "T K N nu"]
    n_substeps: int
    ctrl_dt: float

    @property
    def substeps(self) -> int:
        """Physics steps per control step."""
        return self.ctrl.shape[1] * self.n_substeps


@dataclasses.dataclass(frozen=True)
class _Remembering:
    """Physics whose carry holds the last `count` controls too."""

    physics: Any
    count: int

    def reset(self, *start: Array) -> tuple[Any, Any]:
        import jax.numpy as jnp

        carry, sim = self.physics.reset(*start)
        return (carry, jnp.zeros((self.count, sim.ctrl.shape[-1]))), sim

    def step(self, carry: Any, ctrl: Array, n_substeps: int) -> tuple[Any, Any]:
        import jax.numpy as jnp

        inside, last = carry
        inside, sim = self.physics.step(inside, ctrl, n_substeps)
        return (inside, jnp.concatenate([last[1:], ctrl[None]])), sim


def record(params: Params, *, steps: int = 40, worlds: int = 64) -> Recording:
    """Play `steps` random actions; the worlds are repeated up to `num_envs`."""
    import jax

    env = build_env({**params, "physics": "native", "num_envs": worlds})
    starts, ended, ctrl = _play(env, worlds, jax.random.split(jax.random.key(1), steps))
    pick = np.arange(params["num_envs"]) % worlds
    return Recording(
        model=env.scene.model,
        qpos=starts[:, pick],
        ended=ended[:, pick],
        ctrl=ctrl[:, :, pick],
        n_substeps=env.controller.n_substeps,
        ctrl_dt=env.ctrl_dt,
    )


def _play(env: "Env", worlds: int, keys: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint positions, ends and controls of a recording."""
    import jax

    from mjx_serl.envs.vector import choice, vectorize

    remembering: Any = _Remembering(env.physics, env.controller.inner_steps)
    vec_env = vectorize(dataclasses.replace(env, physics=remembering), num_envs=worlds)
    state = jax.jit(vec_env.reset)(jax.random.key(0))
    qpos, ended, controls = [state.envs.sim.qpos], [], []
    step = jax.jit(vec_env.advance)
    for key in keys:
        action = jax.random.uniform(key, (worlds, env.action_dim), minval=-1.0, maxval=1.0)
        state, _, last = step(state, choice(action))
        qpos.append(state.envs.sim.qpos)
        ended.append(last.terminated | last.truncated)
        controls.append(last.carry[1])
    ctrl = np.stack(controls).astype(np.float64).swapaxes(1, 2)
    return np.stack(qpos[:-1]).astype(np.float64), np.stack(ended), ctrl
