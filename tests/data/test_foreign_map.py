"""Which column becomes what: the words of --map, and what names say by themselves."""

import numpy as np
import pytest

from mjx_serl.data.foreign.mapping import find_source, parse_map
from mjx_serl.data.foreign.source import Column

COLUMNS = {
    "state": Column((7,), "float64"),
    "observation.state": Column(
        (4,), "float32", ("position.0", "position.1", "position.2", "grip")
    ),
    "observation.images.front": Column((8, 8, 3), "uint8"),
    "action": Column((7,), "float32"),
}
T = 3
STATE = np.arange(T * 7, dtype=float).reshape(T, 7)
ROWS = {"state": STATE, "action": -STATE}

VALUES = {
    "a column": ("state", STATE),
    "one entry": ("state[2]", STATE[:, 2:3]),
    "some": ("state[1:4]", STATE[:, 1:4]),
    "behind each other": ("state[6],state[0:2]", STATE[:, [6, 0, 1]]),
    "a difference": ("state[4:6]-state[0:2]", STATE[:, 4:6] - STATE[:, 0:2]),
    "a factor": ("40*action[0:2],-action[6]", np.c_[-40 * STATE[:, :2], STATE[:, 6]]),
    "a factor of a difference": ("0.5*state[0]-2e-1*action[0]+1", 0.7 * STATE[:, :1] + 1),
    "a constant": ("0.25", np.full((T, 2), 0.25)),
    "a constant among parts": ("state[0],-1", np.c_[STATE[:, 0], np.full(T, -1.0)]),
}


@pytest.mark.parametrize("kind", [*VALUES])
def test_what_a_word_makes(kind: str):
    word, wanted = VALUES[kind]
    source = parse_map([f"x = {word}"])["x"]
    np.testing.assert_allclose(source.of(ROWS, wanted.shape[1:], "float64"), wanted)
    assert source.size(COLUMNS) in (wanted.shape[1], None)
    # What is shown can be said again.
    again = parse_map([f"x={source}"])["x"]
    np.testing.assert_allclose(again.of(ROWS, wanted.shape[1:], "float64"), wanted)


@pytest.mark.parametrize(
    "word",
    [
        *("", "x", "x=", "=state", "x=state[", "x=state[1:]", "x=state[-1]", "x=3*", "x=$"),
        *("x=state,,state", "x=2 state", "x=__import__('os')", "x=state*2", "x=state[1:4"),
    ],
)
def test_words_that_say_nothing_are_refused(word: str):
    with pytest.raises(ValueError, match=r"--map '.*'"):
        parse_map([word])


def test_a_word_twice_is_refused():
    with pytest.raises(ValueError, match="once for each"):
        parse_map(["x=state", "x=action"])


@pytest.mark.parametrize("word", ["state[5:9]", "state[3:3]", "state[7]", "state[0:2]+state[0:3]"])
def test_entries_that_are_not_there(word: str):
    with pytest.raises(ValueError, match="entries"):
        parse_map([f"x={word}"])["x"].size(COLUMNS)


def test_names_that_a_file_says_itself():
    found = {
        name: str(find_source(name, Column(shape, dtype), COLUMNS))
        for name, shape, dtype in (
            ("position", (3,), "float32"),
            ("grip", (1,), "float32"),
            ("front", (8, 8, 3), "uint8"),
            ("state", (7,), "float32"),
            ("speed", (3,), "float32"),
            ("position", (4,), "float32"),
        )
    }
    assert found == {
        "position": "None",  # four of them there are not
        "grip": "observation.state[3:4]",
        "front": "observation.images.front",
        "state": "state",
        "speed": "None",
    }
    first = find_source("position", Column((3,), "float32"), COLUMNS)
    assert str(first) == "observation.state[0:3]"
