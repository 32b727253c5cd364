"""Evaluate a trained run on fresh episodes: `python evaluate.py runs/NAME --episodes 100`."""

from pathlib import Path

import tyro

from mjx_serl.platform import needs_mjx, prepare_platform, program_cache
from scenes.contract.command_line import guarded
from scenes.contract.errors import InputError


def main(
    run: tyro.conf.Positional[Path],
    /,
    episodes: int = 100,
    seed: int = 0,
    grid: tyro.conf.FlagCreatePairsOff[bool] = False,
    seen_words: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Play episodes that training never started from and print the success rate.

    Args:
        run: the run folder.
        episodes: how many.
        seed: picks other starts.
        grid: play so many in each cell of a grid of extremes of the physics instead, and note it
            in the run's summary.json.
        seen_words: tell worlds what to do in the phrasings of training, not in those held out of
            it, of a task that has any.
    """
    prepare_platform(mjx_on_cpu=needs_mjx(run=run), cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    from mjx_serl.run.evaluation import describe, evaluate_grid, evaluate_run
    from mjx_serl.run.robustness import describe_grid

    if grid and seen_words:
        raise InputError("--seen-words with --grid, allowed: one of the two")
    if grid:
        print(describe_grid(evaluate_grid(run, episodes=episodes, seed=seed)))
        return 0
    _, result = evaluate_run(run, episodes=episodes, seed=seed, seen_words=seen_words)
    print(describe(result))
    return 0


def run() -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main))
