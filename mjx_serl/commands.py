"""What the command lines share: presets, readable errors, resuming, the default hooks."""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from mjx_serl.agents.agent import AGENTS
from mjx_serl.config import TrainConfig
from mjx_serl.dashboard.beside import RunDashboard
from mjx_serl.envs.task import describe_tasks
from mjx_serl.experiments import PRESETS, default_preset, preset
from mjx_serl.export.bundle import RunBundle
from mjx_serl.learning.companion import LearnerCompanion
from mjx_serl.nets.velocity import VELOCITY_NETS
from mjx_serl.pilot.training import TrainingPilot
from mjx_serl.platform import StartOptions, parse_start
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.console import ConsoleHook
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import CurveHook, Hook, JsonlHook, TensorBoardHook
from mjx_serl.run.loop import Companion, Output, Run
from mjx_serl.run.openpi_checkpoint import is_openpi
from mjx_serl.run.peers import Peers, this_process
from mjx_serl.run.replay_episodes import RunEpisodes
from mjx_serl.run.resume import allowed_changes, refuse_options
from mjx_serl.run.robustness import RunGrid
from mjx_serl.run.run_lock import require_unlocked
from mjx_serl.run.signals import undo_on_quit
from mjx_serl.run.summary import versions
from mjx_serl.run.trackers import TrackerHook
from mjx_serl.training.sharded import device_count
from mjx_serl.training.trainer import METHODS
from mjx_serl.viewing.run_video import RunVideo
from scenes.contract.command_line import BAD_INPUT as BAD_INPUT
from scenes.contract.command_line import FAILED, SHOW_TRACEBACK
from scenes.contract.command_line import INTERRUPTED as INTERRUPTED
from scenes.contract.command_line import guarded as guarded
from scenes.contract.errors import InputError, UserError
from scenes.contract.plugins import load_plugins
from scenes.contract.serialize import to_json

# What a run starts from.
STARTING = ("--preset", "--plugin", "--method", "--agent", "--agent.net", "--seeds")
# What a run leaves beside its logs.
OUTPUTS: tuple[Output, ...] = (RunEpisodes(), RunGrid(), RunVideo(), RunBundle())


def parse_train(argv: Sequence[str]) -> tuple[TrainConfig, Path | None]:
    """Read the command line of train.py: the config and the run to resume, if any.

    `--preset NAME` picks the defaults that the other options change, else the device does. Raises
    KeyError for an unknown preset; unknown options end the process with tyro's own message.
    """
    start, rest = parse_start(argv)
    if start.resume is not None:
        folder = RunFolder.open(start.resume)
        return parse_resumed(folder.read_config(TrainConfig), start, argv, rest), folder.path
    load_plugins(start.plugin)
    # The full parser knows which physics there are.
    args = ["--physics", start.physics, *_devices(start), *rest]
    default = _with_learner(preset(start.preset or default_preset()), start)
    _refuse_foreign(default.method, rest)
    return tyro.cli(TrainConfig, default=default, args=args, description=_about()), None


def parse_resumed(
    cfg: TrainConfig, start: StartOptions, argv: Sequence[str], rest: Sequence[str]
) -> TrainConfig:
    """The config of a run with the options that change it; whether they may is said later."""
    said = {word.split("=", 1)[0] for word in argv}
    refuse_options([option for option in STARTING if option in said])
    args = [*_devices(start), *rest]
    args = ["--physics", start.physics, *args] if "--physics" in said else args
    return tyro.cli(TrainConfig, default=cfg, args=args, description=_about()) if args else cfg


def _devices(start: StartOptions) -> list[str]:
    return [] if start.devices is None else ["--devices", start.devices]


def _with_learner(cfg: TrainConfig, start: StartOptions) -> TrainConfig:
    """The preset with the method and agent asked for, at their own defaults."""
    method: Any = cfg.method if start.method is None else METHODS[start.method]()
    if start.agent is not None:
        method = dataclasses.replace(method, agent=AGENTS[start.agent]())
    if start.net is not None:
        method = dataclasses.replace(method, agent=_with_net(method.agent, start.net))
    return dataclasses.replace(cfg, method=method, plugins=start.plugin)


