"""RealSense cameras: frames go through the vendor's own library, out of its software device."""

import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from robot_bridge.cameras import realsense
from robot_bridge.cameras.camera import CameraError, CameraThread
from robot_bridge.cameras.realsense import (
    PipelineFrames,
    RealSenseCamera,
    StampMap,
    connected,
    load_library,
)
from robot_bridge.clock import ManualClock

WIDTH, HEIGHT = 16, 12


@pytest.fixture(scope="module")
def rs() -> ModuleType:
    try:
        return load_library()
    except ImportError as error:
        pytest.skip(str(error))


class SoftwareFrames:
    """A camera that exists only in the vendor's library; the test puts its frames in."""

    def __init__(self, rs: ModuleType, *, colors: str = "rgb8") -> None:
        self._rs, self._queue = rs, rs.frame_queue(4)
        self._device = rs.software_device()
        self._sensor = self._device.add_sensor("Color")
        stream, lens = rs.video_stream(), rs.intrinsics()
        lens.width, lens.height, lens.model = WIDTH, HEIGHT, rs.distortion.none
        lens.fx, lens.fy, lens.ppx, lens.ppy = 20.0, 21.0, 8.5, 6.5
        stream.type, stream.index, stream.uid = rs.stream.color, 0, 1
        stream.width, stream.height, stream.fps = WIDTH, HEIGHT, 30
        stream.bpp, stream.fmt, stream.intrinsics = 3, getattr(rs.format, colors), lens
        self._profile = self._sensor.add_video_stream(stream)
        self.running, self._number = False, 0

    def start(self):
        self._sensor.open(self._profile)
        self._sensor.start(self._queue)
        self.running = True
        return self._profile

    def wait(self, timeout: float):
        return self._queue.wait_for_frame(int(timeout * 1000)).as_video_frame()

    def stop(self) -> None:
        if self.running:
            self.running = False
            self._sensor.stop()
            self._sensor.close()

    def show(self, picture: np.ndarray, *, stamp: float) -> None:
        """Put in what the sensor sees, in its own order of colours, at `stamp` [ms]."""
        self._number += 1
        frame = self._rs.software_video_frame()
        frame.pixels, frame.bpp, frame.stride = picture, 3, 3 * WIDTH
        frame.timestamp, frame.domain = stamp, self._rs.timestamp_domain.hardware_clock
        frame.frame_number, frame.profile = self._number, self._profile.as_video_stream_profile()
        self._sensor.on_video_frame(frame)


def orange() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (230, 120, 10), np.uint8)


@pytest.mark.parametrize("colors", ["rgb8", "bgr8"])
def test_pictures_are_rgb_whatever_the_sensor_sends(rs, colors: str):
    frames = SoftwareFrames(rs, colors=colors)
    camera = RealSenseCamera(frames)
    camera.open()
    frames.show(orange()[..., :: 1 if colors == "rgb8" else -1].copy(), stamp=0.0)
    picture, _ = camera.read()
    camera.close()
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous
    assert (picture == orange()).all()


def test_other_formats_are_refused(rs):
    frames = SoftwareFrames(rs, colors="y8")
    with pytest.raises(CameraError, match=r"sends format\.y8, allowed: rgb8 or bgr8"):
        RealSenseCamera(frames).open()
    assert not frames.running


def test_intrinsics_come_from_the_stream(rs):
    camera = RealSenseCamera(SoftwareFrames(rs))
    with pytest.raises(CameraError, match="known once it is open"):
        _ = camera.intrinsics
    camera.open()
    assert camera.intrinsics == (20.0, 21.0, 8.5, 6.5)
    camera.close()
    camera.close()


def test_times_are_the_sensors_own_on_our_clock(rs):
    clock, frames = ManualClock(50.0), SoftwareFrames(rs)
    camera = RealSenseCamera(frames, clock=clock)
    camera.open()
    times = []
    # Taken every 33 ms by the sensor's clock; ways of 5, 40, 2 and 20 ms.
    for number, way in enumerate((0.005, 0.040, 0.002, 0.020)):
        frames.show(orange(), stamp=7e6 + 33.0 * number)
        clock.time = 50.0 + 0.033 * number + way
        times.append(camera.read()[1])
    camera.close()
    np.testing.assert_allclose(np.array(times) - 50.0, [0.005, 0.038, 0.068, 0.101], atol=1e-6)


def test_a_sensor_that_stops_is_told(rs):
    camera = RealSenseCamera(SoftwareFrames(rs), timeout=0.05)
    camera.open()
    with pytest.raises(CameraError, match="has stopped sending: Frame did not arrive in time"):
        camera.read()
    camera.close()


def shows(source: CameraThread, red: int) -> bool:
    frame = source.latest()
    return frame is not None and frame.rgb[0, 0, 0] == red


def test_a_thread_keeps_the_newest_frame(rs):
    frames = SoftwareFrames(rs)
    with CameraThread(RealSenseCamera(frames, timeout=0.2), retry=0.05) as source:
        for number in range(1, 6):
            frames.show(orange() + np.uint8(number), stamp=33.0 * number)
            deadline = time.monotonic() + 5.0
            while not shows(source, 230 + number):
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert source.latest().seq == 4
    assert not frames.running


