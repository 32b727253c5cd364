"""Pictures as files: H.264 videos without a system ffmpeg, and PNGs."""

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.files import new_file

Frames = UInt8[np.ndarray, "T H W 3"]
Picture = UInt8[np.ndarray, "H W 3"]

LEAST_HEIGHT = 256  # a 64 px camera is watchable at four times its size [px]
GAP = 4  # between pictures [px]
GAP_COLOR = 32  # dark, so that it is neither a black frame nor a white table


def save_video(path: Path, frames: Frames, *, fps: float, crf: int = 18) -> None:
    """Write an mp4 that browsers play (H.264, yuv420p, BT.709); never a part of one.

    Small frames are enlarged by a whole number, odd ones padded to an even width and height.

    Args:
        path: the file to write or replace.
        frames: at least one.
        fps: frames per second.
        crf: H.264's quality, 0 lossless to 51; 18 looks lossless.

    Raises:
        ModuleNotFoundError: imageio-ffmpeg is missing.
        ValueError: `frames` are no pictures or there are none.
        OSError: ffmpeg could not write the file; the message is ffmpeg's own.
    """
    frames = even(enlarge(_checked(frames, 4), least=LEAST_HEIGHT))
    exe = require(
        "imageio_ffmpeg", package="imageio-ffmpeg", purpose="Writing videos"
    ).get_ffmpeg_exe()
    with new_file(path) as part:
        command = [exe, *_encoder_options(frames.shape, fps, crf), str(part)]
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(f"{path}: ffmpeg failed: {said[-1] if said else done.returncode}")


def save_picture(path: Path, picture: Picture) -> None:
    """Write or replace a PNG; never a part of one."""
    from matplotlib.image import imsave  # slow to import, and most runs have no pictures

    with new_file(path) as part:
        imsave(part, _checked(picture, 3), format="png")


def save_jpeg(path: Path, picture: Picture, *, most: int) -> None:
    """Write or replace a JPEG of at most so many bytes, as good as they allow."""
    from matplotlib.image import imsave  # slow to import, and most runs have no pictures

    with new_file(path) as part:
        for quality in range(92, 8, -6):
            options = {"quality": quality, "optimize": True}
            imsave(part, _checked(picture, 3), format="jpg", pil_kwargs=options)
            if part.stat().st_size <= most:
                break


def side_by_side(views: Sequence[Frames], *, least: int = LEAST_HEIGHT) -> Frames:
    """Return the videos of several cameras next to each other, with a gap.

    Each is enlarged by a whole number to the height of the highest or `least` [px], whichever is
    more, and centred in that height.
    """
    height = max(least, *(view.shape[1] for view in views))
    tall = [_to_height(enlarge(view, least=height, over=False), height) for view in views]
    gap = np.full((*tall[0].shape[:2], GAP, 3), GAP_COLOR, np.uint8)
    parts = [part for view in tall for part in (gap, view)]
    return np.concatenate(parts[1:], axis=2)


def grid(
    worlds: UInt8[np.ndarray, "N H W 3"], *, columns: int | None = None, gap: int = 2
) -> Picture:
    """Return the pictures of N worlds as tiles, as near to a square as whole rows allow.

    Args:
        worlds: one picture each.
        columns: pictures in a row; None chooses.
        gap: between two of them [px].
    """
    count, height, width, _ = worlds.shape
    columns = columns or math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    shape = (rows * columns, height + gap, width + gap, 3)
    tiles = np.full(shape, GAP_COLOR, np.uint8)
    tiles[:count, :height, :width] = worlds
    tiles = tiles.reshape(rows, columns, *shape[1:]).swapaxes(1, 2)
    tiled = tiles.reshape(rows * shape[1], columns * shape[2], 3)
    return tiled[: tiled.shape[0] - gap, : tiled.shape[1] - gap]


def enlarge(
    frames: UInt8[np.ndarray, "*n H W 3"], *, least: int, over: bool = True
) -> UInt8[np.ndarray, "*n h w 3"]:
    """Return pictures enlarged by the smallest whole number that makes them `least` [px] high.

    With `over` false by the largest one that does not make them higher than that.
    """
    share = least / frames.shape[-3]
    factor = max(1, math.ceil(share) if over else math.floor(share))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def even(frames: Frames) -> Frames:
    """Return frames of even height and width, as yuv420p needs: the last row or column repeats."""
    _, height, width, _ = frames.shape
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frames, pad, mode="edge")


def _to_height(frames: Frames, height: int) -> Frames:
    above = (height - frames.shape[1]) // 2
    pad = ((0, 0), (above, height - frames.shape[1] - above), (0, 0), (0, 0))
    return np.pad(frames, pad, constant_values=GAP_COLOR)


def _checked(pictures: np.ndarray, ndim: int) -> np.ndarray:
    good = pictures.ndim == ndim and pictures.shape[-1] == 3 and pictures.size > 0
    if not good or pictures.dtype != np.uint8:
        axes = "[T, H, W, 3]" if ndim == 4 else "[H, W, 3]"
        got = f"{pictures.dtype}{list(pictures.shape)}"
        raise InputError(f"Pictures are {got}, allowed: uint8{axes} with at least one pixel")
    return pictures


def _encoder_options(shape: tuple[int, ...], fps: float, crf: int) -> list[str]:
    read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[2]}x{shape[1]}", "-r", str(fps)]
    # Without BT.709 video players guess the colours by the size of the picture.
    color = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
    color += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    write = ["-c:v", "libx264", "-crf", str(crf), "-movflags", "+faststart", "-f", "mp4"]
    return ["-v", "error", "-y", *read, "-i", "-", *color, *write]
