"""Evaluate a trained run on fresh episodes: `python evaluate.py runs/NAME --episodes 100`."""

import sys
from pathlib import Path

import tyro

from mjx_serl.platform import prepare_platform, steps_with_mjx


def main(run: tyro.conf.Positional[Path], /, episodes: int = 100, seed: int = 0) -> int:
    """Play episodes that training never started from and print the success rate.

    Args:
        run: the run folder.
        episodes: how many.
        seed: picks other starts.
    """
    from mjx_serl.run.evaluation import describe, evaluate_run

    _, result = evaluate_run(run, episodes=episodes, seed=seed)
    print(describe(result))
    return 0


if __name__ == "__main__":
    prepare_platform(
        mjx_on_cpu=any(steps_with_mjx(["--resume", word]) for word in sys.argv[1:]),
        cache_dir=Path(__file__).resolve().parent / ".cache" / "jax",
    )
    from mjx_serl.commands import guarded

    sys.exit(guarded(lambda: tyro.cli(main)))
