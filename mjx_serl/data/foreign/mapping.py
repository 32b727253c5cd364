"""Which of a file's columns become which of a task's observations and actions.

Said as OURS=THEIRS, for example

    ee_position=state[1:4]  cube_from_ee=state[7:10]-state[1:4]  action=40*action[0:3],-action[6]

where a comma puts parts behind each other, [3] or [1:4] takes entries of a flattened column, and
parts are sums of columns with factors; a number alone stands for a constant.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.source import ACTION, Column, Columns
from scenes.contract.errors import InputError
from scenes.contract.lerobot import PICTURE_KEY, entry_names

_NUMBER = r"\d+(?:\.\d*)?(?:e-?\d+)?"
_TERM = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<factor>{_NUMBER})(?:(?P<times>\*)|(?=$|[+-])))?"
    r"(?P<name>[^\W\d][\w./ ]*)?(?:\[(?P<first>\d+)(?::(?P<last>\d+))?\])?"
)
_FORM = "NAME, NAME[1:4], 0.5*NAME[0]-NAME[3], or several with commas"


@dataclasses.dataclass(frozen=True)
class Term:
    """A factor times entries of a column, or the factor alone.

    Attributes:
        factor: that is multiplied with.
        name: of the column; "" for a constant.
        first, last: entries of the flattened column, the last not included; None for all.
    """

    factor: float
    name: str = ""
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        span = "" if self.first is None else f"[{self.first}:{self.last}]"
        named = f"{self.name}{span}"
        if named and abs(self.factor) == 1.0:
            return named if self.factor > 0.0 else f"-{named}"
        return f"{self.factor:g}*{named}".rstrip("*")

    def of(self, columns: Columns) -> NDArray[np.float64]:
        """Return the values [T, entries], [1, 1] of a constant."""
        if not self.name:
            return np.full((1, 1), self.factor)
        column = columns[self.name]
        flat = column.reshape(len(column), -1).astype(np.float64)
        return self.factor * flat[:, self.first : self.last]


@dataclasses.dataclass(frozen=True)
class Source:
    """Parts behind each other, each a sum of terms."""

    parts: tuple[tuple[Term, ...], ...]

    def __str__(self) -> str:
        return ",".join("+".join(map(str, part)) for part in self.parts).replace("+-", "-")

    @property
    def plain(self) -> str:
        """Name of the one column that this is as it stands, else ""."""
        terms = [term for part in self.parts for term in part]
        one = len(terms) == 1 and terms[0].first is None and terms[0].factor == 1.0
        return terms[0].name if one else ""

    @property
    def names(self) -> frozenset[str]:
        """The columns that are read."""
        return frozenset(term.name for part in self.parts for term in part if term.name)

    def of(self, columns: Columns, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return the values [T, *shape]; the columns are those of one episode."""
        if self.plain:
            return columns[self.plain].reshape(-1, *shape).astype(dtype)
        length = max(len(x) for x in columns.values())
        sums = [
            sum((term.of(columns) for term in part[1:]), part[0].of(columns)) for part in self.parts
        ]
        width = int(np.prod(shape, dtype=int)) if len(sums) == 1 else 1
        spread = [np.broadcast_to(x, (length, max(x.shape[1], width))) for x in sums]
        return np.concatenate(spread, axis=1).reshape(length, *shape).astype(dtype)

    def size(self, columns: Mapping[str, Column]) -> int | None:
        """How many entries there are; None for a constant that fills what there is.

        Raises InputError for entries that a column lacks, and sums of unequal parts.
        """
        sizes = [{_entries(t, columns) for t in part if t.name} for part in self.parts]
        for part in sizes:
            if len(part) > 1:
                raise InputError(
                    f"'{self}' adds {min(part)} and {max(part)} entries, allowed: alike"
                )
        if sizes == [set()]:
            return None
        return sum(next(iter(part), 1) for part in sizes)


def _entries(term: Term, columns: Mapping[str, Column]) -> int:
    column = columns[term.name]
    size = int(np.prod(column.shape, dtype=int))
    if term.first is None or term.last is None:
        return size
    if not term.first < term.last <= size:
        raise InputError(f"'{term}': {term.name} has entries 0 to {size - 1}")
    return term.last - term.first


def parse_map(words: Sequence[str]) -> dict[str, Source]:
    """Read words of the form OURS=THEIRS; InputError for one that is not, or comes twice."""
    found: dict[str, Source] = {}
    for word in words:
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not (ours and equals and theirs) or ours in found:
            raise InputError(f"--map '{word}', allowed: OURS=THEIRS once for each, THEIRS {_FORM}")
        found[ours] = Source(tuple(_part(word, part.strip()) for part in theirs.split(",")))
    return found


def _part(word: str, text: str) -> tuple[Term, ...]:
    terms, at = [], 0
    while at < len(text) or not terms:
        match = _TERM.match(text, at)
        # A number needs no name, but what is multiplied does.
        number = match is not None and match["factor"] and not (match["times"] or match["first"])
        if match is None or not (match["name"] or number):
            raise InputError(f"--map '{word}': '{text[at:]}' is none of {_FORM}")
        terms.append(_term(match))
        at = match.end()
    return tuple(terms)


def _term(match: re.Match[str]) -> Term:
    factor = float(match["factor"] or 1.0) * (-1.0 if match["sign"] == "-" else 1.0)
    first = None if match["first"] is None else int(match["first"])
    last = int(match["last"]) if match["last"] else None if first is None else first + 1
    return Term(factor, (match["name"] or "").strip(), first, last)


def find_source(name: str, column: Column, columns: Mapping[str, Column]) -> Source | None:
    """What a file itself calls so: a column, or entries of one whose entries have names.

    Args:
        name: of one of our observations.
        column: what it is.
        columns: of the file.
    """
    for theirs in (name, f"{PICTURE_KEY}{name}", f"observation.{name}"):
        if theirs in columns:
            return Source(((Term(1.0, theirs),),))
    wanted = entry_names(name, int(np.prod(column.shape, dtype=int)))
    for theirs, other in columns.items():
        if theirs != ACTION and wanted[0] in other.names:
            first = other.names.index(wanted[0])
            if other.names[first : first + len(wanted)] == wanted:
                return Source(((Term(1.0, theirs, first, first + len(wanted)),),))
    return None
