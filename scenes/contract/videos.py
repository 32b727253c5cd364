"""Pictures to mp4 and back, by the ffmpeg of imageio-ffmpeg, which is started as a program."""

import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.extras import require


def ffmpeg_program(purpose: str) -> str:
    """Path of imageio-ffmpeg's ffmpeg; ImportError names what to install."""
    wanted = {"package": "imageio-ffmpeg", "purpose": purpose}
    return require("imageio_ffmpeg", **wanted).get_ffmpeg_exe()


class VideoWriter:
    """One mp4 of pictures [H, W, 3]: H.264 with a key frame every second picture.

    Training reads single frames at random, so key frames are dense, as lerobot's own are.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], fps: int) -> None:
        height, width, _ = shape
        self._path, self._closed = path, False
        # Colours of odd-sized pictures cannot be stored at half size.
        pixels = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
        color = ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,format={pixels}"]
        color += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
        write = ["-c:v", "libx264", "-crf", "18", "-g", "2", "-movflags", "+faststart"]
        command = [ffmpeg_program("Writing videos"), "-v", "error", *read, "-i", "-"]
        self._process = subprocess.Popen(
            [*command, *color, *write, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def write(self, pictures: NDArray[np.uint8]) -> None:
        """Append pictures [T, H, W, 3]."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pictures).data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """Finish the file; OSError with ffmpeg's words where it failed."""
        if self._closed:
            return
        self._closed = True
        _, said = self._process.communicate()
        if self._process.returncode != 0:
            lines = (said or b"").decode(errors="replace").strip().splitlines()
            raise OSError(f"{self._path}: ffmpeg failed: {lines[-1] if lines else 'no message'}")


def read_video(path: Path, shape: tuple[int, int, int], frames: int) -> NDArray[np.uint8]:
    """Return the first pictures [frames, H, W, 3] of an mp4.

    The file may be anybody's: it is read as mp4 and nothing else, no other file is opened, whatever
    it refers to, and no more is decoded than is asked for.

    Args:
        path: of the file.
        shape: of a picture [H, W, 3].
        frames: how many are wanted.

    Raises:
        InputError: ffmpeg cannot read it, there are fewer, or they have another size.
    """
    # PPM says the size of every picture, so that one of another size is not taken for two.
    header = np.frombuffer(b"P6\n%d %d\n255\n" % (shape[1], shape[0]), np.uint8)
    size = len(header) + int(np.prod(shape))
    command = [ffmpeg_program("Reading videos"), "-hide_banner", "-nostdin", "-v", "error"]
    command += ["-protocol_whitelist", "file", "-f", "mov", "-i", f"file:{path}", "-map", "0:v:0"]
    command += [
        "-fps_mode",
        "passthrough",
        "-frames:v",
        str(frames),
        "-fs",
        str((frames + 1) * size),
    ]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    pictures = np.frombuffer(done.stdout, np.uint8)
    if done.returncode == 0 and len(pictures) == frames * size:
        pictures = pictures.reshape(frames, size)
        if (pictures[:, : len(header)] == header).all():
            return pictures[:, len(header) :].reshape(frames, *shape)
    first = bytes(pictures[:64]).split(b"\n")[1:2]
    got = f"{len(pictures)} bytes, pictures {b''.join(first).decode(errors='replace')!r}"
    why = said[-1] if said else f"got {got}"
    raise InputError(f"{path}: {why}; allowed: {frames} pictures {list(shape)} at least")
