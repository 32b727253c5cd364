"""Out to Gymnasium: every registered task as a single and as a vector environment.

Importing this module files the ids, as Gymnasium 1.x loads no plug-ins by itself:

    import gymnasium, mjx_serl.adapters.gymnasium
    env = gymnasium.make("mjx_serl/FrankaPickCube-v0", cameras=["front"], render_mode="rgb_array")
    envs = gymnasium.make_vec("mjx_serl/FrankaPickCube-v0", num_envs=64)

or, in one line, gymnasium.make("mjx_serl.adapters.gymnasium:mjx_serl/FrankaPickCube-v0").
Observations and actions are numpy arrays; worlds stay on jax's device. Environments of SERL,
gym-hil and ManiSkill-GS are found by their own ids too, with their observations and actions:
`mjx_serl.adapters.ancestors`.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Array, Bool, Float, Key, UInt8

from mjx_serl.adapters.ancestors import ANCESTORS
from mjx_serl.adapters.interfaces import Ancestor, Interface, Own
from mjx_serl.envs.env import EnvState, make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.envs.vector import require_worlds, select_worlds
from mjx_serl.platform import prepare_platform
from mjx_serl.types import Obs, PyTree
from mjx_serl.viewing.recorded_env import SIDE, SIDE_SIZE, splats_shown, with_side_view
from scenes.contract.errors import InputError
from scenes.contract.names import require_fields

NAMESPACE = "mjx_serl"
RENDER_MODES = ("rgb_array",)
_OWN = Own()
# A fork inherits JAX's locks without the threads that would release them.
_IMPORTED_BY = os.getpid()

HostObs = dict[str, Any]  # arrays; of an ancestor's, dicts of them


def env_id(task: str) -> str:
    """Return Gymnasium's name of a task: "franka/pick_cube" is "mjx_serl/FrankaPickCube-v0"."""
    words = task.replace("/", "_").split("_")
    return f"{NAMESPACE}/{''.join(word.capitalize() for word in words)}-v0"


def register_envs() -> None:
    """File every task of the registry with Gymnasium; call it again after adding a task."""
    for task in TASKS:
        _file(env_id(task), "MjxSerlEnv", "MjxSerlVectorEnv", {"task": task})
    for name in ANCESTORS:
        _file(name, "make_ancestor", "make_ancestor_vec", {"ancestor": name})


def _file(name: str, single: str, vector: str, kwargs: dict[str, Any]) -> None:
    # Where the ancestor itself is installed and was imported first, its ids stay its own.
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point=f"{__name__}:{single}",
            vector_entry_point=f"{__name__}:{vector}",
            kwargs=kwargs,
        )


def make_ancestor(ancestor: str, **options: Any) -> "MjxSerlEnv":
    """Return one world that observes and acts as an ancestor's.

    Args:
        ancestor: its id.
        options: of `EnvOptions` but for the cameras, which are the ancestor's, and what it takes
            itself; raises KeyError with the allowed ones.
    """
    entry = ANCESTORS[ancestor]
    return MjxSerlEnv(entry.task, interface=entry, **_options_of(entry, options))


def make_ancestor_vec(
    ancestor: str,
    *,
    num_envs: int = 1,
    max_episode_steps: int | None = None,
    **options: Any,
) -> "MjxSerlVectorEnv":
    """Return `num_envs` worlds that observe and act as an ancestor's; see `make_ancestor`."""
    entry = ANCESTORS[ancestor]
    return MjxSerlVectorEnv(
        entry.task,
        num_envs=num_envs,
        max_episode_steps=max_episode_steps,
        interface=entry,
        **_options_of(entry, options),
    )


