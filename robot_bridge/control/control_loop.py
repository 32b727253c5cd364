"""The control loop, which owns the arm.

`ControlLoop.tick` is one turn at 100 Hz: read the arm, check it, pick a command, pass it through
the gate and the governor, send the target, publish. It never waits for a policy, a camera, a disk
or a network. A `pacing.Pacer` turns it on absolute deadlines, a test or a simulation by hand.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.clock import Clock
from robot_bridge.compliance import Compliance, Compliant
from robot_bridge.control.arbiter import Arbiter
from robot_bridge.control.chunk_player import Action, Gate, Player
from robot_bridge.driver import ArmDriver, ArmState, DriverError, Target, Vector
from robot_bridge.messages import Command, Goal, Notice, Tick
from robot_bridge.reasons import Phase, Reason
from robot_bridge.safety.limits import Limits
from robot_bridge.safety.state_check import FollowWatch, StateWatch
from robot_bridge.safety.supervisor import CONTROLLED, Supervisor
from scenes.contract.policy_contract import Contract

# Below this change the gripper is not told again [m].
_GRIPPER_STEP = 5e-4


class Steering(Protocol):
    """What turns goals into targets inside all limits; see `governor.Governor`."""

    def anchor(self, state: ArmState) -> None:
        """Start from the measured arm, at rest."""
        ...

    def step(self, goal: Goal, state: ArmState, *, speed: float = 1.0) -> tuple[Target, Reason]:
        """One tick towards the goal."""
        ...

    def brake(self, state: ArmState) -> tuple[Target, Reason]:
        """One tick towards standing still."""
        ...

    def move_to(
        self, q: NDArray[np.float64], state: ArmState, *, speed: float = 1.0
    ) -> tuple[Target, Reason]:
        """One tick towards joint positions [rad]."""
        ...


class Sink(Protocol):
    """Gets every tick: recorder, publisher. It must not block."""

    def __call__(self, tick: Tick, /) -> object:
        """Take a tick; what is returned does not matter."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a control loop is made of; see the classes."""

    contract: Contract
    limits: Limits
    driver: ArmDriver
    governor: Steering
    gate: Gate
    supervisor: Supervisor
    arbiter: Arbiter
    clock: Clock


@dataclass
class Episode:
    """What the control loop counts while it runs.

    Attributes:
        began: when the episode began [s].
        path: that the tool centre has travelled [m].
        last: position of the tool centre at the last tick [m].
    """

    began: float = 0.0
    path: float = 0.0
    last: NDArray[np.float64] | None = None

    def note(self, position: NDArray[np.float64]) -> None:
        """Add the way to `position` [m]."""
        if self.last is not None:
            self.path += float(np.linalg.norm(position - self.last))
        self.last = position


@dataclass
class _Turn:
    """What one tick gathers."""

    now: float
    lateness: float
    reasons: Reason = Reason.NONE
    target: Target | None = None
    action: Action | None = None
    policy_action: Action | None = None


