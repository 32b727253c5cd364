"""The live console: a panel on a terminal, one line every few seconds elsewhere."""

import atexit
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mjx_serl.run.hooks import (
    BUFFER_FILL,
    TRAIN_RETURN,
    TRAIN_SUCCESS,
    EpochRecord,
    EvalRecord,
    RunInfo,
)
from mjx_serl.run.summary import Summary

_RATE_WINDOW_S = 5.0  # rates are averaged over this much training time [s]


class ConsoleHook:
    """Shows rates, success, return, buffer fill, elapsed time and time left.

    On a terminal a panel is redrawn in place (its clock also runs while an epoch compiles).
    Elsewhere: one line for the first epoch, for each evaluation, and every `interval_s` [s].
    """

    def __init__(self, *, stream: TextIO | None = None, interval_s: float = 5.0) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._interval = interval_s
        self._live: Live | None = None
        self._last_line = -float("inf")
        self._board: Board

    def on_stage(self, text: str) -> None:
        """Print what takes long before the first epoch."""
        self._print(text)

    def on_wait(self, text: str) -> None:
        """Print what still takes long; the panel has a clock and shows what it is."""
        if self._live is None:
            self._print(f"still {text}")
        else:
            self._board.doing = text.rsplit(", ", 1)[0]

    def on_start(self, info: RunInfo) -> None:
        """Print the resolved config, the device and the bytes of state and buffer."""
        self._board = Board(info)
        for line in start_lines(info):
            self._console.print(line, markup=False)
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._board.panel, refresh_per_second=4
            )
            self._live.start(refresh=True)
            atexit.register(self._close)  # a run that dies must leave the cursor visible

    def on_epoch(self, record: EpochRecord) -> None:
        """Update the panel, or print a line if the last one is old enough."""
        self._board.add_epoch(record)
        now = time.monotonic()
        if self._live is None and now - self._last_line >= self._interval:
            self._last_line = now
            self._print(self._board.line())

    def on_eval(self, record: EvalRecord) -> None:
        """Show the evaluation; a check is printed above the panel and stays."""
        self._board.evaluation = record
        if not record.final:  # that one is in the last line of the run
            self._print(
                f"eval  epoch {record.epoch}  {spent(record)}  "
                f"{duration(record.elapsed_s)}  success {interval(record)} of {record.episodes}"
            )

    def on_end(self, summary: Summary | None) -> None:
        """Close the panel and print the result."""
        self._close()
        self._print(end_line(summary) if summary else f"stopped  {self._board.line()}")

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self._close)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)
        self._console.file.flush()


class Board:
    """The figures on show: the last records and the rates over the last seconds."""

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.evaluation: EvalRecord | None = None
        self.doing = "compiling"  # before the first epoch
        self._seen = time.monotonic()
        self._recent: deque[EpochRecord] = deque()

    def add_epoch(self, record: EpochRecord) -> None:
        """Take in an epoch; older ones leave the window of the rates."""
        self._seen = time.monotonic()
        self._recent.append(record)
        oldest = record.elapsed_s - _RATE_WINDOW_S
        while len(self._recent) > 2 and self._recent[1].elapsed_s < oldest:
            self._recent.popleft()

    def rates(self) -> tuple[float, float] | None:
        """Env steps/s and updates/s, None before the second epoch (the first one compiles)."""
        if len(self._recent) < 2:
            return None
        old, new = self._recent[0], self._recent[-1]
        seconds = max(new.elapsed_s - old.elapsed_s, 1e-9)
        steps, updates = new.env_steps - old.env_steps, new.grad_steps - old.grad_steps
        return steps / seconds, updates / seconds

    def eta_s(self) -> float | None:
        """Training time left [s] at the present rate."""
        rates = self.rates()
        total, unit = self.info.goal
        rate = 0.0 if rates is None else rates[0] if unit == "env steps" else rates[1]
        if rate <= 0:
            return None
        return max(total - self.info.done(self._recent[-1]), 0) / rate

    def elapsed_s(self) -> float:
        """Training time [s], running on between two records."""
        before = self._recent[-1].elapsed_s if self._recent else 0.0
        return before + time.monotonic() - self._seen

    def figures(self) -> dict[str, str]:
        """Label -> text of everything on show; "-" where nothing is known yet."""
        last, rates = (self._recent[-1] if self._recent else None), self.rates()
        metrics = last.metrics if last else {}
        return {
            "epoch": str(last.epoch) if last else "-",
            "elapsed": duration(last.elapsed_s) if last else "-",
            "left": duration(self.eta_s()),
            "train success": known(metrics, TRAIN_SUCCESS, "{:.0%}"),
            "eval": interval(self.evaluation) if self.evaluation else "-",
            "return": known(metrics, TRAIN_RETURN, "{:.3g}"),
            "env steps": count(last.env_steps) if last and last.env_steps else "-",
            "env steps/s": count(rates[0]) if rates and rates[0] else "-",
            "updates": count(last.grad_steps) if last else "-",
            "updates/s": count(rates[1]) if rates else "-",
            "buffer": known(metrics, BUFFER_FILL, "{:.0%}"),
        }

    def line(self) -> str:
        """The figures on one line, for a log file."""
        shown = {name: text for name, text in self.figures().items() if text != "-"}
        return "  ".join(f"{name} {text}" for name, text in shown.items())

    def panel(self) -> RenderableType:
        """The figures as a panel, for a terminal."""
        figures = self.figures()
        title = f"{self.info.task} · {self.info.agent} · seed {self.info.seed}"
        if self._recent:
            title += f" · epoch {figures['epoch']}"
        body = Group(_figure_grid(figures), self._progress(figures))
        return Panel(
            body, title=Text(f" {title} ", "bold"), title_align="left", border_style="blue"
        )

    def _progress(self, figures: Mapping[str, str]) -> RenderableType:
        clock = duration(self.elapsed_s())
        state = (
            f"{clock} elapsed, {figures['left']} left" if self._recent else f"{self.doing}, {clock}"
        )
        done = self.info.done(self._recent[-1] if self._recent else None)
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        total = max(self.info.goal[0], 1)
        row.add_row(ProgressBar(total=total, completed=done), Text(state, "dim"))
        return row


