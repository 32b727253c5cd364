"""One registry for everything that has a name: tasks, presets, agents, physics, renderers."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from scenes.contract.names import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to factories; duplicates and unknown names raise.

    >>> tasks: Registry[Callable[[], object]] = Registry("task")
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files an entry under `name`; raises ValueError on a duplicate."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise KeyError(unknown_name(self.kind, name, list(self._entries)))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