class ControlLoop:
    """One turn of it is `tick`, or `sense` and then `act`.

    Args:
        parts: what it is made of.
        sinks: called with every tick.
        speed: scale of the speed limits, in (0, 1].
        enabled: whether the enabling device is held; None where none is needed.

    Attributes:
        start_quat: in which the tool is commanded to begin the next episodes, wxyz; None is the
            contract's.
        part: of a task by turns, whose turn it is: 0 or 1.
        keeps_turn, keeps_grip: the next episodes begin with the tool turned, the gripper closed,
            as it was commanded last; else as the contract's begin.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        sinks: Sequence[Sink] = (),
        speed: float = 1.0,
        enabled: Callable[[], bool] | None = None,
    ) -> None:
        self.parts, self.sinks, self.speed = parts, tuple(sinks), speed
        self.clock, self.limits = parts.clock, parts.limits
        self.episode = Episode()
        self.start_quat: NDArray[np.float64] | None = None
        self.part, self.keeps_turn, self.keeps_grip = 0, False, False
        self._player = Player(parts.gate, parts.limits)
        self._watch = StateWatch(parts.limits, parts.contract.robot)
        self._following = FollowWatch(parts.limits)
        parts.supervisor.require(self._watch.mismatch)
        self.enabled = enabled or (lambda: True)
        self._index = 0
        self._latest: Tick | None = None
        self._state: ArmState | None = None
        self._goal: Goal | None = None
        self._notice: Notice | None = None
        self._troubled_since: float | None = None
        self._width: float | None = None
        self._path: Callable[[float], Vector] | None = None
        self._wanted: collections.deque[Callable[[ArmState], None]] = collections.deque()
        self._sunk = Reason.NONE
        self._obs: Mapping[str, NDArray[Any]] | None = None
        self._shown: Command | None = None

    @property
    def latest(self) -> Tick | None:
        """The newest tick; read by other threads."""
        return self._latest

    @property
    def blocked(self) -> float:
        """For how long the arm has stood although it is asked to move [s]; read by other threads.

        It is a fault after `following_max_age`.
        """
        return self._following.stood

    def notice(self, notice: Notice) -> None:
        """Hear from the policy's side that it cannot act; any thread may call."""
        self._notice = notice

    def offer(self, command: Command) -> None:
        """Take a proposal; any thread may call."""
        self.parts.arbiter.offer(command, self.parts.clock.now())

    def fault(self, reasons: Reason) -> None:
        """Stop the arm for good; any thread may call."""
        self.parts.supervisor.fault(reasons)

    def take_obs(self) -> Mapping[str, NDArray[Any]] | None:
        """What the policy's side has seen since the last call; for a recorder's sink."""
        obs, self._obs = self._obs, None
        return obs

    def begin(self) -> None:
        """Start an episode from where the arm is, at the next tick: ARMED -> RUN."""
        self.parts.supervisor.require_armed()
        self._wanted.append(self._start)

    def home(self, q: NDArray[np.float64] | None) -> None:
        """Move to joint positions [rad] while ARMED, from the next tick on; None stops there."""
        self.follow(None if q is None else lambda _: q)

    def follow(self, path: Callable[[float], Vector] | None) -> None:
        """Go after joint positions [rad] that change with the clock's time [s], while ARMED.

        From the next tick on, under the governor as all motion; None stops.
        """
        self.parts.supervisor.require_armed()
        self._wanted.append(partial(self._set_path, path))

    def grip(self, width: float) -> None:
        """Ask for an opening of the gripper [m] while ARMED, at the next tick."""
        self.parts.supervisor.require_armed()
        self._wanted.append(partial(self._set_width, width))

    def comply(self, compliance: Compliance) -> None:
        """Have an arm that can yield so from the next tick on, while ARMED."""
        self.parts.supervisor.require_armed()
        self._wanted.append(partial(self._comply, compliance))

    def tick(self, deadline: float | None = None) -> Tick:
        """Make one turn; `deadline` [s] is when it should have begun."""
        self.sense(deadline)
        return self.act()

    def sense(self, deadline: float | None = None) -> Tick | None:
        """Read the arm, judge its state, and show it to the policy."""
        with self._stopped_by_bugs():
            return self._sense(deadline)

    def act(self) -> Tick:
        """Command the arm as the phase allows, and publish the tick."""
        with self._stopped_by_bugs():
            return self._act()

    # -- one turn in pieces ----------------------------------------------------------------------

    @contextmanager
    def _stopped_by_bugs(self) -> Iterator[None]:
        """Stop the arm before anything is raised that nobody has foreseen."""
        try:
            yield
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            self.parts.supervisor.fault(Reason.WATCHDOG, detail=said)
            raise

    def _sense(self, deadline: float | None) -> Tick | None:
        now = self.parts.clock.now()
        self._turn = _Turn(now, 0.0 if deadline is None else max(0.0, now - deadline), self._sunk)
        try:
            self._state = self.parts.driver.state()
        except DriverError as error:
            self._fault(Reason.DRIVER_ERROR, str(error))
        else:
            self._judge(self._state)
            try:
                self._do_wanted(self._state)
            except DriverError as error:
                self._fault(Reason.DRIVER_ERROR, str(error))
        if self._state is not None:
            self._latest = self._publishable()
        return self._latest

    def _act(self) -> Tick:
        state = self._state
        if state is None:
            raise DriverError("The arm has not sent a state yet; is it connected?")
        try:
            phase = self.parts.supervisor.phase
            if phase in CONTROLLED:
                self._control(state)
            elif phase is Phase.ARMED and self._path is not None:
                self._go_along(self._path, state)
        except DriverError as error:
            self._fault(Reason.DRIVER_ERROR, str(error))
        self._index += 1
        self._latest = self._publishable()
        self._sunk = Reason.NONE
        for sink in self.sinks:
            try:
                sink(self._latest)
            except Exception:  # no record is worth the arm; the next tick says what was lost
                self._sunk = Reason.RECORD_DROPPED
        return self._latest

    def _go_along(self, path: Callable[[float], Vector], state: ArmState) -> None:
        governor = self.parts.governor
        if self._turn_holds():
            self._send(governor.brake(state))
        else:
            self._send(governor.move_to(path(self._turn.now), state, speed=self.speed))
            self._require_motion(state)

    def _do_wanted(self, state: ArmState) -> None:
        """Do what another thread has asked for, in this one and in that order."""
        for _ in range(len(self._wanted)):
            wanted = self._wanted.popleft()
            if self.parts.supervisor.phase is Phase.ARMED:
                wanted(state)

    def _start(self, state: ArmState) -> None:
        self._anchor(state)
        self._player.reset()
        self.parts.arbiter.clear()
        self._notice, self._troubled_since, self._path = None, None, None
        self.episode = Episode(began=self._turn.now)
        # Until the policy's first command the arm stands and its goal is itself.
        goal, last = _standing(self.parts.contract, state, closure=0.0), self._goal
        if last is not None and self.keeps_grip:
            goal = replace(goal, closure=last.closure)
        quat = last.quat if last is not None and self.keeps_turn else self.start_quat
        self._goal = goal if quat is None else replace(goal, quat=quat)
        self.parts.supervisor.start()

    def _set_path(self, path: Callable[[float], Vector] | None, state: ArmState) -> None:
        self._anchor(state)
        self._path = path

    def _set_width(self, width: float, state: ArmState) -> None:
        del state
        self._width = None
        self.parts.driver.gripper(width, self.parts.limits.gripper_force)

    def _comply(self, compliance: Compliance, state: ArmState) -> None:
        del state
        if isinstance(self.parts.driver, Compliant):
            self.parts.driver.comply(compliance)

    def _judge(self, state: ArmState) -> None:
        """Hold or fault on what the arm's state says."""
        turn, limits = self._turn, self.parts.limits
        hold, fault = self._watch.check(state, turn.now)
        if turn.lateness > limits.watchdog:
            hold |= Reason.WATCHDOG
        if turn.lateness > limits.command_fault_age:
            fault |= Reason.WATCHDOG
        if self.parts.supervisor.phase is Phase.DISARMED:
            turn.reasons |= hold | fault  # nothing moves: shown, not acted upon
            return
        if fault:
            self._fault(fault, self._watch.explain(fault, state))
        elif hold:
            self._hold(hold)

    def _control(self, state: ArmState) -> None:
        """RUN or HOLD: take commands, judge their age, steer."""
        turn, player = self._turn, self._player
        choice = self.parts.arbiter.choose(turn.now)
        taken = player.take(choice, turn.now)
        turn.reasons |= taken
        # A person's command shows nothing: it goes with what the policy sees meanwhile.
        if choice.policy is not None and choice.policy is not self._shown:
            self._shown, self._obs = choice.policy, choice.policy.obs
        if player.rejected_in_a_row >= self.parts.limits.rejects_to_hold:
            self._hold(taken)
        self._judge_commands(turn.now)
        self._judge_episode(state, turn.now)
        if self.parts.supervisor.phase is Phase.RUN:
            self._follow(state)
        elif self.parts.supervisor.phase is Phase.HOLD:
            self._stand(state)
        if choice.policy is not None and choice.policy is not choice.command:
            turn.policy_action = _wanted(choice.policy, turn.now)

    def _judge_commands(self, now: float) -> None:
        """Hold while nothing valid is commanded, fault when that lasts, resume when it is over."""
        limits, supervisor = self.parts.limits, self.parts.supervisor
        overdue = self._player.overdue(now)
        waiting = Reason.NONE
        if overdue > 0 and (overdue < np.inf or now - self.episode.began > limits.command_max_age):
            waiting |= Reason.COMMAND_STALE
        notice = self._notice
        if notice is not None and now - notice.t <= limits.command_max_age:
            waiting |= notice.reasons
        if not self.enabled():
            waiting |= Reason.OPERATOR_RELEASED
        if waiting:
            self._hold(waiting)
            # A person may take their time.
            trouble = waiting & ~Reason.OPERATOR_RELEASED
            self._troubled_since = (self._troubled_since or now) if trouble else None
            since = self._troubled_since
            if since is not None and now - since > limits.command_fault_age:
                self._fault(trouble)
            return
        self._troubled_since = None
        if supervisor.phase is Phase.HOLD and not self._turn_holds():
            supervisor.resume()

    def _turn_holds(self) -> bool:
        """Whether this very tick gave a cause to hold, or one that only a person ends."""
        lasting = self.parts.supervisor.cause & Reason.EPISODE_LIMIT
        return bool(lasting or self._turn.reasons & (Reason.STATE_STALE | Reason.WATCHDOG))

    def _judge_episode(self, state: ArmState, now: float) -> None:
        limits, episode = self.parts.limits, self.episode
        episode.note(state.position)
        if now - episode.began > limits.episode_seconds or episode.path > limits.path_length:
            self._hold(Reason.EPISODE_LIMIT)

    def _follow(self, state: ArmState) -> None:
        """Play what is due and go one tick towards the goal."""
        turn, goal = self._turn, self._goal
        if goal is None:
            goal = _standing(self.parts.contract, state, closure=0.0)
        action = self._player.due(turn.now)
        if action is not None:
            goal, reasons = self.parts.gate.advance(goal, state, action)
            turn.action = action
            turn.reasons |= reasons
        self._goal = goal
        if self.speed < 1.0:
            turn.reasons |= Reason.SPEED_RAMP
        self._send(self.parts.governor.step(goal, state, speed=self.speed))
        self._grip(goal.closure)
        self._require_motion(state)

    def _require_motion(self, state: ArmState) -> None:
        """Fault where the arm stands still behind what it was just sent."""
        target = self._turn.target
        if target is None or self.parts.driver.info.takes == "nothing":
            return
        stands = self._following.check(target, state, self._turn.now)
        if stands:
            self._fault(stands)

    def _stand(self, state: ArmState) -> None:
        """Come to rest; what was wanted before is forgotten, the gripper keeps what it has."""
        self._player.stop()
        closure = 0.0 if self._goal is None else self._goal.closure
        target, reasons = self.parts.governor.brake(state)
        self._goal = Goal(position=target.position, quat=target.quat, closure=closure)
        self._send((target, reasons))

    def _send(self, governed: tuple[Target, Reason]) -> None:
        self._turn.target, reasons = governed
        self._turn.reasons |= reasons
        self.parts.driver.servo(self._turn.target)

    def _grip(self, closure: float) -> None:
        closed, opened = self.parts.contract.robot.parallel_gripper.width_range
        width = opened + (closed - opened) * closure
        if self._width is None or abs(width - self._width) > _GRIPPER_STEP:
            self._width = width
            self.parts.driver.gripper(width, self.parts.limits.gripper_force)

    def _anchor(self, state: ArmState) -> None:
        self.parts.governor.anchor(state)
        self._following.reset()
        self._width = None

    def _hold(self, cause: Reason) -> None:
        self._turn.reasons |= cause
        supervisor = self.parts.supervisor
        if supervisor.phase is Phase.RUN:
            supervisor.hold(cause)
        elif supervisor.phase is Phase.HOLD:
            supervisor.hold(supervisor.cause | cause)

    def _fault(self, cause: Reason, detail: str = "") -> None:
        self._turn.reasons |= cause
        self._player.stop()
        self.parts.supervisor.fault(cause, detail=detail)

    def _publishable(self) -> Tick:
        turn, state, clock = self._turn, self._state, self.parts.clock
        assert state is not None
        supervisor, command = self.parts.supervisor, self._player.command
        goal = self._goal or _standing(self.parts.contract, state, closure=0.0)
        return Tick(
            index=self._index,
            t=turn.now,
            wall=clock.wall(),
            phase=supervisor.phase,
            reasons=turn.reasons | supervisor.cause,
            state=state,
            goal=goal,
            target=turn.target,
            action=turn.action,
            policy_action=turn.policy_action,
            source=None if command is None else command.source,
            seq=-1 if command is None else command.seq,
            age=-1.0 if command is None else turn.now - command.t,
            lateness=turn.lateness,
            part=self.part,
        )


def _wanted(command: Command, now: float) -> Action | None:
    """The action of a command whose time it is, were it executed; no gate has judged it yet."""
    actions = np.asarray(command.actions)
    if actions.ndim != 2 or not len(actions):
        return None
    begun = command.t + command.dt * np.arange(1, len(actions)) <= now
    return actions[np.count_nonzero(begun)]


def _standing(contract: Contract, state: ArmState, *, closure: float) -> Goal:
    """The goal that keeps the arm where it is, in the orientation the policy knows."""
    return Goal(
        position=state.position.copy(),
        quat=np.asarray(contract.orientation, np.float64),
        closure=closure,
    )
