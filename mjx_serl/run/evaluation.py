"""Evaluate, record and compare outside training: load a run's policy and play episodes."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from mjx_serl.config import TrainConfig
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import ON_DEMAND, evaluate, stream_key
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
) -> tuple[TrainConfig, EpisodeResult]:
    """Play `episodes` of a run's latest good checkpoint.

    The starts come from a stream that neither training nor its own evaluations draw from;
    `seed` picks among them.
    """
    run, state = load_run(path)
    policy = run.trainer.policy(state.agent, state.normalizer, deterministic=deterministic)
    play = partial(evaluate, run.observer, policy, episodes=episodes)
    result = (jax.jit(play) if run.trainer.traceable else play)(stream_key(seed, ON_DEMAND))
    return run.cfg, jax.device_get(result)


def describe(result: EpisodeResult) -> str:
    """Success rate with its Wilson 95 % interval, return and length, in one line."""
    solved, total = int(np.sum(result.success)), len(result.success)
    return (
        f"{success_line(solved, total)}, "
        f"return {np.mean(result.returns):.3f}, {np.mean(result.steps):.1f} steps per episode"
    )
