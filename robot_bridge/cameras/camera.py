"""Cameras: pictures in RGB with the time they were taken, the newest one always at hand.

A `Camera` waits for its next picture; a `CameraThread` around it keeps the newest, so that no
reader ever waits. Cameras themselves: `ffmpeg.V4l2Camera`, `ffmpeg.FileCamera`,
`realsense.RealSenseCamera`.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.clock import Clock, MonotonicClock

Picture = NDArray[np.uint8]
Intrinsics = tuple[float, float, float, float]

_log = logging.getLogger(__name__)

# A covered lens or a camera without exposure gives means of 0 to 2 of 255; the darkest rooms in
# which a policy could still work give over 8. Our choice.
_BLACK = 4.0


class CameraError(RuntimeError):
    """A camera cannot be opened or has stopped; the message says what a person can do."""


class EndOfPicturesError(CameraError):
    """The pictures are over, without anything being wrong."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture.

    Attributes:
        rgb: [H, W, 3].
        t: when it was taken, monotonic [s].
        seq: counts a camera's pictures.
        depth: [H, W] along the camera's axis [m]; None of a camera that measures none.
    """

    rgb: Picture
    t: float
    seq: int
    depth: NDArray[np.float32] | None = None


class Camera(Protocol):
    """Something that gives one picture after the other; one thread reads it."""

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]; valid once opened."""
        ...

    def open(self) -> None:
        """Start; CameraError where that fails."""
        ...

    def read(self) -> tuple[Picture, float]:
        """Wait for the next picture; return it and its time [s]. CameraError when there is none."""
        ...

    def close(self) -> None:
        """Stop; a `read` that waits in another thread ends. May be called twice."""
        ...


class CameraSource(Protocol):
    """A camera as the bridge's loops see it: the newest frame, without waiting."""

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]."""
        ...

    def open(self) -> None:
        """Start; CameraError where that fails."""
        ...

    def latest(self) -> Frame | None:
        """The newest frame, None before the first."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


def pinhole(width: int, height: int, *, fovy: float) -> Intrinsics:
    """Intrinsics of an ideal camera of `width` x `height` [px] that sees `fovy` [deg] in height."""
    focal = height / 2 / np.tan(np.radians(fovy) / 2)
    return float(focal), float(focal), width / 2, height / 2


class LatestFrame:
    """Holds the newest frame: one thread puts, any thread gets, nobody waits.

    A picture that comes again, byte for byte, for longer than `frozen_after` [s] is not new: it
    keeps the time at which it was first seen, so that whoever checks the age of what a policy
    observes sees a frozen camera although its driver goes on sending. Sensors have noise; only
    drawn pictures stand still, and for those `frozen_after` is None.
    """

    def __init__(self, *, frozen_after: float | None = 0.2) -> None:
        self._frozen_after = frozen_after
        # Replaced as a whole, which is atomic: readers need no lock.
        self._frame: Frame | None = None
        self._changed = self._repeated = 0.0

    @property
    def repeated(self) -> float:
        """For how long the newest picture has been coming again [s]; 0 for a new one."""
        return self._repeated

    def put(self, rgb: Picture, t: float) -> Frame:
        """Take a picture [H, W, 3] of time `t` [s], which the caller must not write to again."""
        last, rgb = self._frame, rgb.view()
        rgb.flags.writeable = False
        if last is None or not np.array_equal(last.rgb, rgb):
            self._changed = t
        self._repeated = t - self._changed
        allowed = self._frozen_after
        frozen = allowed is not None and self._repeated > allowed
        frame = Frame(rgb, self._changed if frozen else t, 0 if last is None else last.seq + 1)
        self._frame = frame
        return frame

    def get(self) -> Frame | None:
        """Return the newest frame, None before the first."""
        return self._frame


class CameraThread:
    """A camera read by a thread of its own: a `CameraSource`.

    A camera that fails while it runs is closed and opened again every `retry` [s]; until then its
    last frame grows old, which is what the policy's loop checks.

    Args:
        camera: what to read.
        name: for messages.
        size: wanted width and height [px], None for any.
        frozen_after: see `LatestFrame` [s].
        max_age: of a frame, before `health` complains [s].
        retry: see above [s].
        clock: for ages.
    """

    def __init__(
        self,
        camera: Camera,
        *,
        name: str = "camera",
        size: tuple[int, int] | None = None,
        frozen_after: float | None = 0.2,
        max_age: float = 0.1,
        retry: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._camera, self._size, self._max_age, self._retry = camera, size, max_age, retry
        self._frozen_after = frozen_after
        self._clock = clock or MonotonicClock()
        self._newest = LatestFrame(frozen_after=frozen_after)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]."""
        return self._camera.intrinsics

    def open(self) -> None:
        """Open the camera and start reading; CameraError where it does not open."""
        if self._thread is not None:
            raise CameraError(f"Camera '{self.name}' is open already; close it first")
        self._camera.open()
        self._stopped.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)
        self._thread.start()

    def latest(self) -> Frame | None:
        """The newest frame, None before the first; never waits."""
        return self._newest.get()

    def health(self, now: float) -> tuple[str, ...]:
        """What is wrong with the pictures at `now` [s], one line each; empty when all is well."""
        frame, lines = self.latest(), []
        if self._error is not None:
            lines.append(self._error)
        if frame is None:
            return (*lines, "no picture yet")
        if now - frame.t > self._max_age:
            lines.append(f"newest picture is {now - frame.t:.2f} s old, allowed {self._max_age:g}")
        allowed, repeated = self._frozen_after, self._newest.repeated
        if allowed is not None and repeated > allowed:
            lines.append(f"the same picture has been coming for {repeated:.2f} s: frozen")
        return (*lines, *self._picture_problems(frame.rgb))

    def close(self) -> None:
        """Stop reading and close the camera."""
        self._stopped.set()
        self._camera.close()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None

    def __enter__(self) -> "CameraThread":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _picture_problems(self, rgb: Picture) -> Iterator[str]:
        size = (rgb.shape[1], rgb.shape[0])
        if self._size is not None and size != self._size:
            wanted = "x".join(map(str, self._size))
            yield f"pictures are {size[0]}x{size[1]}, wanted {wanted}"
        # Every fourth pixel says as much about darkness as all of them.
        if float(rgb[::4, ::4].mean()) < _BLACK:
            yield "the picture is black"

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._newest.put(*self._camera.read())
                self._error = None
            except Exception as error:  # whatever a camera does, its readers go on
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Close, wait, open again; a camera that is being closed has nothing to say."""
        if self._stopped.is_set():
            return
        if self._error is None:
            _log.warning("camera %s: %s", self.name, error)
        self._error = str(error)
        self._camera.close()
        if self._stopped.wait(self._retry):
            return
        try:
            self._camera.open()
        except Exception as again:  # as above
            self._error = str(again)
        # `close` may have come while it opened.
        if self._stopped.is_set():
            self._camera.close()
