"""Cameras that are read through ffmpeg: V4L2 devices, videos and folders; and files of arrays.

The program is that of imageio-ffmpeg. It sends PPM, which says the size of every picture, so that
a driver that ignores the wanted size is seen rather than sheared.
"""

import collections
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

import numpy as np

from robot_bridge.cameras.camera import CameraError, EndOfPicturesError, Intrinsics, Picture
from robot_bridge.clock import Clock, MonotonicClock
from scenes.contract.videos import ffmpeg_program


class _NoPictureError(Exception):
    """What came is no PPM."""


class FfmpegCamera:
    """Whatever ffmpeg can read, as pictures; its process lives from `open` to `close`.

    A picture's time is that of its first byte's arrival less `latency`.

    Args:
        options: ffmpeg's for the input, with `-i`.
        intrinsics: fx, fy, cx, cy [px].
        what: names the input in messages.
        latency: known time from exposure to arrival [s].
        folder: ffmpeg's working directory.
        explain: turns ffmpeg's last lines into what a person can do.
        program: ffmpeg itself, None for that of imageio-ffmpeg.
        clock: for times.
    """

    def __init__(
        self,
        options: Sequence[str],
        *,
        intrinsics: Intrinsics,
        what: str = "ffmpeg",
        latency: float = 0.0,
        folder: Path | None = None,
        explain: Callable[[str], str] | None = None,
        program: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.intrinsics = intrinsics
        self._options, self._what, self._folder = list(options), what, folder
        self._latency, self._program = latency, program
        self._explain = explain or (lambda said: said)
        self._clock = clock or MonotonicClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: collections.deque[str] = collections.deque(maxlen=4)

    def open(self) -> None:
        """Start ffmpeg; what it makes of its input shows with the first `read`."""
        self.close()
        program = self._program or ffmpeg_program("Reading cameras and videos")
        command = [program, "-hide_banner", "-nostdin", "-v", "error", *self._options]
        command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=self._folder
        )
        self._said.clear()
        # A pipe that nobody empties would stop ffmpeg once it is full.
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def read(self) -> tuple[Picture, float]:
        """Wait for the next picture [H, W, 3] and its time [s].

        Raises EndOfPicturesError where ffmpeg ended by itself, CameraError where it failed.
        """
        process = self._process
        if process is None or process.stdout is None:
            raise CameraError(f"{self._what} is not open")
        try:
            return self._read_picture(process.stdout)
        except _NoPictureError as error:
            raise CameraError(f"{self._what} sends no pictures: {error}") from error
        # A stream that `close` closes in another thread gives a ValueError.
        except (EOFError, ValueError, OSError) as error:
            raise self._ended(process, error) from error

    def close(self) -> None:
        """End ffmpeg, by force where it hangs on a full pipe; the kernel frees its device."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listener.join(timeout=1.0)
        if process.stdout is not None:
            process.stdout.close()

    def _read_picture(self, stream: IO[bytes]) -> tuple[Picture, float]:
        width, height = _read_ppm_header(stream)
        t = self._clock.now() - self._latency
        data = stream.read(width * height * 3)
        if len(data) < width * height * 3:
            raise EOFError("a picture was cut off")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3), t

    def _ended(self, process: subprocess.Popen[bytes], error: Exception) -> CameraError:
        try:
            code = process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return CameraError(f"{self._what} has stopped sending: {error}")
        self._listener.join(timeout=1.0)
        if code == 0:
            return EndOfPicturesError(f"{self._what} is at its end")
        said = "; ".join(self._said) or f"ffmpeg ended with {code}"
        return CameraError(f"{self._what}: {self._explain(said)}")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self._said.append(line.decode(errors="replace").strip())


class V4l2Camera:
    """A Video4Linux device: most USB cameras.

    Args:
        device: for example "/dev/video0" or a link in /dev/v4l/by-id, which stays the same.
        intrinsics: fx, fy, cx, cy [px] from a calibration at this size.
        size: width and height to ask for [px].
        fps: pictures per second to ask for [Hz].
        compressed: the device's own format ("mjpeg", "yuyv422"), None for its first.
        latency: known time from exposure to arrival [s].
        program: ffmpeg, None for that of imageio-ffmpeg.
    """

    def __init__(
        self,
        device: str | Path,
        *,
        intrinsics: Intrinsics,
        size: tuple[int, int] = (640, 480),
        fps: int = 30,
        compressed: str | None = None,
        latency: float = 0.0,
        program: str | None = None,
    ) -> None:
        self.intrinsics = intrinsics
        self._device = Path(device)
        wanted = ["-framerate", str(fps), "-video_size", f"{size[0]}x{size[1]}"]
        wanted += [] if compressed is None else ["-input_format", compressed]
        # Without these ffmpeg gathers pictures before it passes on the first one.
        prompt = ["-fflags", "nobuffer", "-flags", "low_delay", "-probesize", "32"]
        prompt += ["-analyzeduration", "0"]
        self._stream = FfmpegCamera(
            ["-f", "v4l2", *prompt, *wanted, "-i", str(device)],
            intrinsics=intrinsics,
            what=f"Camera {device}",
            latency=latency,
            explain=_explain_v4l2,
            program=program,
        )

    def open(self) -> None:
        """Start the stream; CameraError where there is no such device or it may not be read."""
        if not self._device.exists():
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise CameraError(f"Camera {self._device} does not exist; plugged in are: {there}")
        if not os.access(self._device, os.R_OK | os.W_OK):
            raise CameraError(f"Camera {self._device} may not be opened; join the group 'video'")
        self._stream.open()

    def read(self) -> tuple[Picture, float]:
        """Wait for the next picture [H, W, 3] and its time [s]."""
        return self._stream.read()

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


class FileCamera:
    """Recorded pictures as a camera, over and over: a folder of .png, a .npy, or a video.

    Args:
        path: of the folder (in order of names), the .npy [T, H, W, 3] or the video.
        intrinsics: fx, fy, cx, cy [px].
        rate: pictures per second [Hz].
        order: of the colours in a .npy; "bgr" is turned round (OpenCV writes that).
        clock: for times and pace.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        intrinsics: Intrinsics,
        rate: float = 30.0,
        order: Literal["rgb", "bgr"] = "rgb",
        clock: Clock | None = None,
    ) -> None:
        self.intrinsics = intrinsics
        self._path, self._order = Path(path), order
        self._period = 1.0 / rate
        self._clock = clock or MonotonicClock()
        self._pictures: Iterator[Picture] | None = None
        self._stream: FfmpegCamera | None = None
        self._due = 0.0

    def open(self) -> None:
        """Begin at the first picture; CameraError where there is none."""
        self.close()
        if not self._path.exists():
            raise CameraError(f"There are no pictures at '{self._path}': no such file or folder")
        self._pictures = self._stack() if self._path.suffix == ".npy" else self._decoded()
        self._due = self._clock.now()

    def read(self) -> tuple[Picture, float]:
        """Wait until the next picture [H, W, 3] is due; return it and that time [s]."""
        pictures = self._pictures
        if pictures is None:
            raise CameraError(f"'{self._path}' is not open")
        picture = next(pictures, None)
        if picture is None:
            raise CameraError(f"'{self._path}' has stopped; open it again")
        self._clock.sleep_until(self._due)
        t, self._due = self._clock.now(), self._due + self._period
        return picture, t

    def close(self) -> None:
        """Let go of the file."""
        stream, self._stream, self._pictures = self._stream, None, None
        if stream is not None:
            stream.close()

    def _stack(self) -> Iterator[Picture]:
        stack = _open_stack(self._path)
        step = -1 if self._order == "bgr" else 1
        while True:
            for picture in stack:
                yield np.ascontiguousarray(picture[..., ::step])

    def _decoded(self) -> Iterator[Picture]:
        while True:
            stream = self._stream = _file_stream(self._path, self.intrinsics)
            stream.open()
            count = 0
            try:
                while True:
                    yield stream.read()[0]
                    count += 1
            except EndOfPicturesError:
                stream.close()
            if not count:
                raise CameraError(f"There are no pictures in '{self._path}'")


