"""What passes between devices in a compiled program, read from the text of its HLO."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
# Instructions are `%name = type op(...), attributes`; a tuple's type has parentheses of its own.
_LINE = re.compile(r"^(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collective:
    """One instruction by which devices exchange something.

    Attributes:
        kind: of `KINDS`.
        nbytes: of its result on each device.
        loops: rounds of the loops that it is in, outermost first; 0 where they are not known.
        source: which line of a program it came from, as JAX noted it.
    """

    kind: str
    nbytes: int
    loops: tuple[int, ...]
    source: str

    @property
    def times(self) -> int:
        """How often it is executed; of a branch of a condition, at most."""
        return math.prod(self.loops)


def collectives_of(hlo: str) -> list[Collective]:
    """Return what devices exchange in a compiled program, given as `compiled.as_text()`."""
    computations, entry = _computations(hlo)
    return list(_found(computations, entry, ()))


def _found(
    computations: dict[str, list[str]], name: str, loops: tuple[int, ...]
) -> Iterator[Collective]:
    for line in computations.get(name, []):
        found = _LINE.match(line)
        if found is None:
            continue
        kind = found[2].removesuffix("-start")
        if kind in KINDS:
            source = re.search(r'op_name="([^"]*)"', line)
            yield Collective(kind, _bytes_of(found[1]), loops, source[1] if source else "")
            continue
        inside = loops
        if kind == "while":
            trips = _TRIPS.search(line)
            inside = (*loops, int(trips[1]) if trips else 0)
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for other in called:
            yield from _found(computations, other, inside)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the first to be called."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for raw in hlo.splitlines():
        line = raw.strip()
        head = _HEAD.match(line)
        if head is not None:
            lines = computations.setdefault(head[1], [])
            entry = head[1] if line.startswith("ENTRY") else entry
        elif line != "}":
            lines.append(line)
    return computations, entry


def _bytes_of(kind: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
        for dtype, shape in _ARRAY.findall(kind)
    )