# -- clocks --------------------------------------------------------------------------------------


def test_a_clock_that_drifts_is_followed():
    stamps, errors = StampMap(window=100), []
    rng = np.random.default_rng(0)
    for number in range(3000):
        taken = number / 30
        arrival = 1000.0 + taken + 0.003 + rng.exponential(0.004)
        # 100 parts per million fast: 10 ms in the 100 s of this test.
        errors.append(stamps.to_monotonic(taken * 1.0001, arrival) - (1000.0 + taken))
    assert min(errors[100:]) > 0.0 and max(errors[100:]) < 0.006


@pytest.mark.parametrize("jump", [-5.0, 5.0])
def test_a_clock_that_jumps_never_makes_a_frame_newer_than_it_is(jump: float):
    stamps, ages = StampMap(window=50), []
    for number in range(200):
        now = 10.0 + number / 30
        stamp = now + (jump if number >= 100 else 0.0)
        ages.append(now - stamps.to_monotonic(stamp, now))
    assert min(ages) > -1e-9 and max(map(abs, ages[:100] + ages[150:])) < 1e-9


# -- plugged-in cameras --------------------------------------------------------------------------


def test_without_a_camera_it_says_so(rs):
    if connected(rs):
        pytest.skip("a RealSense is plugged in")
    with pytest.raises(CameraError, match="plugged in: none; check cable, USB port, udev rules"):
        RealSenseCamera(PipelineFrames()).open()
    with pytest.raises(CameraError, match="RealSense 123 is not plugged in; there are: none"):
        RealSenseCamera(PipelineFrames(serial="123")).open()


class FakeLibrary:
    """The calls that `PipelineFrames` makes of a plugged-in camera, recorded."""

    stream = SimpleNamespace(color="color")
    format = SimpleNamespace(rgb8="rgb8", bgr8="bgr8")
    option = SimpleNamespace(enable_auto_exposure="auto", exposure="exposure")
    camera_info = SimpleNamespace(serial_number="serial", name="name")

    def __init__(self, *serials: str, error: str | None = None) -> None:
        self.calls: list[tuple] = []
        self._serials, self._error = serials, error

    def note(self, name: str):
        return lambda *args: self.calls.append((name, *args))

    def context(self):
        make = lambda serial: SimpleNamespace(  # noqa: E731
            get_info=lambda key: {"serial": serial, "name": "D435"}[key]
        )
        return SimpleNamespace(query_devices=lambda: [make(serial) for serial in self._serials])

    def config(self):
        return SimpleNamespace(enable_device=self.note("device"), enable_stream=self.note("stream"))

    def pipeline(self):
        depth = SimpleNamespace(is_color_sensor=lambda: False, set_option=self.note("depth"))
        color = SimpleNamespace(is_color_sensor=lambda: True, set_option=self.note("option"))
        sensors = [depth, color]
        started = SimpleNamespace(
            get_device=lambda: SimpleNamespace(query_sensors=lambda: sensors),
            get_stream=lambda kind: f"profile of {kind}",
        )

        def start(config: object):
            if self._error is not None:
                raise RuntimeError(self._error)
            return started

        return SimpleNamespace(start=start, stop=self.note("stop"))


@pytest.mark.parametrize(
    ("exposure", "options"),
    [
        (None, [("option", "auto", 1.0)]),
        (8000.0, [("option", "auto", 0.0), ("option", "exposure", 8000.0)]),
    ],
)
def test_the_chosen_camera_is_started_as_asked(monkeypatch, exposure, options):
    library = FakeLibrary("11", "22")
    monkeypatch.setattr(realsense, "load_library", lambda: library)
    frames = PipelineFrames(serial="22", size=(848, 480), fps=60, exposure=exposure)
    assert frames.start() == "profile of color"
    frames.stop()
    frames.stop()
    stream = ("stream", "color", 848, 480, "rgb8", 60)
    assert library.calls == [("device", "22"), stream, *options, ("stop",)]
    with pytest.raises(RuntimeError, match="not open"):
        frames.wait(0.1)


def test_two_cameras_must_be_told_apart(monkeypatch):
    monkeypatch.setattr(realsense, "load_library", lambda: FakeLibrary("11", "22"))
    with pytest.raises(CameraError, match=r"11 \(D435\), 22 \(D435\); choose one by its serial"):
        PipelineFrames().start()


def test_a_camera_that_does_not_start_is_told_in_one_line(monkeypatch):
    library = FakeLibrary("11", error="Couldn't resolve\n  requests")
    monkeypatch.setattr(realsense, "load_library", lambda: library)
    with pytest.raises(CameraError, match="640x480, 30 Hz: Couldn't resolve requests; is it on"):
        PipelineFrames().start()


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ImportError, match=r"pip install 'mjx-serl\[realsense\]'"):
        load_library()


def test_a_missing_libusb_is_named(monkeypatch):
    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "pyrealsense2":
                raise ImportError("libusb-1.0.so.0: cannot open\nshared object file")

    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"libusb-1\.0.*file; apt-get install libusb-1\.0-0"):
        load_library()
