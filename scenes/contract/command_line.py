"""How every command line of the project ends when something cannot be done: one line, no traceback.

Stdlib only, so that the bridge says it as the trainer does.
"""

import os
import sys
from collections.abc import Callable

from scenes.contract.errors import UserError
from scenes.contract.files import checkout
from scenes.contract.ranges import require_number

# Exit status of a command that was asked for something impossible, as argparse uses it.
BAD_INPUT = 2
FAILED = 1  # what was asked for is possible and did not work out
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
# Set to anything, it shows where a refusal came from.
SHOW_TRACEBACK = "MJX_SERL_TRACEBACK"
# What python starts for a command in a checkout, where that is not COMMAND.py.
_STARTED = {
    "record": "record_demos.py",
    "demos": "-m mjx_serl.demos",
    "sweep": "-m mjx_serl.sweep",
    "launch": "-m mjx_serl.launch",
    "compare": "-m mjx_serl.compare",
    "export": "-m mjx_serl.export",
    "sysid": "-m mjx_serl.sysid",
    "excite": "-m mjx_serl.cli excite",
    "pretrain": "-m mjx_serl.pretraining",
    "bridge": "-m robot_bridge",
}


def guarded(
    main: Callable[[], int],
    *,
    failures: tuple[type[Exception], ...] = (),
    interrupted: str = "Interrupted.",
) -> int:
    """Run a command; what the user got wrong is said in one line, not as a traceback.

    That is a `UserError`, or an OSError, which names the file itself. Anything else is a bug: it
    goes on up, with its traceback.

    Args:
        main: the command.
        failures: errors that say what a person can do about the world outside; status FAILED.
        interrupted: what is said after Ctrl-C.
    """
    try:
        return main()
    except failures as error:
        return _refuse(error, FAILED)
    except (UserError, OSError) as error:
        if SHOW_TRACEBACK in os.environ:
            raise
        return _refuse(error, BAD_INPUT)
    except KeyboardInterrupt:
        # Before the first step or after the last: there is nothing to finish.
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED


def how_to_start(command: str) -> str:
    """What a person types to start a command: of a checkout, or installed."""
    if checkout() is None:
        return f"mjx-serl {command}"
    return f"python {_STARTED.get(command, f'{command}.py')}"


def _refuse(error: Exception, status: int) -> int:
    sys.stderr.write(f"error: {_said(error)}\n")
    return status


def _said(error: Exception) -> str:
    """What is wrong with which file, without the number of a system error."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.strerror}: '{error.filename}'"
    return str(error)


def require_port(port: int) -> None:
    """Raise InputError for what is no TCP port."""
    require_number("port", port, least=1, most=65535, whole=True)
