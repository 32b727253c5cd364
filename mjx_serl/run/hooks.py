"""What a run reports and who listens: records, the Hook protocol and the loggers.

The loop calls one hook, `GuardedHooks`; everything that listens is behind it. Metric names are
`area/name`; those that the console and the curve look for are the constants below.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mjx_serl.run import curve
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.summary import Summary, wilson_interval
from scenes.contract.extras import require

TRAIN_SUCCESS = "train/success_rate"
TRAIN_RETURN = "train/return"
BUFFER_FILL = "buffer/fill"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What is known before the first epoch; `config` is the resolved one as JSON values.

    `state_bytes` [bytes] is the whole training state, `buffer_bytes` the replay buffer's share.
    The run ends after `total_updates` gradient steps, or where that is None after
    `total_env_steps`.
    """

    task: str
    agent: str
    seed: int
    folder: Path
    config: Mapping[str, Any]
    device: str
    state_bytes: int
    buffer_bytes: int
    total_env_steps: int
    start_epoch: int = 0
    start_env_steps: int = 0
    total_updates: int | None = None
    start_updates: int = 0

    @property
    def goal(self) -> tuple[int, str]:
        """How many of what the run makes."""
        updates = self.total_updates
        return (self.total_env_steps, "env steps") if updates is None else (updates, "updates")

    def done(self, record: "EpochRecord | None") -> int:
        """How many of these are made, before the first record too."""
        steps, updates = self.start_env_steps, self.start_updates
        if record is not None:
            steps, updates = record.env_steps, record.grad_steps
        return steps if self.total_updates is None else updates


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch; counters are totals since the run began, `elapsed_s` [s] of training time."""

    epoch: int
    env_steps: int
    grad_steps: int
    elapsed_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """One evaluation on held-out keys; `final` is the one of the summary, after the last epoch."""

    epoch: int
    env_steps: int
    elapsed_s: float
    successes: int
    episodes: int
    final: bool = False
    grad_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def success_rate(self) -> float:
        """Share of successful episodes."""
        return self.successes / max(self.episodes, 1)

    @property
    def success_ci95(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success probability."""
        return wilson_interval(self.successes, self.episodes)


class Hook(Protocol):
    """Listens to a run on the host; never touches the training state.

    One that has a method `on_stage(text)` is told what takes long before the first epoch, one with
    `on_wait(text)` every few seconds, from another thread, what still takes long.
    """

    def on_start(self, info: RunInfo) -> None:
        """Called once, before the first epoch."""
        ...

    def on_epoch(self, record: EpochRecord) -> None:
        """Called after each epoch."""
        ...

    def on_eval(self, record: EvalRecord) -> None:
        """Called after each evaluation, the final one included."""
        ...

    def on_end(self, summary: Summary | None) -> None:
        """Called once at the end; `summary` is None where a signal stopped the run."""
        ...


class GuardedHooks:
    """Passes every event on to `hooks`; one that fails is named once and training goes on."""

    def __init__(self, hooks: Sequence[Hook], *, warn: Callable[[str], None] = warn_line) -> None:
        self._hooks = tuple(hooks)
        self._warn = warn
        self._failed: set[int] = set()

    def on_stage(self, text: str) -> None:
        """Pass on to those that want it: what takes long now, before the first epoch."""
        self._call("on_stage", text, asked=False)

    def on_wait(self, text: str) -> None:
        """Pass on to those that want it: what is still not done."""
        self._call("on_wait", text, asked=False)

    def on_start(self, info: RunInfo) -> None:
        """Pass on."""
        self._call("on_start", info)

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass on."""
        self._call("on_epoch", record)

    def on_eval(self, record: EvalRecord) -> None:
        """Pass on."""
        self._call("on_eval", record)

    def on_end(self, summary: Summary | None) -> None:
        """Pass on."""
        self._call("on_end", summary)

    def _call(self, event: str, argument: object, *, asked: bool = True) -> None:
        for index, hook in enumerate(self._hooks):
            if not asked and not hasattr(hook, event):
                continue
            # Everything is caught: no logger is worth the run.
            try:
                getattr(hook, event)(argument)
            except Exception as error:
                self._report(index, hook, error)

    def _report(self, index: int, hook: Hook, error: Exception) -> None:
        if index not in self._failed:
            self._failed.add(index)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._warn(f"{type(hook).__name__} failed ({reason}); training goes on")


class JsonlHook:
    """Appends every epoch and evaluation to `metrics.jsonl`, writes `summary.json` at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_start(self, info: RunInfo) -> None:
        """Nothing to write yet."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Append one line."""
        self._folder.append_metrics(epoch_row(record))

    def on_eval(self, record: EvalRecord) -> None:
        """Append one line."""
        self._folder.append_metrics(eval_row(record))

    def on_end(self, summary: Summary | None) -> None:
        """Write the summary of a finished run."""
        if summary is not None:
            self._folder.write_summary(summary)


