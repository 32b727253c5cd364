"""The guard that holds a Piper when its driver dies; the driver over slcan, across processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import can
import numpy as np
import pytest
import serial
from driver_conformance import target_at, token
from piper_firmware import HOME, SlcanPiper, SlcanPort, VirtualPiper

from robot_bridge.driver import DriverError, Mode
from robot_bridge.drivers.piper.can_frames import raw_joints
from robot_bridge.drivers.piper.driver import PiperDriver
from robot_bridge.drivers.piper.link import write_serial
from robot_bridge.drivers.piper.watchdog import _BEAT, Holder, PiperGuard, Watch
from scenes.robots.piper import piper

pytestmark = pytest.mark.keeps_time

ROBOT = piper()
JOINTS = (1, -2, 3, -4, 5, -6)
IDLE, ARMED, BYE = range(3)
NEVER = {"reset", "drop", "disable", "mit", "sag", "gripper off", "gripper zeroed"}
# A driver that arms, sends the arm far away, tells so, and reads the arm at 100 Hz ever after.
PILOT = """
import sys, time
import can
can.rc = {"sleep_after_open": 0.0}  # there is no adapter that boots
import numpy as np
from robot_bridge.driver import ArmToken, Target
from robot_bridge.drivers.piper.driver import PiperDriver
driver = PiperDriver(sys.argv[1], interface="slcan", guarded=sys.argv[2] == "guarded")
driver.connect()
driver.arm(ArmToken(purpose="arm", by="a test"))
start = driver.state()
q = start.q + np.array([1.5, 0, 0, 0, 0, 0])
driver.servo(Target(position=start.position, quat=start.quat, q=q))
print("moving", flush=True)
while True:
    driver.state()
    time.sleep(0.01)
