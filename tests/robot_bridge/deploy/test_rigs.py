"""Arms by name, their senses, loops in real time, the policy in a process of its own."""

import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_arm import Bench, bench_contract

from robot_bridge.clock import ManualClock, MonotonicClock
from robot_bridge.control.joint_monitor import parse_joint_limits
from robot_bridge.control.pacing import Pacer
from robot_bridge.deploy import policy_process
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.policy_process import PolicyProcess, PolicyProcessError, PolicyTask
from robot_bridge.deploy.rig import RigConfig
from robot_bridge.deploy.rigs import (
    build_rig,
    check_senses,
    make_operator,
    open_senses,
    parse_crops,
    parse_places,
    rig_makers,
    sim_rig,
    with_cameras,
)
from robot_bridge.driver import DriverError, Target
from robot_bridge.drivers.dry_run import DryRun, NullDriver
from robot_bridge.learning.workcell import WorkcellCamera
from robot_bridge.operators.operator_loop import OperatorLoop
from robot_bridge.policy.bundle import Bundle, load_bundle
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.limits import default_limits
from scenes.contract.operator import OperatorError, OperatorInput
from scenes.contract.serialize import to_json
from scenes.contract.specs import ObsField, ObsSpec
from scenes.robots import robot_named

pytestmark = pytest.mark.keeps_time

PLACE = ("cube=0.4,0.05,0.02",)


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def waited(until: Callable[[], Any], *, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(until())


# -- names -------------------------------------------------------------------------------------


def test_unknown_robots_and_devices_are_named() -> None:
    with pytest.raises(KeyError, match=r"Did you mean 'franka'\?"):
        build_rig(RigConfig(robot="frank"), bench_contract(), rig_makers())
    with pytest.raises(KeyError, match="Allowed: gamepad, keyboard, none, page, spacemouse"):
        make_operator(RigConfig(operator="mouse"), bench_contract())


def test_a_keyboard_without_a_terminal_is_refused_before_anything_is_armed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.isatty", lambda terminal: False)
    config = RigConfig(robot="null", objects=PLACE, operator="keyboard")
    with pytest.raises(OperatorError, match=r"needs a terminal .* use `ssh -t`"):
        build_rig(config, bench_contract(), rig_makers())


def test_franka_rs_refuses_a_policy_of_another_gripper() -> None:
    other = dataclasses.replace(bench_contract(), robot=robot_named("panda_2f85"))
    config = RigConfig(robot="franka-rs", address="10.0.0.2", objects=PLACE)
    with pytest.raises(ValueError, match="the policy's robot is a panda_2f85; allowed: serl-http"):
        build_rig(config, other, rig_makers())


@pytest.mark.parametrize("robot", ["franka", "franka-rs"])
def test_an_arm_without_an_address_is_refused(robot: str) -> None:
    with pytest.raises(ValueError, match="needs --address"):
        build_rig(RigConfig(robot=robot, objects=PLACE), bench_contract(), rig_makers())


@pytest.mark.parametrize("robot", [name for name in rig_makers() if name != "replay"])
def test_every_arm_can_be_made_without_being_reached(robot: str) -> None:
    """Nothing is opened and no SDK is needed before `connect`."""
    addresses = {"piper": "can7", "serl-http": "http://127.0.0.1:9"}
    config = RigConfig(robot=robot, address=addresses.get(robot, "127.9.9.9"), objects=PLACE)
    rig = build_rig(config, bench_contract(), rig_makers())
    assert rig.config is config and callable(rig.driver.connect)


@pytest.mark.parametrize("word", ["cube", "cube=1,2", "cube=a,b,c", "cube=1;2;3"])
def test_places_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match=r"is not NAME=X,Y,Z"):
        parse_places([word])


def test_what_the_policy_observes_must_be_given() -> None:
    with pytest.raises(ValueError, match="--objects cube=X,Y,Z"):
        check_senses(RigConfig(), bench_contract())
    with pytest.raises(KeyError, match="camera of the robot 'front'"):
        check_senses(RigConfig(cameras=("wrist=/dev/video9",)), bench_contract(camera=True))
    with pytest.raises(ValueError, match="is not NAME=SOURCE"):
        check_senses(RigConfig(cameras=("front",)), bench_contract(camera=True))


