"""From a bundle and an arm to episodes: checks, a person's consent, then motion.

`deploy.py` is its command line. What may differ from arm to arm comes in a `Rig`; everything that
keeps people safe is the same for all of them, the simulated one included.
"""

import dataclasses
import hashlib
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from robot_bridge.clock import ManualClock
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.control_loop import ControlLoop, Parts, Sink
from robot_bridge.control.joint_monitor import JointMonitor, watch_joints
from robot_bridge.control.judges import Judge, blocked, but_success, first_of
from robot_bridge.control.pacing import Timing
from robot_bridge.control.session import (
    CONTROL_PERIOD,
    EpisodeReport,
    LockStep,
    Loop,
    RealTime,
    Session,
    Stepper,
    Tally,
)
from robot_bridge.control.witnesses import Witness, Witnesses
from robot_bridge.deploy.audit import AuditLog, person
from robot_bridge.deploy.ledger import Experience, Ledger
from robot_bridge.deploy.policy_process import PROCESS, PolicyProcess, PolicyTask
from robot_bridge.deploy.rig import Rig
from robot_bridge.driver import ArmDriver, ArmInfo
from robot_bridge.drivers.dry_run import DryRun
from robot_bridge.learning.link import LearnerLink, LearningConfig
from robot_bridge.learning.resets import Resets
from robot_bridge.learning.reward import PictureJudge
from robot_bridge.learning.turns import Turns, require_judged_apart
from robot_bridge.learning.workcell import read_workcell
from robot_bridge.messages import Source
from robot_bridge.network.admission import AdmissionConfig, Guest
from robot_bridge.network.codec import MAX_BYTES
from robot_bridge.network.endpoints import Endpoint, parse_endpoint
from robot_bridge.network.keys import Keyring, default_folder
from robot_bridge.network.server import BridgeServer, Callbacks
from robot_bridge.openpi.client import GripperConvention, RemotePolicy, RemotePolicyConfig
from robot_bridge.openpi.introduction import introduce, policy_token, read_names
from robot_bridge.operators.operator_loop import POLL_PERIOD, OperatorLoop
from robot_bridge.operators.page import PageOperator
from robot_bridge.policy.bundle import Bundle, stacking
from robot_bridge.policy.fit import connected_robot
from robot_bridge.policy.observation import ObservationBuilder, Words
from robot_bridge.policy.policy import Policy, Standing
from robot_bridge.policy.policy_loop import PolicyLoop
from robot_bridge.reasons import Reason
from robot_bridge.records.recorder import Recorder, RecordHeader, new_session, running_versions
from robot_bridge.safety.command_check import LONGEST_CHUNK, ActionGate, require_runnable
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.limits import Limits, default_limits, intersect, tighten, trained_within
from robot_bridge.safety.supervisor import NotAllowedError, Supervisor
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import MOST_EPISODES, check_ranges, ranged
from scenes.contract.robot import RobotSpec
from scenes.contract.serialize import digest


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How a bundle is run.

    Attributes:
        episodes: how many.
        seconds: time limit of an episode [s]; None is the contract's.
        prompt: what a policy that reads words is to do, also one behind a policy-server; without it
            what its contract says.
        tokenizer_model: file of the policy's tokenizer, where that has one.
        policy_server: URI of an openpi server (ws:// or wss://) that chooses the actions in place
            of the bundle's own policy; a token is read from MJX_SERL_POLICY_TOKEN.
        policy_names: OURS=THEIRS for each observation that the server calls otherwise, for example
            front=observation/image.
        policy_timeout: of an answer of the server [s].
        policy_horizon: actions of each answer of the server that are played before it is asked
            again; those behind them are played only where the next answer is late.
        policy_gripper: its actions' gripper: same as ours (1 closes, -1 opens, 0 keeps), unit
            (0 open, 1 closed), or opposite (1 open, -1 closed).
        policy_foreign: take a server that does not tell what its policy was trained for, as
            openpi's own do not.
        separate: run the policy in a process of its own. None: for real arms.
        dry_run: read the arm and run everything, but send nothing. None: for a bundle's first
            run on a real arm only.
        limits: stricter limits by name, for example tcp_speed 0.1 (see robot_bridge.safety.limits).
        record: folder for recordings; None records nothing.
        listen: where others may connect and observe: a folder (ipc) or HOST:PORT; beyond loopback
            only with keys (python -m robot_bridge keys).
        policy_source: name of the one client that may choose the actions in place of the bundle's
            own policy. It is the name of its key, or, where `listen` is a folder, what a process
            of yours calls itself. It has to be there before the arm is armed.
        operator_source: the same for the one that may take over as the operator.
        hands_only: nobody but the operator moves the arm, for demonstrations.
        workcell: file that says what the task is at this arm: goal, starts, workspace
            (robot_bridge.learning.workcell).
        reset: before an episode of a real arm: ask a person to set up the scene, or only go home.
        learning: a learner that gets what the arm does.
        audit: file to which every arming, fault and recovery is appended; None notes nothing.
        ledger: file that remembers which bundle has run where; None remembers nothing, so that
            every run on a real arm is a first one.
    """

    episodes: int = ranged(1, least=1, most=MOST_EPISODES)
    seconds: float | None = ranged(None, above=0, most=3600)
    prompt: str = ""
    tokenizer_model: Path | None = None
    policy_server: str | None = None
    policy_names: tuple[str, ...] = ()
    policy_timeout: float = ranged(0.15, above=0, most=60)
    policy_horizon: int = ranged(1, least=1, most=LONGEST_CHUNK)
    policy_gripper: GripperConvention = "same"
    policy_foreign: bool = False
    separate: bool | None = None
    dry_run: bool | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    record: Path | None = None
    listen: str | None = None
    policy_source: str | None = None
    operator_source: str | None = None
    hands_only: bool = False
    workcell: Path | None = None
    reset: Literal["ask", "home"] = "ask"
    learning: LearningConfig = field(default_factory=LearningConfig)
    audit: Path | None = None
    ledger: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        for source, name in (("policy", self.policy_source), ("operator", self.operator_source)):
            if name is not None and (self.listen is None or not name.strip()):
                raise InputError(f"{source}-source '{name}' names a client; it needs --listen")
        if self.separate and self.policy_server is not None:
            raise InputError("A policy-server runs elsewhere already; leave out --separate")
        if self.hands_only and self.chooser is not None:
            raise InputError("With --hands-only nobody chooses the actions but the operator")
        if self.learning.learner is not None and self.chooser is not None:
            raise InputError("A --learner teaches the bundle's own policy; it alone may choose")
        if self.policy_source is not None and self.policy_server is not None:
            raise InputError("Either policy-source or policy-server chooses the actions, not both")

    @property
    def guests(self) -> dict[Source, Guest]:
        """Who may command over `listen`; nobody unless a person has said so."""
        names: dict[Source, str | None] = {
            "policy": self.policy_source,
            "operator": self.operator_source,
        }
        return {source: Guest(name=name) for source, name in names.items() if name is not None}

    @property
    def chooser(self) -> str | None:
        """Who chooses the actions in place of the bundle's policy, None for the bundle's."""
        server = self.policy_server
        return self.policy_source if server is None else urlsplit(server).netloc


# Who is to command has to be there before anything is armed, within this [s].
_GUEST_PATIENCE = 60.0


class Talk:
    """How a deployment speaks with a person; both are injected.

    say: shows a line. ask: shows a prompt and returns what is typed.
    """

    def __init__(self, say: Callable[[str], None], ask: Callable[[str], str]) -> None:
        self.say, self.ask = say, ask


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What is connected and in force while episodes are run.

    Attributes:
        info: what the arm says of itself.
        limits: in force.
        control: the control loop.
        resets: bring the arm to where episodes begin.
        witnesses: hear of each tick, and how episodes begin and end.
        dry: whether nothing is sent to the arm.
    """

    info: ArmInfo
    limits: Limits
    control: ControlLoop
    resets: Resets
    witnesses: Witnesses
    dry: bool


class Deployment:
    """One bundle on one arm, from the first check to the last episode.

    `run` raises ValueError or KeyError where the policy and the arm do not fit, and DriverError,
    NotAllowedError, RuntimeError or TimeoutError later; in any case the arm is let go.
    """

    def __init__(self, cfg: DeployConfig, bundle: Bundle, rig: Rig, talk: Talk) -> None:
        require_runnable(bundle.contract.action)
        self.cfg, self.bundle, self.rig, self.talk = cfg, bundle, rig, talk
        self.contract = bundle.contract
        self.period = 1.0 / self.contract.action.rate
        self.tally = Tally()
        self.reports: list[EpisodeReport] = []
        self.timings: dict[str, Timing] = {}
        self.policy_process: PolicyProcess | None = None
        self.recorder: Recorder | None = None
        self.link: LearnerLink | None = None
        self.joints: JointMonitor | None = None
        self.turns = Turns(self.contract.parts)
        self._pictures: PictureJudge | None = None
        self._ledger = None if cfg.ledger is None else Ledger(cfg.ledger)

    def run(self) -> Sequence[EpisodeReport]:
        """Connect, ask, arm, play the episodes, let go."""
        with ExitStack() as stack:
            self.rig.driver.connect()
            stack.callback(self.rig.driver.close)
            line = self._connect(stack)
            if self.cfg.listen is not None:
                self._listen(line, parse_endpoint(self.cfg.listen), stack)
            policy = self._policy(line, stack)
            operator = self._operator(line)
            self._announce(line)
            stack.callback(line.control.parts.supervisor.disarm)
            self._arm(line)
            stepper = self._stepper(line.control, policy, operator)
            stack.callback(stepper.close)
            # Whatever ends the session, the arm stands before anything else is put away.
            stack.callback(line.control.parts.supervisor.disarm)
            self._play(line, stepper, operator)
            if isinstance(stepper, RealTime):
                self.timings = dict(stepper.timings)
        return self.reports

    # -- before motion ---------------------------------------------------------------------------

    def _connect(self, stack: ExitStack) -> _Line:
        info = self.rig.driver.info
        robot = connected_robot(self.contract, info)
        cell = None if self.cfg.workcell is None else read_workcell(self.cfg.workcell)
        require_judged_apart(self.contract.parts, cell)
        limits = tighten(self._default_limits(robot), **self.cfg.limits)
        limits = limits if cell is None else tighten(limits, **cell.tightened)
        limits = intersect(trained_within(limits, self.contract), info)
        contract = dataclasses.replace(self.contract, robot=robot)
        dry, resets = self._is_dry(info), Resets(cell, contract, limits)
        driver = DryRun(self.rig.driver) if dry else self.rig.driver
        resets.announce(driver, self.talk.say)
        witnesses: list[Witness] = []
        recorder = self._recorder(limits, info, stack)
        if recorder is not None:
            witnesses.append(recorder)
        if self.cfg.learning.learner is not None and not dry:
            self.link = LearnerLink(self.cfg.learning, self.contract.obs, self.talk.say)
            stack.callback(self.link.close)
            witnesses.append(self.link.experience)
            if self.bundle.reward is not None:
                self._pictures = PictureJudge(self.bundle.reward, self.contract.obs)
                witnesses.append(self._pictures)
        parts = self._parts(contract, limits, driver)
        sinks: list[Sink] = [self.tally, *self.rig.sinks]
        control = ControlLoop(parts, sinks=sinks)
        if isinstance(self.rig.operator, PageOperator):
            page = self.rig.operator
            stack.callback(page.shut)
            url = page.serve(
                f"{self.bundle.manifest.task} on {info.serial}",
                lambda: control.fault(Reason.EMERGENCY_STOP),
            )
            self.talk.say(f"page     {url}")
            witnesses.append(page)
        told = Witnesses(control, witnesses)
        self.joints = watch_joints(control, self.rig.driver, self.rig.joint_limits, told.event)
        if witnesses:
            control.sinks += (told,)
        return _Line(
            info=info, limits=limits, control=control, resets=resets, witnesses=told, dry=dry
        )

    def _identity(self, limits: Limits) -> str:
        """What a person consents to in a word: a bundle, or a run that goes on learning.

        Of that the parameters change, but not what is observed and commanded, within which limits,
        and how far one version may move the actions.
        """
        if self.cfg.learning.learner is None:
            return self.bundle.digest[:8]
        bound = f"{digest(self.contract)} {limits.digest} {self.cfg.learning.jump:g}"
        return f"learn-{hashlib.sha256(bound.encode()).hexdigest()[:8]}"

    def _default_limits(self, robot: RobotSpec) -> Limits:
        limits, slowest = default_limits(robot), self.rig.state_max_age
        return limits if slowest is None else dataclasses.replace(limits, state_max_age=slowest)

    def _parts(self, contract: Contract, limits: Limits, driver: ArmDriver) -> Parts:
        clock, serial, robot = self.rig.clock, driver.info.serial, contract.robot
        return Parts(
            contract=contract,
            limits=limits,
            driver=driver,
            governor=Governor(robot, limits, dt=CONTROL_PERIOD, damping=contract.ik.damping),
            gate=ActionGate(self.contract, limits),
            supervisor=Supervisor(
                driver,
                clock,
                phrase=" ".join((*self._commanders(limits), serial)),
                recoveries=limits.recoveries,
                recovery_window=limits.recovery_window,
                audit=self._audit(serial),
            ),
            arbiter=Arbiter(),
            clock=clock,
        )

    def _audit(self, serial: str) -> Callable[..., None]:
        facts = {"bundle": self.bundle.digest, "serial": serial}
        facts |= {f"{source}_source": guest.name for source, guest in self.cfg.guests.items()}
        if self.cfg.policy_server is not None:
            facts["policy_server"] = self.cfg.policy_server
        return AuditLog(self.cfg.audit, self.rig.clock, facts).note

    def _is_dry(self, info: ArmInfo) -> bool:
        if self.cfg.dry_run is not None or info.simulated:
            return bool(self.cfg.dry_run)
        return self._experience(info).dry == 0

    def _experience(self, info: ArmInfo) -> Experience:
        """Runs so far of this bundle on this arm."""
        if self._ledger is None:
            return Experience()
        return self._ledger.of(self._known_as, info.serial)

    def _is_new(self, info: ArmInfo, limits: Limits) -> bool:
        """Whether this bundle still has to earn its speed on this arm."""
        return not info.simulated and self._experience(info).episodes < limits.ramp_episodes

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
            versions=running_versions(),
            prompt=self.prompt,
        )
        recorder = Recorder(new_session(self.cfg.record, info.robot), header, clock=self.rig.clock)
        stack.callback(recorder.close)
        self.recorder = recorder
        self.talk.say(f"record   {recorder.path}")
        return recorder

    def _commanders(self, limits: Limits) -> tuple[str, ...]:
        """Who moves the arm, in the words that a person types: this is what is consented to."""
        operator = self.cfg.operator_source
        own = self.cfg.chooser or self._identity(limits)
        return (own,) if operator is None else (own, operator)

    @property
    def prompt(self) -> str:
        """What the policy is told in words; "" where nothing is told."""
        language = self.contract.language
        return self.cfg.prompt or ("" if language is None else language.instruction)

    @property
    def words(self) -> Words:
        """What is observed of it here; a server of another policy reads the text itself."""
        elsewhere = self.cfg.policy_server is not None and self.contract.language is None
        prompt = "" if elsewhere else self.cfg.prompt
        return Words(prompt=prompt, tokenizer_model=self.cfg.tokenizer_model)

    @property
    def _known_as(self) -> str:
        """By what the ledger knows the policy: another's has not earned what the bundle's has."""
        chooser, learning = self.cfg.chooser, self.cfg.learning
        if learning.learner is not None:
            return f"learning {digest(self.contract)} {learning.jump:g}"
        return self.bundle.digest if chooser is None else f"{self.bundle.digest} by {chooser}"

    def _policy(self, line: _Line, stack: ExitStack) -> Loop | None:
        """The policy's loop, None where another process turns it."""
        if self.cfg.policy_source is not None:
            return None
        separate, rig = self.cfg.separate, self.rig
        if separate is None:
            # Another machine's policy needs no process of its own here.
            separate = not line.info.simulated and self.cfg.policy_server is None
        if not separate:
            senses = rig.senses()
            stack.callback(senses.close)
            builder = ObservationBuilder(
                self.contract, objects=senses.objects, eyes=senses.eyes, words=self.words
            )
            policy = self._chosen_policy(stack)
            loop = PolicyLoop(
                line.control, builder, policy, period=self.period, horizon=self._horizon
            )
            return Loop(loop.tick, self.period, "policy")
        if rig.config is None:
            raise InputError("This robot's policy cannot run in a process of its own (--separate)")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mjx_serl-"))
        ticket = secrets.token_hex(32)
        guest = Guest(name=PROCESS, ticket=ticket)
        server = self._serve(line, Endpoint.ipc(Path(folder)), stack, {"policy": guest})
        task = PolicyTask(
            bundle=str(self.bundle.path.resolve()),
            digest=self.bundle.digest,
            sockets=folder,
            ticket=ticket,
            rig=rig.config,
            limits=line.limits,
            learning=self.cfg.learning,
            hands_only=self.cfg.hands_only,
            words=self.words,
        )
        self.policy_process = PolicyProcess(task)
        stack.callback(self.policy_process.close)
        server.keep("policy", timeout=1.0)
        return None

    @property
    def _horizon(self) -> int:
        """Actions of each answer that are played."""
        if self.cfg.hands_only:
            return 1
        # A server's chunks need not be those of the bundle.
        server = self.cfg.policy_server is not None
        return self.cfg.policy_horizon if server else self.bundle.manifest.horizon

    def _chosen_policy(self, stack: ExitStack) -> Policy:
        if self.cfg.hands_only:
            return Standing(self.contract.action.dim)
        if self.cfg.learning.learner is not None:
            learned = self.cfg.learning.policy(self.bundle)
            if self.link is not None:
                self.link.teach(learned)
            return stacking(learned, self.contract)
        if self.cfg.policy_server is None:
            return self.bundle.policy
        cfg = self.cfg
        config = RemotePolicyConfig(
            uri=self.cfg.policy_server,
            token=policy_token(),
            timeout=cfg.policy_timeout,
            names=read_names(cfg.policy_names),
            prompt=self.prompt,
            gripper=cfg.policy_gripper,
            require_contract=not cfg.policy_foreign,
        )
        remote = RemotePolicy(self.contract, config)
        stack.callback(remote.close)
        introduce(
            remote,
            self.contract,
            cfg.policy_timeout,
            self.talk.say,
            played=cfg.policy_horizon,
        )
        return remote

    def _listen(self, line: _Line, endpoint: Endpoint, stack: ExitStack) -> None:
        """Let others observe, and those that a person has named command once they have come."""
        guests = self.cfg.guests
        server = self._serve(line, endpoint, stack, guests)
        for source, guest in guests.items():
            self.talk.say(f"waiting  for '{guest.name}', the {source}, at {endpoint.requests}")
            server.keep(source, timeout=_GUEST_PATIENCE)

    def _serve(
        self,
        line: _Line,
        endpoint: Endpoint,
        stack: ExitStack,
        guests: Mapping[Source, Guest],
    ) -> BridgeServer:
        parts = line.control.parts
        # On loopback anybody on this machine may observe; to command takes more.
        keyed = not endpoint.local or (bool(guests) and not endpoint.private)
        server = BridgeServer(
            endpoint,
            Callbacks(
                offer=parts.arbiter.offer,
                notice=line.control.notice,
                fault=parts.supervisor.fault,
            ),
            guests=guests,
            keys=Keyring(default_folder()) if keyed else None,
            contract=digest(self.contract),
            # Commands bring the pictures they were made of, for the record.
            config=AdmissionConfig(max_request=MAX_BYTES),
        )
        stack.callback(server.close)
        line.control.sinks += (server.publish,)
        return server

    def _operator(self, line: _Line) -> OperatorLoop | None:
        """A person's loop; a new bundle moves a real arm only while its enabling key is held."""
        new = self._is_new(line.info, line.limits) and not line.dry
        if self.rig.operator is not None and self.cfg.operator_source is not None:
            raise InputError("Either operator or operator-source takes over, not both")
        if self.rig.operator is None:
            if self.cfg.hands_only:
                raise NotAllowedError(
                    "--hands-only needs somebody who moves the arm: add --operator"
                )
            if new:
                raise NotAllowedError(
                    f"The first {line.limits.ramp_episodes} episodes of a bundle on an arm need "
                    "somebody who holds the enabling key: add --operator keyboard"
                )
            return None
        loop = OperatorLoop(self.rig.operator, line.control, period=self.period)
        if new:
            line.control.enabled = lambda: loop.enabled
        return loop

    def _announce(self, line: _Line) -> None:
        say, limits, info, pace = self.talk.say, line.limits, line.info, self.contract.pace
        say(f"policy   {self.bundle.manifest.task}, bundle {self.bundle.digest[:8]}")
        if self.prompt:
            say(f"told     {self.prompt}")
        if self.cfg.chooser is not None:
            say(f"CAUTION  {self.cfg.chooser} chooses the actions, not the bundle's own policy")
        if self.cfg.operator_source is not None:
            say(f"operator {self.cfg.operator_source}, from elsewhere")
        say(f"arm      {info.robot} {info.serial}, firmware {info.firmware}")
        say(
            f"limits   {limits.tcp_speed:g} m/s, {limits.tcp_acceleration:g} m/s^2, box "
            f"{limits.workspace_low} to {limits.workspace_high} m, digest {limits.digest[:8]}"
        )
        if pace is None:
            say("CAUTION  trained with targets that jump; the governor follows them slower, so")
            say("         expect fewer successes. Paced tasks (franka/pick_cube_paced) transfer.")
        elif pace.speed > limits.tcp_speed or pace.acceleration > limits.tcp_acceleration:
            say("CAUTION  trained at a faster pace than these limits allow")
        if line.dry:
            say("DRY RUN  nothing is sent to the arm (a bundle's first run on an arm is dry)")

    def _arm(self, line: _Line) -> None:
        supervisor = line.control.parts.supervisor
        typed = supervisor.phrase
        if not line.info.simulated:
            self.talk.say("Clear the workspace, stand clear, keep the stop button at hand.")
            self.talk.say("Once armed, the gripper closes and opens: take out what is in it.")
            typed = self.talk.ask(f"To arm, type '{supervisor.phrase}': ")
        supervisor.arm(supervisor.confirm("arm", by=person(), typed=typed))

    # -- episodes --------------------------------------------------------------------------------

    def _stepper(
        self, control: ControlLoop, policy: Loop | None, operator: OperatorLoop | None
    ) -> Stepper:
        clock = self.rig.clock
        if isinstance(clock, ManualClock):
            if policy is None:
                raise InputError("A robot in lock-step runs its policy in the same process")
            if operator is None:
                return LockStep(control, policy, clock)
            return LockStep(control, policy, clock, operator=operator.tick)
        loops = [Loop(control.tick, CONTROL_PERIOD, "control")]
        loops += [] if policy is None else [policy]
        loops += [] if operator is None else [Loop(operator.tick, POLL_PERIOD, "operator")]
        return RealTime(loops, clock)

    def _play(self, line: _Line, stepper: Stepper, operator: OperatorLoop | None) -> None:
        judge = self._judge(line, operator)
        session = Session(line.control, stepper, self.tally, judge)
        began = self.rig.clock.now()
        if not (line.info.simulated or line.dry):
            session.check_gripper()
        for number in range(self.cfg.episodes):
            if self.rig.clock.now() - began > line.limits.session_seconds:
                self.talk.say("The session's time is up; start another after a look at the arm.")
                break
            if self.link is not None and not self.link.next_turn():
                break
            self._prepare(line, session, number)
            report = self._episode(line, session, operator, number)
            self._note(line, report)
            if report.ending == "fault":
                break

    def _judge(self, line: _Line, operator: OperatorLoop | None) -> Judge:
        """Who says how an episode ended."""
        judge = self.rig.judge or (lambda: None if operator is None else operator.take_ending())
        arrived = line.resets.judge(line.control)
        if arrived is not None:
            judge = first_of(judge, arrived)
        if self._pictures is not None:
            # The simulator's own word is the truth that a classifier is to find.
            others = but_success(judge) if line.info.simulated else judge
            judge = first_of(others, self._pictures)
        return judge if self.link is None else first_of(judge, blocked(line.control))

    def _prepare(self, line: _Line, session: Session, number: int) -> None:
        new = self._is_new(line.info, line.limits)
        line.control.speed = line.limits.ramp_scale if new else 1.0
        turns, went = self.turns, False
        if self.rig.homes and not line.dry:
            went = line.resets.go(session, line.control, number, in_place=turns.in_place)
        if self.rig.prepare is not None and not turns.kept:
            self.rig.prepare(number)
        turns.begin(self.rig.turns)
        line.control.part = turns.part
        # An object that is held is not dropped on the way home either.
        line.control.keeps_turn, line.control.keeps_grip = turns.kept and not went, turns.kept
        part = f" ({turns.name})" if turns.name else ""
        if not line.info.simulated and self.cfg.reset == "ask" and not turns.in_place:
            self.talk.ask(f"Episode {number + 1}{part}: set up the scene, then press Enter. ")
        elif part and not line.info.simulated:
            self.talk.say(f"episode {number + 1}{part} goes on as things lie")

    def _episode(
        self, line: _Line, session: Session, operator: OperatorLoop | None, number: int
    ) -> EpisodeReport:
        facts = {"episode": number} | self.turns.facts
        line.witnesses.event("begin", **facts)
        if operator is not None:
            self.talk.say(operator.open())
        try:
            report = session.episode(self.cfg.seconds or self.contract.episode_steps * self.period)
        finally:
            # A terminal in raw mode takes no answers to questions.
            if operator is not None:
                operator.close()
        line.witnesses.event(report.ending, **facts)
        session.settle()
        return report

    def _note(self, line: _Line, report: EpisodeReport) -> None:
        self.reports.append(report)
        if self._ledger is not None:
            known = (self._known_as, line.info.serial)
            self._ledger.note(*known, dry=int(line.dry), episodes=int(not line.dry))
        why = "  ".join(f"{name} {count}" for name, count in list(report.reasons.items())[:4])
        part = f" ({self.turns.name})" if self.turns.name else ""
        self.turns.end(report.ending)
        self.talk.say(
            f"episode {len(self.reports)}{part}: {report.ending} after {report.seconds:.1f} s"
            + (f"  (ticks {report.ticks}: {why})" if why else "")
        )
        if self.rig.summary is not None:
            self.talk.say(self.rig.summary())
        for warning in [] if self.joints is None else self.joints.warnings():
            self.talk.say(f"CAUTION  {warning}")
        if report.ending == "fault":
            process = self.policy_process
            ended = "" if process is None or process.alive else f"; {process.ending}"
            self.talk.say(f"fault    {report.fault}{ended}")

    @property
    def learned(self) -> str | None:
        """What went to a learner, in a line; None without one."""
        return None if self.link is None else self.link.told

    @property
    def lost(self) -> str | None:
        """What the recording lacks of what happened, None where it lacks nothing."""
        recorder = self.recorder
        if recorder is None or not recorder.dropped:
            return None
        why = recorder.trouble or "its queue was full"
        return f"{recorder.dropped} records of {recorder.path} are lost: {why}"
