"""What a caller sees of a task's worlds and sends to them: our own way, or an ancestor's."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium
import jax
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer
from mjx_serl.types import Obs, PyTree
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec

Path = tuple[str, ...]  # of an entry in an observation of dicts in dicts
Reading = Callable[[Env, EnvState], Float[Array, "..."]]  # of one world
Translation = Callable[[Env, EnvState, Float[Array, " A"]], Float[Array, " a"]]  # of one world


class Interface(Protocol):
    """How observations and actions of a task look from outside."""

    @property
    def success_name(self) -> str:
        """Name of success in `info`, besides ours."""
        ...

    def equip(self, env: Env) -> Env:
        """One world with the cameras that are observed."""
        ...

    def episode_steps(self, env: Env) -> int:
        """Time limit in control steps."""
        ...

    def spaces(self, observer: Observer) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
        """What one world observes and takes."""
        ...

    def observe(self, observer: Observer, worlds: EnvState, pictures: Obs) -> PyTree:
        """The observation of worlds [N], dicts of arrays [N, ...]."""
        ...

    def act(self, env: Env, worlds: EnvState, actions: Float[Array, "N A"]) -> Float[Array, "N a"]:
        """The task's own actions in worlds [N]."""
        ...

    def told(self, env: Env, worlds: EnvState) -> list[str]:
        """What worlds [N] are told in words; InputError where that is nothing."""
        ...


@dataclasses.dataclass(frozen=True)
class Own:
    """The task's own observations and actions."""

    success_name: str = "success"

    def equip(self, env: Env) -> Env:
        """The world as it is."""
        return env

    def episode_steps(self, env: Env) -> int:
        """Time limit in control steps."""
        return env.task.episode_steps

    def spaces(self, observer: Observer) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
        """One Box per field of the task, actions in [-1, 1]."""
        actions = gymnasium.spaces.Box(-1.0, 1.0, (observer.env.action_dim,), np.float32)
        return observation_space(observer.obs_spec), actions

    def observe(self, observer: Observer, worlds: EnvState, pictures: Obs) -> Obs:
        """What a policy of ours would see."""
        return observer.observe(worlds, pictures)

    def act(self, env: Env, worlds: EnvState, actions: Float[Array, "N A"]) -> Float[Array, "N A"]:
        """The actions as they are."""
        del env, worlds
        return actions

    def told(self, env: Env, worlds: EnvState) -> list[str]:
        """The phrasing that each world has drawn."""
        if env.told is None:
            raise InputError(
                f"The worlds of '{env.name}' are told nothing in words, allowed: a task with "
                "instructions, for example franka/put_cube_on_plate_instructed"
            )
        return [env.told.texts[which] for which in np.asarray(worlds.told)]


@dataclasses.dataclass(frozen=True)
class Number:
    """An entry of an ancestor's observation, float32.

    Attributes:
        path: where it is.
        shape: of one world's.
        read: computes it.
        privileged: left out where there are pictures.
    """

    path: Path
    shape: tuple[int, ...]
    read: Reading
    privileged: bool = False