def _with_net(agent: Any, name: str) -> Any:
    """The agent with another velocity net, at that net's own defaults."""
    if not hasattr(agent, "net"):
        raise InputError(
            f"--agent.net {name} with agent '{AGENTS.name_of(type(agent))}', which has no net to "
            "choose; allowed: with --agent flow_ppo"
        )
    return dataclasses.replace(agent, net=VELOCITY_NETS[name]())


def _refuse_foreign(method: Any, words: Sequence[str]) -> None:
    """Raise InputError for options of other methods, where a method says why it has none such."""
    refused: Mapping[str, str] = getattr(method, "refused", {})
    for word in words:
        option = word.split("=", 1)[0]
        for prefix, why in refused.items():
            if option.startswith(prefix):
                raise InputError(f"{option} with --method {METHODS.name_of(type(method))}, {why}")


@contextlib.contextmanager
def open_run(
    cfg: TrainConfig,
    resume: Path | None,
    *,
    hooks: Sequence[Hook] | None = None,
    outputs: Sequence[Output] = OUTPUTS,
    console: Hook | None = None,
    like: Run | None = None,
) -> Iterator[Run]:
    """A run with its folder, a new one or the one to resume; nothing is trained yet.

    A new run that fails or is ended before its first epoch gives its name back.

    Args:
        cfg: the run.
        resume: its folder, where it goes on; raises ValueError for options that cannot change.
        hooks: who listens; None is the console and the folder's files.
        outputs: what it leaves beside its logs.
        console: in place of the run's own.
        like: a run of another seed, whose functions it shares.
    """
    cfg.check()
    if resume is None:
        cfg = pinned(cfg)
    peers = this_process()
    if peers.count > 1:
        _check_peers(cfg, peers)
    folder = _folder_of(cfg, resume, peers)
    with contextlib.nullcontext() if resume or not peers.writes else _removed_unused(folder):
        if peers.writes:
            require_unlocked(folder.path)
        changes = allowed_changes(folder.read_config(TrainConfig), cfg) if resume else ()
        if hooks is None:
            hooks = _hooks_of(cfg, folder, console) if peers.writes else ()
        companions = _companions(cfg) if peers.writes else ()
        yield Run(cfg, folder, hooks, outputs, changes, companions, like)


def pinned(cfg: TrainConfig) -> TrainConfig:
    """The config of a new run with what the files and the run that it names hold now.

    Raises FileNotFoundError, and InputError where they do not fit.
    """
    cfg = dataclasses.replace(_over_its_base(cfg), devices=device_count(cfg.devices))
    pins = {"pixels": cfg.pixels.pinned(), "tokenizer": cfg.tokenizer.pinned()}
    return dataclasses.replace(cfg, **pins).pinned_fit().pinned_classifier()


def _companions(cfg: TrainConfig) -> list[Companion]:
    """What is beside the run: the pages that it asks for."""
    beside: list[Companion] = []
    if cfg.actors.address is not None:
        beside.append(LearnerCompanion())
    if cfg.pilot.serve:
        beside.append(TrainingPilot())
    if cfg.run.dashboard:
        beside.append(RunDashboard())
    return beside


def train(cfg: TrainConfig, resume: Path | None) -> int:
    """Train and report; returns the exit status, a failure where the end is not on disk."""
    with open_run(cfg, resume) as run:
        summary = run.train(resume=resume is not None)
    if not run.saved:
        warn_line(f"epoch {run.progress.epoch} is not on disk; resuming goes back to the last save")
        return FAILED
    if summary is None and this_process().writes:
        sys.stdout.write(f"Stopped and saved. Go on with:\n  {run.folder.resume_command()}\n")
    return 0


def _over_its_base(cfg: TrainConfig) -> TrainConfig:
    """The config of a run that begins with another one, whose agent it may be about."""
    began = None
    if cfg.init is not None and not is_openpi(cfg.init):
        began = RunFolder.open(cfg.init)
    over = getattr(getattr(cfg.method, "agent", None), "over", None)
    if over is None:
        return cfg
    if began is None:
        raise InputError(
            f"agent '{cfg.agent_name}' corrects a policy: name its run with --init RUN_FOLDER"
        )
    if getattr(cfg.method.loop, "normalize_steps", 0):
        raise InputError(
            f"loop.normalize_steps {cfg.method.loop.normalize_steps}, allowed over a base: 0, for "
            "what it observes must stay scaled as it was"
        )
    base = began.read_config(TrainConfig).method.agent
    return dataclasses.replace(cfg, method=dataclasses.replace(cfg.method, agent=over(base)))


