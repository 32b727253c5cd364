"""Demonstrations as rows of transitions; the file's format is `scenes.contract.demonstrations`."""

from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.types import Transition
from scenes.contract.demonstrations import (
    OBS,
    STATE,
    STEP_ARRAYS,
    Arrays,
    DemoContract,
    read_demonstrations,
    write_demonstrations,
)
from scenes.contract.errors import InputError

__all__ = ["DemoContract", "load_demos", "save_demos", "select_episodes"]


def select_episodes(
    rows: Transition,
    solved: np.ndarray,
    count: int,
    *,
    hint: str = "lower demos.count or demos.noise",
) -> Transition:
    """The first `count` solved episodes of [T, M, ...] rows.

    Raises ValueError where fewer were solved, with a hint.
    """
    chosen = np.flatnonzero(solved)[:count]
    if len(chosen) < count:
        raise InputError(
            f"The scripted expert solved {len(chosen)} of {len(solved)} episodes, {count} wanted; "
            f"{hint}"
        )
    return _map(rows, lambda x: np.asarray(x)[:, chosen])


def save_demos(path: Path, rows: Transition, contract: DemoContract) -> None:
    """Write rows [T, M, ...] atomically; raises FileExistsError rather than overwrite.

    Of the extras, what the contract calls states is written.
    """
    write_demonstrations(Path(path), demo_arrays(rows, contract), contract)


def demo_arrays(rows: Transition, contract: DemoContract) -> Arrays:
    """Rows as the arrays that a file has, by its names."""
    arrays = {f"{OBS}{k}": np.asarray(v) for k, v in rows.obs.items()}
    arrays |= {k: np.asarray(getattr(rows, k)) for k in STEP_ARRAYS}
    arrays |= {f"{STATE}{name}": np.asarray(rows.extras[name]) for name, *_ in contract.states}
    return arrays


def load_demos(path: Path, contract: DemoContract, *, relabel: bool = False) -> Transition:
    """Read rows [T, M, ...] that fit a task; arguments and errors of `read_demonstrations`.

    With `relabel` the states are their extras.
    """
    return demo_rows(read_demonstrations(Path(path), contract, relabel=relabel))


def demo_rows(arrays: Arrays) -> Transition:
    """Arrays [T, M, ...] by the names that a file has as rows; states are their extras."""
    steps: dict[str, Any] = {k: arrays[k] for k in STEP_ARRAYS}
    return Transition(obs=_under(OBS, arrays), extras=_under(STATE, arrays), **steps)


def _under(prefix: str, arrays: Arrays) -> Any:
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def _map(rows: Transition, function: Any) -> Transition:
    obs, extras = (
        {k: function(np.asarray(v)) for k, v in named.items()} for named in (rows.obs, rows.extras)
    )
    rest = {k: function(np.asarray(getattr(rows, k))) for k in STEP_ARRAYS}
    return Transition(obs=obs, extras=extras, **rest)
