"""What the command lines share: presets, readable errors, resuming, the default hooks."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from mjx_serl.config import TrainConfig
from mjx_serl.experiments import PRESETS
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.console import ConsoleHook
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import CurveHook, Hook, JsonlHook, TensorBoardHook
from mjx_serl.run.loop import Run

# Exit status of a command that was asked for something impossible, as argparse uses it.
BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
# Set to anything, it shows where a refusal came from.
SHOW_TRACEBACK = "MJX_SERL_TRACEBACK"
_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("mjx_serl", "scenes", "splat_render")


def parse_train(argv: Sequence[str]) -> tuple[TrainConfig, Path | None]:
    """Read the command line of train.py: the config and the run to resume, if any.

    `--preset NAME` picks the defaults that the other options change. Raises KeyError for an
    unknown preset; unknown options end the process with tyro's own message.
    """
    argv = list(argv)
    resume = _take(argv, "--resume")
    if resume is not None:
        folder = RunFolder.open(Path(resume))
        return folder.read_config(TrainConfig), folder.path
    name = _take(argv, "--preset") or "laptop"
    return tyro.cli(TrainConfig, default=PRESETS[name](), args=argv, description=_about()), None


def train(cfg: TrainConfig, resume: Path | None) -> int:
    """Train and report; returns the exit status."""
    folder = RunFolder.open(resume) if resume else _new_folder(cfg)
    try:
        run = Run(cfg, folder, default_hooks(cfg, folder))
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


def guarded(main: Callable[[], int]) -> int:
    """Run a command; what the user got wrong is said in one line, not as a traceback.

    The same kind of error out of a library, or of a failed look-up, is a bug: it goes on up, with
    its traceback.
    """
    try:
        return main()
    except (KeyError, ValueError, OSError, MemoryError, ModuleNotFoundError) as error:
        if SHOW_TRACEBACK in os.environ or not _is_refusal(error):
            raise
        # KeyError shows its message quoted.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"error: {text}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        # Before the first epoch or after the last save: there is nothing to finish.
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED


def _is_refusal(error: Exception) -> bool:
    """Whether a `raise` of ours said this, or the disk, which names the file itself."""
    if isinstance(error, OSError):
        return True
    origin = traceback.extract_tb(error.__traceback__)[-1]
    ours = any(Path(origin.filename).is_relative_to(_ROOT / name) for name in _PACKAGES)
    return ours and (origin.line or "").startswith("raise ")


def _take(argv: list[str], option: str) -> str | None:
    """Remove `option VALUE` or `option=VALUE` from argv and return the value."""
    for i, word in enumerate(argv):
        if word.startswith(f"{option}="):
            return argv.pop(i).split("=", 1)[1]
        if word == option:
            if i + 1 == len(argv):
                raise ValueError(f"{option} needs a value")
            argv.pop(i)
            return argv.pop(i)
    return None


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
