"""Labelled pictures on disk, and those that demonstrations hold.

The file is an .npz of plain arrays, never a pickle: "frames/CAMERA" uint8 [M, H, W, 3], "label"
int32 [M] (0 is no success, the last class is success) and "episode" int32 [M].
"""

from pathlib import Path

import numpy as np

from mjx_serl.types import Transition
from scenes.contract.demonstrations import BROKEN, check_size
from scenes.contract.errors import InputError

FRAMES = "frames/"
Labelled = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]  # pictures, label, episode


def load_frames(path: Path, *, cameras: tuple[str, ...], size: int, classes: int) -> Labelled:
    """Return pictures by camera, labels and episodes; InputError for what does not fit.

    Args:
        path: of the file.
        cameras: that must be there.
        size: width and height of the pictures [px].
        classes: labels are below it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No frames '{path}'")
    check_size(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            pictures = {name: file[f"{FRAMES}{name}"] for name in cameras}
            label, episode = file["label"], file["episode"]
    except BROKEN as error:
        raise InputError(f"{path} holds no frames of {' '.join(cameras)}: {error}") from error
    count = len(label)
    for name, x in pictures.items():
        if x.dtype != np.uint8 or x.shape != (count, size, size, 3):
            raise InputError(
                f"{path}: camera '{name}' is {x.dtype}{[*x.shape]}, allowed: uint8"
                f"{[count, size, size, 3]}"
            )
    for name, x in (("label", label), ("episode", episode)):
        if x.dtype.kind != "i" or x.shape != (count,) or (x < 0).any():
            raise InputError(f"{path}: '{name}' is {x.dtype}{[*x.shape]}, allowed: int32[{count}]")
    if count and label.max() >= classes:
        raise InputError(f"{path}: label {label.max()}, allowed: 0 to {classes - 1}")
    return pictures, label.astype(np.int32), episode.astype(np.int32)


def frames_of(rows: Transition, *, cameras: tuple[str, ...], success: int, near: int) -> Labelled:
    """Return the labelled pictures of demonstrations [T, M, ...].

    A demonstration does not hold the picture of the state it ends in, only those that were acted
    on. Of one that was paid at its end the last picture is success, and the `near` before it are
    left out: which of them show it is not known.

    Args:
        rows: with the pictures of `cameras`.
        cameras: names.
        success: the label of success.
        near: pictures left out.
    """
    valid, paid = np.asarray(rows.valid), np.asarray(rows.reward) > 0
    keep, label = np.zeros(valid.shape, bool), np.zeros(valid.shape, np.int32)
    for m in range(valid.shape[1]):
        steps = np.flatnonzero(valid[:, m])
        if len(steps) and paid[steps[-1], m]:
            label[steps[-1], m] = success
            steps = np.append(steps[: max(0, len(steps) - 1 - near)], steps[-1])
        keep[steps, m] = True
    episode = np.broadcast_to(np.arange(valid.shape[1], dtype=np.int32), valid.shape)
    pictures = {name: np.asarray(rows.obs[name])[keep] for name in cameras}
    return pictures, label[keep], episode[keep]
