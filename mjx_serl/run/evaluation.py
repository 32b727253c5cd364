"""Evaluate, record and compare outside training: load a run's policy and play episodes."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from mjx_serl.config import TrainConfig
from mjx_serl.data.demos import save_demos, select_episodes
from mjx_serl.envs.env import make_env
from mjx_serl.envs.pixels import PixelConfig
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run, demo_contract
from mjx_serl.run.summary import wilson_interval
from mjx_serl.training.collect import demonstrate
from mjx_serl.training.evaluate import ON_DEMAND, EvalResult, evaluate, stream_key


def evaluate_run(
    path: Path, *, episodes: int, seed: int, deterministic: bool = True
) -> tuple[TrainConfig, EvalResult]:
    """Play `episodes` of a run's latest good checkpoint.

    The starts come from a stream that neither training nor its own evaluations draw from;
    `seed` picks among them.
    """
    folder = RunFolder.open(path)
    cfg = folder.read_config(TrainConfig)
    run = Run(cfg, folder)
    shapes = run.state_shapes()
    state, _, _ = CheckpointStore(folder.checkpoints).restore(shapes)
    policy = run.trainer.policy(state.agent, state.normalizer, deterministic=deterministic)
    play = jax.jit(partial(evaluate, run.observer, policy, episodes=episodes))
    return cfg, jax.device_get(play(stream_key(seed, ON_DEMAND)))


def describe(result: EvalResult) -> str:
    """Success rate with its Wilson 95 % interval, return and length, in one line."""
    solved, total = int(np.sum(result.success)), len(result.success)
    low, high = wilson_interval(solved, total)
    return (
        f"success {solved}/{total} = {solved / total:.1%} (95 % interval {low:.1%} to {high:.1%}), "
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
