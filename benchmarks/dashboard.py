"""Does the dashboard's memory stay bounded while a page is open for an hour?

    python -m benchmarks.dashboard --minutes 60

Twenty finished runs and two live ones, of which each adds an epoch three times a second; a page in
headless Chromium shows both live ones. Filed are the memory of the server's process and the page's
JavaScript heap after collecting garbage, early and at the end, and the time to the first paint.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import measure_once
from mjx_serl.run.run_lock import locked
from scenes.contract.ranges import ranged

QUESTION = "dashboard"
FINISHED, LIVE = 20, 2
EPOCHS_S = 3.0  # that a live run adds per second
_LOOK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class DashboardConfig:
    """How long it is watched.

    Attributes:
        minutes: of watching [min].
    """

    minutes: float = ranged(60.0, above=0)


def run(cfg: DashboardConfig, recorder: Recorder) -> None:
    """Watch, and file."""
    for folder in ("tests", "tests/dashboard"):
        sys.path.insert(0, str(ROOT / folder))
    from browser import Browser  # pyright: ignore[reportMissingImports]
    from run_folders import rows, write_run  # pyright: ignore[reportMissingImports]

    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(FINISHED):
            write_run(root, f"old-{number}", epochs=400, final=True)
        live = [write_run(root, f"live-{number}") for number in range(LIVE)]
        for path in live:
            stack.enter_context(locked(path))
        command = [sys.executable, "-m", "mjx_serl.dashboard", str(root)]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        stack.callback(server.terminate)
        assert server.stdout is not None
        page = stack.enter_context(Browser(server.stdout.readline().split()[1]))
        found = _watch(cfg, page, server.pid, live, rows)
    recorder.add("server's memory, end over early", found.pop("ratio"), "ratio", found)


def _watch(
    cfg: DashboardConfig, page: Any, pid: int, live: list[Path], rows: Any
) -> dict[str, Any]:
    server, heap, epoch = [], [], 21
    begun = looked = time.monotonic()
    while page.evaluate("window.painted || 0") == 0:
        time.sleep(0.05)
    painted = page.evaluate("window.painted")
    page.evaluate("chosen = lines.filter(l => l.state === 'training').map(l => l.name); refresh()")
    while time.monotonic() - begun < 60 * cfg.minutes:
        for path in live:
            with (path / "metrics.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows(1, first=epoch))
        epoch += 1
        if time.monotonic() - looked > _LOOK_S:
            looked = time.monotonic()
            server.append(psutil.Process(pid).memory_info().rss)
            heap.append(page.heap())
        time.sleep(1.0 / EPOCHS_S)
    say(f"{QUESTION}: {epoch} epochs, page: {page.text()[:60]!r}")
    # The first minutes fill what is kept.
    early, few = slice(len(server) // 10, len(server) // 5 + 1), max(len(server) // 10, 1)
    facts: dict[str, Any] = {"minutes": cfg.minutes, "epochs": epoch, "first_paint_ms": painted}
    for name, sizes in (("server", server), ("heap", heap)):
        facts[f"{name}_early_mb"] = statistics.median(sizes[early]) / 1e6
        facts[f"{name}_late_mb"] = statistics.median(sizes[-few:]) / 1e6
        facts[f"{name}_most_mb"] = max(sizes) / 1e6
    return facts | {"ratio": facts["server_late_mb"] / facts["server_early_mb"]}


if __name__ == "__main__":
    measure_once(DashboardConfig, __doc__, QUESTION, run)
