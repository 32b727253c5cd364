"""Episodes as pictures: what a policy's own cameras see, and how it looks from the side."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.task import split_keys
from mjx_serl.envs.vector import VecState
from mjx_serl.registry import Registry
from mjx_serl.training.episodes import EpisodeKeys, play_episodes, start_episodes
from mjx_serl.training.policies import Policy, random_policy
from mjx_serl.types import Obs, PRNGKey, PyTree
from mjx_serl.viewing.video import Frames, grid, save_picture, save_video, side_by_side
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.specs import CameraSpec

SIDE = "side"
SIDE_SIZE = 256  # of the side view beside cameras that may be small [px]
HOLD_S = 0.7  # the last picture of an episode stays this long [s]
MOST_WORLDS = 64  # in worlds.png


class Player(Protocol):
    """Whatever plays; a pytree, so that its parameters are arguments of what is compiled.

    It may look at the worlds, which a scripted expert has to.
    """

    def __call__(self, worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        """Choose actions in [-1, 1]."""
        ...


def build_players(env: Env) -> Registry[Player]:
    """Who can play any task: its scripted expert, uniform actions, zeros."""
    players: Registry[Player] = Registry("policy")
    uniform = random_policy(env.action_dim)

    @players.register("expert")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        expert = jax.vmap(env.task.demonstrate)
        return expert(worlds.sim, worlds.command, worlds.task_state)

    @players.register("random")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        return uniform({"t": worlds.t}, key)

    @players.register("zero")
    @Partial
    def _(worlds: EnvState, obs: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        return jnp.zeros((*worlds.t.shape, env.action_dim))

    return players


def learned(policy: Callable[..., Policy], *params: PyTree) -> Player:
    """The policy `policy(*params)`, which sees observations only."""
    count = len(params)
    return Partial(lambda *args: policy(*args[:count])(*args[count + 1 :]), *params)


@struct.dataclass
class Footage:
    """E episodes of T steps: pictures by camera, steps before the end, and who succeeded."""

    pictures: dict[str, UInt8[Array, "T E ..."]]
    running: Bool[Array, "T E"]
    success: Bool[Array, " E"]


@struct.dataclass
class Views:
    """Pictures of N worlds.

    Attributes:
        recorded: of all cameras by name, uint8 [N, H, W, 3].
        observed: what the policy observes of its own: pictures, or features of them.
    """

    recorded: Obs
    observed: Obs


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """What plays and who watches.

    observer: what the player sees; its cameras are in the film.
    onlooker: further cameras of the film, whose pictures no policy gets.
    """

    observer: Observer
    onlooker: Observer

    @property
    def env(self) -> Env:
        """One world."""
        return self.observer.env

    @property
    def cameras(self) -> tuple[str, ...]:
        """All of them, the player's own first."""
        eyes = (self.observer.eye, self.onlooker.eye)
        return tuple(name for eye in eyes if eye for name in eye.config.cameras)

    @property
    def traceable(self) -> bool:
        """Whether `pictures` may be called under jit."""
        return self.observer.traceable and self.onlooker.traceable

    def start(self, key: PRNGKey, episodes: int) -> tuple[EnvState, PyTree]:
        """Return fresh worlds and their looks."""
        return start_episodes(self, split_keys(key, episodes), jax.random.fold_in(key, 2))

    def looks(self, key: PRNGKey, num: int) -> PyTree:
        """Return the appearance of `num` new episodes."""
        source = self.onlooker if self.observer.eye is None else self.observer
        return source.looks(key, num)

    def pictures(self, worlds: EnvState, look: PyTree) -> Views:
        """Return what all cameras see of worlds [N], and what the policy observes of it."""
        eyes = (self.observer.eye, self.onlooker.eye)
        shots = [eye.pictures(worlds, look) for eye in eyes if eye]
        every = {name: view for shot in shots for name, view in shot.items()}
        return Views(every, self.observer.pictures(worlds, look))

    def choose(
        self, player: Player, worlds: EnvState, views: Views, key: PRNGKey
    ) -> Float[Array, "N A"]:
        """Return the actions of a policy in worlds [N]."""
        return player(worlds, self.observer.observe(worlds, views.observed), key)

    def act(
        self, player: Player, worlds: EnvState, views: Views, key: PRNGKey
    ) -> tuple[EnvState, Bool[Array, " N"]]:
        """Return the worlds after one step, and which of them ended with it."""
        after = jax.vmap(self.env.step)(worlds, self.choose(player, worlds, views, key))
        return after, after.terminated | after.truncated


def build_stage(observer: Observer, pixels: PixelConfig, *, size: int = SIDE_SIZE) -> Stage:
    """Add the side view, and the scene's cameras that the observer lacks, `size` [px] wide.

    Args:
        observer: what plays.
        pixels: the observer's; backend, splats and colours of the added cameras are its own.
        size: width and height of the added cameras [px].
    """
    scene = observer.env.scene
    spec = scene.spec
    if SIDE not in [camera.name for camera in spec.cameras]:
        spec = dataclasses.replace(spec, cameras=(*spec.cameras, side_camera()))
    env = dataclasses.replace(observer.env, scene=dataclasses.replace(scene, spec=spec))
    own = observer.eye.config.cameras if observer.eye else ()
    names = tuple(camera.name for camera in spec.cameras if camera.name not in own)
    # The side view stands still: shaking it randomises nothing that a policy sees.
    look = dataclasses.replace(pixels.look, camera_position=0.0, camera_angle=0.0)
    config = dataclasses.replace(pixels, cameras=names, size=size, look=look, frozen=None)
    return Stage(observer, config.build(env))


