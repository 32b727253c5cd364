"""Videos of episodes: record what all cameras see, join the frames, write them to a folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Shaped, UInt8

from mjx_serl.envs.observation import Observer, PixelConfig, colors
from mjx_serl.envs.task import split_keys
from mjx_serl.envs.vector import VecState
from mjx_serl.training.episodes import EpisodeKeys, play_episodes
from mjx_serl.types import PRNGKey
from mjx_serl.viewing.policies import WorldPolicy
from mjx_serl.viewing.recorded_env import RecordedEnv, build_recorded_env
from mjx_serl.viewing.video import Frames, grid, save_picture, save_video, side_by_side

HOLD_S = 0.7  # the last picture of an episode stays this long [s]
MOST_WORLDS = 64  # in worlds.png


@struct.dataclass
class EpisodePictures:
    """Pictures of E episodes of T steps.

    Attributes:
        pictures: by camera.
        running: whether the episode had not ended before the step.
        success: whether the task was solved.
    """

    pictures: dict[str, UInt8[Array, "T E ..."]]
    running: Bool[Array, "T E"]
    success: Bool[Array, " E"]


def rollout_pictures(
    recorded: RecordedEnv, policy: WorldPolicy, key: PRNGKey, *, episodes: int
) -> EpisodePictures:
    """Play one episode in each of `episodes` fresh worlds and return the pictures.

    It can be jitted where `recorded` is traceable.
    """
    k_start, k_act = jax.random.split(key)
    # The starts of `evaluate`, with looks of their own.
    keys = EpisodeKeys(
        starts=split_keys(k_start, episodes),
        look=jax.random.fold_in(k_start, 2),
        steps=jax.random.split(k_act, recorded.env.task.episode_steps),
    )
    result, (pictures, running) = play_episodes(
        recorded,
        partial(recorded.choose, policy),
        keys,
        keep=lambda step: (step.pictures.recorded, step.running),
        horizon=recorded.horizon_of(policy),
    )
    return EpisodePictures(pictures, running, result.success)


def record_episodes(
    recorded: RecordedEnv, policy: WorldPolicy, key: PRNGKey, *, episodes: int
) -> EpisodePictures:
    """Return `rollout_pictures` on the host, compiled where that is possible."""
    roll = partial(rollout_pictures, recorded, episodes=episodes)
    return jax.device_get((jax.jit(roll) if recorded.traceable else roll)(policy, key))


def join_frames(recorded: RecordedEnv, episodes: EpisodePictures) -> Frames:
    """Return one episode after the other, cameras side by side, each end held for a moment."""
    hold = round(HOLD_S / recorded.env.ctrl_dt)
    parts = []
    for episode in range(episodes.running.shape[1]):
        # The row after the last step shows what that step led to.
        shown = np.arange(min(int(episodes.running[:, episode].sum()) + 1, len(episodes.running)))
        shown = np.append(shown, np.repeat(shown[-1], hold))
        views = [np.asarray(episodes.pictures[name])[shown, episode] for name in recorded.cameras]
        parts.append(side_by_side(views))
    return np.concatenate(parts)


def save_episodes(
    path: Path, recorded: RecordedEnv, policy: WorldPolicy, key: PRNGKey, *, episodes: int
) -> EpisodePictures:
    """Play `episodes`, write their video and return them; errors as in `save_video`."""
    played = record_episodes(recorded, policy, key, episodes=episodes)
    save_video(path, join_frames(recorded, played), fps=1.0 / recorded.env.ctrl_dt)
    return played


def save_start(path: Path, recorded: RecordedEnv, key: PRNGKey) -> None:
    """Write a picture of an episode's start, all cameras side by side."""
    worlds, look = jax.jit(partial(recorded.start, episodes=1))(key)
    draw = jax.jit(recorded.pictures) if recorded.traceable else recorded.pictures
    views = jax.device_get(draw(worlds, look).recorded)
    save_picture(path, side_by_side([np.asarray(views[name]) for name in recorded.cameras])[0])


def save_worlds(path: Path, pictures: dict[str, Shaped[Array, "N H W 3"]]) -> None:
    """Write a grid of worlds, each with its cameras side by side."""
    views = [np.asarray(jax.device_get(view[:MOST_WORLDS])) for view in pictures.values()]
    save_picture(path, grid(np.concatenate(views, axis=2)))


def describe_success(episodes: EpisodePictures) -> str:
    """Return how many of the episodes were solved, as text."""
    return f"{int(np.sum(episodes.success))} of {len(episodes.success)} episodes solved"


class VideoWriter:
    """Writes worlds.png and policy.mp4 into a run's folder; a failure is one line to `warn`.

    Args:
        folder: of the run.
        observer: what its policy observes.
        pixels: of the run.
        warn: takes the line; a run goes on without its pictures.
    """

    def __init__(
        self, folder: Path, observer: Observer, pixels: PixelConfig, *, warn: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._observer = observer
        self._pixels = pixels
        self._warn = warn

    def write_worlds(self, state: VecState) -> None:
        """Write what the cameras of the training worlds see now; nothing without cameras."""
        cameras = self._observer.cameras
        if cameras is None:
            return
        with self._tolerant("worlds.png") as path:
            save_worlds(path, colors(cameras.pictures(state.envs, state.look)))

    def write_policy(self, policy: WorldPolicy, key: PRNGKey, *, episodes: int = 2) -> None:
        """Write some episodes of a policy and print how they went."""
        with self._tolerant("policy.mp4") as path:
            recorded = build_recorded_env(self._observer, self._pixels)
            played = save_episodes(path, recorded, policy, key, episodes=episodes)
            print(f"video  {path}  {describe_success(played)}")

    @contextmanager
    def _tolerant(self, name: str) -> Iterator[Path]:
        try:
            yield self._folder / name
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{name} was not written ({reason})")
