"""What does the pilot's page cost a training run, and how late are its pictures?

python -m benchmarks.pilot

Two train.py of the same options take turns of some seconds on all cores, one of them with its page
open in a client at which nobody is; compared are epochs per second of a turn. Then somebody watches
there while the training goes on, without driving: epochs per second once more, and the times from a
picture's sending to the client's word that it is there.
"""

import contextlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.options import read_options
from benchmarks.process import ROOT
from benchmarks.results import Ratio, Recorder, say
from benchmarks.table import finish
from robot_bridge.operators.page_wire import pack_frame, unpack_pictures
from scenes.contract.ranges import ranged

QUESTION = "pilot"
GOAL = 0.97  # of the epochs without, issue 13
_QUIET = ("--total-env-steps=100000000", "--eval.every-epochs=1000000", "--run.no-bundle")
_WARM_EPOCHS = 3
_BEAT_S = 0.2  # between an idle page's frames


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """What is measured.

    Attributes:
        rounds: turns of each.
        seconds: of a turn [s].
        settle: time for what the page compiles once it is open [s].
        watched: time for which pictures are taken [s].
        args: further options of train.py.
    """

    rounds: int = ranged(6, least=1)
    seconds: float = ranged(6.0, above=0)
    settle: float = ranged(30.0, least=0)
    watched: float = ranged(20.0, above=0)
    args: tuple[str, ...] = ("--task=franka/pick_cube_dense",)


class Trained:
    """A train.py that runs in its turns only."""

    def __init__(self, folder: Path, args: tuple[str, ...]) -> None:
        self._metrics, self._log = folder / "run" / "metrics.jsonl", folder / "log"
        command = [sys.executable, "train.py", *_QUIET, f"--run.folder={folder}", "--run.name=run"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *args], cwd=ROOT, stdout=log, stderr=log, env=None
            )

    def warm(self) -> None:
        """Run past the first epochs."""
        while self.epochs() < _WARM_EPOCHS:
            time.sleep(0.2)
            if self._process.poll() is not None:
                raise RuntimeError(f"train.py ended: {self._log.read_text()[-500:]}")

    def url(self) -> str:
        """Address of its page."""
        while not (found := re.search(r"http://\S+token=\S+", self._log.read_text())):
            time.sleep(0.2)
        return found[0]

    def epochs(self) -> int:
        """Done so far."""
        with contextlib.suppress(FileNotFoundError):
            return self._metrics.read_text().count('"kind": "epoch"')
        return 0

    def halt(self) -> None:
        """Let it wait for its turn."""
        self._process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        """Let it run."""
        self._process.send_signal(signal.SIGCONT)

    def turn(self, seconds: float) -> float:
        """Run for a while; returns epochs per second, of whole epochs."""
        self.go()
        first = last = None
        count = begun = self.epochs()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.002)
            if (now := self.epochs()) > count:
                count, last = now, time.monotonic()
                if first is None:
                    first, begun = last, now
        self.halt()
        if first is None or last is None or last == first:
            raise RuntimeError(f"a turn of {seconds} s holds no two epochs; allowed: a longer one")
        return (count - begun) / (last - first)

    def end(self) -> None:
        """End it, stopped or not."""
        self._process.kill()
        self._process.wait()


class Watcher(threading.Thread):
    """A page that shows each picture at once."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        base, _, self._token = url.partition("/?token=")
        self._base = base
        self.shown: list[tuple[float, float]] = []  # when [s], latency of the one before [ms]
        self.pictures = 0
        self.awake = True
        self._count = 0

    def run(self) -> None:
        """Watch until the server ends."""
        page, hand = self._connect("pictures"), self._connect("input")
        with contextlib.suppress(ConnectionClosed), page, hand:
            told_at = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    message = page.recv(timeout=_BEAT_S)
                    self._show(page, message)
                if time.monotonic() - told_at > _BEAT_S:
                    told_at, self._count = time.monotonic(), self._count + 1
                    held = frozenset({"awake"} if self.awake else ())
                    hand.send(pack_frame(self._count, 0, {}, held))

    def _connect(self, path: str) -> Any:
        where = f"{self._base.replace('http', 'ws')}/{path}?token={self._token}"
        return connect(where, additional_headers={"Origin": self._base}, ping_interval=None)

    def _show(self, page: Any, message: bytes) -> None:
        told, pictures = unpack_pictures(message)
        self.pictures = len(pictures)
        self.shown.append((time.monotonic(), told["latency_ms"]))
        page.send(str(told["id"]))


@contextlib.contextmanager
def _trained(folder: Path, name: str, args: tuple[str, ...]) -> Iterator[Trained]:
    (folder / name).mkdir()
    run = Trained(folder / name, args)
    try:
        run.warm()
        run.halt()
        yield run
    finally:
        run.end()


def measure(cfg: PilotConfig, recorder: Recorder) -> None:
    """File the ratio of epochs per second, and the latencies."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as runs:
        folder = Path(place)
        plain = runs.enter_context(_trained(folder, "plain", cfg.args))
        open_ = runs.enter_context(_trained(folder, "open", (*cfg.args, "--pilot")))
        open_.go()
        watcher = Watcher(open_.url())
        watcher.start()
        while len(watcher.shown) < 20:  # its world is built and compiled
            time.sleep(0.2)
        time.sleep(cfg.settle)
        params: dict[str, Any] = {"args": list(cfg.args), "seconds": cfg.seconds}
        for name, awake in (("open and unused", False), ("watched", True)):
            watcher.awake = awake
            time.sleep(2.0)
            open_.halt()
            _compare(cfg, plain, open_, f"epochs with the page {name}", params, recorder)
            open_.go()
        time.sleep(2.0)
        begun = time.monotonic()
        time.sleep(cfg.watched)
        late = [latency for at, latency in watcher.shown if at >= begun]
    params |= {"pictures": watcher.pictures, "hertz": round(len(late) / cfg.watched, 1)}
    for share in (50, 99):
        name = f"picture latency p{share}"
        recorder.add(name, float(np.percentile(late, share)), "ms", params)


def _compare(
    cfg: PilotConfig,
    plain: Trained,
    other: Trained,
    name: str,
    params: dict[str, Any],
    recorder: Recorder,
) -> None:
    rates: dict[str, list[float]] = {"plain": [], "open": []}
    for i in range(cfg.rounds):
        for which, run in [("plain", plain), ("open", other)][:: (-1) ** i]:
            rates[which].append(run.turn(cfg.seconds))
        say(f"{name}, round {i + 1}: {rates['open'][-1]:.3f} and {rates['plain'][-1]:.3f} epochs/s")
    ratios = [a / b for a, b in zip(rates["open"], rates["plain"], strict=True)]
    ratio = Ratio(
        to="no page",
        value=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=cfg.rounds,
        goal=GOAL if "unused" in name else None,
    )
    recorder.add(name, statistics.median(rates["open"]), "epochs/s", params, ratio=ratio)


def main() -> None:
    """Measure and write the results file."""
    recorder = Recorder(QUESTION)
    measure(read_options(PilotConfig, __doc__), recorder)
    finish(recorder.results)


if __name__ == "__main__":
    main()
