"""Cameras: newest frame only, colours in order, every way to go wrong told apart."""

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robot_bridge.cameras.camera import (
    CameraError,
    CameraThread,
    EndOfPicturesError,
    Frame,
    LatestFrame,
    pinhole,
)
from robot_bridge.cameras.crop import Crop, CroppedCamera, check_crop
from robot_bridge.cameras.ffmpeg import FfmpegCamera, FileCamera, V4l2Camera
from robot_bridge.clock import ManualClock
from robot_bridge.policy.observation import fit_picture
from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec
from scenes.contract.videos import ffmpeg_program

pytestmark = pytest.mark.keeps_time

LENS = (20.0, 20.0, 16.0, 12.0)
WIDTH, HEIGHT = 32, 24


def card() -> np.ndarray:
    """Left third red, middle green, right blue [24, 33, 3]: swapped colours show."""
    picture = np.zeros((HEIGHT, 33, 3), np.uint8)
    for channel in range(3):
        picture[:, 11 * channel : 11 * channel + 11, channel] = 220
    return picture


def is_card(rgb: np.ndarray, *, slack: int = 12) -> bool:
    """Whether each third is its own colour; codecs change values a little."""
    middles = rgb[rgb.shape[0] // 2, [5, 16, 27]].astype(int)
    return bool((abs(middles - np.diag([220, 220, 220])) <= slack).all())


def noisy(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (HEIGHT, WIDTH, 3), np.uint8)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


class ScriptedCamera:
    """Gives what its test puts in; None is a failure."""

    intrinsics = LENS

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.next: list[np.ndarray | None] = []
        self._more = threading.Condition()
        self._open = False

    def open(self) -> None:
        self.opened += 1
        self._open = True

    def give(self, *pictures: np.ndarray | None) -> None:
        with self._more:
            self.next.extend(pictures)
            self._more.notify()

    def read(self) -> tuple[np.ndarray, float]:
        with self._more:
            self._more.wait_for(lambda: self.next or not self._open)
            picture = self.next.pop(0) if self.next else None
        if picture is None:
            raise CameraError("the cable is out")
        return picture, time.monotonic()

    def close(self) -> None:
        self.closed += 1
        with self._more:
            self._open = False
            self._more.notify()


# -- the newest frame ----------------------------------------------------------------------------


def test_the_newest_frame_is_kept_and_cannot_be_written():
    newest = LatestFrame()
    assert newest.get() is None
    pictures = [noisy(seed) for seed in range(3)]
    for number, picture in enumerate(pictures):
        newest.put(picture, float(number))
    frame = newest.get()
    assert frame == Frame(frame.rgb, 2.0, 2) and (frame.rgb == pictures[2]).all()
    with pytest.raises(ValueError, match="read-only"):
        frame.rgb[0, 0, 0] = 1


def test_a_frozen_picture_keeps_the_time_it_was_first_seen():
    newest, still = LatestFrame(frozen_after=0.2), noisy(0)
    times = [newest.put(still.copy(), t).t for t in (1.0, 1.1, 1.2, 1.3, 9.0)]
    assert times == [1.0, 1.1, 1.2, 1.0, 1.0] and newest.repeated == 8.0
    assert newest.put(noisy(1), 9.1).t == 9.1 and newest.repeated == 0.0
    assert newest.get().seq == 5


def test_drawn_pictures_may_stand_still():
    newest, still = LatestFrame(frozen_after=None), noisy(0)
    assert [newest.put(still, t).t for t in (1.0, 2.0, 60.0)] == [1.0, 2.0, 60.0]


def test_pinhole_agrees_with_the_simulated_camera():
    camera = CameraSpec(
        name="front", pos=(0, 0, 0), quat=(1, 0, 0, 0), fovy=60.0, width=WIDTH, height=HEIGHT
    )
    picture = noisy(0)
    seen = fit_picture(picture, pinhole(WIDTH, HEIGHT, fovy=60.0), camera)
    assert (seen == picture).all()


# -- a camera's thread ---------------------------------------------------------------------------


def policy_camera(width: int, height: int) -> CameraSpec:
    pose = {"pos": (0.0, 0.0, 1.0), "quat": (1.0, 0.0, 0.0, 0.0)}
    return CameraSpec(name="wrist", fovy=45.0, width=width, height=height, **pose)


def test_a_crop_is_all_that_the_policy_sees_whatever_the_lens():
    whole, spec = noisy(7), policy_camera(8, 6)
    source = ScriptedCamera()
    source.give(whole, whole)
    camera = CroppedCamera(source, Crop(4, 2, 16, 12), spec)
    camera.open()
    shown = fit_picture(camera.read()[0], camera.intrinsics, spec)
    part = whole[2:14, 4:20].reshape(6, 2, 8, 2, 3).mean((1, 3))
    np.testing.assert_allclose(shown, part, atol=1.0)


def test_a_crop_of_a_smaller_picture_than_was_said_does_not_open():
    source = ScriptedCamera()
    source.give(noisy(1))
    camera = CroppedCamera(source, Crop(20, 0, 16, 12), policy_camera(8, 6))
    with pytest.raises(CameraError, match=r"Crop 20,0,16,12 .* leaves the picture, .* 32 x 24 px"):
        camera.open()
    assert source.closed == 1


@pytest.mark.parametrize(
    ("crop", "side", "line"),
    [
        (Crop(0, 0, 640, 480), (128, 128), r"is square \(128 x 128 px\); .* example 0,0,480,480"),
        (Crop(0, 0, 480, 480), (128, 96), r"is 4 to 3 \(128 x 96 px\); .* example 0,0,480,360"),
        (Crop(200, 0, 480, 480), (128, 128), r"leaves the picture, which is 640 x 480 px"),
        (Crop(-1, 0, 480, 480), (128, 128), "leaves the picture"),
        (Crop(0, 0, 0, 0), (128, 128), "leaves the picture"),
    ],
)
def test_crops_that_cannot_be_shown_are_refused(crop: Crop, side: tuple[int, int], line: str):
    with pytest.raises(InputError, match=line):
        check_crop(crop, policy_camera(*side), (640, 480))
    check_crop(Crop(170, 90, 300, 300), policy_camera(128, 128), (640, 480))  # SERL's PCB


def test_readers_never_wait_for_a_camera_that_hangs():
    camera = ScriptedCamera()
    with CameraThread(camera) as source:
        began = time.perf_counter()
        assert source.latest() is None
        camera.give(noisy(0), noisy(1))
        wait_for(lambda: (frame := source.latest()) is not None and frame.seq == 1)
        for _ in range(1000):
            source.latest()
        assert time.perf_counter() - began < 5.0
        assert source.intrinsics == LENS
    assert camera.closed == 1


def test_reading_the_newest_takes_microseconds():
    """Prints its figures under `pytest -s -k microseconds tests/robot_bridge/cameras`."""
    newest, took, delays = LatestFrame(), [], []
    pictures = [np.full((480, 640, 3), value, np.uint8) for value in (1, 2)]
    for number in range(2000):
        began = time.perf_counter()
        newest.put(pictures[number % 2], time.monotonic())
        middle = time.perf_counter()
        newest.get()
        delays.append(middle - began)
        took.append(time.perf_counter() - middle)
    figures = [f"{statistics.median(x) * 1e6:.2f} us" for x in (took, delays)]
    sys.stdout.write(f"latest: median {figures[0]}; put of 640x480: median {figures[1]}\n")
    assert statistics.median(took) < 20e-6


def test_health_tells_what_is_wrong():
    camera = ScriptedCamera()
    source = CameraThread(camera, size=(WIDTH, HEIGHT), frozen_after=0.05, max_age=0.5, retry=0.01)
    with source:
        assert source.health(time.monotonic()) == ("no picture yet",)
        camera.give(noisy(0))
        wait_for(source.latest)
        now = source.latest().t
        assert source.health(now) == ()
        assert source.health(now + 2.0) == ("newest picture is 2.00 s old, allowed 0.5",)
        camera.give(np.full((HEIGHT, WIDTH + 1, 3), 2, np.uint8))
        wait_for(lambda: source.latest().seq == 1)
        assert source.health(source.latest().t) == (
            f"pictures are {WIDTH + 1}x{HEIGHT}, wanted {WIDTH}x{HEIGHT}",
            "the picture is black",
        )
        camera.give(noisy(2))
        wait_for(lambda: source.latest().seq == 2)
        time.sleep(0.1)
        camera.give(noisy(2))
        wait_for(lambda: source.latest().seq == 3)
        (line,) = source.health(source.latest().t)
        assert line.startswith("the same picture has been coming for 0.")


def test_a_camera_that_fails_is_opened_again(caplog):
    camera = ScriptedCamera()
    with CameraThread(camera, name="wrist", retry=0.05) as source:
        camera.give(noisy(0), None)
        wait_for(lambda: "the cable is out" in source.health(time.monotonic()))
        assert source.latest().seq == 0
        wait_for(lambda: camera.opened == 2)
        camera.give(noisy(1))
        wait_for(lambda: source.latest().seq == 1)
        assert "the cable is out" not in source.health(time.monotonic())
    assert [record.message for record in caplog.records] == ["camera wrist: the cable is out"]


def test_a_camera_with_a_mistake_in_it_is_lost_not_its_thread():
    camera = ScriptedCamera()
    with CameraThread(camera, retry=0.01) as source:
        camera.give("no picture")
        wait_for(lambda: any("has no attribute" in x for x in source.health(time.monotonic())))
        camera.give(noisy(0))
        wait_for(source.latest)


def test_a_camera_is_opened_once():
    source = CameraThread(ScriptedCamera(), name="front")
    source.open()
    with pytest.raises(CameraError, match="'front' is open already"):
        source.open()
    source.close()
    source.open()
    source.close()
    source.close()


# -- ffmpeg --------------------------------------------------------------------------------------


def drawn(picture: str, *, rate: int = 200) -> FfmpegCamera:
    """A camera of ffmpeg's own test pictures."""
    options = ["-f", "lavfi", "-i", f"{picture}size={WIDTH}x{HEIGHT}:rate={rate}"]
    return FfmpegCamera(options, intrinsics=LENS, what="test picture")


@pytest.mark.parametrize(("name", "rgb"), [("red", (254, 0, 0)), ("blue", (0, 0, 254))])
def test_ffmpeg_sends_red_green_blue_in_this_order(name, rgb):
    camera = drawn(f"color=c={name}:")
    camera.open()
    before = time.monotonic()
    picture, t = camera.read()
    camera.close()
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert abs(picture.astype(int) - rgb).max() <= 3
    assert before <= t <= time.monotonic()


def test_a_thread_follows_a_running_ffmpeg_and_leaves_no_process():
    camera = drawn("testsrc2=")
    with CameraThread(camera) as source:
        wait_for(lambda: (frame := source.latest()) is not None and frame.seq > 20)
        assert source.health(time.monotonic()) == ()
        process = camera._process
    assert process.poll() is not None
    assert camera._process is None


def test_a_stopped_ffmpeg_is_killed_when_it_is_closed():
    camera = drawn("testsrc2=")
    camera.open()
    camera.read()
    process = camera._process
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    camera.close()
    assert process.returncode == -signal.SIGKILL and time.monotonic() - began < 3.0


def test_a_killed_ffmpeg_is_told_and_started_again():
    camera = drawn("testsrc2=")
    with CameraThread(camera, retry=0.05) as source:
        wait_for(source.latest)
        camera._process.kill()
        wait_for(lambda: any("ended with -9" in x for x in source.health(time.monotonic())))
        seen = source.latest().seq
        wait_for(lambda: source.latest().seq > seen + 5)


def test_closing_ends_a_read_that_waits():
    camera = drawn("testsrc2=", rate=1)
    source = CameraThread(camera)
    source.open()
    wait_for(source.latest)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 3.0


def test_what_is_no_picture_is_refused(tmp_path: Path):
    program = fake_ffmpeg(tmp_path, "echo 'P5 3 3 255'; exec sleep 5")
    camera = FfmpegCamera([], intrinsics=LENS, what="the thing", program=program)
    camera.open()
    with pytest.raises(
        CameraError, match="the thing sends no pictures: .* allowed: PPM with 8 bits"
    ):
        camera.read()
    camera.close()
    with pytest.raises(CameraError, match="the thing is not open"):
        camera.read()


# -- V4L2 ----------------------------------------------------------------------------------------


def fake_ffmpeg(folder: Path, script: str) -> str:
    """A program that does as ffmpeg might."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def v4l2(folder: Path, script: str, **options) -> V4l2Camera:
    device = folder / "video0"
    device.touch()
    return V4l2Camera(device, intrinsics=LENS, program=fake_ffmpeg(folder, script), **options)


def test_a_missing_device_is_named(tmp_path: Path):
    camera = V4l2Camera(tmp_path / "video7", intrinsics=LENS)
    with pytest.raises(CameraError, match="video7 does not exist; plugged in are: "):
        camera.open()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("ioctl(VIDIOC_STREAMON): Device or resource busy", "another program uses it"),
        ("ioctl(VIDIOC_DQBUF): No such device", "it was unplugged"),
        ("Not a video capture device", "takes no pictures"),
        ("something new", "something new"),
    ],
)
def test_what_ffmpeg_says_is_explained(tmp_path: Path, said: str, hint: str):
    camera = v4l2(tmp_path, f"echo '[v4l2] {said}' >&2; exit 1")
    camera.open()
    with pytest.raises(CameraError, match=rf"Camera .*video0: .*{hint}.*") as caught:
        camera.read()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    camera.close()


def test_the_real_ffmpeg_says_that_a_file_is_no_camera(tmp_path: Path):
    device = tmp_path / "video0"
    device.touch()
    camera = V4l2Camera(device, intrinsics=LENS)
    camera.open()
    with pytest.raises(CameraError, match="it is no video device"):
        camera.read()
    camera.close()


def test_a_v4l2_stream_is_asked_for_and_read(tmp_path: Path):
    script = f"""
    echo "$@" > {tmp_path}/asked
    printf 'P6\\n2 1\\n255\\nabcdef'
    printf 'P6\\n1 1\\n255\\nxyz'
    """
    camera = v4l2(tmp_path, script, size=(1280, 720), fps=60, compressed="mjpeg", latency=0.04)
    camera.open()
    before = time.monotonic()
    picture, t = camera.read()
    assert picture.tobytes() == b"abcdef" and picture.shape == (1, 2, 3)
    assert before - 0.04 <= t <= time.monotonic() - 0.04
    assert camera.read()[0].tobytes() == b"xyz"
    with pytest.raises(EndOfPicturesError, match="is at its end"):
        camera.read()
    camera.close()
    asked = (tmp_path / "asked").read_text()
    for part in ("-f v4l2", "-framerate 60 -video_size 1280x720 -input_format mjpeg"):
        assert part in asked
    assert f"-i {tmp_path}/video0 -f image2pipe -c:v ppm -pix_fmt rgb24" in asked


# -- files ---------------------------------------------------------------------------------------


def write_card(path: Path, *options: str) -> Path:
    picture = card()
    size = f"{picture.shape[1]}x{picture.shape[0]}"
    command = [ffmpeg_program("this test"), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", size, "-r", "10", "-i", "-", *options, str(path)]
    subprocess.run(command, input=picture.tobytes() * 3, check=True)
    return path


def files(kind: str, folder: Path) -> FileCamera:
    """The card as a camera of each kind of file, in a folder that is awkward to name."""
    folder = folder / "odd * [name]: é"
    folder.mkdir()
    if kind.startswith("npy"):
        order = kind[-3:]
        step = -1 if order == "bgr" else 1
        np.save(folder / "x.npy", np.stack([card()[..., ::step]] * 3))
        return FileCamera(folder / "x.npy", intrinsics=LENS, rate=500.0, order=order)
    if kind == "png":
        write_card(folder / "%d.png")
        return FileCamera(folder, intrinsics=LENS, rate=500.0)
    video = write_card(folder / "x.mp4", "-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p")
    return FileCamera(video, intrinsics=LENS, rate=500.0)


@pytest.mark.parametrize("kind", ["npy rgb", "npy bgr", "png", "mp4"])
def test_files_come_in_rgb_over_and_over(tmp_path: Path, kind: str):
    camera = files(kind, tmp_path)
    camera.open()
    pictures = [camera.read()[0] for _ in range(7)]
    camera.close()
    assert all(picture.shape == card().shape for picture in pictures)
    assert all(is_card(picture) for picture in pictures)
    assert not is_card(pictures[0][..., ::-1])


def test_the_next_picture_comes_when_it_is_due(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.stack([noisy(seed) for seed in range(3)]))
    clock = ManualClock(10.0)
    camera = FileCamera(tmp_path / "x.npy", intrinsics=LENS, rate=20.0, clock=clock)
    camera.open()
    read = [camera.read() for _ in range(5)]
    np.testing.assert_allclose([t for _, t in read], 10.0 + np.arange(5) / 20.0)
    for number, (picture, _) in enumerate(read):
        assert (picture == noisy(number % 3)).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.mkdir(), "There are no .png pictures"),
        (lambda p: p.write_bytes(b"no video"), "Invalid data found"),
    ],
)
def test_files_without_pictures_are_refused(tmp_path: Path, make, said: str):
    make(tmp_path / "x")
    camera = FileCamera(tmp_path / "x", intrinsics=LENS)
    with pytest.raises(CameraError, match=said):
        camera.open()
        camera.read()
    camera.close()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4)), np.zeros((4, 4, 3), np.uint8), np.array([{}], object)]
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path: Path, array: np.ndarray):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    camera = FileCamera(tmp_path / "x.npy", intrinsics=LENS)
    camera.open()
    with pytest.raises(CameraError, match=r"x\.npy' (holds .*, allowed: uint8|is no \.npy)"):
        camera.read()


def test_without_ffmpeg_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match="needs imageio_ffmpeg .*: pip install imageio-ffmpeg"):
        ffmpeg_program("Seeing")
