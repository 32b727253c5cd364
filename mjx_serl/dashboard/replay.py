"""What the dashboard shows of the episodes in a run's folder: one file is held at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.run.nan_world import FILE as NAN_DUMP
from mjx_serl.run.replay_file import OWN, Q, Replay, Shown, read_replay
from scenes.contract.demonstrations import OBS, STEP_ARRAYS
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name

SUFFIX = ".npz"
FILES = 20  # of a run's folder that are looked at
_DIGITS = 5  # of a number that is shown


def replay_files(folder: Path) -> list[str]:
    """Return the names of a run's files that may hold episodes."""
    found = sorted(path.name for path in folder.glob(f"*{SUFFIX}") if path.name != NAN_DUMP)
    return found[:FILES]


class Replays:
    """Reads files of episodes; the last one stays in memory until another is asked for."""

    def __init__(self) -> None:
        self._held: tuple[tuple[Path, int, int], Replay] | None = None

    def listing(self, path: Path) -> dict[str, Any]:
        """What episodes a file holds; raises InputError for one that holds none."""
        replay = self._read(path)
        return {
            "action_names": replay.action_names,
            "rate": replay.rate,
            "env_steps": replay.env_steps,
            "cameras": {n: replay.arrays[f"{OBS}{n}"].shape[1:3] for n in replay.cameras},
            "episodes": [
                {"source": e.source, "steps": e.steps, "success": replay.solved(e)}
                for e in replay.episodes
            ],
        }

    def steps(self, path: Path, number: str) -> dict[str, Any]:
        """All numbers of an episode, a list over its steps each; null where one is not finite."""
        replay = self._read(path)
        rows = _episode(replay, number).rows
        names = [name for name in (*STEP_ARRAYS, Q, OWN) if name in replay.arrays]
        return {name: _plain(replay.arrays[name][rows].tolist()) for name in names}

    def pictures(self, path: Path, number: str, camera: str) -> bytes:
        """The pictures of an episode by one camera, bytes of uint8 [T, H, W, 3]."""
        replay = self._read(path)
        if camera not in replay.cameras:
            raise UnknownNameError(unknown_name("camera", camera, replay.cameras))
        shown = replay.arrays[f"{OBS}{camera}"][_episode(replay, number).rows]
        return np.ascontiguousarray(shown[..., :3]).tobytes()  # depth would be the fourth channel

    def _read(self, path: Path) -> Replay:
        found = path.stat()
        key = (path, found.st_mtime_ns, found.st_size)
        if self._held is None or self._held[0] != key:
            self._held = None  # before another one takes as much
            self._held = (key, read_replay(path))
        return self._held[1]


def _episode(replay: Replay, number: str) -> Shown:
    if not number.isdecimal() or int(number) >= len(replay.episodes):
        raise InputError(f"episode '{number}', allowed: 0 to {len(replay.episodes) - 1}")
    return replay.episodes[int(number)]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
