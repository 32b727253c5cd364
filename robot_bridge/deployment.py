"""From a bundle and an arm to episodes: checks, a person's consent, then motion.

`deploy.py` is its command line. What may differ from arm to arm comes in a `Rig`; everything that
keeps people safe is the same for all of them, the simulated one included.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robot_bridge.arbiter import Arbiter
from robot_bridge.bundle import Bundle
from robot_bridge.clock import Clock, ManualClock
from robot_bridge.driver import ArmDriver, ArmInfo
from robot_bridge.gate import ActionGate
from robot_bridge.governor import Governor
from robot_bridge.ledger import Ledger
from robot_bridge.limits import Limits, default_limits, intersect, tighten
from robot_bridge.null import DryRun
from robot_bridge.observation import Eye, ObjectSource, ObservationBuilder
from robot_bridge.operator_loop import POLL_PERIOD, OperatorLoop
from robot_bridge.operators import Operator
from robot_bridge.recorder import Recorder, RecordHeader, new_session
from robot_bridge.runtime import ControlLoop, Parts, PolicyLoop, Sink
from robot_bridge.session import (
    CONTROL_PERIOD,
    Ending,
    EpisodeReport,
    LockStep,
    Loop,
    RealTime,
    Session,
    Stepper,
    Tally,
)
from robot_bridge.supervisor import Supervisor
from scenes.contract import Contract
from scenes.robots import robot_named
from scenes.serialize import digest
from scenes.specs import RobotSpec


@dataclass(frozen=True, kw_only=True)
class Rig:
    """An arm and what is around it.

    driver: of the arm. clock: its time; a ManualClock runs in lock-step, as fast as it goes.
    objects, eyes: what is observed besides the arm. operator: a person's device, open.
    prepare: called with each episode's number before it; without one the arm is brought home.
    judge: says how an episode went while it runs; without one the operator does.
    """

    driver: ArmDriver
    clock: Clock
    objects: ObjectSource | None = None
    eyes: Mapping[str, Eye] = field(default_factory=dict)
    operator: Operator | None = None
    prepare: Callable[[int], None] | None = None
    judge: Callable[[], Ending | None] | None = None


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How a bundle is run.

    Attributes:
        episodes: how many.
        seconds: time limit of an episode [s]; None is the contract's.
        dry_run: read the arm and run everything, but send nothing. None: for a bundle's first
            run on a real arm only.
        limits: stricter limits by name, for example tcp_speed 0.1 (see robot_bridge.limits).
        record: folder for recordings; None records nothing.
        ledger: file that remembers which bundle has run where; None remembers nothing, so that
            every run on a real arm is a first one.
    """

    episodes: int = 1
    seconds: float | None = None
    dry_run: bool | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    record: Path | None = None
    ledger: Path | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes {self.episodes}, allowed: at least 1")
        if self.seconds is not None and not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds {self.seconds:g}, allowed: above 0, at most 3600")


# What ended by anything but a verdict was cut short: a time-out is not a failure.
_VERDICTS = {"success": "success", "failure": "failure"}


class Talk:
    """How a deployment speaks with a person; both are injected.

    say: shows a line. ask: shows a prompt and returns what is typed.
    """

    def __init__(self, say: Callable[[str], None], ask: Callable[[str], str]) -> None:
        self.say, self.ask = say, ask


def connected_robot(contract: Contract, info: ArmInfo) -> RobotSpec:
    """Return the spec of the connected arm; ValueError where the policy was not made for its like.

    Another arm of the same build will do: the same links up to the same tool centre, and a home
    and workspace within its limits (a Panda's policy on an FR3). Its own limits then hold.
    """
    trained, connected = contract.robot, robot_named(info.robot)
    if _build(trained) != _build(connected):
        raise ValueError(
            f"The policy was trained on a {trained.name}, this is a {connected.name}: "
            "its links differ, so the policy's observations and actions mean something else"
        )
    connected.check_pose(contract.home, what="home of the policy")
    return connected


def _build(robot: RobotSpec) -> tuple[object, ...]:
    frames = tuple((link.pos, link.quat) for link in robot.links)
    return frames, robot.flange_pos, robot.ee_pos, robot.ee_quat, robot.gripper.finger_range


