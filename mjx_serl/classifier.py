"""Train and test classifiers of success: python -m mjx_serl.classifier train FILE.npz

Plays the task in the simulator, draws and labels every state, and learns to tell from pictures
whether the task is solved. A run takes it as `--reward.classifier FILE.npz`.
"""

import sys
from typing import Annotated

import tyro

from mjx_serl.platform import prepare_platform, program_cache
from scenes.contract.command_line import guarded


def run(prog: str | None = None) -> int:
    """Read the command line and run; returns the exit status."""
    prepare_platform(cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    from mjx_serl.envs.task import describe_tasks
    from mjx_serl.pretraining import classifier_run as runs

    about = f"{__doc__}\n{describe_tasks()}"
    train = Annotated[runs.TrainClassifier, tyro.conf.subcommand("train")]
    test = Annotated[runs.TestClassifier, tyro.conf.subcommand("test")]

    def main() -> int:
        kind = train | test
        cfg = tyro.cli(kind, prog=prog, description=about)
        if isinstance(cfg, runs.TrainClassifier):
            runs.train(cfg)
        else:
            runs.test(cfg)
        return 0

    return guarded(main)


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.classifier"))