def test_a_workcells_cameras_and_crops_are_opened_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    contract = bench_contract(camera=True)
    np.save(tmp_path / "front.npy", np.full((1, 24, 32, 3), 90, np.uint8))
    cell = {"front": WorkcellCamera(source=str(tmp_path / "front.npy"), crop=(4, 0, 24, 24))}
    rig = with_cameras(RigConfig(), cell, contract)
    assert rig.crops == ("front=4,0,24,24",)
    check_senses(rig, contract)
    senses = open_senses(rig, contract, MonotonicClock())
    assert waited(lambda: senses.eyes["front"].latest())
    frame = senses.eyes["front"].latest()
    assert frame is not None and frame.rgb.shape == (24, 24, 3)
    senses.close()
    mine = RigConfig(cameras=("front=/dev/video9",))  # what is typed says all of a camera
    assert with_cameras(mine, cell, contract) == mine
    with pytest.raises(KeyError, match="Unknown camera of the policy 'side'.* Allowed: front"):
        with_cameras(RigConfig(), {"side": cell["front"]}, contract)
    with pytest.raises(KeyError, match="Unknown camera of the policy 'side'"):
        check_senses(dataclasses.replace(rig, crops=("side=0,0,8,8",)), contract)
    with pytest.raises(ValueError, match="would be squeezed"):
        check_senses(dataclasses.replace(rig, crops=("front=0,0,32,24",)), contract)
    with pytest.raises(ValueError, match=r"leaves the picture, which is 640 x 480 px \(--size\)"):
        check_senses(dataclasses.replace(mine, crops=("front=0,0,900,900",)), contract)


def test_limits_of_joints_are_read_and_what_is_none_is_said() -> None:
    config = RigConfig(objects=PLACE, joint_limits=("motor_temperature=40,inf",))
    limits = build_rig(config, bench_contract(), rig_makers()).joint_limits
    assert (limits["motor_temperature"].warn, limits["motor_temperature"].unit) == (40.0, "°C")
    assert limits["driver_temperature"].stop == 80.0
    with pytest.raises(KeyError, match="'heat'.* Allowed: current, driver_temperature"):
        parse_joint_limits(["heat=1,2"])
    for word in ("current", "current=3", "current=9,3", "current=nan,nan", "current=0,1"):
        with pytest.raises(ValueError, match="is not NAME=WARN,STOP with 0 < WARN <= STOP"):
            parse_joint_limits([word])


@pytest.mark.parametrize("word", ["front", "front=1,2,3", "front=a,b,c,d", "front=0,0,1.5,2"])
def test_crops_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match="is not NAME=X,Y,WIDTH,HEIGHT"):
        parse_crops([word])


class _WorldWithACube:
    """What `sim_rig` asks of a world before anything moves."""

    def objects(self) -> dict[str, Any]:
        """The only thing with a body."""
        return {"cube": np.zeros(3)}


def observing(*names: str) -> Any:
    """The bench's contract with other observations."""
    fields = tuple(ObsField(name=name, shape=(3,), unit="m") for name in names)
    return dataclasses.replace(bench_contract(), obs=ObsSpec(fields=fields))


def test_what_no_body_shows_is_refused_before_arming_with_the_reason() -> None:
    world: Any = _WorldWithACube()
    for name in ("goal_position", "wind"):
        with pytest.raises(
            ValueError, match=rf"observes {name}, which nothing measures .* objects are cube"
        ):
            sim_rig(world, observing("ee_lag", "cube_from_ee", name))
    with pytest.raises(ValueError, match="observes wind, which nothing on a robot measures"):
        check_senses(RigConfig(objects=PLACE), observing("cube_position", "wind"))


# -- dry arms ----------------------------------------------------------------------------------


def test_a_dry_run_keeps_everything_from_the_arm() -> None:
    clock, contract = ManualClock(), bench_contract()
    arm = NullDriver(contract.robot, contract.home, clock)
    arm.connect()
    dry = DryRun(arm)
    start = arm.state()
    dry.servo(Target(position=start.position, quat=start.quat, q=start.q + 0.1))
    dry.gripper(0.0, 10.0)
    dry.hold()
    assert dry.kept_back == 2
    np.testing.assert_array_equal(dry.state().q, start.q)


def test_the_null_arm_follows_only_when_armed() -> None:
    clock, contract = ManualClock(), bench_contract()
    arm = NullDriver(contract.robot, contract.home, clock)
    arm.connect()
    start = arm.state()
    with pytest.raises(DriverError, match="not armed"):
        arm.servo(Target(position=start.position, quat=start.quat, q=start.q))


# -- loops in real time ------------------------------------------------------------------------


def test_a_pacer_keeps_absolute_deadlines_and_counts_what_it_missed() -> None:
    clock, began = ManualClock(0.0), []

    def tick(deadline: float) -> None:
        began.append((deadline, clock.now()))
        if len(began) == 3:
            clock.advance(0.035)  # three periods and a half
        if len(began) == 6:
            pacer.stop()

    pacer = Pacer(tick, period=0.01, clock=clock)
    pacer.run()
    deadlines = [deadline for deadline, _ in began]
    np.testing.assert_allclose(deadlines, [0.0, 0.01, 0.02, 0.03, 0.06, 0.07], atol=1e-9)
    assert pacer.timing.overruns == 1 and pacer.timing.worst == pytest.approx(0.025)


class Device:
    """An operator's device that wants what it is told."""

    help_text, lost = "keys", None

    def __init__(self) -> None:
        self.wants: OperatorInput | None = None

    def open(self) -> None: ...

    def poll(self, now: float) -> OperatorInput | None:
        return self.wants

    def close(self) -> None: ...


