"""What the command lines share: presets, readable errors, resuming, the default hooks."""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from mjx_serl.config import TrainConfig
from mjx_serl.experiments import PRESETS
from mjx_serl.export.bundle import RunBundle
from mjx_serl.platform import parse_start
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.console import ConsoleHook
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import CurveHook, Hook, JsonlHook, TensorBoardHook
from mjx_serl.run.loop import Output, Run
from mjx_serl.viewing.run_video import RunVideo
from scenes.contract.command_line import BAD_INPUT as BAD_INPUT
from scenes.contract.command_line import INTERRUPTED as INTERRUPTED
from scenes.contract.command_line import SHOW_TRACEBACK
from scenes.contract.command_line import guarded as guarded

# What a run leaves beside its logs.
OUTPUTS: tuple[Output, ...] = (RunVideo(), RunBundle())


def parse_train(argv: Sequence[str]) -> tuple[TrainConfig, Path | None]:
    """Read the command line of train.py: the config and the run to resume, if any.

    `--preset NAME` picks the defaults that the other options change. Raises KeyError for an
    unknown preset; unknown options end the process with tyro's own message.
    """
    start, rest = parse_start(argv)
    if start.resume is not None:
        folder = RunFolder.open(start.resume)
        return folder.read_config(TrainConfig), folder.path
    # The full parser knows which physics there are.
    args = ["--physics", start.physics, *rest]
    default = PRESETS[start.preset]()
    return tyro.cli(TrainConfig, default=default, args=args, description=_about()), None


def train(cfg: TrainConfig, resume: Path | None) -> int:
    """Train and report; returns the exit status."""
    folder = RunFolder.open(resume) if resume else _new_folder(cfg)
    try:
        run = Run(cfg, folder, default_hooks(cfg, folder), OUTPUTS)
        summary = run.train(resume=resume is not None)
    except BaseException:
        _remove_unused(folder)
        raise
    if not run.saved:
        warn_line(f"epoch {run.progress.epoch} is not on disk; resuming goes back to the last save")
    if summary is None:
        sys.stdout.write(f"Stopped and saved. Go on with:\n  {folder.resume_command()}\n")
    return 0


def _new_folder(cfg: TrainConfig) -> RunFolder:
    folder = RunFolder.create(
        cfg.run.folder, task=cfg.task, agent=cfg.agent_name, seed=cfg.seed, name=cfg.run.name
    )
    folder.write_config(cfg)
    return folder


def _remove_unused(folder: RunFolder) -> None:
    """Give the name back where a run failed before its first epoch: no more than its config."""
    if [path.name for path in folder.path.iterdir()] == ["config.json"]:
        (folder.path / "config.json").unlink()
        folder.path.rmdir()


def default_hooks(cfg: TrainConfig, folder: RunFolder) -> list[Hook]:
    """Console, metrics.jsonl and summary.json, curve.png, TensorBoard."""
    hooks: list[Hook] = [ConsoleHook(), JsonlHook(folder), CurveHook(folder)]
    return [*hooks, TensorBoardHook(folder)] if cfg.run.tensorboard else hooks


def _about() -> str:
    lines = []
    for name in PRESETS:
        lines.append(f"  {name:<10} {(PRESETS[name].__doc__ or '').splitlines()[0]}")
    return (
        "Train a policy in one process, one compiled function per epoch.\n\n"
        "--resume RUN_FOLDER goes on with a stopped run, bit for bit.\n"
        f"{SHOW_TRACEBACK}=1 in the environment shows where an error came from.\n"
        "--preset NAME picks the defaults shown below:\n" + "\n".join(lines)
    )