class TensorBoardHook:
    """Scalars over env steps in `<run>/tensorboard`; a resumed run drops what it repeats.

    They are over updates where a run takes no env steps.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "tensorboard"
        self._module = require("tensorboardX", purpose="TensorBoardHook")
        self._writer: Any = None

    def on_start(self, info: RunInfo) -> None:
        """Open the event file."""
        begun = info.start_env_steps or info.start_updates
        purge = begun + 1 if begun else None
        self._writer = self._module.SummaryWriter(str(self._path), purge_step=purge)

    def on_epoch(self, record: EpochRecord) -> None:
        """Write every metric of the epoch."""
        for name, value in record.metrics.items():
            # Not a number is what this epoch has not measured.
            if not math.isnan(value):
                self._writer.add_scalar(name, value, record.env_steps or record.grad_steps)

    def on_eval(self, record: EvalRecord) -> None:
        """Write the success rate, its interval and the other figures.

        The final evaluation has tags of its own: a check may lie at the same env steps.
        """
        area = "final" if record.final else "eval"
        low, high = record.success_ci95
        figures = {"success_rate": record.success_rate, "success_low": low, "success_high": high}
        figures |= {name.removeprefix("eval/"): value for name, value in record.metrics.items()}
        for name, value in figures.items():
            self._writer.add_scalar(f"{area}/{name}", value, record.env_steps or record.grad_steps)
        self._writer.flush()

    def on_end(self, summary: Summary | None) -> None:
        """Close the event file."""
        self._writer.close()


class CurveHook:
    """Redraws `curve.png` from `metrics.jsonl` at each evaluation and at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._title = folder.path.name
        self._curve = curve

    def on_start(self, info: RunInfo) -> None:
        """Take the title."""
        self._title = f"{info.task}  ·  {info.agent}  ·  seed {info.seed}"

    def on_epoch(self, record: EpochRecord) -> None:
        """Nothing: a curve per epoch would cost more than the epoch."""

    def on_eval(self, record: EvalRecord) -> None:
        """Redraw; after the final evaluation the end follows and redraws."""
        if not record.final:
            self._draw()

    def on_end(self, summary: Summary | None) -> None:
        """Redraw."""
        self._draw()

    def _draw(self) -> None:
        rows = self._folder.read_metrics()
        self._curve.draw_curve(rows, self._folder.path / "curve.png", title=self._title)


def epoch_row(record: EpochRecord) -> dict[str, Any]:
    """The line of `metrics.jsonl` for an epoch."""
    return {
        "kind": "epoch",
        "epoch": record.epoch,
        "env_steps": record.env_steps,
        "grad_steps": record.grad_steps,
        "elapsed_s": round(record.elapsed_s, 3),
        **record.metrics,
    }


def eval_row(record: EvalRecord) -> dict[str, Any]:
    """The line of `metrics.jsonl` for an evaluation: of kind `final` for the one at the end."""
    return {
        "kind": "final" if record.final else "eval",
        "epoch": record.epoch,
        "env_steps": record.env_steps,
        "grad_steps": record.grad_steps,
        "elapsed_s": round(record.elapsed_s, 3),
        "successes": record.successes,
        "episodes": record.episodes,
        "success_rate": record.success_rate,
        "success_ci95": list(record.success_ci95),
        **record.metrics,
    }
