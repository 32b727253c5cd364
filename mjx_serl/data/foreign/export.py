"""Our demonstrations as a LeRobotDataset v3.0, which our own reader reads back bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.lerobot import DONE, REWARD, TRUNCATED
from scenes.contract.demonstrations import (
    OBS,
    Arrays,
    Field,
    load_demonstrations,
    refusal,
    whole_episodes,
)
from scenes.contract.errors import InputError
from scenes.contract.files import new_folder
from scenes.contract.lerobot import (
    INTERVENED,
    STATE_KEY,
    DatasetLayout,
    DatasetWriter,
    entry_names,
    require_whole_rate,
)

_FLAGS = {REWARD: "float32", DONE: "bool", TRUNCATED: "bool", INTERVENED: "bool"}


def export_lerobot(path: Path, folder: Path, *, words: str = "") -> tuple[int, int]:
    """Write a file of demonstrations as a dataset; returns its episodes and steps.

    "observation.state" is all numbers, in the order of their names, "observation.images.NAME" the
    pictures as PNG, and "next.truncated" true where an episode was cut off. Steps in which physics
    failed have no columns of their own: such episodes are left out.

    Args:
        path: of the .npz.
        folder: of the dataset; made, never added to.
        words: what was done; the task's name unless given.

    Raises:
        FileExistsError: `folder` is there.
        ValueError: `path` is no such file, its rate is no whole number, it holds an observation
            that is neither a vector of float32 nor a picture, or no whole episode.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a dataset is never added to")
    arrays, contract = load_demonstrations(path)
    require_whole_rate(contract.rate)
    numbers, pictures = _sorted(path, contract.obs)
    layout = DatasetLayout(
        state_names=tuple(n for name, (size,), _ in numbers for n in entry_names(name, size)),
        pictures={name: shape for name, shape, _ in pictures},
        action_names=contract.action_names,
        flags=_FLAGS,
        fps=int(contract.rate),
        videos=False,
    )
    with new_folder(folder) as part:
        writer = DatasetWriter(part, layout)
        try:
            for steps in whole_episodes(arrays):
                shown = {name: arrays[f"{OBS}{name}"][steps] for name, *_ in pictures}
                writer.add(_columns(arrays, [name for name, *_ in numbers], steps), shown)
        finally:
            writer.close()
        if not writer.rows:
            raise InputError(f"{path} has no episode that can be written")
        writer.write_meta(words or contract.task, None)
    return len(writer.rows), sum(row["length"] for row in writer.rows)


def _sorted(path: Path, fields: tuple[Field, ...]) -> tuple[list[Field], list[Field]]:
    """The vectors and the pictures; InputError for what is neither."""
    numbers = [f for f in fields if len(f[1]) == 1 and f[2] == "float32"]
    pictures = [f for f in fields if len(f[1]) == 3 and f[1][2] == 3 and f[2] == "uint8"]
    others = [f for f in fields if f not in numbers and f not in pictures]
    if others:
        raise refusal(
            path,
            [
                f"observation '{name}' is {dtype}{list(shape)}; allowed: vectors of float32 and "
                "pictures uint8[H, W, 3]"
                for name, shape, dtype in others
            ],
        )
    return numbers, pictures


def _columns(
    arrays: Arrays, numbers: list[str], steps: tuple[slice, int]
) -> dict[str, NDArray[Any]]:
    reward = arrays["reward"][steps]
    columns: dict[str, NDArray[Any]] = {
        "action": arrays["action"][steps],
        REWARD: reward,
        DONE: arrays["terminated"][steps] | arrays["truncated"][steps],
        TRUNCATED: arrays["truncated"][steps],
        INTERVENED: arrays["expert"][steps],
    }
    if numbers:
        vectors = [arrays[f"{OBS}{name}"][steps] for name in numbers]
        columns[STATE_KEY] = np.concatenate(vectors, axis=1)
    return columns
