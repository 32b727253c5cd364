"""The bridge's commands: `python -m robot_bridge keys|observe|serve|export-demos|export-lerobot`.

The bridge itself runs without tyro, which reads these command lines.
"""

import functools
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from robot_bridge.deploy.commands import guarded
from robot_bridge.deploy.exports import export_demos, export_lerobot
from robot_bridge.deploy.observe import observe
from robot_bridge.deploy.serve import serve
from robot_bridge.network import keys
from scenes.contract.extras import require

KEYS: Mapping[str, Callable[..., int]] = {
    "server": keys.make_server,
    "new": keys.make_client,
    "allow": keys.let_in,
    "list": keys.list_clients,
}
COMMANDS: Mapping[str, Callable[..., int]] = {
    "observe": observe,
    "serve": serve,
    "export-demos": export_demos,
    "export-lerobot": export_lerobot,
}


PROGRAM = "python -m robot_bridge"


def main(arguments: Sequence[str] | None = None, *, prog: str | None = PROGRAM) -> int:
    """Run a command line; returns its exit status."""
    return guarded(lambda: _run(require("tyro", purpose=PROGRAM), arguments, prog))


def run() -> int:
    """Run the command line under the name that it was started by."""
    return main(prog=None)


def _run(tyro: Any, arguments: Sequence[str] | None, prog: str | None) -> int:
    def one_of(commands: Mapping[str, Callable[..., int]]) -> Any:
        named = [Annotated[f, tyro.conf.subcommand(name)] for name, f in commands.items()]
        return functools.reduce(operator.or_, named)

    def run_keys(command: one_of(KEYS)) -> int:  # pyright: ignore[reportInvalidTypeForm]
        """Make, list and let in the keys of those who may talk to the bridge over a network.

        Args:
            command: what to do.
        """
        return command

    return tyro.cli(
        one_of({"keys": run_keys, **COMMANDS}),
        prog=prog,
        description="The robot bridge's commands; deploy.py runs a policy on an arm.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )


if __name__ == "__main__":
    sys.exit(main())
