"""Pickles of SERL and HIL-SERL: a list of transitions, read without ever running what they name.

Their masks are 0 at an end, which on real robots is a time-out as well (reference serl_family.md
1.3, Masks): an unpaid end is taken for one, never for a failure. Buffers of interventions have
gaps, where a transition's next observation is not the next one's.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.source import ACTION, MOST_BYTES, Column, ForeignEpisode, ForeignFile
from scenes.contract.errors import InputError
from scenes.contract.plain_pickle import Extension, Named, PickleRefusedError, read

KIND = "SERL or HIL-SERL pickle"


def _encoded(text: Any, how: Any) -> bytes:
    if type(text) is not str or how != "latin1":
        raise PickleRefusedError("Bytes of a pickle: allowed: text in latin1")
    return text.encode("latin1")


# Protocol 2 has no bytes and writes text that is to be encoded. A transition of two cameras at
# 128 px is about 200 opcodes and 0.2 MB, so that as many as are allowed are 4 million opcodes.
_TRANSITIONS = Extension(
    names={("_codecs", "encode"): Named("encode")},
    builders={"encode": _encoded},
    max_values=10_000_000,
    max_array_bytes=MOST_BYTES,
)
_KEYS = ("observations", "actions", "next_observations", "rewards", "masks", "dones")
Row = Mapping[str, Any]


def open_serl(path: Path, *, allowed: bool) -> ForeignFile:
    """Return what a pickle of transitions holds.

    Args:
        path: of the file.
        allowed: whether a person has said that pickles are to be read. Ours runs nothing, and still
            a pickle is a program: whatever else opens the file runs it.

    Raises:
        InputError: it was not said, or the file holds anything but transitions of plain arrays.
    """
    if not allowed:
        raise InputError(
            f"{path} is a pickle, which can run programs in whatever opens it; here none is run. "
            "If you know where it is from: --allow-pickle"
        )
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{path} has {size} bytes, allowed are {MOST_BYTES}")
    value, _ = read(path.read_bytes(), 0, _TRANSITIONS)
    return transitions(path, value)


def transitions(path: Path, rows: Any) -> ForeignFile:
    """Return what a list of SERL's transitions holds, whatever brought it here.

    Args:
        path: what they are called in messages.
        rows: dicts of plain values and arrays.

    Raises InputError for anything else.
    """
    _require_rows(path, rows)
    first = _step(path, rows[0])
    notes: list[str] = []

    def episodes(wanted: frozenset[str]) -> Iterator[ForeignEpisode]:
        yield from _episodes(path, rows, wanted, notes)

    columns = {name: Column.of(x) for name, x in first.items()}
    return ForeignFile(path=path, kind=KIND, columns=columns, episodes=episodes, notes=notes)


def _require_rows(path: Path, rows: Any) -> None:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} is a pickle of a {type(rows).__name__}; {_ALLOWED}")
    for index, row in enumerate(rows):
        missing = [k for k in _KEYS if not isinstance(row, dict) or k not in row]
        if missing:
            raise InputError(f"{path}: transition {index} has no '{missing[0]}'; {_ALLOWED}")


_ALLOWED = f"allowed: a list of transitions, dicts with {', '.join(_KEYS)}"


def _step(path: Path, row: Row) -> dict[str, NDArray[Any]]:
    """Observations and action of a transition, by name."""
    return _observed(path, row["observations"]) | {ACTION: np.asarray(row["actions"])}


def _observed(path: Path, obs: Any, name: str = "") -> dict[str, NDArray[Any]]:
    """Arrays of an observation, flat; of a history of observations the last."""
    if isinstance(obs, dict):
        flat: dict[str, NDArray[Any]] = {}
        for key, value in obs.items():
            flat |= _observed(path, value, f"{name}/{key}" if name else str(key))
        return flat
    array = np.asarray(obs)
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: observation '{name}' is {array.dtype}, allowed: numbers")
    # SERL's wrapper puts the last few observations, one by default, on an axis before the others.
    history = 4 if array.dtype == np.uint8 else 2
    return {name or "state": array[-1] if array.ndim == history and len(array) else array}


def _episodes(
    path: Path, rows: Sequence[Row], wanted: frozenset[str], notes: list[str]
) -> Iterator[ForeignEpisode]:
    gaps = unpaid = open_ = 0
    start = 0
    for index, row in enumerate(rows):
        done, mask = bool(_number(path, row, "dones")), _number(path, row, "masks")
        last = index == len(rows) - 1
        gap = not done and not last and not follows(path, row, rows[index + 1])
        if not (done or last or gap):
            continue
        solved = done and mask == 0.0 and _number(path, row, "rewards") > 0.0
        gaps, open_ = gaps + gap, open_ + (last and not done)
        unpaid += done and mask == 0.0 and not solved
        yield _joined(path, rows[start : index + 1], wanted, solved=solved)
        start = index + 1
    said = {
        "times a transition does not lead to the next: cut there": gaps,
        "episodes end unpaid with mask 0: taken for time-outs": unpaid,
        "episode does not end: cut at its last step": open_,
    }
    notes += [f"{count} {text}" for text, count in said.items() if count]


def _number(path: Path, row: Row, key: str) -> float:
    value = np.asarray(row[key])
    if value.size != 1 or value.dtype.kind not in "buif":
        raise InputError(f"{path}: '{key}' of a transition is no number")
    return float(value.item())


def follows(path: Path, row: Row, after: Row) -> bool:
    """Whether a transition leads to the next, by their numbers, else by their pictures.

    Raises InputError for observations that are no numbers; `path` is what they are of.
    """
    reached = _observed(path, row["next_observations"])
    begins = _observed(path, after["observations"])
    if reached.keys() != begins.keys():
        return False
    numbers = [name for name, x in begins.items() if x.dtype != np.uint8] or list(begins)
    return all(np.array_equal(reached[name], begins[name], equal_nan=True) for name in numbers)


def _joined(
    path: Path, rows: Sequence[Row], wanted: frozenset[str], *, solved: bool
) -> ForeignEpisode:
    steps = [_step(path, row) for row in rows]
    shapes = {name: {step[name].shape for step in steps if name in step} for name in wanted}
    for name, found in shapes.items():
        if len(found) != 1 or any(name not in step for step in steps):
            raise InputError(f"{path}: '{name}' is not in all transitions, or not of one shape")
    return ForeignEpisode(
        columns={name: np.stack([step[name] for step in steps]) for name in wanted},
        reward=np.array([_number(path, row, "rewards") for row in rows], np.float32),
        solved=solved,
    )
