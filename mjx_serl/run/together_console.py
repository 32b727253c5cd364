"""The live console of seeds that are trained together: a line for each, in one panel."""

import atexit
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mjx_serl.run.console import Board, count, duration, end_line, interval, spent, start_lines
from mjx_serl.run.hooks import EpochRecord, EvalRecord, RunInfo
from mjx_serl.run.summary import Summary

_COLUMNS = ("epoch", "env steps", "updates", "train success", "return", "eval")


class TogetherConsole:
    """Shows where each seed is, and what all make together.

    On a terminal a panel is redrawn in place. Elsewhere: a line for each evaluation and end of a
    seed, and one about all every `interval_s` [s].
    """

    def __init__(
        self, seeds: Sequence[int], *, stream: TextIO | None = None, interval_s: float = 5.0
    ) -> None:
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._seeds = tuple(seeds)
        self._interval = interval_s
        self._last_line = time.monotonic()
        self._live: Live | None = None
        self._boards: dict[int, Board] = {}
        self._ends: dict[int, str] = {}

    def hook(self, seed: int) -> "SeedHook":
        """Return what listens to the run of a seed."""
        return SeedHook(self, seed)

    def say(self, text: str) -> None:
        """Print a line, above the panel."""
        self._console.print(text, markup=False)
        self._console.file.flush()

    def start(self, seed: int, info: RunInfo) -> None:
        """Take in a run that begins; the first says what all have in common."""
        if not self._boards:
            self.say(f"{len(self._seeds)} seeds together: {' '.join(map(str, self._seeds))}")
            for line in start_lines(info):
                self.say(line)
        elif info.start_epoch:
            self.say(f"seed {seed}  resumed at epoch {info.start_epoch}")
        self._boards[seed] = Board(info)
        if self._console.is_terminal and self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self.panel, refresh_per_second=4
            )
            self._live.start(refresh=True)
            atexit.register(self.close)  # a run that dies must leave the cursor visible

    def epoch(self, seed: int, record: EpochRecord) -> None:
        """Take in an epoch of a seed."""
        self._boards[seed].add_epoch(record)
        now = time.monotonic()
        if self._live is None and now - self._last_line >= self._interval:
            self._last_line = now
            self.say(self.line())

    def evaluation(self, seed: int, record: EvalRecord) -> None:
        """Show an evaluation; a check is printed and stays."""
        self._boards[seed].evaluation = record
        if not record.final:  # that one is in the seed's last line
            self.say(
                f"seed {seed}  eval  epoch {record.epoch}  {spent(record)}  "
                f"{duration(record.elapsed_s)}  success {interval(record)} of {record.episodes}"
            )

    def end(self, seed: int, summary: Summary | None) -> None:
        """Print what a seed came to; after the last one the panel is closed."""
        self._ends[seed] = "stopped" if summary is None else "done"
        text = "stopped and saved" if summary is None else end_line(summary)
        self.say(f"seed {seed}  {text}")
        if len(self._ends) == len(self._boards):
            self.close()

    def close(self) -> None:
        """Leave the panel as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self.close)

    def rates(self) -> tuple[float, float]:
        """Env steps/s and updates/s of all seeds that are in training."""
        found = [self._boards[seed].rates() for seed in self._training()]
        known = [rates for rates in found if rates is not None]
        return sum(steps for steps, _ in known), sum(updates for _, updates in known)

    def line(self) -> str:
        """Where all are, on one line, for a log file."""
        boards = [self._boards[seed] for seed in self._training()]
        epochs = [int(text) for board in boards if (text := board.figures()["epoch"]) != "-"]
        steps, updates = self.rates()
        where = f"epoch {min(epochs)} to {max(epochs)}  " if epochs else ""
        return (
            f"{len(boards)} of {len(self._boards)} seeds in training  {where}"
            f"all: env steps/s {count(steps)}  updates/s {count(updates)}"
        )

    def panel(self) -> RenderableType:
        """All seeds, for a terminal."""
        table = Table.grid(padding=(0, 2))
        for name in ("seed", *_COLUMNS, ""):
            table.add_column(justify="left" if name in ("eval", "") else "right", no_wrap=True)
        table.add_row(*(Text(name, "dim") for name in ("seed", *_COLUMNS, "")))
        for seed, board in self._boards.items():
            figures = board.figures()
            left = self._ends.get(seed) or f"{figures['left']} left"
            table.add_row(str(seed), *(figures[name] for name in _COLUMNS), left)
        steps, updates = self.rates()
        title = f" {len(self._training())} seeds in training "
        below = f" all: env steps/s {count(steps)}  updates/s {count(updates)} "
        return Panel(table, title=title, subtitle=below, title_align="left", border_style="blue")

    def _training(self) -> list[int]:
        return [seed for seed in self._boards if seed not in self._ends]


class SeedHook:
    """Tells the console of all what its own run reports."""

    def __init__(self, console: TogetherConsole, seed: int) -> None:
        self._console, self._seed = console, seed

    def on_stage(self, text: str) -> None:
        """Print what takes long before the first epoch."""
        self._console.say(text)

    def on_wait(self, text: str) -> None:
        """Print what still takes long."""
        self._console.say(f"still {text}")

    def on_start(self, info: RunInfo) -> None:
        """Pass on."""
        self._console.start(self._seed, info)

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass on."""
        self._console.epoch(self._seed, record)

    def on_eval(self, record: EvalRecord) -> None:
        """Pass on."""
        self._console.evaluation(self._seed, record)

    def on_end(self, summary: Summary | None) -> None:
        """Pass on."""
        self._console.end(self._seed, summary)
