"""The identification motion: governed, consented to, recorded, and stopped like any other."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_bridge.clock import ManualClock
from robot_bridge.control.session import CONTROL_PERIOD
from robot_bridge.deploy.deployment import Talk
from robot_bridge.deploy.excite import ExciteConfig, excite, sines
from robot_bridge.deploy.rig import Rig, Senses
from robot_bridge.driver import ArmInfo, DriverError
from robot_bridge.drivers.dry_run import NullDriver
from robot_bridge.records.reader import read_recording
from robot_bridge.safety.limits import default_limits
from robot_bridge.safety.supervisor import NotAllowedError
from scenes.robots import robot_named

QUIET = Talk(lambda line: None, lambda line: "no")


class Arm(NullDriver):
    """Reaches every target at once; may call itself real, and fail after so many readings.

    With `interrupted`, that is when Ctrl-C is pressed.
    """

    real, good, interrupted, stops = False, 10**9, False, 0

    @property
    def info(self) -> ArmInfo:
        return dataclasses.replace(super().info, simulated=not self.real)

    def state(self) -> Any:
        self.good -= 1
        state = super().state()
        if self.good <= 0 and self.interrupted:
            raise KeyboardInterrupt
        return state if self.good > 0 else dataclasses.replace(state, faults=("overheated",))

    def stop(self, kind: Any) -> None:
        self.stops += 1
        super().stop(kind)


def rig_of(name: str) -> tuple[Rig, Arm]:
    clock, robot = ManualClock(), robot_named(name)
    arm = Arm(robot, robot.home, clock)
    return Rig(driver=arm, clock=clock, senses=Senses), arm


@pytest.mark.parametrize("name", ["panda", "piper"])
def test_every_joint_moves_within_all_limits(name: str, tmp_path: Path) -> None:
    rig, _ = rig_of(name)
    path = excite(rig, ExciteConfig(seconds=6, record=tmp_path), QUIET)
    recording, robot = read_recording(path), robot_named(name)
    assert recording.header.robot == name and recording.header.task == "excitation"
    assert [event.name for event in recording.events] == ["begin", "timeout"]
    began = recording.events[0].t
    sent = [t.target.q for t in recording.ticks if t.target is not None and t.t >= began]
    q = np.array(sent)
    assert len(q) > 600 and np.ptp(q, axis=0).min() > 0.05
    limits = default_limits(robot)
    assert ((q >= limits.q_low) & (q <= limits.q_high)).all()
    for order, most in ((1, limits.joint_speed), (2, limits.joint_acceleration)):
        rate = np.diff(q, n=order, axis=0) / CONTROL_PERIOD**order
        assert (np.abs(rate).max(axis=0) <= np.multiply(most, 1 + 1e-6)).all()
    # From rest to rest about home.
    assert np.abs(q[-1] - robot.home).max() < 0.01 and np.abs(q[-1] - q[-2]).max() < 2e-4


def test_joints_do_not_move_alike() -> None:
    robot, times = robot_named("panda"), np.arange(0.0, 20.0, 0.01)
    cfg = ExciteConfig(seconds=20, record=Path())
    q = np.array([sines(robot, cfg, 0.0)(t) for t in times])
    other = np.array([sines(robot, dataclasses.replace(cfg, seed=1), 0.0)(t) for t in times])
    alike = np.corrcoef(q.T) - np.eye(7)
    assert np.abs(alike).max() < 0.5 and np.abs(q - other).max() > 0.05


def test_a_real_arm_needs_the_phrase(tmp_path: Path) -> None:
    rig, arm = rig_of("piper")
    arm.real = True
    with pytest.raises(NotAllowedError, match="excitation none"):
        excite(rig, ExciteConfig(record=tmp_path), QUIET)


def test_a_fault_ends_the_motion_and_is_said(tmp_path: Path) -> None:
    rig, arm = rig_of("piper")
    arm.good = 200
    with pytest.raises(DriverError, match="overheated"):
        excite(rig, ExciteConfig(seconds=6, record=tmp_path), QUIET)
    (path,) = tmp_path.iterdir()
    assert [event.name for event in read_recording(path).events] == ["begin", "fault"]


def test_ctrl_c_in_the_motion_stops_the_arm(tmp_path: Path) -> None:
    rig, arm = rig_of("piper")
    arm.good, arm.interrupted = 300, True
    with pytest.raises(KeyboardInterrupt):
        excite(rig, ExciteConfig(seconds=6, record=tmp_path), QUIET)
    assert arm.stops == 1


def test_ctrl_c_before_the_motion_stops_the_armed_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robot_bridge.deploy.excite._stepper", press)
    rig, arm = rig_of("piper")
    with pytest.raises(KeyboardInterrupt):
        excite(rig, ExciteConfig(seconds=6, record=tmp_path), QUIET)
    assert arm.stops == 1


def test_limits_may_only_be_tightened(tmp_path: Path) -> None:
    rig, _ = rig_of("piper")
    with pytest.raises(ValueError, match="may only be tightened"):
        excite(rig, ExciteConfig(record=tmp_path, limits={"tcp_speed": 9.0}), QUIET)
