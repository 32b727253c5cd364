"""Intel RealSense colour cameras through pyrealsense2.

Where frames come from is handed in: `PipelineFrames` is a plugged-in camera, tests give the queue
of the library's own software device. Depth is not used: no policy here observes it.
"""

import collections
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from robot_bridge.cameras.camera import CameraError, Intrinsics, Picture
from robot_bridge.clock import Clock, MonotonicClock
from scenes.contract.extras import require


class FrameQueue(Protocol):
    """Where colour frames come from, as the library's own objects."""

    def start(self) -> Any:
        """Begin, and return the colour stream's profile (`rs.stream_profile`)."""
        ...

    def wait(self, timeout: float) -> Any:
        """Return the next colour frame (`rs.video_frame`); RuntimeError after `timeout` [s]."""
        ...

    def stop(self) -> None:
        """End; may be called twice."""
        ...


class RealSenseCamera:
    """A RealSense's colour camera; wrap it in a `CameraThread`.

    Intrinsics are the camera's own calibration; its distortion is small and not corrected.

    Args:
        frames: where they come from.
        timeout: without a frame before `read` fails [s].
        clock: that times are mapped to.
    """

    def __init__(
        self, frames: FrameQueue, *, timeout: float = 1.0, clock: Clock | None = None
    ) -> None:
        self._frames, self._timeout = frames, timeout
        self._clock = clock or MonotonicClock()
        self._stamps = StampMap()
        self._intrinsics: Intrinsics | None = None
        self._reversed = False

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px], read from the stream."""
        if self._intrinsics is None:
            raise CameraError("A RealSense's intrinsics are known once it is open")
        return self._intrinsics

    def open(self) -> None:
        """Start streaming; CameraError where there is no such camera or it sends no colours."""
        rs = load_library()
        profile = self._frames.start().as_video_stream_profile()
        formats = {rs.format.rgb8: False, rs.format.bgr8: True}
        if profile.format() not in formats:
            self._frames.stop()
            raise CameraError(f"RealSense sends {profile.format()}, allowed: rgb8 or bgr8")
        self._reversed = formats[profile.format()]
        lens = profile.get_intrinsics()
        self._intrinsics = (lens.fx, lens.fy, lens.ppx, lens.ppy)
        self._stamps = StampMap()

    def read(self) -> tuple[Picture, float]:
        """Wait for the next picture [H, W, 3]; return it and when it was taken [s]."""
        try:
            frame = self._frames.wait(self._timeout)
        except RuntimeError as error:
            raise CameraError(f"RealSense has stopped sending: {_one_line(error)}") from error
        t = self._stamps.to_monotonic(frame.get_timestamp() / 1000.0, self._clock.now())
        # The library uses its buffers again: the picture is copied out before the frame goes.
        rgb = np.asanyarray(frame.get_data())[..., :: -1 if self._reversed else 1]
        return np.array(rgb, np.uint8, order="C"), t

    def close(self) -> None:
        """Stop streaming."""
        self._frames.stop()


class PipelineFrames:
    """Colour frames of a plugged-in camera.

    Args:
        serial: of the camera, None for the only one.
        size: width and height [px].
        fps: frames per second [Hz].
        exposure: [us], None for automatic exposure. Automatic exposure changes what a policy sees
            when something bright comes into view; a fixed one flickers under some lamps.
    """

    def __init__(
        self,
        *,
        serial: str | None = None,
        size: tuple[int, int] = (640, 480),
        fps: int = 30,
        exposure: float | None = None,
    ) -> None:
        self._serial, self._size, self._fps, self._exposure = serial, size, fps, exposure
        self._pipeline: Any = None

    def start(self) -> Any:
        """Find the camera and start it; CameraError says which ones are there."""
        rs = load_library()
        serial = _choose(self._serial, connected(rs))
        config, pipeline = rs.config(), rs.pipeline()
        config.enable_device(serial)
        config.enable_stream(rs.stream.color, *self._size, rs.format.rgb8, self._fps)
        try:
            started = pipeline.start(config)
        except RuntimeError as error:
            width, height = self._size
            raise CameraError(
                f"RealSense {serial} does not start at {width}x{height}, {self._fps} Hz: "
                f"{_one_line(error)}; is it on USB 3 and used by nobody else?"
            ) from error
        self._pipeline = pipeline
        self._expose(rs, started.get_device())
        return started.get_stream(rs.stream.color)

    def wait(self, timeout: float) -> Any:
        """Return the next colour frame; RuntimeError after `timeout` [s]."""
        if self._pipeline is None:
            raise RuntimeError("it is not open")
        return self._pipeline.wait_for_frames(int(timeout * 1000)).get_color_frame()

    def stop(self) -> None:
        """Stop the camera."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.stop()

    def _expose(self, rs: ModuleType, device: Any) -> None:
        for sensor in device.query_sensors():
            if sensor.is_color_sensor():
                sensor.set_option(rs.option.enable_auto_exposure, float(self._exposure is None))
                if self._exposure is not None:
                    sensor.set_option(rs.option.exposure, self._exposure)


class StampMap:
    """A camera's time stamps on the monotonic clock, whatever clock the camera uses.

    A frame is `arrival - stamp` away from our clock: the difference between the clocks, which
    hardly changes, and the way here, which varies but is never negative. The least of recent
    differences is taken for the clocks', so times jitter as little as the camera's own, are late
    by the shortest way here, and follow drift and jumps within the window.
    """

    def __init__(self, window: int = 150) -> None:
        self._offsets: collections.deque[float] = collections.deque(maxlen=window)

    def to_monotonic(self, stamp: float, arrival: float) -> float:
        """Return the time of a frame stamped `stamp` [s] that arrived at `arrival` [s]."""
        self._offsets.append(arrival - stamp)
        return stamp + min(self._offsets)


def load_library() -> ModuleType:
    """Import pyrealsense2; ImportError says in one line what is missing."""
    try:
        return require("pyrealsense2", "realsense")
    except ImportError as error:
        cause = error.__cause__
        if not isinstance(cause, ImportError) or "libusb" not in str(cause):
            raise
        why = f"{_one_line(cause)}; apt-get install libusb-1.0-0"
        raise ImportError(f"RealSense's library cannot be loaded: {why}") from cause


def connected(rs: ModuleType) -> dict[str, str]:
    """Names of the cameras that are plugged in, by serial number."""
    info = rs.camera_info
    devices = rs.context().query_devices()
    return {d.get_info(info.serial_number): d.get_info(info.name) for d in devices}


def _choose(wanted: str | None, there: dict[str, str]) -> str:
    listed = ", ".join(f"{serial} ({name})" for serial, name in sorted(there.items())) or "none"
    if wanted is None and len(there) == 1:
        return next(iter(there))
    if wanted is None:
        hint = "choose one by its serial number" if there else "check cable, USB port, udev rules"
        raise CameraError(f"RealSense cameras plugged in: {listed}; {hint}")
    if wanted not in there:
        raise CameraError(f"RealSense {wanted} is not plugged in; there are: {listed}")
    return wanted


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