@dataclasses.dataclass(frozen=True)
class Picture:
    """A camera of an ancestor, uint8 [height, width, 3].

    Attributes:
        path: where it is.
        camera: name of a camera of ours; a spec where the scene has none like it.
    """

    path: Path
    camera: str | CameraSpec

    @property
    def name(self) -> str:
        """Name of the camera that draws it."""
        return self.camera if isinstance(self.camera, str) else self.camera.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestor:
    """An environment of another project, played by a task of ours.

    Attributes:
        id: as its project spells it.
        project: whose it is.
        task: of ours.
        numbers: entries of its observation.
        pictures: its cameras.
        picture_shape: their height and width [px].
        pictures_by_choice: its option `image_obs` chooses whether there are pictures, else there
            are always.
        image_obs: what that option is where it is not given.
        low, high: of its actions.
        translate: one of its actions into ours.
        steps: its time limit in control steps.
        success_name: of success in its `info`.
        instruction: what it is told in words, always the same; "" nothing.
        differences: what is not as there, for a reader.
    """

    id: str
    project: str
    task: str
    numbers: tuple[Number, ...]
    pictures: tuple[Picture, ...]
    picture_shape: tuple[int, int] = (128, 128)
    pictures_by_choice: bool = False
    image_obs: bool = True
    low: tuple[float, ...]
    high: tuple[float, ...]
    translate: Translation
    steps: int = 100
    success_name: str = "success"
    instruction: str = ""
    differences: str

    def choose(self, options: Mapping[str, Any], allowed: set[str]) -> dict[str, Any]:
        """Return our options of its own; raises UnknownNameError for one that it has not.

        Args:
            options: as given to `gymnasium.make`.
            allowed: those of ours that leave its observation as it is.
        """
        known = allowed | ({"image_obs"} if self.pictures_by_choice else set())
        for name in options:
            if name not in known:
                raise UnknownNameError(unknown_name(f"option of {self.id}", name, known))
        rest = {name: value for name, value in options.items() if name != "image_obs"}
        if not options.get("image_obs", self.image_obs):
            return rest
        cameras = [picture.name for picture in self.pictures]
        return {**rest, "cameras": cameras, "image_size": max(self.picture_shape)}

    def equip(self, env: Env) -> Env:
        """Return a world that has the cameras its scene lacks."""
        own = env.scene.spec.cameras
        more = tuple(p.camera for p in self.pictures if isinstance(p.camera, CameraSpec))
        spec = dataclasses.replace(env.scene.spec, cameras=(*own, *more))
        return dataclasses.replace(env, scene=dataclasses.replace(env.scene, spec=spec))

    def episode_steps(self, env: Env) -> int:
        """Its time limit in control steps."""
        del env
        return self.steps

    def spaces(self, observer: Observer) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
        """Dicts in dicts as its own are."""
        seen = observer.cameras is not None
        boxes = {n.path: _unbounded(n.shape) for n in self._numbers(seen)}
        if seen:
            shape = (*self.picture_shape, 3)
            boxes |= {p.path: gymnasium.spaces.Box(0, 255, shape, np.uint8) for p in self.pictures}
        low, high = (np.asarray(bound, np.float32) for bound in (self.low, self.high))
        return _space_of(_nested(boxes)), gymnasium.spaces.Box(low, high, dtype=np.float32)

    def observe(self, observer: Observer, worlds: EnvState, pictures: Obs) -> PyTree:
        """Its observation: dicts in dicts."""
        read = self._numbers(observer.cameras is not None)
        found = dict(zip((n.path for n in read), _read(read, observer.env, worlds), strict=True))
        if observer.cameras is not None:
            found |= {p.path: self._cut(pictures[p.name]) for p in self.pictures}
        return _nested(found)

    def act(self, env: Env, worlds: EnvState, actions: Float[Array, "N A"]) -> Float[Array, "N a"]:
        """Its actions as ours, no longer than ours may be."""
        ours = jax.vmap(functools.partial(self.translate, env))(worlds, actions)
        return ours.clip(-1.0, 1.0)

    def told(self, env: Env, worlds: EnvState) -> list[str]:
        """Its one instruction, for each world."""
        del env
        if not self.instruction:
            raise InputError(f"The worlds of {self.id} are told nothing in words")
        return [self.instruction] * len(worlds.t)

    def _numbers(self, seen: bool) -> tuple[Number, ...]:
        return tuple(n for n in self.numbers if not (seen and n.privileged))

    def _cut(self, picture: Any) -> Any:
        """Its middle, as a square sensor is cut to a wide one."""
        height, width = self.picture_shape
        top, left = ((max(self.picture_shape) - side) // 2 for side in (height, width))
        return picture[:, top : top + height, left : left + width]


def observation_space(spec: ObsSpec) -> gymnasium.spaces.Dict:
    """Return a Dict of one Box per field; images are uint8 in [0, 255], the rest is unbounded."""
    return gymnasium.spaces.Dict({field.name: _box(field) for field in spec.fields})


def _box(field: ObsField) -> gymnasium.spaces.Box:
    dtype = np.dtype(field.dtype)
    if np.issubdtype(dtype, np.integer):
        return gymnasium.spaces.Box(0, np.iinfo(dtype).max, field.shape, dtype.type)
    return gymnasium.spaces.Box(-np.inf, np.inf, field.shape, dtype.type)


def _unbounded(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(numbers: tuple[Number, ...], env: Env, worlds: EnvState) -> list[Array]:
    return [jax.vmap(functools.partial(n.read, env))(worlds) for n in numbers]


def _nested(entries: Mapping[Path, Any]) -> dict[str, Any]:
    """Return dicts in dicts of entries by their path."""
    tree: dict[str, Any] = {}
    for path, value in entries.items():
        inner = tree
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        inner[path[-1]] = value
    return tree


def _space_of(tree: dict[str, Any]) -> gymnasium.spaces.Dict:
    inner: dict[str, Any] = {k: _space_of(v) if isinstance(v, dict) else v for k, v in tree.items()}
    return gymnasium.spaces.Dict(inner)
