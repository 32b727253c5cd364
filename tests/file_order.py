"""In which order the suite's workers are given the files of tests."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

# By when the last file that waits is given out, as a part of all: none is to be the last to end.
_SPREAD = 0.8


def ordered(paths: Sequence[Path], slow: Mapping[Path, int], waiting: Set[Path]) -> list[Path]:
    """Files with most slow tests first, so that no worker ends on a long one.

    Those that keep time mostly wait. They are spread evenly among the others, so that at most one
    worker waits while the rest compute: side by side, as their folders lie, they leave cores idle.
    """
    busy = sorted((path for path in paths if path not in waiting), key=lambda path: -slow[path])
    waits = [path for path in paths if path in waiting]
    places = {path: place / len(busy) for place, path in enumerate(busy)}
    places |= {path: _SPREAD * place / len(waits) for place, path in enumerate(waits)}
    return sorted(places, key=places.__getitem__)