"""


class Watched:
    """A `Watch` in a thread, its pipe, and what it held."""

    def __init__(self, timeout: float) -> None:
        self.held: list[tuple[int, ...]] = []
        read, self.pipe = os.pipe()
        watch = Watch(self._hold, timeout=timeout)
        self.ended: list[bool] = []
        self.thread = threading.Thread(target=lambda: self.ended.append(watch.run(read)))
        self.thread.start()
        self._read = read

    def _hold(self, raw: Sequence[int]) -> None:
        self.held.append(tuple(raw))

    def beat(self, said: int, joints: Sequence[int] = JOINTS) -> None:
        os.write(self.pipe, _BEAT.pack(said, *joints))

    def close(self) -> bool:
        """Break the pipe; return what `run` returned."""
        os.close(self.pipe)
        self.thread.join(timeout=5.0)
        os.close(self._read)
        return self.ended[0]


def test_a_broken_pipe_holds_an_armed_arm_at_its_last_joints() -> None:
    watched = Watched(timeout=10.0)
    watched.beat(ARMED, (0,) * 6)
    watched.beat(ARMED)
    assert watched.close() is True
    assert watched.held == [JOINTS]


@pytest.mark.parametrize("said", [IDLE, BYE, None])
def test_an_arm_that_is_not_ours_is_left_alone(said: int | None) -> None:
    watched = Watched(timeout=0.02)
    if said is not None:
        watched.beat(ARMED)
        watched.beat(said)
    time.sleep(0.1)
    assert watched.close() is False
    assert watched.held == []


def test_silence_holds_once_and_beats_begin_anew() -> None:
    watched = Watched(timeout=0.05)
    watched.beat(ARMED)
    time.sleep(0.3)
    assert watched.held == [JOINTS]
    watched.beat(ARMED, (7,) * 6)
    time.sleep(0.3)
    assert watched.held == [JOINTS, (7,) * 6]
    watched.beat(BYE)
    assert watched.close() is False


def test_beats_keep_it_quiet_even_in_pieces() -> None:
    watched = Watched(timeout=0.2)
    data = _BEAT.pack(ARMED, *JOINTS) * 40
    for start in range(0, len(data), 17):
        os.write(watched.pipe, data[start : start + 17])
        time.sleep(0.005)
    assert watched.held == []
    watched.beat(BYE)
    assert watched.close() is False


def test_the_holder_prefers_joints_it_hears_itself() -> None:
    with VirtualPiper("held", rate=200.0) as arm:
        arm.firmware.enabled, arm.firmware.target = [True] * 6, np.array(HOME)
        arm.firmware.q = np.array(HOME)
        with can.Bus(interface="virtual", channel="held") as bus:
            time.sleep(0.05)
            Holder(bus, speed=20, listens=True)(JOINTS)
            sent = [data for i, data in arm.firmware.received if i == 0x155]
            time.sleep(0.02)
        assert len(sent) >= 4  # repeated: a lost frame must not matter
        np.testing.assert_allclose(arm.firmware.target, HOME, atol=1e-5)
        assert arm.firmware.speed == 20


@pytest.mark.parametrize("listens", [True, False])
def test_the_holder_falls_back_on_the_last_beat(listens: bool) -> None:
    raw = raw_joints(HOME)
    with VirtualPiper("unheard") as arm:
        arm.breaks(silent=True)
        with can.Bus(interface="virtual", channel="unheard") as bus:
            Holder(bus, speed=30, listens=listens)(raw)
            time.sleep(0.05)
        np.testing.assert_allclose(arm.firmware.target, HOME, atol=1e-5)


def test_a_guard_without_a_bus_is_refused() -> None:
    guard = PiperGuard("/dev/nothing", interface="slcan", speed=30)
    with pytest.raises(DriverError, match="guard process could not open slcan '/dev/nothing'"):
        guard.start()
    guard.beat(JOINTS, armed=True)  # says nothing to nobody
    guard.dismiss()


# -- across processes ----------------------------------------------------------------------------


@pytest.fixture
def arm() -> Iterator[SlcanPiper]:
    """A Piper behind a serial adapter, in a process of its own."""
    with SlcanPiper() as simulated:
        yield simulated


def report_of(arm: SlcanPiper) -> dict:
    """What happened to it, which is never any of NEVER."""
    report = arm.report()
    assert not NEVER & set(report["facts"])
    assert not [1 for i, data in report["received"] if i == 0x471 and data[2:4] != "02"]
    assert not [1 for i, _ in report["received"] if i == 0x150]
    return report


def armed_over_slcan(arm: SlcanPiper, monkeypatch: pytest.MonkeyPatch) -> PiperDriver:
    """A driver without a guard."""
    monkeypatch.setitem(can.rc, "sleep_after_open", 0.0)
    driver = PiperDriver(arm.port, interface="slcan", guarded=False)
    driver.connect()
    driver.arm(token("arm"))
    return driver


@pytest.mark.wire
def test_the_driver_works_over_a_serial_adapter(
    arm: SlcanPiper, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = armed_over_slcan(arm, monkeypatch)
    assert driver.info.firmware == "S-V1.8-2" and not driver.info.simulated
    goal = driver.state().q + np.array([0.2, -0.1, 0.1, 0.2, -0.1, 0.3])
    driver.servo(target_at(ROBOT, goal))
    deadline = time.monotonic() + 5.0
    while np.degrees(abs(driver.state().q - goal)).max() > 0.001:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert driver.state().mode is Mode.IDLE and driver.state().faults == ()
    driver.close()
    report = report_of(arm)
    assert all(report["enabled"]), "closing leaves the arm powered"


@pytest.mark.wire
def test_a_frame_that_went_through_late_was_sent(
    arm: SlcanPiper, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = armed_over_slcan(arm, monkeypatch)
    port = driver._link.sdk.GetCanBus().send_bus.serialPortOrig.fileno()
    write = os.write

    def loses_its_turn(file: int, data: bytes) -> int:
        written = write(file, data)
        if file == port:
            time.sleep(0.06)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", loses_its_turn)
        driver.servo(target_at(ROBOT, driver.state().q))
    driver.close()
    report_of(arm)


def test_a_serial_port_without_room_is_an_error_soon() -> None:
    adapter = SlcanPort()  # nobody reads
    began = time.monotonic()
    with serial.Serial(adapter.name) as port:
        with pytest.raises(TimeoutError, match="had no room"):
            while True:
                began = time.monotonic()
                write_serial(port, b"t15180102030405060708\r" * 100)
        assert 0.04 < time.monotonic() - began < 1.0
    adapter.close()


def cpu_seconds_of(wall: float) -> float:
    """CPU time of this process while it sleeps for so long [s]."""
    before = time.process_time()
    time.sleep(wall)
    return time.process_time() - before


@pytest.mark.wire
def test_an_unplugged_adapter_is_an_error_and_no_spinning_thread(
    arm: SlcanPiper, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = cpu_seconds_of(0.3)  # threads that libraries left behind in earlier tests
    driver = armed_over_slcan(arm, monkeypatch)
    here = target_at(ROBOT, driver.state().q)
    arm.unplug()
    began = time.monotonic()
    with pytest.raises(DriverError, match="cannot be read any more; is the adapter plugged"):
        while time.monotonic() - began < 1.0:
            driver.state()
            time.sleep(0.005)
    with pytest.raises(DriverError, match="did not take frame 0x151"):
        driver.servo(here)
    assert cpu_seconds_of(0.3) - others < 0.15
    driver.close()


@pytest.mark.wire
def test_a_dead_guard_is_an_error(arm: SlcanPiper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(can.rc, "sleep_after_open", 0.0)
    driver = PiperDriver(arm.port, interface="slcan")
    driver.connect()
    driver.arm(token("arm"))
    assert driver.state().faults == ()
    os.kill(driver._guard._process.pid, signal.SIGKILL)
    driver._guard._process.wait()
    with pytest.raises(DriverError, match="guard process has died; connect again"):
        driver.state()
    driver.stop("soft")  # what the control loop does then
    driver.close()
    report_of(arm)


@pytest.mark.wire
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=lambda s: s.name)
def test_a_driver_that_dies_or_freezes_leaves_the_arm_standing(
    end: signal.Signals, arm: SlcanPiper
) -> None:
    pilot = start_pilot(arm, "guarded")
    try:
        before = stop_while_moving(arm, pilot, end)
        began = time.monotonic()
        while report_of(arm)["target"][0] > 1.0:
            assert time.monotonic() - began < 0.5, "0.1 s of silence, then a hold"
        while max(map(abs, report_of(arm)["dq"])) > 1e-3:
            assert time.monotonic() - began < 2.0
        after = report_of(arm)
    finally:
        pilot.kill()
        pilot.communicate()
    moved = after["q"][0] - before["q"][0]
    assert abs(moved) < 0.3, "it stands near where it was, 1 rad short of its target"
    assert all(after["enabled"])


@pytest.mark.wire
def test_without_a_guard_the_arm_would_go_on(arm: SlcanPiper) -> None:
    """So the test above shows what the guard does, not what the arm does."""
    pilot = start_pilot(arm, "alone")
    try:
        stop_while_moving(arm, pilot, signal.SIGKILL)
        time.sleep(1.8)
        assert report_of(arm)["q"][0] == pytest.approx(1.5, abs=0.01)
    finally:
        pilot.kill()
        pilot.communicate()


def start_pilot(arm: SlcanPiper, how: str) -> subprocess.Popen:
    """A process that moves the arm."""
    pilot = subprocess.Popen(
        [sys.executable, "-c", PILOT, arm.port, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if pilot.stdout.readline() != "moving\n":
        pilot.kill()
        pytest.fail(f"the pilot did not start: {pilot.communicate()[1]}")
    return pilot


def stop_while_moving(arm: SlcanPiper, pilot: subprocess.Popen, end: signal.Signals) -> dict:
    """End the driver's process in mid-motion; return the arm as it then was."""
    time.sleep(0.4)
    before = arm.report()
    assert before["dq"][0] > 0.3
    os.kill(pilot.pid, end)
    return before
