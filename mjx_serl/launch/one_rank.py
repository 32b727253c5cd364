"""One process of a run, held by a pipe: `stop` lets it save, an end of the pipe ends it.

    python -m mjx_serl.launch.one_rank NAME=VALUE... -- COMMAND...

Stdlib only. The supervisor starts this through ssh as on its own machine: when the connection is
gone, or the supervisor, what it started does not stay behind. Exits as the command does.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

STOP, KILL = "stop", "kill"
_GRACE_S = 10.0  # that a process has to end once nobody holds it [s]


def main(words: Sequence[str]) -> int:
    """Run the command with these variables until it ends; returns its exit status."""
    end = list(words).index("--")
    variables = dict(word.split("=", 1) for word in words[:end])
    process = subprocess.Popen(
        words[end + 1 :],
        stdin=subprocess.DEVNULL,
        env=os.environ | variables,
        # A terminal's Ctrl-C is the supervisor's, who says it once to everyone.
        start_new_session=True,
    )
    threading.Thread(target=_obey, args=(process,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _obey(process: subprocess.Popen[bytes]) -> None:
    for line in sys.stdin:
        if line.strip() == STOP:
            _signal(process, signal.SIGTERM)
        elif line.strip() == KILL:
            _signal(process, signal.SIGKILL)
    _signal(process, signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        # Its own children too.
        os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)


if __name__ == "__main__":
    # The supervisor's end is seen at the pipe, not as a signal to its terminal's processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
