"""Demonstrations of a run: read from a file or made by the scripted expert."""

from functools import partial
from pathlib import Path

import jax

from mjx_serl.config import TrainConfig
from mjx_serl.data.demos import DemoContract, load_demos, save_demos, select_episodes
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.evaluate import (
    DEMOS,
    stream_key,
)
from mjx_serl.training.scan import run_once
from mjx_serl.types import Transition
from scenes.contract.demonstrations import check_absent

# Experts fail now and then: this many more episodes are played than are wanted.
SPARE_DEMOS = 1.5


def script_demos(observer: Observer, count: int, *, noise: float, seed: int) -> Transition | None:
    """Solved episodes of the scripted expert as rows [episode_steps, count, ...] on the host.

    Raises ValueError where the expert solves too few.
    """
    if count == 0:
        return None
    play = partial(demonstrate, observer, episodes=round(SPARE_DEMOS * count) + 4, noise=noise)
    rows, solved = jax.device_get(
        run_once(play, stream_key(seed, DEMOS), traceable=observer.traceable)
    )
    return select_episodes(rows, solved, count)


def recorded_demos(cfg: TrainConfig, observer: Observer) -> Transition | None:
    """Rows [T, M, ...] of the config's file of demonstrations, None where there is none."""
    if cfg.demos.file is None:
        return None
    return load_demos(cfg.demos.file, demo_contract(observer))


def demo_contract(observer: Observer) -> DemoContract:
    """What demonstrations for this task and these cameras must agree on."""
    env = observer.env
    return DemoContract.of(env.name, observer.obs_spec, env.action_spec)


def script_shapes(cfg: TrainConfig, observer: Observer) -> Transition | None:
    """Shapes of what `script_demos` will make; the rows themselves where nothing is traced."""
    if cfg.demos.count == 0:
        return None
    if not observer.traceable:
        return script_demos(observer, cfg.demos.count, noise=cfg.demos.noise, seed=cfg.seed)
    play = partial(demonstrate, observer, episodes=cfg.demos.count, noise=cfg.demos.noise)
    return jax.eval_shape(play, stream_key(0, DEMOS))[0]


def record_scripted(
    task: str, path: Path, *, episodes: int, noise: float, seed: int, pixels: PixelConfig
) -> int:
    """Write `episodes` solved episodes of a task's scripted expert; returns their steps.

    Raises FileExistsError where the file exists, ValueError where the expert fails too often.
    """
    check_absent(path)
    observer = pixels.build(make_env(task, max_worlds=2 * episodes))
    play = jax.jit(partial(demonstrate, observer, episodes=2 * episodes, noise=noise))
    rows, solved = jax.device_get(play(jax.random.key(seed)))
    chosen = select_episodes(rows, solved, episodes)
    save_demos(path, chosen, demo_contract(observer))
    return int(chosen.valid.sum())
