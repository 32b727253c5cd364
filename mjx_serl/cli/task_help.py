"""What `--help` says about tasks."""

import inspect
import sys
from collections.abc import Callable


def with_tasks(main: Callable[..., int]) -> str | None:
    """What a command does and the tasks there are; None unless help is asked for.

    Their names need JAX, which must not start before the platform is prepared.
    """
    if not {"-h", "--help"} & set(sys.argv[1:]):
        return None
    from mjx_serl.envs.task import describe_tasks

    about = (inspect.getdoc(main) or "").split("\n\nArgs:")[0]
    return f"{about}\n\n{describe_tasks()}"
