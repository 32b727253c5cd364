"""Out to Gymnasium: every registered task as a single and as a vector environment.

Importing this module files the ids, as Gymnasium 1.x loads no plug-ins by itself:

    import gymnasium, mjx_serl.adapters.gymnasium
    env = gymnasium.make("mjx_serl/FrankaPickCube-v0")
    envs = gymnasium.make_vec("mjx_serl/FrankaPickCube-v0", num_envs=64)

or, in one line, gymnasium.make("mjx_serl.adapters.gymnasium:mjx_serl/FrankaPickCube-v0").
Observations and actions are numpy arrays; worlds stay on jax's device.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Array, Bool, Float, Key

from mjx_serl import tasks as tasks  # files the tasks in the registry
from mjx_serl.envs.env import EnvState, make_env
from mjx_serl.envs.task import TASKS
from mjx_serl.envs.vector import select_worlds
from mjx_serl.platform import prepare_platform
from scenes.contract.specs import ObsField, ObsSpec

NAMESPACE = "mjx_serl"

HostObs = dict[str, np.ndarray]


def env_id(task: str) -> str:
    """Return Gymnasium's name of a task: "franka/pick_cube" is "mjx_serl/FrankaPickCube-v0"."""
    words = task.replace("/", "_").split("_")
    return f"{NAMESPACE}/{''.join(word.capitalize() for word in words)}-v0"


def register_envs() -> None:
    """File every task of the registry with Gymnasium; call it again after adding a task."""
    for task in TASKS:
        if env_id(task) not in gymnasium.registry:
            gymnasium.register(
                env_id(task),
                entry_point=f"{__name__}:MjxSerlEnv",
                vector_entry_point=f"{__name__}:MjxSerlVectorEnv",
                kwargs={"task": task},
            )


class MjxSerlEnv(gymnasium.Env[HostObs, np.ndarray]):
    """One world. The task's own time limit truncates, so no TimeLimit wrapper is needed.

    `info` holds `success`, `valid` (false where the state became non-finite) and the
    unscaled reward terms.

    Args:
        task: a registered task; raises KeyError with the allowed names.
        physics: "native", "mjx" or "warp"; None picks for the platform.
    """

    def __init__(self, task: str, *, physics: str | None = None) -> None:
        self._env = _build(task, physics, max_worlds=1)
        self.metadata = {"render_modes": [], "render_fps": round(1 / self._env.ctrl_dt)}
        self.observation_space = observation_space(self._env.obs_spec)
        self.action_space = _action_space(self._env.action_dim)
        self._key: Key[Array, ""] | None = None
        self._state: EnvState | None = None
        self._jit_reset, self._jit_step = jax.jit(self._env.reset), jax.jit(self._env.step)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[HostObs, dict[str, Any]]:
        """Return the start of an episode; equal seeds give equal sequences. No options."""
        super().reset(seed=seed)
        del options
        if seed is not None or self._key is None:
            self._key = jax.random.key(np.uint32(self.np_random_seed & 0xFFFFFFFF))
        self._key, start = jax.random.split(self._key)
        state: EnvState = self._jit_reset(start)
        self._state = state
        obs, *_, info = _to_host(state)
        return obs, _unbatched(info)

    def step(self, action: np.ndarray) -> tuple[HostObs, float, bool, bool, dict[str, Any]]:
        """Return the world after an action in [-1, 1]; raises RuntimeError before a reset."""
        if self._state is None:
            raise RuntimeError("step() before reset(): call reset() first")
        state: EnvState = self._jit_step(self._state, np.asarray(action, np.float32))
        self._state = state
        obs, reward, terminated, truncated, info = _to_host(state)
        return obs, float(reward), bool(terminated), bool(truncated), _unbatched(info)


@struct.dataclass
class _Worlds:
    """All worlds between two steps.

    Attributes:
        state: the worlds.
        keys: of each one's next episode.
        ended: which of them start again in the next step.
    """

    state: EnvState
    keys: Key[Array, " N"]
    ended: Bool[Array, " N"]


