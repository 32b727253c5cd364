"""How every command line of the project ends when something cannot be done: one line, no traceback.

Stdlib only, so that the bridge says it as the trainer does.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Exit status of a command that was asked for something impossible, as argparse uses it.
BAD_INPUT = 2
FAILED = 1  # what was asked for is possible and did not work out
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
# Set to anything, it shows where a refusal came from.
SHOW_TRACEBACK = "MJX_SERL_TRACEBACK"
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("mjx_serl", "scenes", "splat_render", "robot_bridge")


def guarded(
    main: Callable[[], int],
    *,
    failures: tuple[type[Exception], ...] = (),
    interrupted: str = "Interrupted.",
) -> int:
    """Run a command; what the user got wrong is said in one line, not as a traceback.

    The same kind of error out of a library, or of a failed look-up, is a bug: it goes on up, with
    its traceback.

    Args:
        main: the command.
        failures: errors that say what a person can do about the world outside; status FAILED.
        interrupted: what is said after Ctrl-C.
    """
    try:
        return main()
    except failures as error:
        return _refuse(error, FAILED)
    except (KeyError, ValueError, OSError, MemoryError, ImportError) as error:
        if SHOW_TRACEBACK in os.environ or not _is_refusal(error):
            raise
        return _refuse(error, BAD_INPUT)
    except KeyboardInterrupt:
        # Before the first step or after the last: there is nothing to finish.
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED


def _refuse(error: Exception, status: int) -> int:
    # KeyError shows its message quoted.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    sys.stderr.write(f"error: {text}\n")
    return status


def _is_refusal(error: Exception) -> bool:
    """Whether a `raise` of ours said this, or the disk, which names the file itself."""
    if isinstance(error, OSError):
        return True
    origin = traceback.extract_tb(error.__traceback__)[-1]
    ours = any(Path(origin.filename).is_relative_to(_ROOT / name) for name in _PACKAGES)
    return ours and (origin.line or "").startswith("raise ")