def _options_of(entry: Ancestor, options: Mapping[str, Any]) -> dict[str, Any]:
    ours = {field.name for field in dataclasses.fields(EnvOptions)}
    return entry.choose(options, ours - {"cameras", "image_size"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """What both environments take by keyword, and so do `gymnasium.make` and `make_vec`.

    Attributes:
        physics: "native", "mjx" or "warp"; None picks for the platform.
        cameras: of the scene, observed as uint8 [H, W, 3]; what only a simulator knows is then no
            longer observed.
        image_size: width and height of their pictures [px].
        scan: folder of a scanned scene that the pictures are drawn from (docs/scans.md).
        room: wood or lab, or a file: a table, walls and things around (docs/scans.md).
        looks: .npz files of robot surfaces beyond the shipped ones.
        shadows: draw soft shadows on the table below what comes near it.
        render_mode: "rgb_array" makes `render` return a view from the side; None none.
        render_size: width and height of that view [px].
        episode_steps: time limit in control steps; None is the task's. `make`'s own
            max_episode_steps adds a wrapper, which can only end an episode earlier.
    """

    physics: str | None = None
    cameras: Sequence[str] = ()
    image_size: int = 64
    scan: Path | str | None = None
    room: str | None = None
    looks: Sequence[Path | str] = ()
    shadows: bool = False
    render_mode: str | None = None
    render_size: int = SIDE_SIZE
    episode_steps: int | None = None

    def __post_init__(self) -> None:
        if self.render_mode not in (None, *RENDER_MODES):
            raise InputError(
                f"render_mode '{self.render_mode}', allowed: {', '.join(RENDER_MODES)} or None"
            )
        if isinstance(self.cameras, str):
            raise InputError(f"cameras '{self.cameras}', allowed: a list, ['{self.cameras}']")
        if self.episode_steps is not None and self.episode_steps < 1:
            raise InputError(f"episode_steps {self.episode_steps}, allowed: at least 1")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "EnvOptions":
        """Return those given by keyword; raises KeyError with the allowed names."""
        require_fields(cls, options, kind="option")
        return cls(**options)

    def pixels(self, cameras: Sequence[str], size: int) -> PixelConfig:
        """Return the cameras of that size with the files they are drawn from."""
        scan = None if self.scan is None else Path(self.scan)
        surfaces = tuple(Path(file) for file in self.looks)
        config = PixelConfig(
            cameras=tuple(cameras),
            size=size,
            scan=scan,
            room=self.room,
            surfaces=surfaces,
            shadows=self.shadows,
        )
        return config.pinned()


@struct.dataclass
class _Worlds:
    """All worlds between two steps.

    Attributes:
        state: the worlds.
        look: their appearance; () without cameras.
        keys: of each one's next episode.
        ended: which of them a vector environment starts again in the next step.
    """

    state: EnvState
    look: PyTree
    keys: Key[Array, " N"]
    ended: Bool[Array, " N"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """The compiled functions of N worlds that both environments are made of.

    Attributes:
        observer: one world, and what is observed of it.
        side: the same world seen from the side; None where nothing is rendered.
        episode_steps: time limit in control steps.
        interface: what is observed and sent from outside.
    """

    observer: Observer
    side: Observer | None
    episode_steps: int
    interface: Interface

    @functools.cached_property
    def spaces(self) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
        """What one world observes and takes."""
        return self.interface.spaces(self.observer)

    @functools.cached_property
    def start(self) -> Callable[[Key[Array, " N"]], _Worlds]:
        """Return the start of the next episode of each key."""
        return jax.jit(self._start)

    @functools.cached_property
    def step(self) -> Callable[[_Worlds, Float[Array, "N A"]], _Worlds]:
        """Return the worlds after one step."""
        return jax.jit(self._step)

    @functools.cached_property
    def step_or_restart(self) -> Callable[[_Worlds, Float[Array, "N A"]], _Worlds]:
        """Return the worlds after one step, in which ended ones only start again."""
        return jax.jit(self._step_or_restart)

    @functools.cached_property
    def _pictures(self) -> Callable[[EnvState, PyTree], Obs]:
        pictures = self.observer.pictures
        return jax.jit(pictures) if self.observer.traceable else pictures

    @functools.cached_property
    def _views(self) -> Callable[[EnvState], Obs]:
        side = self.side
        assert side is not None  # `_Play.render` asks

        def views(state: EnvState) -> Obs:
            return side.pictures(state, side.looks(jax.random.key(0), state.t.shape[0]))

        return jax.jit(views) if side.traceable else views

    def to_host(self, worlds: _Worlds) -> tuple[HostObs, Any, Any, Any, dict[str, Any]]:
        """Return one copy on the host: numpy arrays [N, ...] that belong to the caller."""
        state = worlds.state
        pictures = self._pictures(state, worlds.look)
        obs = self.interface.observe(self.observer, state, pictures)
        solved = dict.fromkeys(("success", self.interface.success_name), state.success)
        info = {**solved, "valid": state.valid, **state.metrics}
        return jax.tree.map(np.array, (obs, state.reward, state.terminated, state.truncated, info))

    def views(self, worlds: _Worlds) -> UInt8[np.ndarray, "N H W 3"]:
        """Return the worlds from the side."""
        return np.array(self._views(worlds.state)[SIDE])

    def _start(self, keys: Key[Array, " N"]) -> _Worlds:
        following, now = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        state = jax.vmap(self.observer.env.reset)(now)
        # Of each world's own key, so that its number of neighbours does not matter.
        looks = jax.vmap(lambda key: self.observer.looks(jax.random.fold_in(key, 1), 1))(now)
        look = jax.tree.map(lambda x: x[:, 0], looks)
        return _Worlds(state=state, look=look, keys=following, ended=state.terminated)

    def _step(self, worlds: _Worlds, actions: Float[Array, "N A"]) -> _Worlds:
        env = self.observer.env
        state = jax.vmap(env.step)(worlds.state, self.interface.act(env, worlds.state, actions))
        late = (state.t >= self.episode_steps) & ~state.terminated
        state = state.replace(truncated=late)
        return worlds.replace(state=state, ended=state.terminated | late)

    def _step_or_restart(self, worlds: _Worlds, actions: Float[Array, "N A"]) -> _Worlds:
        stepped = self._step(worlds, actions)

        def restart() -> _Worlds:
            return select_worlds(worlds.ended, self._start(worlds.keys), stepped)

        return jax.lax.cond(worlds.ended.any(), restart, lambda: stepped)


@dataclasses.dataclass(eq=False)
class _Play:
    """What both environments hold: compiled functions and the worlds that they step.

    Attributes:
        program: the functions.
        worlds: between two steps; None before the first reset.
        source: what their keys were drawn from.
    """

    program: _Program
    worlds: _Worlds | None = None
    source: np.random.Generator | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What Gymnasium asks of either environment."""
        fps = round(1 / self.program.observer.env.ctrl_dt)
        return {"render_modes": list(RENDER_MODES), "render_fps": fps}

    def begun(self, wanted: str) -> _Worlds:
        """Return the worlds; raises RuntimeError before the first reset."""
        if self.worlds is None:
            raise RuntimeError(f"{wanted}() before reset(): call reset() first")
        return self.worlds

    def told(self) -> list[str]:
        """Return what each world is told in words; RuntimeError before the first reset."""
        worlds = self.begun("get_language_instruction")
        return self.program.interface.told(self.program.observer.env, worlds.state)

    def drawn_from(self, source: np.random.Generator) -> _Worlds | None:
        """Return the worlds to go on with; None where the user has set another generator since."""
        return self.worlds if source is self.source else None

    def render(self) -> UInt8[np.ndarray, "N H W 3"] | None:
        """Return the worlds from the side; None where no render_mode was asked for."""
        if self.program.side is None:
            gymnasium.logger.warn('render() shows nothing: make(..., render_mode="rgb_array")')
            return None
        return self.program.views(self.begun("render"))


class _Spec:
    """The `spec` that Gymnasium sets, with the time limit filled in where it has none."""

    def __get__(self, env: Any, owner: type | None = None) -> Any:
        return None if env is None else env.__dict__.get("_spec")

    def __set__(self, env: Any, spec: Any) -> None:
        if spec is not None and spec.max_episode_steps is None:
            spec.max_episode_steps = env.episode_steps
        env.__dict__["_spec"] = spec


def _time_limit(env: Any) -> int:
    """Time limit in control steps."""
    return env._play.program.episode_steps


class MjxSerlEnv(gymnasium.Env[HostObs, np.ndarray]):
    """One world. The task's own time limit truncates, so no TimeLimit wrapper is needed.

    `info` holds `success`, `valid` (false where the state became non-finite) and the
    unscaled reward terms.

    Args:
        task: a registered task; raises KeyError with the allowed names.
        interface: how it looks from outside; the task's own way, or an ancestor's.
        options: see `EnvOptions`.
    """

    metadata = {"render_modes": list(RENDER_MODES)}  # noqa: RUF012  (as Gymnasium declares it)
    spec: Any = _Spec()
    episode_steps = property(_time_limit)

    def __init__(self, task: str, *, interface: Interface = _OWN, **options: Any) -> None:
        chosen = EnvOptions.of(options)
        self._play = _Play(_build(task, chosen, interface, max_worlds=1))
        self.metadata = self._play.metadata
        self.render_mode = chosen.render_mode
        self.observation_space, self.action_space = self._play.program.spaces

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[HostObs, dict[str, Any]]:
        """Return the start of an episode; equal seeds give equal sequences.

        Args:
            seed: begins such a sequence, as does setting `np_random`.
            options: none are known; raises ValueError for any.
        """
        _refuse_options(options, allowed=())
        super().reset(seed=seed)
        play, source = self._play, self.np_random
        old = play.drawn_from(source)
        keys = _keys([source]) if old is None else old.keys
        play.source, play.worlds = source, play.program.start(keys)
        obs, *_, info = play.program.to_host(play.worlds)
        return _first(obs), _unbatched(info)

    def step(self, action: np.ndarray) -> tuple[HostObs, float, bool, bool, dict[str, Any]]:
        """Return the world after an action in [-1, 1].

        Raises RuntimeError before a reset, ValueError for an action of another shape.
        """
        play = self._play
        worlds = play.begun("step")
        play.worlds = play.program.step(worlds, _checked(action, self.action_space)[None])
        obs, reward, terminated, truncated, info = play.program.to_host(play.worlds)
        ends = bool(terminated[0]), bool(truncated[0])
        return _first(obs), float(reward[0]), *ends, _unbatched(info)

    def get_language_instruction(self) -> str:
        """Return what the world is told in words; InputError where that is nothing."""
        return self._play.told()[0]

    def render(self) -> Any:
        """Return the view from the side, uint8 [H, W, 3]; None without a render_mode."""
        frames = self._play.render()
        return None if frames is None else frames[0]


class MjxSerlVectorEnv(gymnasium.vector.VectorEnv[HostObs, np.ndarray, np.ndarray]):
    """`num_envs` worlds stepped in one compiled call.

    A world that ended starts its next episode in the following step, whose action it ignores and
    whose reward is 0 (AutoresetMode.NEXT_STEP): the last observation of an episode is returned
    like any other. World i of `reset(seed=s)` plays what `MjxSerlEnv.reset(seed=s + i)` plays.

    Args:
        task: as in `MjxSerlEnv`.
        num_envs: worlds; raises ValueError unless positive.
        max_episode_steps: what `make_vec` calls `episode_steps`.
        interface: as of `MjxSerlEnv`.
        options: see `EnvOptions`.
    """

    spec: Any = _Spec()
    episode_steps = property(_time_limit)

    def __init__(
        self,
        task: str,
        *,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        interface: Interface = _OWN,
        **options: Any,
    ) -> None:
        require_worlds(num_envs)
        chosen = EnvOptions.of({"episode_steps": max_episode_steps, **options})
        self._play = _Play(_build(task, chosen, interface, max_worlds=num_envs))
        self.metadata = {**self._play.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = chosen.render_mode
        self.num_envs = num_envs
        spaces = self._play.program.spaces
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(s, num_envs) for s in spaces)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[HostObs, dict[str, Any]]:
        """Return the observations of all worlds, which are at their starts.

        Args:
            seed: one seed, from which the worlds count upwards, or one per world (raises
                ValueError on another number); None, also for one world, goes on with the key
                there is.
            options: `reset_mask`, bool [num_envs], starts those worlds again and leaves the
                others where they are; raises ValueError for other options.
        """
        _refuse_options(options, allowed=("reset_mask",))
        mask = self._mask((options or {}).get("reset_mask"))
        play = self._play
        worlds = play.program.start(self._keys(seed))
        if not mask.all():
            worlds = select_worlds(jnp.array(mask), worlds, play.begun("reset_mask"))
        play.worlds = worlds
        obs, *_, info = play.program.to_host(worlds)
        return obs, _masked(info, mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[HostObs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Return all worlds after one step.

        Raises RuntimeError before a reset, ValueError for actions of another shape.
        """
        play = self._play
        worlds = play.begun("step")
        play.worlds = play.program.step_or_restart(worlds, _checked(actions, self.action_space))
        obs, reward, terminated, truncated, info = play.program.to_host(play.worlds)
        masked = _masked(info, np.ones(self.num_envs, bool))
        return obs, _doubled(reward), terminated, truncated, masked

    def get_language_instruction(self) -> list[str]:
        """Return what each world is told in words; InputError where that is nothing."""
        return self._play.told()

    def render(self) -> tuple[UInt8[np.ndarray, "H W 3"], ...] | None:
        """Return each world's view from the side; None without a render_mode."""
        frames = self._play.render()
        return None if frames is None else tuple(frames)

    def _keys(self, seed: int | Sequence[int | None] | None) -> Key[Array, " N"]:
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise InputError(f"{len(seeds)} seeds for {self.num_envs} worlds; give one per world")
        unseeded = jnp.array([seed is None for seed in seeds])
        source = self.np_random
        old = self._play.drawn_from(source)
        if old is not None and seed is None:
            return old.keys
        self._play.source = source
        keys = _keys([source if s is None else seeding.np_random(int(s))[0] for s in seeds])
        return keys if old is None else select_worlds(unseeded, old.keys, keys)

    def _mask(self, mask: Any) -> Bool[np.ndarray, " N"]:
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise InputError(
                f"reset_mask {mask.dtype} {mask.shape} with {np.count_nonzero(mask)} worlds, "
                f"allowed: bool ({self.num_envs},) with at least one"
            )
        return mask


def _build(task: str, options: EnvOptions, interface: Interface, *, max_worlds: int) -> _Program:
    if os.getpid() != _IMPORTED_BY:
        raise InputError(
            "A forked process cannot use JAX, it would wait for ever: start the workers afresh, "
            'AsyncVectorEnv(..., context="spawn"), or step all worlds here with make_vec(...)'
        )
    if options.physics in ("mjx", "warp") and jax.default_backend() == "cpu":
        prepare_platform(mjx_on_cpu=True)  # warns: by now jax has started without the flag
    env = interface.equip(make_env(task, physics=options.physics, max_worlds=max_worlds))
    observer = options.pixels(options.cameras, options.image_size).build(env)
    side = None
    if options.render_mode is not None:
        seen = options.pixels([SIDE], options.render_size)
        more = max(seen.splats, splats_shown(options.render_size))
        side = dataclasses.replace(seen, splats=more).build(with_side_view(env))
    limit = options.episode_steps or interface.episode_steps(env)
    return _Program(observer, side, limit, interface)


def _keys(sources: Sequence[np.random.Generator]) -> Key[Array, " N"]:
    """Return one key drawn from each generator."""
    words = [source.integers(0, 2**32, 2, dtype=np.uint32) for source in sources]
    return jax.vmap(lambda pair: jax.random.fold_in(jax.random.key(pair[0]), pair[1]))(
        np.stack(words)
    )


def _refuse_options(options: dict[str, Any] | None, *, allowed: Sequence[str]) -> None:
    unknown = sorted(set(options or {}) - set(allowed))
    if unknown:
        raise InputError(f"reset options {unknown}, allowed: {', '.join(allowed) or 'none'}")


def _checked(action: np.ndarray, space: gymnasium.Space[np.ndarray]) -> Any:
    action = np.asarray(action, np.float32)
    if action.shape != space.shape:
        raise InputError(f"step: action of shape {action.shape}, allowed: {space.shape}")
    return action


def _first(obs: HostObs) -> HostObs:
    return jax.tree.map(lambda value: value[0], obs)


def _unbatched(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0].item() for name, value in info.items()}


def _masked(info: dict[str, np.ndarray], mask: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """Return every entry paired, as Gymnasium does, with a mask of the worlds that have it."""
    masks = {f"_{name}": mask.copy() for name in info}
    return {**{name: _doubled(values) for name, values in info.items()}, **masks}


def _doubled(values: np.ndarray) -> np.ndarray:
    """Return real numbers as Gymnasium's own vector environments do, float64; others as given."""
    return values.astype(np.float64) if np.issubdtype(values.dtype, np.floating) else values


register_envs()
