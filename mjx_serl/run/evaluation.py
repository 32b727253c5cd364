"""Evaluate, record and compare outside training: load a run's policy and play episodes."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np

from mjx_serl.config import TrainConfig
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.loop import Run, judged_rates, part_cells
from mjx_serl.run.robustness import run_grid
from mjx_serl.run.summary import GridCell
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import ON_DEMAND, evaluate, stream_key
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import PolicyParams
from scenes.contract.errors import InputError
from scenes.contract.ranges import require_episodes, require_seed
from scenes.contract.success_rate import success_line


def load_policy(path: Path) -> tuple[Run, PolicyParams]:
    """A run that is not trained on, and the policy parameters of its latest good checkpoint.

    The run's progress is at that one's epoch. What else a checkpoint holds may be of another
    version.
    """
    folder = RunFolder.open(path)
    run = Run(folder.read_config(TrainConfig), folder)
    shapes = jax.eval_shape(run.trainer.policy_params, run.trainer.state_shapes())
    params, run.progress.epoch, _ = run.store.restore(shapes, part=True)
    return run, params


def evaluate_run(
    path: Path,
    *,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    seen_words: bool = False,
) -> tuple[TrainConfig, EpisodeResult]:
    """Play `episodes` of a run's latest good checkpoint.

    The starts come from a stream that neither training nor its own evaluations draw from;
    `seed` picks among them. Raises InputError for numbers out of range, and `seen_words` of a task
    that says nothing (`evaluate`).
    """
    require_episodes(episodes)
    require_seed(seed)
    run, params = load_policy(path)
    if seen_words and run.env.told is None:
        raise InputError(f"--seen-words of '{run.cfg.task}', which tells nothing in words")
    policy = trained_policy(run.trainer, params, deterministic=deterministic)
    how = {"episodes": episodes, "horizon": run.trainer.horizon, "seen_words": seen_words}
    play = partial(evaluate, run.observer, policy, **how)
    result = (jax.jit(play) if run.trainer.traceable else play)(stream_key(seed, ON_DEMAND))
    return run.cfg, jax.device_get(result)


def evaluate_grid(path: Path, *, episodes: int, seed: int) -> tuple[GridCell, ...]:
    """Play `episodes` in each cell of the grid of extremes, and note it in `summary.json`.

    The starts are those of `evaluate_run`. Raises InputError for numbers out of range, or a run
    that has no grid.
    """
    require_episodes(episodes)
    require_seed(seed)
    run, params = load_policy(path)
    cells = run_grid(run, params, stream_key(seed, ON_DEMAND), episodes=episodes)
    summary = run.folder.read_summary()
    if summary is not None:
        run.folder.write_summary(dataclasses.replace(summary, grid=cells))
    return cells


def describe(result: EpisodeResult) -> str:
    """Success rate with its Wilson 95 % interval, return and length, in one line.

    Of a task by turns a line for each of its parts follows, of a classifier's verdicts two more.
    """
    solved, total = int(np.sum(result.success)), len(result.success)
    parts = [f"\n{c.name}  {success_line(c.successes, c.episodes)}" for c in part_cells(result)]
    parts += [f"\n{name.replace('_', ' ')} {x:.1%}" for name, x in judged_rates(result).items()]
    return (
        f"{success_line(solved, total)}, "
        f"return {np.mean(result.returns):.3f}, {np.mean(result.steps):.1f} steps per episode"
        f"{''.join(parts)}"
    )
