"""Looking things up by name, and saying what was meant where the name is wrong."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from scenes.contract.errors import UnknownNameError


class HasName(Protocol):
    """Anything looked up by name."""

    @property
    def name(self) -> str:
        """The name it is looked up by."""
        ...


Named = TypeVar("Named", bound=HasName)


def named(entries: Iterable[Named], name: str, *, kind: str) -> Named:
    """Return the entry whose `name` is `name`; raises KeyError naming the allowed ones."""
    table = {entry.name: entry for entry in entries}
    if name not in table:
        raise UnknownNameError(unknown_name(kind, name, table))
    return table[name]


def require_fields(config: type[Any], given: Iterable[str], *, kind: str) -> None:
    """Raise KeyError, naming the allowed ones, for a keyword that is no field of a dataclass."""
    allowed = [field.name for field in dataclasses.fields(config) if field.init]
    for name in given:
        if name not in allowed:
            raise UnknownNameError(unknown_name(kind, name, allowed))


def unknown_name(kind: str, got: str, allowed: Iterable[str]) -> str:
    """One line: what was asked for, what is allowed, what was probably meant."""
    options = sorted(allowed)
    close = difflib.get_close_matches(got, options, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{got}'.{hint} Allowed: {', '.join(options) or 'none'}."
