"""Free host memory: the machine's, or less where a container is given less.

A container sees the whole machine in /proc/meminfo; what it may use stands in its control group
(Linux kernel, admin-guide/cgroup-v2.rst "Memory" and cgroup-v1/memory.rst).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Controller(NamedTuple):
    """Where a version of control groups is mounted and what it calls limit, usage and cache."""

    mount: str
    limit: str
    usage: str
    cache: str


_V1 = _Controller(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)
_V2 = _Controller("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def host_bytes(root: Path = Path("/")) -> int:
    """Free memory of this machine or of the tightest group this process is in [bytes].

    `root` holds `proc` and `sys`.
    """
    return max(0, min([_machine_bytes(root), *_group_bytes(root)]))


def _machine_bytes(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_bytes(root: Path) -> Iterator[int]:
    """Free bytes of every limited group above this process; limits hold for all below them."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = _V1 if controllers else _V2
        # In a container the path may be the host's, of which only the last group is mounted here:
        # the mount itself, which is among the parents.
        own = Path(path.lstrip("/"))
        for group in (own, *own.parents):
            yield from _free_bytes(root / names.mount / group, names)


def _free_bytes(group: Path, names: _Controller) -> Iterator[int]:
    limit, usage = (" ".join(_lines(group / name)) for name in (names.limit, names.usage))
    if limit.isdecimal() and usage.isdecimal():  # "max", or no file, is no limit
        # Idle file cache counts as used but is given back on demand, as in MemAvailable.
        yield int(limit) - int(usage) + _cache_bytes(group, names)


def _cache_bytes(group: Path, names: _Controller) -> int:
    pairs = (line.split() for line in _lines(group / "memory.stat"))
    return next((int(value) for name, value in pairs if name == names.cache), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
