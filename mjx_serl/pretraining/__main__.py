"""Train the frozen image encoder of a task: python -m mjx_serl.pretraining OUT.npz

Renders the task in many looks and learns to tell what its simulator knows from the pictures. A
run takes it as `--pixels.frozen OUT.npz`.
"""

import sys
from pathlib import Path

import tyro

from mjx_serl.platform import prepare_platform


def main() -> int:
    """Read the command line and run."""
    from mjx_serl.pretraining.pretrain_run import PretrainRun, run

    run(tyro.cli(PretrainRun, description=__doc__))
    return 0


if __name__ == "__main__":
    prepare_platform(cache_dir=Path(__file__).resolve().parents[2] / ".cache" / "jax")
    from scenes.contract.command_line import guarded

    sys.exit(guarded(main))
