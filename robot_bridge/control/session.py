"""Episodes on an arm: bring it home, run the policy, say how it ended.

A stepper lets time pass: `RealTime` while two threads turn the loops, `LockStep` by turning both
itself under a `ManualClock`, as fast as the machine can.
"""

import collections
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from robot_bridge.clock import Clock, ManualClock
from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.control.pacing import Pacer, Timing
from robot_bridge.driver import ArmState
from robot_bridge.messages import Ending, Tick
from robot_bridge.reasons import Phase, Reason, describe
from robot_bridge.safety.kinematics import Chain
from robot_bridge.safety.supervisor import NotAllowedError

CONTROL_PERIOD = 0.01  # of the control loop [s]; reference robot_bridge.md section 2
SETTLE_SECONDS = 1.0  # longer than the governor takes to brake from full speed [s]
REST_SPEED = 0.02  # of a joint that stands [rad/s]
HOME_TOLERANCE = 0.02  # joint error at which an arm counts as home [rad]; about 1 degree
# An arm that goes to poses keeps its elbow near where it was: franka-rs 0.1 rad away from a home
# that it reaches within 0.4 mm. Its tool has to be this near [m], its joints not far [rad].
HOME_POSITION, HOME_ELBOW = 0.005, 0.25
# Share of a gripper's range by which its reading may be off, and by which it must at least move.
_GRIPPER_OFF = 0.15
# A reading that has changed by less than this [m] for so long [s] is one of a gripper at rest.
_GRIPPER_RESTS, _GRIPPER_SECONDS = 5e-4, 0.8


class Stepper(Protocol):
    """Lets time pass until something holds."""

    def run(self, until: Callable[[], bool], *, timeout: float) -> bool:
        """Return whether `until` held within `timeout` [s]."""
        ...

    def close(self) -> None:
        """Stop whatever turns the loops."""
        ...


class Turned(Protocol):
    """What lock-step turns: a control loop, or several as one."""

    def sense(self, deadline: float | None = None) -> object:
        """Read the arm."""
        ...

    def act(self) -> object:
        """Command it."""
        ...


class Loop(NamedTuple):
    """Something to be turned.

    Attributes:
        tick: called with its deadline [s].
        period: between two turns [s].
        name: of its thread.
    """

    tick: Callable[[float], object]
    period: float
    name: str


class LockStep:
    """Turns the loops by hand: control every `period` [s], the policy at each of its own.

    At a policy's turn the arm is read first, so that it acts on the very state that its action
    changes, as in training. The operator's loop, if there is one, is turned after the policy's.
    """

    def __init__(
        self,
        control: Turned,
        policy: Loop,
        clock: ManualClock,
        *,
        operator: Callable[[float], object] = lambda deadline: None,
        period: float = CONTROL_PERIOD,
    ) -> None:
        self._control, self._policy, self._clock, self._period = control, policy, clock, period
        self._operator = operator
        self._every = round(policy.period / period)

    def run(self, until: Callable[[], bool], *, timeout: float) -> bool:
        """Turn until it holds; it is asked at the policy's turns."""
        turns = round(timeout / self._period)
        for turn in range(turns):
            deadline = self._clock.now()
            self._control.sense(deadline)
            if turn % self._every == 0:
                if until():
                    return True
                self._policy.tick(deadline)
                self._operator(deadline)
            self._control.act()
            self._clock.advance(self._period)
        self._control.sense()
        return until()

    def close(self) -> None:
        """Nothing runs by itself."""


class RealTime:
    """One thread per loop turns it on absolute deadlines, from now on until `close`."""

    def __init__(self, loops: Sequence[Loop], clock: Clock) -> None:
        self._pacers = {
            loop.name: Pacer(loop.tick, period=loop.period, clock=clock) for loop in loops
        }
        self._threads = [pacer.start(name) for name, pacer in self._pacers.items()]

    def run(self, until: Callable[[], bool], *, timeout: float) -> bool:
        """Wait until it holds; False too when a loop has died."""
        deadline = time.monotonic() + timeout
        while not until():
            if time.monotonic() > deadline or not all(t.is_alive() for t in self._threads):
                return until()
            time.sleep(0.005)
        return True

    @property
    def timings(self) -> dict[str, Timing]:
        """Lateness of each loop, by name."""
        return {name: pacer.timing for name, pacer in self._pacers.items()}

    def close(self) -> None:
        """Stop every loop after its tick."""
        for pacer in self._pacers.values():
            pacer.stop()
        for thread in self._threads:
            thread.join(timeout=1.0)


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """How an episode went.

    Attributes:
        ending: how it ended.
        seconds: how long it took [s].
        ticks: of the control loop.
        reasons: in how many ticks each reason was given, by name.
        fault: why it ended where it ended so, in the arm's or its driver's own words.
    """

    ending: Ending
    seconds: float
    ticks: int
    reasons: dict[str, int] = field(default_factory=dict)
    fault: str = ""

    @property
    def success(self) -> bool:
        """Whether it was solved."""
        return self.ending == "success"


class Tally:
    """A sink that counts reasons."""

    def __init__(self) -> None:
        self.ticks = 0
        self.counts: collections.Counter[Reason] = collections.Counter()

    def __call__(self, tick: Tick) -> None:
        """Count a tick."""
        self.ticks += 1
        if tick.reasons:
            self.counts.update(r for r in Reason if r and r & tick.reasons)

    def reset(self) -> None:
        """Start at zero."""
        self.ticks = 0
        self.counts.clear()

    def names(self) -> dict[str, int]:
        """Counts by name, the most frequent first."""
        return {describe(reason): count for reason, count in self.counts.most_common()}


