"""A motion that shows what an arm's joints are like, recorded for `python -m mjx_serl.sysid`.

`mjx-serl excite` is its command line. Every joint follows a sum of sines about the arm's home;
what is sent is what the governor makes of it, inside all limits but a task's box and cone, as on
the way home; what is recorded is what was sent and what the arm did.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robot_bridge.clock import ManualClock
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.control_loop import ControlLoop, Parts
from robot_bridge.control.session import (
    CONTROL_PERIOD,
    LockStep,
    Loop,
    RealTime,
    Session,
    Stepper,
    Tally,
)
from robot_bridge.deploy.audit import AuditLog, person
from robot_bridge.deploy.deployment import Talk
from robot_bridge.deploy.rig import Rig
from robot_bridge.driver import ArmInfo, DriverError, Vector
from robot_bridge.reasons import Phase
from robot_bridge.records.recorder import Recorder, RecordHeader, new_session, running_versions
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.limits import Limits, default_limits, intersect, tighten
from robot_bridge.safety.supervisor import Supervisor
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.ranges import MOST_SEED, check_ranges, ranged
from scenes.contract.robot import RobotSpec
from scenes.contract.serialize import digest
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec
from scenes.robots import robot_named

TASK = "excitation"  # what the header of such a recording calls its task
# Ours: from slow, for friction and gravity, to where the governor leaves little of it [Hz]. With
# amplitudes that fall as 1 / sqrt(f) the last joint's inertia shows best of seven tried.
_BAND = (0.2, 6.0)
_SINES = 6
# How long the motion takes to come up and to die away [s].
_FADE = 1.0
# The arm is still for so long before the motion; after it the governor is a moment behind [s].
_REST, _SETTLE = 0.5, 3.0


@dataclass(frozen=True, kw_only=True)
class ExciteConfig:
    """How the arm is moved.

    Attributes:
        seconds: of motion [s].
        amplitude: of each joint about home at most [rad]; less where its range is narrow.
        speed: share of the speed limits.
        seed: of the sines' phases; record at least two.
        limits: stricter limits by name, for example tcp_speed 0.1.
        record: folder for recordings.
        audit: file to which arming and faults are appended; None notes nothing.
    """

    seconds: float = ranged(30.0, least=5, most=600)
    amplitude: float = ranged(0.3, above=0, most=1)
    speed: float = ranged(1.0, above=0, most=1)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    limits: Mapping[str, float] = field(default_factory=dict)
    record: Path = Path("recordings")
    audit: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


def sines(robot: RobotSpec, cfg: ExciteConfig, began: float) -> Callable[[float], Vector]:
    """Joint positions [rad] over time [s]: sums of sines about home, from rest to rest.

    Each joint has frequencies of its own, so that no two of them move alike.
    """
    draw = np.random.default_rng(cfg.seed)
    home, joints = np.asarray(robot.home), robot.num_joints
    room = np.minimum(home - robot.q_min, np.asarray(robot.q_max) - home)
    steps = np.linspace(0.0, 1.0, _SINES * joints).reshape(_SINES, joints)
    frequency = _BAND[0] * (_BAND[1] / _BAND[0]) ** steps
    phase = draw.uniform(0.0, 2.0 * math.pi, frequency.shape)
    share = 1.0 / np.sqrt(frequency)
    size = np.minimum(cfg.amplitude, 0.5 * room) * share / share.sum(axis=0)

    def path(now: float) -> Vector:
        t = now - began - _REST
        fade = np.clip(min(t, cfg.seconds - t) / _FADE, 0.0, 1.0)
        offset = (size * np.sin(2.0 * math.pi * frequency * t + phase)).sum(axis=0)
        return home + fade * fade * (3.0 - 2.0 * fade) * offset

    return path


def excitation_contract(robot: RobotSpec) -> Contract:
    """What the bridge's parts are made from where no policy acts: steps of the tool at 10 Hz."""
    names = ("x", "y", "z", "gripper")
    return Contract(
        robot=robot,
        obs=ObsSpec(fields=(ObsField(name="ee_position", shape=(3,), unit="m"),)),
        action=ActionSpec(mode="ee_delta", names=names, scale=(0.025,) * 3 + (1.0,), rate=10.0),
        ik=IkSpec(rate=40.0, damping=1e-3, max_joint_step=0.15),
        home=robot.home,
        episode_steps=1,
    )


