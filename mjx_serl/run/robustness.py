"""The grid of extremes of a run: success of its policy in each cell, for `summary.json`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from mjx_serl.envs.observation import Observer
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Output, Run
from mjx_serl.run.summary import GridCell, Summary
from mjx_serl.training.episodes import EpisodeResult
from mjx_serl.training.evaluate import FINAL, evaluate, stream_key
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.robustness import LOOKS, physics_grid, play_grid
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.types import PRNGKey
from scenes.contract.errors import InputError
from scenes.contract.success_rate import success_line


class RunGrid(Output):
    """Plays the grid at the end of a run that `EvalConfig.grid` asks it of."""

    def after_run(self, run: Run, state: TrainState, summary: Summary) -> None:
        """Note the grid in `summary.json`."""
        episodes, params = run.cfg.eval.grid, run.trainer.policy_params(state)
        if not episodes:
            return
        key = stream_key(run.cfg.seed, FINAL)
        try:
            with run.activity.doing("playing the grid of extremes"):
                cells = run_grid(run, params, key, episodes=episodes)
        except InputError as error:  # the run itself is finished and on disk
            warn_line(f"no grid of extremes was played ({error})")
            return
        run.folder.write_summary(replace(summary, grid=cells))
        print(describe_grid(cells))


def run_grid(
    run: Run, params: PolicyParams, key: PRNGKey, *, episodes: int
) -> tuple[GridCell, ...]:
    """Play `episodes` in each cell: the same starts in all, with the deterministic policy.

    Where the policy has cameras, they and the light are moved in cells of their own, in the task's
    own physics. Raises InputError for a task or a physics without a grid.
    """
    policy, grid = trained_policy(run.trainer, params), physics_grid(run.env)
    size = {"episodes": episodes, "horizon": run.trainer.horizon}
    play = partial(play_grid, run.observer, grid, policy, **size)
    played = _compiled(run.observer, play)(key)
    rates = dict(zip(grid.cells, np.asarray(played.success), strict=True))
    cameras = run.observer.cameras
    for name, look in LOOKS.items() if cameras is not None else ():
        other = replace(run.cfg.pixels, look=look).build(run.env, cameras and cameras.encoder)
        seen = _compiled(other, partial(evaluate, other, policy, **size))(key)
        rates[name] = np.asarray(seen.success)
    return tuple(GridCell.of(name, success) for name, success in rates.items())


def describe_grid(cells: tuple[GridCell, ...]) -> str:
    """One line for each cell."""
    width = max(len(cell.name) for cell in cells)
    return "\n".join(
        f"{cell.name:<{width}}  {success_line(cell.successes, cell.episodes)}" for cell in cells
    )


def _compiled(
    observer: Observer, play: Callable[[PRNGKey], EpisodeResult]
) -> Callable[[PRNGKey], EpisodeResult]:
    return jax.jit(play) if observer.traceable else play