def test_a_person_takes_over_stops_and_judges() -> None:
    bench, device = Bench(), Device()
    loop = OperatorLoop(device, bench.control, period=0.1)
    loop.tick()
    device.wants = OperatorInput(action=np.array([0.0, -0.5, 0.0, 0.0]), enabled=True)
    assert not loop.enabled  # the device is not open yet
    assert loop.open() == "keys"
    loop.tick()
    assert loop.enabled and bench.run(0.02)[-1].intervened
    device.wants = OperatorInput(event="success")
    loop.tick()
    assert (loop.take_ending(), loop.take_ending()) == ("success", None)
    device.wants = OperatorInput(event="cut")  # to start again says nothing of how it went
    loop.tick()
    assert loop.take_ending() == "cut"
    device.wants = OperatorInput(event="stop")
    loop.tick()
    assert bench.phase is Phase.FAULT and Reason.EMERGENCY_STOP & bench.supervisor.cause
    loop.close()
    assert not loop.enabled


# -- the policy in a process of its own ----------------------------------------------------------


@pytest.mark.slow
def test_the_whole_chain_in_two_processes_and_real_time(bundle: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    config = RigConfig(robot="null", objects=PLACE)
    rig = build_rig(config, bundle.contract, rig_makers())
    options = DeployConfig(seconds=3.0, separate=True)
    deployment = Deployment(options, bundle, rig, Talk(said.append, lambda prompt: ""))
    (report,) = deployment.run()
    assert report.ending == "timeout" and report.ticks > 250
    timing = deployment.timings["control"]
    assert timing.ticks > 250 and timing.mean < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_policy_process_that_dies_or_freezes_is_held_and_faulted(
    bundle: Bundle, how: signal.Signals
) -> None:
    config = RigConfig(robot="null", objects=PLACE)
    rig = build_rig(config, bundle.contract, rig_makers())
    seen: list[tuple[float, Phase]] = []
    struck: list[float] = []

    def watch(tick: Any) -> None:
        seen.append((tick.t, tick.phase))
        if len(seen) > 150 and not struck and tick.phase is Phase.RUN:
            struck.append(tick.t)
            os.kill(process_of(deployment), how)

    rig = type(rig)(**{**vars(rig), "sinks": (watch,)})
    options = DeployConfig(seconds=10.0, separate=True)
    deployment = Deployment(options, bundle, rig, Talk(lambda line: None, lambda prompt: ""))
    (report,) = deployment.run()
    assert report.ending == "fault" and report.reasons["command_stale"] > 100
    first = {phase: t for t, phase in reversed(seen) if t > struck[0] and phase is not Phase.RUN}
    assert first[Phase.HOLD] - struck[0] <= 0.35
    assert first[Phase.FAULT] - first[Phase.HOLD] <= 2.1


def process_of(deployment: Deployment) -> int:
    assert deployment.policy_process is not None
    return deployment.policy_process.pid


def test_a_policy_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    limits = default_limits(bench_contract().robot)
    task = PolicyTask(
        bundle=str(tmp_path / "none"),
        digest="0" * 64,
        sockets=str(tmp_path),
        ticket="",
        rig=RigConfig(),
        limits=limits,
    )
    with pytest.raises(RuntimeError, match="did not start: .*none"):
        PolicyProcess(task)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", "the policy's process was ended by SIGKILL"),
        ("exit 3", "the policy's process was ended with status 3"),
        ("echo no bundle >&2; exit 1", "no bundle"),
        ("exec sleep 5", "it took longer than 0.1 s"),
        ("echo hello; exec sleep 5", "by SIGKILL"),
    ],
)
def test_how_a_policy_process_ended_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread line\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(policy_process.sys, "executable", str(program))
    task = PolicyTask(
        bundle="",
        digest="",
        sockets="",
        ticket="",
        rig=RigConfig(),
        limits=default_limits(bench_contract().robot),
    )
    with pytest.raises(PolicyProcessError, match=f"did not start: .*{said}"):
        PolicyProcess(task, timeout=0.1 if said.startswith("it took") else 10.0)


def test_a_bundle_that_was_changed_after_the_check_is_not_run(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = PolicyTask(
        bundle=str(bundle.path),
        digest="f" * 64,  # of what a person consents to
        sockets=str(tmp_path),
        ticket="",
        rig=RigConfig(),
        limits=default_limits(bench_contract().robot),
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(to_json(task)) + "\n"))
    with pytest.raises(ValueError, match="has changed since it was checked: got .* allowed: ffff"):
        policy_process.main()


def test_clocks_move_on() -> None:
    clock = MonotonicClock()
    before = clock.now()
    clock.sleep_until(before + 0.01)
    assert clock.now() - before >= 0.01 and clock.wall() > 1.7e9
