"""One registry for everything that has a name: robots, drivers, tasks, agents, renderers."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from scenes.contract.names import unknown_name

T = TypeVar("T")
Entry = TypeVar("Entry", bound=Any)  # what it is keeps its own type


class Registry(Mapping[str, T]):
    """Names to entries, in alphabetical order; duplicates and unknown names raise.

    >>> tasks: Registry[Callable[[], object]] = Registry("task")

    Args:
        kind: what an entry is called in messages.
        found_in: a package whose modules register entries; they are imported at the first look-up,
            so that a new entry is a new file and no list has to be edited.
    """

    def __init__(self, kind: str, *, found_in: str | None = None) -> None:
        self.kind = kind
        self._found_in = found_in
        self._table: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that files an entry under `name`; ValueError on a duplicate."""

        def add(entry: Entry) -> Entry:
            if name in self._table:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._table[name] = cast(Any, entry)
            return entry

        return add

    @property
    def _entries(self) -> dict[str, T]:
        if self._found_in is not None:
            import_modules(self._found_in)
            self._found_in = None
        return self._table

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise KeyError(unknown_name(self.kind, name, list(self._entries)))
        return self._entries[name]

    def name_of(self, entry: T) -> str:
        """Return the name an entry is filed under; raises KeyError where it is not."""
        for name, found in self._entries.items():
            if found is entry:
                return name
        raise KeyError(f"{entry!r} is not registered as {self.kind}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def import_modules(package: str) -> None:
    """Import every module of a package, and of each package inside it its `__init__`."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