class Session:
    """Episodes one after the other on one arm.

    Args:
        control: its sinks must hold `tally`.
        stepper: lets time pass.
        tally: counts reasons.
        judge: says how the episode ended, None while it goes on.
    """

    def __init__(
        self,
        control: ControlLoop,
        stepper: Stepper,
        tally: Tally,
        judge: Callable[[], Ending | None],
    ) -> None:
        self._control, self._stepper, self._tally, self._judge = control, stepper, tally, judge

    def home(self, q: Sequence[float], *, timeout: float = 30.0) -> None:
        """Bring the arm to joint positions [rad]; TimeoutError says which joint did not arrive."""
        wanted = np.asarray(q, np.float64)
        near = self._home_test(wanted)

        def there() -> bool:
            tick = self._control.latest
            return self._faulted() or (tick is not None and near(tick.state))

        self._control.home(wanted)
        arrived = self._stepper.run(there, timeout=timeout) and not self._faulted()
        if not arrived:
            raise TimeoutError(self._why_not_home(wanted, timeout))
        self._control.home(None)

    def _home_test(self, wanted: np.ndarray) -> Callable[[ArmState], bool]:
        """What says whether an arm is at joint positions [rad], as near as it can come."""
        parts = self._control.parts
        if parts.driver.info.takes != "pose":
            return lambda state: _apart(state.q, wanted) < HOME_TOLERANCE
        position, quat = Chain(parts.contract.robot).forward(wanted)

        def near(state: ArmState) -> bool:
            joints = _apart(state.q, wanted)
            placed = float(np.linalg.norm(state.position - position)) < HOME_POSITION
            turned = 2.0 * np.arccos(min(1.0, abs(float(state.quat @ quat)))) < HOME_TOLERANCE
            return joints < HOME_TOLERANCE or bool(joints < HOME_ELBOW and placed and turned)

        return near

    def check_gripper(self, *, timeout: float = 4.0) -> None:
        """Close the gripper and open it; NotAllowedError where its readings are not its openings.

        A policy sees the opening: one in another unit, or one that never changes, is another
        gripper than the one that it was trained with. What is between the fingers may stop them.
        """
        closed, opened = self._control.parts.contract.robot.parallel_gripper.width_range
        near = _GRIPPER_OFF * (opened - closed)
        shut, wide = (self._gripped(width, timeout) for width in (closed, opened))
        if self._faulted():
            return
        if not (abs(wide - opened) < near and wide - shut > near):
            raise NotAllowedError(
                f"The gripper reads {wide:.4f} m open and {shut:.4f} m closed, this robot's is "
                f"{opened:g} m and {closed:g} m; a SERL server's own numbers for closed and open "
                "are given with --gripper-readings, e.g. 0 0.08"
            )

    def _gripped(self, width: float, timeout: float) -> float:
        """The opening that is read once the gripper was told `width` and has come to rest [m]."""
        clock = self._control.clock
        last, since = self._opening(), clock.now()

        def rests() -> bool:
            nonlocal last, since
            if abs(self._opening() - last) > _GRIPPER_RESTS:
                last, since = self._opening(), clock.now()
            return self._faulted() or clock.now() - since > _GRIPPER_SECONDS

        self._control.grip(width)
        self._stepper.run(rests, timeout=timeout)
        return self._opening()

    def _opening(self) -> float:
        tick = self._control.latest
        return np.nan if tick is None else tick.state.gripper_width

    def episode(self, seconds: float) -> EpisodeReport:
        """Run the policy for at most `seconds` [s] from ARMED; call `settle` afterwards."""
        control, clock = self._control, self._control.clock
        self._tally.reset()
        began = clock.now()
        ending: Ending | None = None

        def over() -> bool:
            nonlocal ending
            if self._faulted():
                ending = "fault"
            elif clock.now() - began > 0.5 * CONTROL_PERIOD:
                ending = self._judge()
            return ending is not None

        control.begin()
        self._stepper.run(over, timeout=seconds)
        return EpisodeReport(
            ending=ending or "timeout",
            seconds=clock.now() - began,
            ticks=self._tally.ticks,
            reasons=self._tally.names(),
            fault=control.parts.supervisor.why if ending == "fault" else "",
        )

    def settle(self) -> None:
        """Bring the arm to rest under the governor, then leave it ARMED; a FAULT stays one."""
        supervisor = self._control.parts.supervisor
        supervisor.hold(Reason.EPISODE_LIMIT)
        self._stepper.run(lambda: self._faulted() or self._rests(), timeout=SETTLE_SECONDS)
        supervisor.pause()

    def _rests(self) -> bool:
        tick = self._control.latest
        return tick is None or float(np.abs(tick.state.dq).max()) < REST_SPEED

    def _faulted(self) -> bool:
        return self._control.parts.supervisor.phase in (Phase.FAULT, Phase.DISARMED)

    def _why_not_home(self, wanted: np.ndarray, timeout: float) -> str:
        tick, supervisor = self._control.latest, self._control.parts.supervisor
        if self._faulted() or tick is None:
            return f"The arm did not reach home: {supervisor.why}"
        error = np.abs(tick.state.q - wanted)
        joint = self._control.parts.contract.robot.joint_names[int(error.argmax())]
        return (
            f"The arm is not home after {timeout:g} s: {joint} is {error.max():.3f} rad away "
            f"({describe(tick.reasons)}); is something in its way?"
        )


def _apart(q: np.ndarray, wanted: np.ndarray) -> float:
    """Largest joint error [rad]."""
    return float(np.abs(q - wanted).max())
