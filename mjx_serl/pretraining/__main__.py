"""Train the frozen image encoder of a task: python -m mjx_serl.pretraining OUT.npz

Renders the task in many looks and learns to tell what its simulator knows from the pictures. A
run takes it as `--pixels.frozen OUT.npz`. With `--from-serl resnet10_params.pkl` nothing is
trained: OUT.npz is the ResNet-10 of SERL's file. With `--vla` a whole net of `--agent.net vla` is
taught to see, which a run begins with: `--init OUT`.
"""

import sys

import tyro

from mjx_serl.platform import prepare_platform, program_cache
from scenes.contract.command_line import guarded


def run(prog: str | None = None) -> int:
    """Read the command line and run; returns the exit status."""
    prepare_platform(cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    from mjx_serl.envs.task import describe_tasks
    from mjx_serl.pretraining import pretrain_run

    about = f"{__doc__}\n{describe_tasks()}"

    def main() -> int:
        cfg = tyro.cli(pretrain_run.PretrainRun, prog=prog, description=about)
        if cfg.from_serl is not None:
            pretrain_run.convert(cfg, cfg.from_serl)
        elif cfg.vla:
            pretrain_run.teach(cfg)
        else:
            pretrain_run.run(cfg)
        return 0

    return guarded(main)


if __name__ == "__main__":
    sys.exit(run("python -m mjx_serl.pretraining"))