def _figure_grid(figures: Mapping[str, str]) -> Table:
    rows = (
        ("env steps/s", "env steps", "train success", "eval"),
        ("updates/s", "updates", "return", "buffer"),
    )
    grid = Table.grid(padding=(0, 1), expand=True)
    for width in (17, 15, 18, 20):  # fits 80 columns, and columns do not jump as digits change
        grid.add_column(min_width=width, no_wrap=True, overflow="ellipsis")
    for names in rows:
        cells = (Text.assemble((f"{n} ", "dim"), (figures[n], "bold")) for n in names)
        grid.add_row(*cells)
    return grid


def start_lines(info: RunInfo) -> Iterator[str]:
    """What is said before the first epoch: run, device, memory, config."""
    yield f"{info.task}  {info.agent}  seed {info.seed}  ->  {info.folder}"
    total, unit = info.goal
    goal = f"{count(total)} {unit}"
    if info.start_epoch:
        goal = f"resumed at epoch {info.start_epoch} ({count(info.done(None))}) of {goal}"
    memory = f"state {size(info.state_bytes)}"
    if 100 * info.buffer_bytes > info.state_bytes:
        memory += f", of it buffer {size(info.buffer_bytes)}"
    yield f"device {info.device}  {memory}  {goal}"
    for section, text in _sections(info.config):
        yield f"  {section:<10} {text}"


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    if plain:
        yield "run", _flat(plain)
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield name, _flat(value)


def _flat(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            parts.append(f"{name}=({_flat(value)})")
        elif isinstance(value, (list, tuple)):
            parts.append(f"{name}={'x'.join(map(str, value)) if value else '()'}")
        else:
            parts.append(f"{name}={value}")
    return " ".join(parts)


def end_line(summary: Summary) -> str:
    """The result of the run on one line."""
    took = f"{duration(summary.wall_seconds)} (compile {duration(summary.compile_seconds)})"
    steps = f"{count(summary.updates)} updates"
    if summary.env_steps:
        steps = f"{count(summary.env_steps)} env steps, {steps}"
    if summary.success_rate is None or summary.success_ci95 is None:
        return f"done  {steps} in {took}; not evaluated"
    low, high = summary.success_ci95
    rate = f"{summary.success_rate:.1%} of {summary.episodes} episodes"
    return f"done  success {rate} (95% interval {low:.1%} to {high:.1%})  {steps} in {took}"


def spent(record: EvalRecord) -> str:
    """What had been made before an evaluation: env steps, or updates where there are none."""
    if record.env_steps or not record.grad_steps:
        return f"env steps {count(record.env_steps)}"
    return f"updates {count(record.grad_steps)}"


def interval(record: EvalRecord) -> str:
    """Success rate with its 95 % interval as text."""
    low, high = record.success_ci95
    return f"{record.success_rate:.0%} [{low:.0%}, {high:.0%}]"


def known(metrics: Mapping[str, float], name: str, form: str) -> str:
    """A metric as text, "-" where it is missing or not a number yet."""
    value = metrics.get(name)
    return "-" if value is None or value != value else form.format(float(value))


def count(number: float) -> str:
    """A count in at most five characters: 950, 12.3k, 4.56M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(number) >= scale:
            return f"{number / (1e3 if unit == 'k' else scale):.3g}{unit}"
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def size(nbytes: int) -> str:
    """Bytes as text: 950 B, 52.4 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} B"


def duration(seconds: float | None) -> str:
    """Seconds as text: 4.2s, 1:05, 2:03:04; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