def excite(rig: Rig, cfg: ExciteConfig, talk: Talk) -> Path:
    """Connect, ask, arm, home, move, let go; return the recording.

    Raises DriverError where the bridge or the arm stopped the motion, NotAllowedError without a
    person's consent. In any case the arm is let go.
    """
    with ExitStack() as stack:
        rig.driver.connect()
        stack.callback(rig.driver.close)
        info = rig.driver.info
        robot = robot_named(info.robot)
        limits = intersect(tighten(default_limits(robot), **cfg.limits), info)
        if rig.state_max_age is not None:
            limits = dataclasses.replace(limits, state_max_age=rig.state_max_age)
        recorder = _recorder(cfg, rig, robot, limits)
        stack.callback(recorder.close)
        talk.say(f"record   {recorder.path}")
        control = ControlLoop(_parts(cfg, rig, robot, limits), sinks=[recorder.put])
        control.speed = cfg.speed
        stack.callback(control.parts.supervisor.disarm)
        _arm(control, info, talk)
        stepper = _stepper(control, rig)
        stack.callback(stepper.close)
        # Whatever ends the motion, the arm stands before anything else is put away.
        stack.callback(control.parts.supervisor.disarm)
        _move(control, stepper, robot, cfg, recorder)
        return recorder.path


def _recorder(cfg: ExciteConfig, rig: Rig, robot: RobotSpec, limits: Limits) -> Recorder:
    contract, info = excitation_contract(robot), rig.driver.info
    header = RecordHeader(
        bundle="",
        contract=digest(contract),
        limits=limits.digest,
        robot=info.robot,
        rate=contract.action.rate,
        driver=type(rig.driver).__name__,
        serial=info.serial,
        firmware=info.firmware,
        task=TASK,
        started=rig.clock.wall(),
        versions=running_versions(),
    )
    return Recorder(new_session(cfg.record, info.robot), header, clock=rig.clock)


def _parts(cfg: ExciteConfig, rig: Rig, robot: RobotSpec, limits: Limits) -> Parts:
    contract, serial = excitation_contract(robot), rig.driver.info.serial
    audit = AuditLog(cfg.audit, rig.clock, {"bundle": TASK, "serial": serial})
    return Parts(
        contract=contract,
        limits=limits,
        driver=rig.driver,
        governor=Governor(robot, limits, dt=CONTROL_PERIOD),
        gate=ActionGate(contract, limits),
        supervisor=Supervisor(rig.driver, rig.clock, phrase=f"{TASK} {serial}", audit=audit.note),
        arbiter=Arbiter(),
        clock=rig.clock,
    )


def _arm(control: ControlLoop, info: ArmInfo, talk: Talk) -> None:
    supervisor = control.parts.supervisor
    typed = supervisor.phrase
    if not info.simulated:
        talk.say("Clear the workspace, stand clear, keep the stop button at hand.")
        talk.say("Once armed, the arm goes home and swings about it, every joint at once,")
        talk.say("beyond the box that it works in.")
        typed = talk.ask(f"To arm, type '{supervisor.phrase}': ")
    supervisor.arm(supervisor.confirm("arm", by=person(), typed=typed))


def _stepper(control: ControlLoop, rig: Rig) -> Stepper:
    if isinstance(rig.clock, ManualClock):
        return LockStep(control, Loop(lambda _: None, CONTROL_PERIOD, "none"), rig.clock)
    return RealTime([Loop(control.tick, CONTROL_PERIOD, "control")], rig.clock)


def _move(
    control: ControlLoop, stepper: Stepper, robot: RobotSpec, cfg: ExciteConfig, recorder: Recorder
) -> None:
    session = Session(control, stepper, Tally(), lambda: None)
    session.home(robot.home)
    began, supervisor = control.clock.now(), control.parts.supervisor
    length = cfg.seconds + _REST + _SETTLE
    recorder.event("begin", seed=cfg.seed)
    control.follow(sines(robot, cfg, began))
    stepper.run(
        lambda: supervisor.phase is not Phase.ARMED or control.clock.now() - began > length,
        timeout=length + 5.0,
    )
    if supervisor.phase is not Phase.ARMED:
        recorder.event("fault")
        raise DriverError(f"The motion was stopped: {supervisor.why}")
    recorder.event("timeout")
    control.follow(None)