class Deployment:
    """One bundle on one arm, from the first check to the last episode.

    Raises ValueError or KeyError before anything is opened where the policy and the arm do not
    fit; DriverError, NotAllowedError and TimeoutError later.
    """

    def __init__(self, cfg: DeployConfig, bundle: Bundle, rig: Rig, talk: Talk) -> None:
        self.cfg, self.bundle, self.rig, self.talk = cfg, bundle, rig, talk
        self.contract = bundle.contract
        self.period = 1.0 / self.contract.action.rate
        self.builder = ObservationBuilder(self.contract, objects=rig.objects, eyes=rig.eyes)
        self.tally = Tally()
        self.reports: list[EpisodeReport] = []
        self.timings: dict[str, object] = {}
        self._ledger = None if cfg.ledger is None else Ledger(cfg.ledger)

    def run(self) -> Sequence[EpisodeReport]:
        """Connect, ask, arm, play the episodes, let go; whatever happens, the arm is let go."""
        with ExitStack() as stack:
            self.rig.driver.connect()
            stack.callback(self.rig.driver.close)
            info = self.rig.driver.info
            robot = connected_robot(self.contract, info)
            limits = intersect(tighten(default_limits(robot), **self.cfg.limits), info)
            dry = self._is_dry(info)
            driver = DryRun(self.rig.driver) if dry else self.rig.driver
            supervisor = self._supervisor(driver, limits, info)
            stack.callback(supervisor.disarm)
            recorder = self._recorder(limits, info, stack)
            control = self._control(robot, limits, driver, supervisor, recorder)
            self._announce(info, limits, dry)
            self._arm(supervisor, info)
            self._play(control, recorder, info, dry=dry, stack=stack)
        return self.reports

    # -- before motion ---------------------------------------------------------------------------

    def _is_dry(self, info: ArmInfo) -> bool:
        if self.cfg.dry_run is not None or info.simulated:
            return bool(self.cfg.dry_run)
        return self._experience(info)[0] == 0

    def _experience(self, info: ArmInfo) -> tuple[int, int]:
        """Dry runs and episodes so far of this bundle on this arm."""
        if self._ledger is None:
            return 0, 0
        known = self._ledger.of(self.bundle.digest, info.serial)
        return known.dry, known.episodes

    def _supervisor(self, driver: ArmDriver, limits: Limits, info: ArmInfo) -> Supervisor:
        return Supervisor(
            driver,
            self.rig.clock,
            phrase=f"{self.bundle.digest[:8]} {info.serial}",
            recoveries=limits.recoveries,
            recovery_window=limits.recovery_window,
        )

    def _control(
        self,
        robot: RobotSpec,
        limits: Limits,
        driver: ArmDriver,
        supervisor: Supervisor,
        recorder: Recorder | None,
    ) -> ControlLoop:
        parts = Parts(
            contract=dataclasses.replace(self.contract, robot=robot),
            limits=limits,
            driver=driver,
            governor=Governor(robot, limits, dt=CONTROL_PERIOD),
            gate=ActionGate(self.contract, limits),
            supervisor=supervisor,
            arbiter=Arbiter(),
            clock=self.rig.clock,
        )
        sinks: list[Sink] = [self.tally]
        if recorder is not None:
            sinks.append(lambda tick: recorder.put(tick, self._fresh_obs()))
        return ControlLoop(parts, sinks=sinks)

    def _recorder(self, limits: Limits, info: ArmInfo, stack: ExitStack) -> Recorder | None:
        if self.cfg.record is None:
            return None
        header = RecordHeader(
            bundle=self.bundle.digest,
            contract=digest(self.contract),
            limits=limits.digest,
            robot=info.robot,
            rate=self.contract.action.rate,
            driver=type(self.rig.driver).__name__,
            serial=info.serial,
            firmware=info.firmware,
            task=self.bundle.manifest.task,
            started=self.rig.clock.wall(),
            versions=_versions(),
        )
        recorder = Recorder(new_session(self.cfg.record, info.robot), header, clock=self.rig.clock)
        stack.callback(recorder.close)
        self.talk.say(f"recording to {recorder.path}")
        return recorder

    def _announce(self, info: ArmInfo, limits: Limits, dry: bool) -> None:
        manifest, say = self.bundle.manifest, self.talk.say
        say(f"policy   {manifest.task}, bundle {self.bundle.digest[:8]}")
        say(f"arm      {info.robot} {info.serial}, firmware {info.firmware}")
        say(
            f"limits   {limits.tcp_speed:g} m/s, {limits.tcp_acceleration:g} m/s^2, box "
            f"{limits.workspace_low} to {limits.workspace_high} m, digest {limits.digest[:8]}"
        )
        if dry:
            say("DRY RUN  nothing is sent to the arm (a bundle's first run on an arm always is)")

    def _arm(self, supervisor: Supervisor, info: ArmInfo) -> None:
        typed = supervisor.phrase
        if not info.simulated:
            self.talk.say("Clear the workspace, stand clear, keep the stop button at hand.")
            typed = self.talk.ask(f"To arm, type '{supervisor.phrase}': ")
        supervisor.arm(supervisor.confirm("arm", by="console", typed=typed))

    # -- episodes --------------------------------------------------------------------------------

    def _play(
        self,
        control: ControlLoop,
        recorder: Recorder | None,
        info: ArmInfo,
        *,
        dry: bool,
        stack: ExitStack,
    ) -> None:
        policy = PolicyLoop(control, self.builder, self.bundle.policy, period=self.period)
        self._policy_loop = policy
        operator = self._operator(control)
        stepper = self._stepper(control, policy, operator)
        stack.callback(stepper.close)
        judge = self.rig.judge or (lambda: None if operator is None else operator.take_verdict())
        session = Session(control, stepper, self.tally, judge)
        for number in range(self.cfg.episodes):
            control.speed = self._ramp(control.limits, info)
            self._prepare(session, number, dry=dry)
            if recorder is not None:
                recorder.event("begin", episode=number)
            report = session.episode(self._seconds())
            if recorder is not None:
                recorder.event(_VERDICTS.get(report.ending, "reset"), episode=number)
            self._note(info, report, dry=dry)
            if report.ending == "fault":
                break
        if isinstance(stepper, RealTime):
            self.timings = dict(stepper.timings)

    def _prepare(self, session: Session, number: int, *, dry: bool) -> None:
        if self.rig.prepare is not None:
            self.rig.prepare(number)
        elif not dry:
            session.home(self.contract.home)
            self.talk.ask(f"Episode {number + 1}: set up the scene, then press Enter. ")

    def _operator(self, control: ControlLoop) -> OperatorLoop | None:
        if self.rig.operator is None:
            return None
        loop = OperatorLoop(self.rig.operator, control, period=self.period)
        if not self.rig.driver.info.simulated:
            control.enabled = lambda: loop.enabled or not self._needs_enabling(control.limits)
        return loop

    def _needs_enabling(self, limits: Limits) -> bool:
        """A new bundle moves only while a person holds the enabling key."""
        return self._experience(self.rig.driver.info)[1] < limits.ramp_episodes

    def _ramp(self, limits: Limits, info: ArmInfo) -> float:
        if info.simulated:
            return 1.0
        return limits.ramp_scale if self._experience(info)[1] < limits.ramp_episodes else 1.0

    def _stepper(
        self, control: ControlLoop, policy: PolicyLoop, operator: OperatorLoop | None
    ) -> Stepper:
        clock = self.rig.clock
        if isinstance(clock, ManualClock):
            return LockStep(control, policy, clock)
        loops = [
            Loop(control.tick, CONTROL_PERIOD, "control"),
            Loop(policy.tick, self.period, "policy"),
        ]
        if operator is not None:
            loops.append(Loop(operator.tick, POLL_PERIOD, "operator"))
        return RealTime(loops, clock)

    def _seconds(self) -> float:
        return self.cfg.seconds or self.contract.episode_steps * self.period

    def _fresh_obs(self) -> dict[str, np.ndarray] | None:
        """The observation that the policy made since the last tick, once."""
        obs, self._policy_loop.last_obs = self._policy_loop.last_obs, None
        return obs

    def _note(self, info: ArmInfo, report: EpisodeReport, *, dry: bool) -> None:
        self.reports.append(report)
        if self._ledger is not None:
            self._ledger.note(self.bundle.digest, info.serial, dry=dry, episodes=not dry)
        why = "  ".join(f"{name} {count}" for name, count in list(report.reasons.items())[:4])
        self.talk.say(
            f"episode {len(self.reports)}: {report.ending} after {report.seconds:.1f} s"
            + (f"  (ticks: {report.ticks}, {why})" if why else "")
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("mjx-serl", "numpy", "onnxruntime", "franky-control", "franka-rs", "piper-sdk"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def success_line(reports: Sequence[EpisodeReport]) -> str:
    """Successes, with the Wilson 95 % interval, in one line."""
    total, solved = len(reports), sum(report.success for report in reports)
    low, high = _wilson(solved, total)
    return (
        f"success {solved}/{total} = {solved / total:.1%} (95 % interval {low:.1%} to {high:.1%})"
    )


def _wilson(successes: int, total: int) -> tuple[float, float]:
    z2 = 1.959963984540054**2  # standard normal quantile of 0.975, squared
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    spread = rate * (1 - rate) / total + z2 / (4 * total * total)
    half = math.sqrt(z2 * spread) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)
