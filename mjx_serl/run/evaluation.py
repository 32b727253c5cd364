"""Evaluate, record and compare outside training: load a run's policy and play episodes."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from mjx_serl.config import TrainConfig
from mjx_serl.data.demos import save_demos, select_episodes
from mjx_serl.envs.env import make_env
from mjx_serl.envs.pixels import Observer, PixelConfig
from mjx_serl.registry import Registry
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.film import (
    Player,
    Stage,
    build_players,
    build_stage,
    save_film,
    save_still,
    verdicts,
)
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run, demo_contract
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.evaluate import ON_DEMAND, EvalResult, evaluate, stream_key
from mjx_serl.training.state import TrainState
from scenes.contract.success_rate import success_line


def load_run(path: Path) -> tuple[Run, TrainState]:
    """A run and the state of its latest good checkpoint."""
    folder = RunFolder.open(path)
    run = Run(folder.read_config(TrainConfig), folder)
    state, _, _ = CheckpointStore(folder.checkpoints).restore(run.state_shapes())
    return run, state


def evaluate_run(
    path: Path, *, episodes: int, seed: int, deterministic: bool = True
) -> tuple[TrainConfig, EvalResult]:
    """Play `episodes` of a run's latest good checkpoint.

    The starts come from a stream that neither training nor its own evaluations draw from;
    `seed` picks among them.
    """
    run, state = load_run(path)
    policy = run.trainer.policy(state.agent, state.normalizer, deterministic=deterministic)
    play = partial(evaluate, run.observer, policy, episodes=episodes)
    result = (jax.jit(play) if run.trainer.traceable else play)(stream_key(seed, ON_DEMAND))
    return run.cfg, jax.device_get(result)


def build_cast(
    task: str, run: Path | None, name: str | None, *, size: int, episodes: int = 1
) -> tuple[Stage, Registry[Player], str]:
    """A task with its cameras and a side view, who can play it, and who shall.

    Args:
        task: a registered task; ignored where there is a run.
        run: a run folder: its own cameras keep their size, its policy plays as "trained".
        name: who plays; None is "trained" where there is a run, else "expert". KeyError names
            the allowed ones.
        size: width and height of all other cameras [px].
        episodes: worlds that will be played at once, at least 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes {episodes}, allowed: at least 1")
    if run is None:
        observer, pixels = Observer(make_env(task, max_worlds=episodes)), PixelConfig()
        players = build_players(observer.env)
    else:
        loaded, state = load_run(run)
        observer, pixels = loaded.observer, loaded.cfg.pixels
        players = build_players(loaded.env)
        players.register("trained")(loaded.player(state))
    chosen = name or ("trained" if run else "expert")
    players[chosen]  # refused before anything is drawn
    return build_stage(observer, pixels, size=size), players, chosen


def record(
    out: Path, stage: Stage, players: Registry[Player], name: str, *, episodes: int, seed: int
) -> str:
    """Film a player and say what came of it.

    Args:
        out: a .mp4 file, a .png file for a picture of the start only, or a folder for
            <task>-<name>.mp4.
        stage, players: from `build_cast`.
        name: who plays.
        episodes: how many.
        seed: picks the starts, which training never saw.
    """
    player, key = players[name], stream_key(seed, ON_DEMAND)
    single = out.suffix in (".mp4", ".png")
    path = out if single else out / f"{stage.env.name.replace('/', '-')}-{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        save_still(path, stage, key)
        return f"{path}: {', '.join(stage.cameras)}"
    footage = save_film(path, stage, player, key, episodes=episodes)
    return f"{path}: {verdicts(footage)}"


def describe(result: EvalResult) -> str:
    """Success rate with its Wilson 95 % interval, return and length, in one line."""
    solved, total = int(np.sum(result.success)), len(result.success)
    return (
        f"{success_line(solved, total)}, "
        f"return {np.mean(result.returns):.3f}, {np.mean(result.steps):.1f} steps per episode"
    )


def record_scripted(
    task: str, path: Path, *, episodes: int, noise: float, seed: int, pixels: PixelConfig
) -> int:
    """Write `episodes` solved episodes of a task's scripted expert; returns their steps.

    Raises FileExistsError where the file exists, ValueError where the expert fails too often.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; demonstrations are never overwritten")
    observer = pixels.build(make_env(task, max_worlds=2 * episodes))
    play = jax.jit(partial(demonstrate, observer, episodes=2 * episodes, noise=noise))
    rows, solved = jax.device_get(play(jax.random.key(seed)))
    chosen = select_episodes(rows, solved, episodes)
    save_demos(path, chosen, demo_contract(observer))
    return int(chosen.valid.sum())
