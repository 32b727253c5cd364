"""Pictures of tasks: what their cameras see, random starts, and the expert at work."""

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mjx_serl.envs.env import EnvState, make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.task import TASKS
from mjx_serl.training.episodes import EpisodeStep, episode_keys, play_episodes
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.types import PRNGKey
from mjx_serl.viewing.policies import build_policies
from mjx_serl.viewing.recorded_env import SIDE, RecordedEnv, build_recorded_env
from mjx_serl.viewing.video import (
    Frames,
    grid,
    save_jpeg,
    save_video,
    side_by_side,
)
from scenes.contract.files import require_writable

WORLDS = 9  # three by three
STRIP = 6  # pictures of the expert
SIZE = 240  # of one picture [px]
LARGEST = 60_000  # of a picture's file [bytes]
_CRF = 30  # of the video: visibly coarser than a run's, a fifth of the bytes
_FRAMES = 120  # a longer episode is played faster
_HOLD_S = 0.7  # the last picture stays this long [s]

Draw = Callable[[EnvState], dict[str, np.ndarray]]  # worlds [N] to pictures [N, H, W, 3] by camera


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of the expert.

    Attributes:
        states: worlds before each step and after the last one, [T + 1, ...].
        solved: whether it ended solved.
        tried: episodes that were played to find it.
        successes: of those.
    """

    states: EnvState
    solved: bool
    tried: int
    successes: int


def save_gallery(
    out: Path,
    tasks: Sequence[str],
    *,
    seed: int,
    size: int = SIZE,
    pixels: PixelConfig | None = None,
) -> Iterator[str]:
    """Write the pictures of tasks into a folder, and yield a line after each.

    Args:
        out: the folder; "franka/pick_cube" becomes franka-pick_cube-views.jpg and so on.
        tasks: registered ones; KeyError names the allowed ones.
        seed: picks the starts, which training never saw.
        size: width and height of one picture [px].
        pixels: what they are drawn from.
    """
    for task in tasks:
        TASKS[task]  # an unknown one is told before anything is drawn
    out.mkdir(parents=True, exist_ok=True)
    require_writable(out / "gallery.jpg")
    key = stream_key(seed, ON_DEMAND)
    for task in tasks:
        yield _save_task(out / task.replace("/", "-"), task, key, size, pixels)


def _save_task(stem: Path, task: str, key: PRNGKey, size: int, pixels: PixelConfig | None) -> str:
    env = make_env(task, max_worlds=WORLDS)
    # All drawn in every picture: there are few, and they are to be looked at.
    whole = dataclasses.replace(pixels or PixelConfig(), cached=False)
    recorded = build_recorded_env(Observer(env), whole, size=size)
    draw = _drawer(recorded, key)
    starts = jax.jit(jax.vmap(env.reset))(jax.random.split(key, WORLDS))
    seen = draw(starts)
    cameras = [SIDE, *(name for name in recorded.cameras if name != SIDE)]
    save_jpeg(
        _named(stem, "views.jpg"),
        side_by_side([seen[name][:1] for name in cameras], least=size)[0],
        most=LARGEST,
    )
    save_jpeg(_named(stem, "worlds.jpg"), grid(seen[SIDE], columns=3), most=LARGEST)
    return f"{task}: {', '.join(cameras)}; {_save_expert(stem, recorded, draw, key, cameras)}"


def _save_expert(
    stem: Path, recorded: RecordedEnv, draw: Draw, key: PRNGKey, cameras: Sequence[str]
) -> str:
    """Write the strip and the video where there is an expert; returns how it went."""
    try:
        episode = play_expert(recorded, key)
    except NotImplementedError:
        return "no expert"
    frames = _draw_all(draw, episode.states)
    shown = [cameras[0], cameras[-1]] if len(cameras) > 1 else [cameras[0]]
    moments = np.linspace(0, len(frames[SIDE]) - 1, STRIP).round().astype(int)
    rows = np.concatenate([frames[name][moments] for name in shown])
    save_jpeg(_named(stem, "expert.jpg"), grid(rows, columns=STRIP), most=LARGEST)
    faster = -(-len(frames[SIDE]) // _FRAMES)
    together = side_by_side([frames[name][::faster] for name in shown], least=1)
    hold = np.repeat(together[-1:], round(_HOLD_S / recorded.env.ctrl_dt), axis=0)
    save_video(
        _named(stem, "expert.mp4"),
        np.concatenate([together, hold]),
        fps=1.0 / recorded.env.ctrl_dt,
        crf=_CRF,
    )
    return f"the expert solved {episode.successes} of {episode.tried}"


def play_expert(recorded: RecordedEnv, key: PRNGKey) -> Episode:
    """Return the first episode that the expert solves, else the first; NotImplementedError."""
    env = recorded.env
    policy = build_policies(env)["expert"]
    keys = episode_keys(key, episodes=WORLDS, steps=env.task.episode_steps)

    def act(worlds: EnvState, pictures: object, key: PRNGKey) -> jax.Array:
        del pictures
        return policy(worlds, worlds.obs, key)

    def keep(step: EpisodeStep) -> tuple:
        return step.before, step.after, step.running

    play = jax.jit(partial(play_episodes, Observer(env), act, keep=keep))
    result, (before, after, running) = play(keys)
    which = int(jnp.argmax(result.success))
    last = int(running[:, which].sum()) - 1
    # By jax: a state may hold keys.
    states = jax.tree.map(
        lambda x, y: jnp.concatenate([x[: last + 1, which], y[last : last + 1, which]]),
        before,
        after,
    )
    return Episode(
        states=states,
        solved=bool(result.success[which]),
        tried=WORLDS,
        successes=int(result.success.sum()),
    )


def _drawer(recorded: RecordedEnv, key: PRNGKey) -> Draw:
    """Return what draws any number of worlds, `WORLDS` at a time, all with one look."""
    look = jax.tree.map(lambda x: x[:1].repeat(WORLDS, axis=0), recorded.looks(key, WORLDS))
    pictures = partial(recorded.pictures, look=look)
    draw = jax.jit(pictures) if recorded.traceable else pictures

    def batch(worlds: EnvState) -> dict[str, np.ndarray]:
        return {name: np.asarray(view) for name, view in draw(worlds).recorded.items()}

    return batch


def _draw_all(draw: Draw, states: EnvState) -> dict[str, Frames]:
    """Return the pictures of states [T, ...], drawn in batches; the last one repeats its end."""
    steps = len(states.t)
    batches = np.minimum(np.arange(-(-steps // WORLDS) * WORLDS), steps - 1).reshape(-1, WORLDS)
    parts = [draw(jax.tree.map(operator.itemgetter(batch), states)) for batch in batches]
    return {name: np.concatenate([part[name] for part in parts])[:steps] for name in parts[0]}


def _named(stem: Path, end: str) -> Path:
    return stem.with_name(f"{stem.name}-{end}")