def _read_ppm_header(stream: IO[bytes]) -> tuple[int, int]:
    """Width and height [px] of the binary PPM that begins here (netpbm.sourceforge.net/doc/ppm)."""
    lines = []
    for allowed in (rb"P6\n", rb"\d+ \d+\n", rb"255\n"):
        line = stream.readline(64)
        if not line:
            raise EOFError("no more pictures")
        if not re.fullmatch(allowed, line):
            raise _NoPictureError(f"got {line!r}, allowed: PPM with 8 bits")
        lines.append(line)
    width, height = map(int, lines[1].split())
    return width, height


def _open_stack(path: Path) -> Picture:
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CameraError(f"'{path}' is no .npy of pictures: {error}") from error
    if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[-1] != 3 or not stack.size:
        got = f"{stack.dtype}{list(stack.shape)}"
        raise CameraError(f"'{path}' holds {got}, allowed: uint8 [T, H, W, 3]")
    return stack


def _file_stream(path: Path, intrinsics: Intrinsics) -> FfmpegCamera:
    if path.is_dir():
        if not any(path.glob("*.png")):
            raise CameraError(f"There are no .png pictures in '{path}'")
        # The pattern is matched in the folder, whose own name may hold anything.
        options = ["-f", "image2", "-pattern_type", "glob", "-i", "*.png"]
        return FfmpegCamera(options, intrinsics=intrinsics, what=f"'{path}'", folder=path)
    # "file:" keeps names with a colon from being taken for protocols.
    return FfmpegCamera(["-i", f"file:{path.absolute()}"], intrinsics=intrinsics, what=f"'{path}'")


def _explain_v4l2(said: str) -> str:
    hints = {
        "busy": "another program uses it; `fuser -v` with its path says which",
        "Inappropriate ioctl": "it is no video device",
        "Not a video capture device": "it takes no pictures; try the next /dev/video number",
        "No such device": "it was unplugged",
        "Permission denied": "join the group 'video'",
    }
    for sign, hint in hints.items():
        if sign in said:
            return f"{hint} ({said})"
    return said