def rollout_pictures(stage: Stage, player: Player, key: PRNGKey, *, episodes: int) -> Footage:
    """Play one episode in each of `episodes` fresh worlds and return the pictures.

    It can be jitted where the stage is traceable.
    """
    k_start, k_act = jax.random.split(key)
    # The starts of `evaluate`, with looks of their own.
    keys = EpisodeKeys(
        starts=split_keys(k_start, episodes),
        look=jax.random.fold_in(k_start, 2),
        steps=jax.random.split(k_act, stage.env.task.episode_steps),
    )
    result, (pictures, running) = play_episodes(
        stage,
        partial(stage.choose, player),
        keys,
        keep=lambda step: (step.pictures.recorded, step.running),
    )
    return Footage(pictures, running, result.success)


def shoot(stage: Stage, player: Player, key: PRNGKey, *, episodes: int) -> Footage:
    """`rollout_pictures`, compiled where that is possible, on the host."""
    roll = partial(rollout_pictures, stage, episodes=episodes)
    return jax.device_get((jax.jit(roll) if stage.traceable else roll)(player, key))


def cut(stage: Stage, footage: Footage) -> Frames:
    """One episode after the other, its cameras side by side, its end held for a moment."""
    hold = round(HOLD_S / stage.env.ctrl_dt)
    parts = []
    for episode in range(footage.running.shape[1]):
        # The row after the last step shows what that step led to.
        shown = np.arange(min(int(footage.running[:, episode].sum()) + 1, len(footage.running)))
        shown = np.append(shown, np.repeat(shown[-1], hold))
        views = [np.asarray(footage.pictures[name])[shown, episode] for name in stage.cameras]
        parts.append(side_by_side(views))
    return np.concatenate(parts)


def save_film(path: Path, stage: Stage, player: Player, key: PRNGKey, *, episodes: int) -> Footage:
    """Play `episodes` and write their video; errors as in `save_video`."""
    footage = shoot(stage, player, key, episodes=episodes)
    save_video(path, cut(stage, footage), fps=1.0 / stage.env.ctrl_dt)
    return footage


def save_still(path: Path, stage: Stage, key: PRNGKey) -> None:
    """Write a picture of an episode's start, all cameras side by side."""
    worlds, look = stage.start(key, 1)
    views = jax.device_get(stage.pictures(worlds, look).recorded)
    save_picture(path, side_by_side([np.asarray(views[name]) for name in stage.cameras])[0])


def save_worlds(path: Path, pictures: dict[str, Shaped[Array, "N H W 3"]]) -> None:
    """Write a grid of worlds, each with its cameras side by side."""
    views = [np.asarray(jax.device_get(view[:MOST_WORLDS])) for view in pictures.values()]
    save_picture(path, grid(np.concatenate(views, axis=2)))


def side_camera() -> CameraSpec:
    """Right of the robot, a little in front: arm, hand and table at once (ours, by eye)."""
    pos = (0.95, -0.95, 0.65)
    return CameraSpec(name=SIDE, pos=pos, quat=look_at(pos, (0.3, 0.0, 0.2)), fovy=45)


def look_at(eye: Vec3, target: Vec3) -> Quat:
    """Orientation (wxyz) of a MuJoCo camera at `eye` [m] that looks at `target`, +z up."""
    back = np.subtract(eye, target)
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    matrix = np.stack([right, np.cross(back, right), back], axis=-1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, matrix.ravel())
    w, x, y, z = map(float, quat)
    return w, x, y, z


class VideoWriter:
    """Writes worlds.png and policy.mp4 into a run's folder; no picture is worth the run."""

    def __init__(
        self, folder: Path, observer: Observer, pixels: PixelConfig, *, warn: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._observer = observer
        self._pixels = pixels
        self._warn = warn

    def show_worlds(self, worlds: VecState) -> None:
        """Write what the cameras of the training worlds see now; nothing without cameras."""
        eye = self._observer.eye
        if eye is None:
            return
        with self._tolerant("worlds.png") as path:
            save_worlds(path, eye.pictures(worlds.worlds, worlds.look))

    def film(self, player: Player, key: PRNGKey, *, episodes: int = 2) -> None:
        """Write some episodes of a policy and say so."""
        with self._tolerant("policy.mp4") as path:
            stage = build_stage(self._observer, self._pixels)
            footage = save_film(path, stage, player, key, episodes=episodes)
            print(f"video  {path}  {verdicts(footage)}")

    @contextmanager
    def _tolerant(self, name: str) -> Iterator[Path]:
        try:
            yield self._folder / name
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{name} was not written ({reason})")


def verdicts(footage: Footage) -> str:
    """How many of the episodes were solved."""
    return f"{int(np.sum(footage.success))} of {len(footage.success)} episodes solved"
