"""Our demonstrations as a LeRobotDataset v3.0, in our own terms or another project's."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.forms import FORMS
from scenes.contract.demonstrations import (
    OBS,
    DemoContract,
    load_demonstrations,
    refusal,
    whole_episodes,
)
from scenes.contract.errors import InputError
from scenes.contract.files import new_folder
from scenes.contract.language import INSTRUCTION
from scenes.contract.lerobot import DatasetLayout, DatasetWriter

# What the task of a contract says, by the bytes of its numbers, int32 [slots].
Texts = Callable[[DemoContract], Mapping[bytes, str]]


def export_lerobot(
    path: Path,
    folder: Path,
    *,
    words: str = "",
    form: str = "lerobot",
    texts: Texts = lambda contract: {},
) -> tuple[int, int]:
    """Write a file of demonstrations as a dataset; returns its episodes and steps.

    In our own form "observation.state" is all numbers, in the order of their names,
    "observation.images.NAME" the pictures as PNG, and "next.truncated" true where an episode was
    cut off; our reader has all of it back bit for bit. Steps in which physics failed have no
    columns of their own: such episodes are left out.

    Args:
        path: of the .npz.
        folder: of the dataset; made, never added to.
        words: what was done. Without it what each episode was told, else the form's or the task's
            name.
        form: of `mjx_serl.data.foreign.forms`.
        texts: returns what episodes may have been told; asked where they observe it.

    Raises:
        FileExistsError: `folder` is there.
        ValueError: `path` is no such file, its rate is no whole number, it holds what the form has
            no place for or lacks what it needs, or no whole episode.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a dataset is never added to")
    arrays, contract = load_demonstrations(path)
    written = FORMS[form]
    layout = _layout(path, form, contract)
    told = None if words else arrays.get(f"{OBS}{INSTRUCTION}")
    known = {} if told is None else texts(contract)
    with new_folder(folder) as part:
        writer = DatasetWriter(part, layout)
        try:
            for steps in whole_episodes(arrays):
                if not written.keeps(arrays, steps):
                    continue
                shown = {name: arrays[f"{OBS}{name}"][steps] for name in layout.pictures}
                said = "" if told is None else _told(path, told[steps][0], known)
                writer.add(written.columns(contract, arrays, steps), shown, task=said)
        finally:
            writer.close()
        if not writer.rows:
            raise InputError(f"{path} has no episode that can be written")
        writer.write_meta(words or written.words or contract.task, None)
    return len(writer.rows), sum(row["length"] for row in writer.rows)


def _layout(path: Path, form: str, contract: DemoContract) -> DatasetLayout:
    try:
        return FORMS[form].layout(contract)
    except InputError as error:
        raise refusal(path, str(error).splitlines()) from None


def _told(path: Path, tokens: NDArray[np.int32], texts: Mapping[bytes, str]) -> str:
    """What an episode was told, in words."""
    text = texts.get(np.ascontiguousarray(tokens).tobytes())
    if text is None:
        raise InputError(
            f"{path.name} has an episode that was told what its task does not say; allowed: with "
            "--words, which says one thing of all"
        )
    return text
