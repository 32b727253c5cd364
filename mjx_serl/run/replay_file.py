"""Episodes of a run's replay in one small file, to be looked at without the run.

The file is an .npz of plain arrays, never a pickle: the rows of all episodes one after the other,
by the names that demonstration files use (`STEP_ARRAYS`, "obs/CAMERA" uint8 [R, H, W, C]), beside
them "q" [R] and "policy_action" [R, A] where there are any, and "about", which is JSON.
Demonstration files can be read as the same.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from scenes.contract.demonstrations import (
    BROKEN,
    OBS,
    STEP_ARRAYS,
    Arrays,
    expanded_bytes,
    load_demonstrations,
    whole_episodes,
)
from scenes.contract.errors import InputError
from scenes.contract.files import new_file

FILE = "episodes.npz"  # in the run's folder
MAX_BYTES = 256 << 20  # of a file that is read, expanded
Q, OWN = "q", "policy_action"  # what the critics thought; what the policy would have done
_ABOUT = "about"


@dataclasses.dataclass(frozen=True)
class Shown:
    """An episode of a `Replay`.

    Attributes:
        source: what it was taken from.
        begin: its first row.
        steps: how many rows it has.
    """

    source: str
    begin: int
    steps: int

    @property
    def rows(self) -> slice:
        """Where its rows lie."""
        return slice(self.begin, self.begin + self.steps)


@dataclasses.dataclass(frozen=True)
class Replay:
    """Whole episodes.

    Attributes:
        action_names: one per entry of an action.
        rate: control steps per second [Hz].
        episodes: which rows are whose, the newest of each source first.
        arrays: of all rows [R, ...], by the file's names.
        env_steps: of the run when they were taken; None where nobody knows.
    """

    action_names: tuple[str, ...]
    rate: float
    episodes: tuple[Shown, ...]
    arrays: Arrays
    env_steps: int | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of what there are pictures of."""
        found = [name for name, x in self.arrays.items() if name.startswith(OBS) and _is_image(x)]
        return tuple(name.removeprefix(OBS) for name in found)

    def solved(self, episode: Shown) -> bool:
        """Whether an episode ended by itself and was paid for its last step.

        That is how demonstrations are judged too (`mjx_serl.data.frames`): no row says it.
        """
        last = episode.begin + episode.steps - 1
        return bool(self.arrays["terminated"][last] and self.arrays["reward"][last] > 0)


def write_replay(path: Path, replay: Replay) -> None:
    """Write the file atomically, over one that is there."""
    about = {
        "action_names": replay.action_names,
        "rate": replay.rate,
        "env_steps": replay.env_steps,
        "episodes": [[episode.source, episode.steps] for episode in replay.episodes],
    }
    with new_file(path) as part, part.open("wb") as file:
        np.savez(file, **replay.arrays, **{_ABOUT: np.array(json.dumps(about))})  # pyright: ignore


def read_replay(path: Path) -> Replay:
    """Return the episodes of such a file or of one of demonstrations.

    Raises InputError for any other file and for one that expands beyond `MAX_BYTES`.
    """
    try:
        size = expanded_bytes(path)
        if size > MAX_BYTES:
            raise InputError(f"it holds {size >> 20} MiB, allowed: {MAX_BYTES >> 20}")
        with np.load(path, allow_pickle=False) as file:
            ours = _ABOUT in file.files
            arrays = dict(file) if ours else {}
        replay = _parsed(arrays) if ours else _demonstrations(path)
        _check(replay)
    except BROKEN as error:
        raise InputError(f"{path.name} cannot be shown: {error}") from error
    return replay


def _parsed(arrays: Arrays) -> Replay:
    about: dict[str, Any] = json.loads(str(arrays.pop(_ABOUT)))
    episodes, begin = [], 0
    for source, steps in about["episodes"]:
        episodes.append(Shown(str(source), begin, int(steps)))
        begin += int(steps)
    env_steps = about["env_steps"]
    return Replay(
        action_names=tuple(map(str, about["action_names"])),
        rate=float(about["rate"]),
        episodes=tuple(episodes),
        arrays=arrays,
        env_steps=None if env_steps is None else int(env_steps),
    )


def _demonstrations(path: Path) -> Replay:
    found, contract = load_demonstrations(path)
    kept = {n: x for n, x in found.items() if n in STEP_ARRAYS or _is_image(x[0])}
    episodes, begin, parts = [], 0, []
    for rows, column in whole_episodes(found):
        parts.append({name: x[rows, column] for name, x in kept.items()})
        episodes.append(Shown(path.name, begin, rows.stop))
        begin += rows.stop
    if not parts:
        raise InputError("no episode in it is whole")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in kept}
    return Replay(contract.action_names, contract.rate, tuple(episodes), arrays)


def _is_image(x: np.ndarray) -> bool:
    return x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] >= 3


def _check(replay: Replay) -> None:
    """Raise InputError where rows and what is said of them differ."""
    count = sum(episode.steps for episode in replay.episodes)
    wanted = dict.fromkeys(STEP_ARRAYS, ((count,), "b"))
    wanted |= {"action": ((count, len(replay.action_names)), "f"), "reward": ((count,), "f")}
    optional = {Q: ((count,), "f"), OWN: wanted["action"]}
    wanted |= {name: want for name, want in optional.items() if name in replay.arrays}
    for name, (shape, kind) in wanted.items():
        x = replay.arrays[name]
        if (x.shape, x.dtype.kind) != (shape, kind):
            raise InputError(f"'{name}' is {x.dtype}{[*x.shape]}, wanted {kind}{[*shape]}")
    if min((episode.steps for episode in replay.episodes), default=1) < 1:
        raise InputError("an episode of it has no steps")
    for name, x in replay.arrays.items():
        if name.startswith(OBS) and len(x) != count:
            raise InputError(f"'{name}' has {len(x)} rows, wanted {count}")
