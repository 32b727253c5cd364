"""The command line of a benchmark: a dataclass whose numbers are checked before anything runs."""

import sys
from typing import TypeVar

import tyro

from scenes.contract.command_line import guarded
from scenes.contract.ranges import check_ranges

T = TypeVar("T")


def read_options(kind: type[T], about: str | None) -> T:
    """Read a command line as a `kind`; a number out of range ends the process with one line."""
    options = tyro.cli(kind, description=about)

    def check() -> int:
        check_ranges(options)
        return 0

    status = guarded(check)
    if status:
        sys.exit(status)
    return options