class MjxSerlVectorEnv(gymnasium.vector.VectorEnv[HostObs, np.ndarray, np.ndarray]):
    """`num_envs` worlds stepped in one compiled call.

    A world that ended starts its next episode in the following step, whose action it ignores and
    whose reward is 0 (AutoresetMode.NEXT_STEP): the last observation of an episode is returned
    like any other. World i of `reset(seed=s)` plays what `MjxSerlEnv.reset(seed=s + i)` plays.

    Args:
        task: as in `MjxSerlEnv`.
        physics: as in `MjxSerlEnv`.
        num_envs: worlds; raises ValueError unless positive.
    """

    def __init__(self, task: str, *, num_envs: int = 1, physics: str | None = None) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self._env = _build(task, physics, max_worlds=num_envs)
        self.metadata = {
            "render_modes": [],
            "render_fps": round(1 / self._env.ctrl_dt),
            "autoreset_mode": AutoresetMode.NEXT_STEP,
        }
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self._env.obs_spec)
        self.single_action_space = _action_space(self._env.action_dim)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._worlds: _Worlds | None = None
        self._jit_start, self._jit_advance = jax.jit(self._start), jax.jit(self._advance)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[HostObs, dict[str, Any]]:
        """Return the starts of all worlds. No options.

        Args:
            seed: one seed, from which the worlds count upwards, or one per world (raises
                ValueError on another number); None goes on with the keys there are.
            options: ignored.
        """
        del options
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        if seed is None and self._worlds is not None:
            keys = self._worlds.keys
        else:
            keys = jax.vmap(jax.random.key)(self._seeds(seed))
        worlds: _Worlds = self._jit_start(keys)
        self._worlds = worlds
        obs, *_, info = _to_host(worlds.state)
        return obs, self._masked(info)

    def step(
        self, actions: np.ndarray
    ) -> tuple[HostObs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Return all worlds after one step; raises RuntimeError before a reset."""
        if self._worlds is None:
            raise RuntimeError("step() before reset(): call reset() first")
        worlds: _Worlds = self._jit_advance(self._worlds, np.asarray(actions, np.float32))
        self._worlds = worlds
        obs, reward, terminated, truncated, info = _to_host(worlds.state)
        return obs, reward, terminated, truncated, self._masked(info)

    def _seeds(self, seed: int | Sequence[int] | None) -> np.ndarray:
        if seed is None or isinstance(seed, int | np.integer):
            first = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
            return ((int(first) & 0xFFFFFFFF) + np.arange(self.num_envs)).astype(np.uint32)
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} worlds; give one per world")
        return np.asarray(seed).astype(np.uint32)

    def _start(self, keys: Key[Array, " N"]) -> _Worlds:
        following, now = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        state = jax.vmap(self._env.reset)(now)
        return _Worlds(state=state, keys=following, ended=state.terminated)

    def _advance(self, worlds: _Worlds, actions: Float[Array, "N A"]) -> _Worlds:
        state = jax.vmap(self._env.step)(worlds.state, actions)
        stepped = _Worlds(state=state, keys=worlds.keys, ended=state.terminated | state.truncated)

        def restart() -> _Worlds:
            return select_worlds(worlds.ended, self._start(worlds.keys), stepped)

        return jax.lax.cond(worlds.ended.any(), restart, lambda: stepped)

    def _masked(self, info: dict[str, np.ndarray]) -> dict[str, Any]:
        # Gymnasium pairs every entry with a mask of the worlds that have it: all of them.
        masks = {f"_{name}": np.ones(self.num_envs, bool) for name in info}
        return {**info, **masks}


def observation_space(spec: ObsSpec) -> gymnasium.spaces.Dict:
    """Return a Dict of one Box per field; images are uint8 in [0, 255], the rest is unbounded."""
    return gymnasium.spaces.Dict({field.name: _box(field) for field in spec.fields})


def _box(field: ObsField) -> gymnasium.spaces.Box:
    dtype = np.dtype(field.dtype)
    if np.issubdtype(dtype, np.integer):
        return gymnasium.spaces.Box(0, np.iinfo(dtype).max, field.shape, dtype.type)
    return gymnasium.spaces.Box(-np.inf, np.inf, field.shape, dtype.type)


def _action_space(dim: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-1.0, 1.0, (dim,), np.float32)


def _build(task: str, physics: str | None, *, max_worlds: int) -> Any:
    if physics in ("mjx", "warp") and jax.default_backend() == "cpu":
        prepare_platform(mjx_on_cpu=True)  # warns: by now jax has started without the flag
    return make_env(task, physics=physics, max_worlds=max_worlds)


def _to_host(state: EnvState) -> tuple[HostObs, Any, Any, Any, dict[str, Any]]:
    """Return one copy on the host: numpy arrays that belong to the caller."""
    info = {"success": state.success, "valid": state.valid, **state.metrics}
    return jax.tree.map(
        np.array, (state.obs, state.reward, state.terminated, state.truncated, info)
    )


def _unbatched(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() for name, value in info.items()}


register_envs()
