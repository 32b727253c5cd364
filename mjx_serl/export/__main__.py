"""Export a trained run's policy for a robot: python -m mjx_serl.export runs/NAME

Writes a policy bundle (see `mjx_serl.export.bundle`), which `deploy.py` runs without JAX. Runs that
end by themselves have left one already, in `bundle` of their folder.
"""

import sys
from pathlib import Path

import tyro

from mjx_serl.platform import needs_mjx, prepare_platform, program_cache
from scenes.contract.command_line import guarded


def main(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path | None] = None,
    /,
    noise: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Export the latest good checkpoint of a run.

    Args:
        run: the run folder.
        out: the folder to make; by default `bundle` in the run folder.
        noise: with what the policy does from noise that is given (explore.onnx), by which clients
            of `serve` may steer it.
    """
    prepare_platform(mjx_on_cpu=needs_mjx(run=run), cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    from mjx_serl.export.export_run import export

    export(run, out, noise=noise)
    return 0


def run(prog: str | None = None) -> int:
    """Read the command line; returns the exit status."""
    return guarded(lambda: tyro.cli(main, prog=prog, description=__doc__))


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.export"))
