"""Demonstrations as rows of transitions; the file's format is `scenes.contract.demonstrations`."""

from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.types import Transition
from scenes.contract.demonstrations import (
    OBS,
    STEP_ARRAYS,
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
    """Write rows [T, M, ...] atomically; raises FileExistsError rather than overwrite."""
    arrays = {f"{OBS}{k}": np.asarray(v) for k, v in rows.obs.items()}
    arrays |= {k: np.asarray(getattr(rows, k)) for k in STEP_ARRAYS}
    write_demonstrations(Path(path), arrays, contract)


def load_demos(path: Path, contract: DemoContract) -> Transition:
    """Read rows [T, M, ...] that fit a task; raises what `read_demonstrations` does."""
    arrays = read_demonstrations(Path(path), contract)
    obs: Any = {n.removeprefix(OBS): x for n, x in arrays.items() if n.startswith(OBS)}
    steps: dict[str, Any] = {k: arrays[k] for k in STEP_ARRAYS}
    return Transition(obs=obs, **steps)


def _map(rows: Transition, function: Any) -> Transition:
    obs = {k: function(np.asarray(v)) for k, v in rows.obs.items()}
    rest = {k: function(np.asarray(getattr(rows, k))) for k in STEP_ARRAYS}
    return Transition(obs=obs, **rest)