def _folder_of(cfg: TrainConfig, resume: Path | None, peers: Peers) -> RunFolder:
    """The run's folder: opened, or made by the process that writes, whose error is everyone's."""
    if resume is not None:
        return RunFolder.open(resume)
    made: RunFolder | None = None
    error: Exception | None = None
    if peers.writes:
        try:
            made = _new_folder(cfg)
        except (UserError, OSError) as found:
            error = found
    path = peers.texts("" if made is None else str(made.path))[0]
    if error is not None:
        raise error
    if not path:
        raise InputError("Rank 0 could not make the run's folder: see what it says")
    return RunFolder(Path(path))


def _check_peers(cfg: TrainConfig, peers: Peers) -> None:
    """Raise InputError for what several processes cannot do, and where they do not all do it."""
    if cfg.pilot.serve or cfg.actors.address is not None:
        what = "--pilot" if cfg.pilot.serve else "--listen"
        raise InputError(f"{what} in {peers.count} processes, allowed: in one")
    peers.require_same(_not_a_place(cfg), versions())


def _not_a_place(cfg: TrainConfig) -> dict[str, Any]:
    """The config as JSON without where the run is kept, which every machine may call otherwise."""
    config = to_json(cfg)
    config["run"] = {name: x for name, x in config["run"].items() if name not in ("folder", "name")}
    return config


def _new_folder(cfg: TrainConfig) -> RunFolder:
    folder = RunFolder.create(
        cfg.run.folder, task=cfg.task, agent=cfg.agent_name, seed=cfg.seed, name=cfg.run.name
    )
    folder.write_config(cfg)
    return folder


@contextlib.contextmanager
def _removed_unused(folder: RunFolder) -> Iterator[None]:
    """Delete a new run's folder where it fails or is ended before anything has been trained."""

    def remove() -> None:
        if not folder.has_trained:
            shutil.rmtree(folder.path)

    with undo_on_quit(remove):
        try:
            yield
        except BaseException:
            remove()
            raise


def _hooks_of(cfg: TrainConfig, folder: RunFolder, console: Hook | None) -> list[Hook]:
    return default_hooks(cfg, folder) if console is None else [console, *file_hooks(cfg, folder)]


def default_hooks(cfg: TrainConfig, folder: RunFolder) -> list[Hook]:
    """Console, and what is kept of a run."""
    return [ConsoleHook(), *file_hooks(cfg, folder)]


def file_hooks(cfg: TrainConfig, folder: RunFolder) -> list[Hook]:
    """metrics.jsonl and summary.json, curve.png, TensorBoard, a tracker of others."""
    hooks: list[Hook] = [JsonlHook(folder), CurveHook(folder)]
    if cfg.run.tensorboard:
        hooks.append(TensorBoardHook(folder))
    if cfg.run.tracker != "none":
        hooks.append(TrackerHook(cfg.run.tracker, folder))
    return hooks


def _about() -> str:
    lines = []
    for name in PRESETS:
        lines.append(f"  {name:<13} {(PRESETS[name].__doc__ or '').splitlines()[0]}")
    return (
        "Train a policy in one process, one compiled function per epoch.\n\n"
        "--resume RUN_FOLDER goes on with a stopped run, bit for bit, or with a finished one:\n"
        "  --total-env-steps, --total-updates, --devices, --eval.* and --run.* may change.\n\n"
        f"{SHOW_TRACEBACK}=1 in the environment shows where an error came from.\n"
        "--plugin MODULE imports a module of yours, which registers tasks, agents, robots, ...\n"
        f"--method NAME and --agent NAME pick another learner ({', '.join(METHODS)}; "
        f"{', '.join(AGENTS)}); its options are shown below with --help.\n"
        f"--agent.net NAME picks the net of agent flow_ppo ({', '.join(VELOCITY_NETS)}).\n"
        f"\n{describe_tasks()}\n\n"
        "--seeds 0 1 2, or 0..2, trains with each, one after another, and prints a table;\n"
        "  with --together at the same time in one process. --resume FOLDER goes on with all.\n\n"
        "--preset NAME picks the defaults shown below, without it the device does "
        f"(here {default_preset()}):\n" + "\n".join(lines)
    )
