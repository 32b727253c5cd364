"""Experiment trackers of others, each an optional package: wandb, trackio, mlflow.

A run sends them what it writes to `metrics.jsonl`, over env steps (updates, where it takes none).
Where they send it is theirs to say (WANDB_MODE, MLFLOW_TRACKING_URI); nobody is logged in here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, EvalRecord, RunInfo, epoch_row, eval_row
from mjx_serl.run.summary import Summary
from scenes.contract.errors import UnknownNameError
from scenes.contract.extras import require
from scenes.contract.names import unknown_name
from scenes.contract.serialize import flattened

PROJECT = "mjx_serl"
# Counters, which are the axis.
_COUNTERS = ("kind", "epoch", "env_steps", "grad_steps", "elapsed_s", "success_ci95")


class Tracker(Protocol):
    """What is asked of a tracker."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Send figures."""
        ...

    def finish(self) -> None:
        """Send what is left."""
        ...


class _Logged:
    """wandb and trackio, which share an interface."""

    def __init__(self, module: Any, folder: RunFolder, info: RunInfo, **more: Any) -> None:
        config = dict(info.config)
        self._module = module
        module.init(project=PROJECT, name=folder.path.name, config=config, **more)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Send figures."""
        self._module.log(dict(figures), step=step)

    def finish(self) -> None:
        """Send what is left."""
        self._module.finish()


class _MLflow:
    """mlflow; options by dotted names, cut to what it takes."""

    LONGEST = 500  # of an option's value, mlflow's limit is 6000 from 2.8 on and 500 before

    def __init__(self, module: Any, folder: RunFolder, info: RunInfo) -> None:
        self._module = module
        module.set_experiment(PROJECT)
        module.start_run(run_name=folder.path.name)
        flat = flattened(info.config)
        module.log_params({name: str(value)[: self.LONGEST] for name, value in flat.items()})

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Send figures."""
        self._module.log_metrics(dict(figures), step=step)

    def finish(self) -> None:
        """Send what is left."""
        self._module.end_run()


def _wandb(folder: RunFolder, info: RunInfo) -> Tracker:
    module = require("wandb", package="wandb", purpose="--run.tracker wandb")
    # A resumed run goes on under its name.
    more = {"dir": str(folder.path), "id": folder.path.name, "resume": "allow"}
    return _Logged(module, folder, info, **more)


def _trackio(folder: RunFolder, info: RunInfo) -> Tracker:
    module = require("trackio", package="trackio", purpose="--run.tracker trackio")
    return _Logged(module, folder, info, resume="allow")


def _mlflow(folder: RunFolder, info: RunInfo) -> Tracker:
    module = require("mlflow", package="mlflow", purpose="--run.tracker mlflow")
    return _MLflow(module, folder, info)


_TRACKERS: Mapping[str, Callable[[RunFolder, RunInfo], Tracker]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}


class TrackerHook:
    """Sends a run's figures to a tracker.

    Args:
        name: wandb, trackio or mlflow; UnknownNameError for another.
        folder: of the run.

    Raises MissingPackageError, before anything is trained, where it is not installed.
    """

    def __init__(self, name: str, folder: RunFolder) -> None:
        if name not in _TRACKERS:
            raise UnknownNameError(unknown_name("tracker", name, _TRACKERS))
        require(name, package=name, purpose=f"--run.tracker {name}")
        self._begin, self._folder = _TRACKERS[name], folder
        self._tracker: Tracker | None = None

    def on_start(self, info: RunInfo) -> None:
        """Begin, with the options of the run."""
        self._tracker = self._begin(self._folder, info)

    def on_epoch(self, record: EpochRecord) -> None:
        """Send the figures of an epoch."""
        self._log(epoch_row(record), record)

    def on_eval(self, record: EvalRecord) -> None:
        """Send those of an evaluation."""
        area = "final" if record.final else "eval"
        row = {name.removeprefix("eval/"): value for name, value in eval_row(record).items()}
        told = {f"{area}/{name}": x for name, x in row.items() if name not in _COUNTERS}
        low, high = record.success_ci95
        self._log({**told, f"{area}/success_low": low, f"{area}/success_high": high}, record)

    def on_end(self, summary: Summary | None) -> None:
        """Send what is left."""
        if self._tracker is not None:
            self._tracker.finish()

    def _log(self, row: Mapping[str, Any], record: EpochRecord | EvalRecord) -> None:
        figures = {
            name: float(x)
            for name, x in row.items()
            if name not in _COUNTERS and isinstance(x, int | float)
        }
        if self._tracker is not None:
            self._tracker.log(figures, record.env_steps or record.grad_steps)
