"""The harness's side of a measurement: start workers, ask them in turn, never wait for ever."""

import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit)\b")
ROOT = Path(__file__).resolve().parent.parent


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used [s]; 0 once it is gone.

    Of one that hangs it is little in a deadlock, much where the machine was just busy.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class WorkerError(RuntimeError):
    """A worker did not start, died or took too long; the message is one line and says why."""


class WorkerProcess:
    """A running `python -m module PARAMS`; see `benchmarks.worker.serve`.

    Args:
        module: for example "benchmarks.workers.env".
        params: handed over as JSON.
        python: the interpreter, for peers that of their virtual environment.
        env: environment variables on top of ours.
    """

    def __init__(
        self,
        module: str,
        params: Mapping[str, Any],
        *,
        python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.params = dict(params)
        self.ready: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        handle, name = tempfile.mkstemp(prefix="bench-", suffix=".log")
        self._log = Path(name)
        self._process = subprocess.Popen(
            [str(python), "-m", module, json.dumps(self.params)],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=handle,
            text=True,
        )
        os.close(handle)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self, timeout: float) -> None:
        """Wait until it is set up [s]; raises WorkerError."""
        self.ready = self._next(timeout, "set-up")

    def measure(self, timeout: float) -> float:
        """Return one timed repetition; raises WorkerError."""
        try:
            self._input.write("\n")
            self._input.flush()
        except OSError:
            raise WorkerError(self._reason("died")) from None
        self.last = self._next(timeout, "a repetition")
        return float(self.last["value"])

    def close(self, timeout: float = 30.0) -> bool:
        """End it; returns whether it ended by itself in time [s]."""
        ended = True
        try:
            self._input.close()
            self._process.wait(timeout)
        except (OSError, subprocess.TimeoutExpired):
            ended = self._process.poll() is not None
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._log.unlink(missing_ok=True)
        return ended

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _next(self, timeout: float, what: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, timeout))
        except queue.Empty:
            used = cpu_seconds(self._process.pid)
            self._process.kill()
            raise WorkerError(f"{what} took over {timeout:.0f} s ({used:.0f} s of CPU)") from None
        if line is None:
            raise WorkerError(self._reason(f"died in {what}"))
        return json.loads(line)

    def _reason(self, what: str) -> str:
        """Return the last exception it printed on stderr, else its last line."""
        self._process.wait()
        text = self._log.read_text(errors="replace")
        said = [x.strip() for x in text.splitlines() if x.strip()] or ["without a word"]
        # JAX prints a remark after the exception.
        last = next((x for x in reversed(said) if _EXCEPTION.match(x)), said[-1])
        return f"{what} (exit {self._process.returncode}): {last[:200]}"


class Deadline:
    """A time budget that several steps share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float = float("inf")) -> float:
        """Return seconds left, at most `most`, at least 0."""
        return max(0.0, min(most, self._end - time.monotonic()))
