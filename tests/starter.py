"""Starts train.py as often as asked, and imports everything once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Starter:
    """Processes of train.py, one at a time; see run/start_again.py."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(ROOT / "tests" / "run" / "start_again.py")]
        pipe, env = subprocess.PIPE, os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self.parent = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=env, cwd=folder
        )
        self.folder, self.pid, self.starts = folder, 0, 0

    def __enter__(self) -> "Starter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.starts and self.running():
            os.kill(self.pid, signal.SIGKILL)
        self.parent.communicate(timeout=60)

    def train_py(self, *argv: str) -> None:
        """Start the script."""
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(argv) + "\n")
        self.parent.stdin.flush()
        self.pid, self.starts = int(self.parent.stdout.readline()), self.starts + 1

    def said(self) -> str:
        """What the last one has printed; it may not have begun."""
        said = self.folder / f"start_{self.starts - 1}.txt"
        return said.read_text() if said.exists() else ""

    def running(self) -> bool:
        """Whether the last one has not ended."""
        state = Path(f"/proc/{self.pid}/stat")
        with_parent = f" {self.parent.pid} "
        try:
            text = state.read_text()
        except FileNotFoundError:
            return False
        return with_parent in text and ") Z " not in text

    def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end of the last one, which a signal may bring about; its exit status."""
        if number is not None:
            assert self.running(), f"it ended before it was signalled: {self.said()}"
            os.kill(self.pid, number)
        assert self.parent.stdout is not None
        return int(self.parent.stdout.readline())

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Return once something is so; it must happen while the last one runs."""
        deadline = time.monotonic() + 120
        while not ready():
            assert self.running(), self.said()
            assert time.monotonic() < deadline
            time.sleep(0.002)
