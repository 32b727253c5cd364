"""Labelled pictures on disk, and those that demonstrations hold.

The file is an .npz of plain arrays, never a pickle: "frames/CAMERA" uint8 [M, H, W, 3], "label"
int32 [M] (0 is no success, the last class is success) and "episode" int32 [M].
"""

from pathlib import Path

import numpy as np

from mjx_serl.types import Transition
from scenes.contract.demonstrations import BROKEN, MAX_BYTES, check_new, check_size
from scenes.contract.errors import InputError
from scenes.contract.files import new_file

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


class FrameFile:
    """Frames of whole episodes on disk, each marked as a success or not; a file that is there is
    gone on with.

    Attributes:
        path: of the .npz file.
        cameras: names.

    Args:
        path: see above.
        cameras: see above; a file that is there holds the same.
        size: width and height of the pictures [px].

    Raises what `load_frames` does for a file that does not fit, and OSError where none can be
    written.
    """

    def __init__(self, path: Path, *, cameras: tuple[str, ...], size: int) -> None:
        self.path, self.cameras = path, cameras
        self._episodes: list[tuple[dict[str, np.ndarray], np.ndarray]] = []  # pictures, label
        if not path.exists():
            check_new(path)
            return
        pictures, label, episode = load_frames(path, cameras=cameras, size=size, classes=2)
        self._refuse_more(path)
        for number in np.unique(episode):
            mine = episode == number
            self._episodes.append(({n: x[mine] for n, x in pictures.items()}, label[mine]))

    @property
    def counts(self) -> tuple[int, int]:
        """Frames that are no success, and those that are."""
        successes = sum(int(label.sum()) for _, label in self._episodes)
        return sum(len(label) for _, label in self._episodes) - successes, successes

    def append(self, pictures: dict[str, np.ndarray], marked: np.ndarray) -> None:
        """Keep an episode.

        Args:
            pictures: by camera, uint8 [T, H, W, 3].
            marked: which are successes, bool [T].

        Raises InputError where the file would be larger than one may be; it stays as it was.
        """
        self._episodes.append((pictures, marked.astype(np.int32)))
        try:
            self._write()
        except InputError:
            self._episodes.pop()
            raise

    def take_back(self) -> None:
        """Drop the last episode, if there is one."""
        if self._episodes:
            self._episodes.pop()
            self._write()

    def _refuse_more(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            held = {n.removeprefix(FRAMES) for n in file.files if n.startswith(FRAMES)}
        if more := sorted(held - {*self.cameras}):
            raise InputError(
                f"{path} holds frames of {' '.join(more)} too: to go on with it, name all its "
                "cameras"
            )

    def _write(self) -> None:
        """Replace the file by one of all episodes, whatever happens meanwhile."""
        if not self._episodes:
            self.path.unlink(missing_ok=True)
            return
        arrays = {
            f"{FRAMES}{name}": np.concatenate([pictures[name] for pictures, _ in self._episodes])
            for name in self.cameras
        }
        if (total := sum(x.nbytes for x in arrays.values())) > MAX_BYTES:
            raise InputError(f"{self.path} would hold {total} bytes, allowed are {MAX_BYTES}")
        lengths = [len(label) for _, label in self._episodes]
        arrays["label"] = np.concatenate([label for _, label in self._episodes])
        arrays["episode"] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        # Not compressed: it is written anew with each episode, while the person waits.
        with new_file(self.path) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore
