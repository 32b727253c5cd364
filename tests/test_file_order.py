"""The order of the suite's files."""

from collections import Counter
from pathlib import Path

from file_order import ordered


def test_slow_files_come_first_and_those_that_wait_among_all() -> None:
    paths = [Path(name) for name in "abcdefghij"]
    waiting = {Path("a"), Path("b")}
    found = ordered(paths, Counter({Path("h"): 1, Path("j"): 3}), waiting)
    assert sorted(found) == paths
    assert [str(path) for path in found if path not in waiting] == [*"jhcdefgi"]
    first, second = (found.index(path) for path in sorted(waiting))
    assert first <= 1 and 3 <= second <= 6


def test_a_choice_of_files_may_have_none_of_a_kind() -> None:
    one, other = Path("one"), Path("other")
    assert ordered([one, other], Counter(), {one, other}) == [one, other]
    assert ordered([one, other], Counter({other: 1}), set()) == [other, one]
    assert ordered([], Counter(), set()) == []
