"""From goals to targets: the layer that nothing gets past without being inside all limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robot_bridge.driver import ArmState, Target
from robot_bridge.messages import Goal
from robot_bridge.reasons import Reason
from robot_bridge.safety.kinematics import Array, Chain, damped_step, matrix_to_quat, quat_to_vector
from robot_bridge.safety.limits import Limits
from robot_bridge.safety.motion_check import TURN_JERK_SHARE, Guard
from robot_bridge.safety.stopping import Bounds, quickest
from robot_bridge.safety.tracking import Pace, Tracker, braking_distance
from scenes.contract.errors import InputError
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import multiply_quats, quat_to_matrix

# Time between decisions [s]; in between, ticks play what was decided and verified.
_DECISION = 0.03
# Share of the limits that motions are planned with: the rest is for the bends of their path.
_PLANNED = 0.95
_CRUISED = 0.99
_BRAKED = 0.9
_HOMING = 0.6
# Joints are planned to stop this short of their margin [rad].
_SHORT = 2e-3
# Damping of the least squares, squared [m^2].
_DAMPING = 4e-4
# Pull of the redundant joint to where it is measured [1/s], and its largest speed [rad/s].
_PULL, _PULL_MAX = 0.5, 0.1
# Nearer to its goal and slower than this the arm stops: [m], [m/s], and turning [rad], [rad/s].
_ARRIVED, _CRAWL = 5e-5, 5e-3
_ARRIVED_TURN, _CRAWL_TURN = 3e-4, 3e-2
# A smaller turn than this does not slow the tool down [rad].
_SMALL_TURN = 0.1
# A goal that moved by more than this is answered at once [m].
_NEWS = 1e-3
# Fewest ticks from one decision to the next.
_SOONEST = 2
# A target this many leashes away from the arm does not follow anything any more; for turns see
# `Governor._lost_turn`.
_LOST = 2.0


@dataclass(slots=True)
class _Motion:
    """Targets of the coming ticks, verified up to standstill; `next` is the one to send."""

    q: Array
    poses: Array
    next: int = 0

    @property
    def over(self) -> bool:
        return self.next >= len(self.q)


class _Tool(NamedTuple):
    """Where the tool is commanded to be, and its motion [m], [rad], per second."""

    position: list[float]
    velocity: list[float]
    acceleration: list[float]
    turning: list[float]
    turning_faster: list[float]


class Governor:
    """Turns goals into targets inside all limits, whatever the goals and the measured state are.

    Every target sent belongs to a motion that was verified, tick by tick, up to standstill: its
    first ticks go where the goal asks, the rest is a stop. A new motion is decided every few
    ticks, and at once when the goal moves; if it fails, a gentler one is tried, and then the stop
    that was verified before goes on. So there is no input, and no place, from which the arm could
    not be stopped inside the limits.

    Inside all limits means, of the targets sent every `dt` and of their successive differences:

    - joints: position inside the margins; first, second, third difference inside joint_speed (and
      the braking curve), joint_acceleration, joint_jerk;
    - tool centre: position in the workspace, over the table's clearance, out of the keep-outs;
      its axis in the orientation cone; differences of position inside tcp_speed, tcp_acceleration,
      tcp_jerk, those of rotation inside turn_speed, turn_acceleration, turn_jerk;
    - separation of the arm from itself and from the table;
    - leash: the goal is cut to where the target stops within the leash, were the arm to stop; a
      target beyond it comes back, and one twice as far from the arm, or a joint beyond it, stops
      and stays. The measured arm may jump, the target does not.

    Where the arm is anchored outside a limit of place, targets go no further out. `move_to` keeps
    all but the workspace box and the cone: home may lie outside a task's box.

    Args:
        robot: kinematics and shape; its base stands upright.
        limits: to be kept.
        dt: between ticks [s].
        damping: of the least squares, squared [m^2]; a policy's contract says what it was used to.
    """

    def __init__(
        self, robot: RobotSpec, limits: Limits, *, dt: float, damping: float = _DAMPING
    ) -> None:
        self._limits, self._dt, self._damping = limits, dt, damping
        self._chain = Chain(robot)
        self._guard = Guard(robot, self._chain, limits, dt=dt)
        self._lead = max(1, round(_DECISION / dt))
        self._tracker = Tracker(dt=dt, ticks=self._lead)
        self._low, self._high = limits.q_low, limits.q_high
        self._cone = math.cos(limits.orientation_cone)
        self._speed = np.asarray(limits.joint_speed)
        # Speed, acceleration, jerk of each joint [J, 3], per second.
        self._rates = np.array([limits.joint_speed, limits.joint_acceleration, limits.joint_jerk]).T
        self._bounds = Bounds(
            np.asarray(limits.joint_acceleration) * dt**2, np.asarray(limits.joint_jerk) * dt**3
        )
        tool = np.array([limits.tcp_acceleration, limits.turn_acceleration]) * _BRAKED
        jerk = np.array([limits.tcp_jerk, limits.turn_jerk]) * _BRAKED
        self._stop_bounds = Bounds(
            np.concatenate([self._bounds.acceleration, tool * dt**2]),
            np.concatenate([self._bounds.jerk, jerk * dt**3]),
        )
        # A stop from full turning speed takes about the leash once more: that is not lost yet.
        full = Pace(limits.turn_speed, limits.turn_acceleration, limits.turn_jerk)
        stop = braking_distance(limits.turn_speed, full)
        self._lost_turn = limits.leash_rotation + max(limits.leash_rotation, 1.25 * stop)
        self._motion: _Motion | None = None
        self._roaming = False
        self._reasons = Reason.NONE
        self._answered: tuple[float, ...] = ()
        self._since = self._lead

    # -- what is called --------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether the target stands still."""
        return self._motion is None or self._motion.over

    def anchor(self, state: ArmState) -> None:
        """Start from the measured arm, at rest; ValueError where the state is not finite."""
        if not self._usable(state):
            raise InputError(f"Cannot start from an arm that is not measured: q {state.q}")
        self._q = np.array(state.q, np.float64)
        self._velocity = self._acceleration = np.zeros_like(self._q)
        self._past = np.repeat(self._chain.poses(self._q[None]), 3, axis=0)
        self._quat = matrix_to_quat(self._past[2, :, :3])
        self._guard.anchor(self._q)
        self._motion = _Motion(self._q[None], self._past[2:], next=1)
        self._answered, self._since, self._reasons = (), self._lead, Reason.NONE

    def step(self, goal: Goal, state: ArmState, *, speed: float = 1.0) -> tuple[Target, Reason]:
        """One tick towards the goal.

        Args:
            goal: pose of the tool centre. state: the measured arm.
            speed: scale of the speed limits, in (0, 1].
        """
        pose = (*goal.position.tolist(), *goal.quat.tolist())
        if not (self._usable(state) and _finite(pose) and _unit(pose[3:])):
            return self._refuse(state)
        self._start(state)
        if self._due(pose):
            self._reasons = self._approach(goal, state, _scale(speed))
        return self._play(), self._reasons

    def brake(self, state: ArmState) -> tuple[Target, Reason]:
        """One tick towards standing still; then the target stays."""
        self._start(state)
        if self._answered:
            self._stop()
            self._answered = ()
        return self._play(), Reason.NONE

    def move_to(self, q: Array, state: ArmState, *, speed: float = 1.0) -> tuple[Target, Reason]:
        """One tick along the straight line in joint space to joint positions [J] [rad]."""
        wanted = tuple(np.asarray(q, np.float64).tolist())
        if not (self._usable(state) and _finite(wanted) and len(wanted) == len(state.q)):
            return self._refuse(state)
        self._start(state)
        if self._due(wanted):
            self._reasons = self._go_home(np.asarray(wanted, np.float64), state, _scale(speed))
        return self._play(), self._reasons

    # -- deciding --------------------------------------------------------------------------------

    def _approach(self, goal: Goal, state: ArmState, speed: float) -> Reason:
        """Decide the next motion towards a goal; the reasons say what kept it from the goal."""
        tool = self._tool()
        position, quat, reasons = self._inside(goal)
        error = [g - p for g, p in zip(position, tool.position, strict=True)]
        rotation = list(_turn(self._quat.tolist(), quat))
        ahead = self._ahead()
        _, jac = self._chain.pose_and_jacobian(ahead)
        pace, turn = self._paces(jac, error, rotation, speed)
        leashed = self._leash(error, rotation, state, tool, (pace, turn))
        if leashed is None:
            self._stop()
            return reasons | Reason.LEASH
        error, rotation, cut = leashed
        if _arrived(error, rotation, tool):
            self._stop()
            return reasons | cut
        linear = self._tracker.velocity(error, tool.velocity, tool.acceleration, pace)
        angular = self._tracker.velocity(rotation, tool.turning, tool.turning_faster, turn)
        period = self._lead * self._dt
        reasons |= cut | _saturated(linear, (tool.velocity, tool.acceleration), pace, period)
        turning = tool.turning, tool.turning_faster
        reasons |= _as_turn(_saturated(angular, turning, turn, period))
        twist = np.array(linear + angular) * self._dt
        velocity, held = self._follow(twist, jac, ahead, state)
        return reasons | held | self._move(velocity, jac, state, speed, roaming=False)

    def _ahead(self) -> Array:
        """Joint positions at the end of the lead if nothing changes [J]."""
        lead = self._lead
        return self._q + lead * self._velocity + (0.5 * lead * (lead + 1)) * self._acceleration

    def _paces(
        self, jac: Array, error: list[float], rotation: list[float], speed: float
    ) -> tuple[Pace, Pace]:
        """The tool's pace on its way, linear and turning, that its joints can go along with."""
        limits, way, turn = self._limits, _norm(error), _norm(rotation)
        twists = np.zeros((6, 2))
        twists[:3, 0] = np.asarray(error) / max(way, 1e-12)
        twists[3:, 1] = np.asarray(rotation) / max(turn, 1e-12)
        joints = np.abs(damped_step(jac, twists, self._damping))  # per unit of the tool's motion
        share = min(1.0, turn / _SMALL_TURN)
        tool = (limits.tcp_speed, limits.tcp_acceleration, limits.tcp_jerk)
        turning = (limits.turn_speed, limits.turn_acceleration, limits.turn_jerk)
        asked = joints @ np.array([tool, [share * t for t in turning]])  # [J, 3]
        fits = (self._rates / np.maximum(asked, 1e-12)).min(axis=0)
        v, a, j = (np.minimum(1.0, fits) * [_CRUISED * speed, _PLANNED, _PLANNED]).tolist()
        return (
            Pace(v * tool[0], a * tool[1], j * tool[2]),
            Pace(v * turning[0], a * turning[1], j * TURN_JERK_SHARE * turning[2]),
        )

    def _follow(
        self, twist: Array, jac: Array, ahead: Array, state: ArmState
    ) -> tuple[Array, Reason]:
        """Joint velocity [J] per tick that moves the tool by `twist` [6] per tick."""
        pull = (np.asarray(state.q) - self._q) * _PULL
        pull = pull.clip(-_PULL_MAX, _PULL_MAX) * self._dt
        velocity = damped_step(jac, twist, self._damping, pull)
        low, high = self._margin_speeds(ahead)
        outside = (velocity < low) | (velocity > high)
        if not outside.any():
            return velocity, Reason.NONE
        # Joints at their margin stay there, and the others do what they can.
        fixed = np.where(outside, velocity.clip(low, high), 0.0)
        free = np.where(outside, 0.0, jac)
        rest = damped_step(free, twist - jac @ fixed, self._damping)
        return np.where(outside, fixed, rest.clip(low, high)), Reason.JOINT_LIMIT

    def _go_home(self, wanted: Array, state: ArmState, speed: float) -> Reason:
        """Decide the next motion on the straight line in joint space."""
        q = wanted.clip(self._low, self._high)
        reasons = Reason.NONE if np.array_equal(q, wanted) else Reason.JOINT_LIMIT
        error = q - self._q
        if np.abs(error).max() < _ARRIVED_TURN and self._crawling():
            self._stop()
            return reasons
        # In units of each joint's largest speed, where the way is judged as one length.
        unit = self._speed
        _, jac = self._chain.pose_and_jacobian(self._q)
        way = error / unit
        pace = self._homing_pace(jac @ (way / np.linalg.norm(way) * unit), speed)
        rates = self._velocity / (unit * self._dt), self._acceleration / (unit * self._dt**2)
        chosen = self._tracker.velocity(way.tolist(), rates[0].tolist(), rates[1].tolist(), pace)
        velocity = np.asarray(chosen) * unit * self._dt
        return reasons | self._move(velocity, jac, state, speed, roaming=True)

    def _homing_pace(self, twist: Array, speed: float) -> Pace:
        """The pace at which neither a joint nor the tool, moved by `twist` [6], is too fast."""
        limits = self._limits
        linear = max(float(np.linalg.norm(twist[:3])), 1e-9)
        angular = max(float(np.linalg.norm(twist[3:])), 1e-9)
        joint = self._bounds.acceleration / self._dt**2, self._bounds.jerk / self._dt**3
        return Pace(
            _PLANNED * speed * min(1.0, limits.tcp_speed / linear, limits.turn_speed / angular),
            _HOMING
            * min(
                float((joint[0] / self._speed).min()),
                limits.tcp_acceleration / linear,
                limits.turn_acceleration / angular,
            ),
            _HOMING
            * min(
                float((joint[1] / self._speed).min()),
                limits.tcp_jerk / linear,
                limits.turn_jerk / angular,
            ),
        )

    def _move(
        self, velocity: Array, jac: Array, state: ArmState, speed: float, *, roaming: bool
    ) -> Reason:
        """Adopt a verified motion to joint velocities [J] per tick, as near to them as can be."""
        most = self._speed * (_PLANNED * speed * self._dt)
        scale = 1.0 / max(1.0, float((np.abs(velocity) / most).max()))
        reasons = Reason.JOINT_SPEED if scale < 1.0 else Reason.NONE
        velocity = scale * velocity
        gap = self._q - state.q
        if ((np.abs(gap) > self._limits.leash_joint) & (velocity * gap > 0.0)).any():
            self._stop()
            return reasons | Reason.LEASH
        gentler = 0.5 * self._velocity + 0.1 * velocity
        for attempt in (velocity, gentler):
            jerk, limited = self._jerk_to(attempt)
            refused = self._adopt(jerk, jac, self._lead, roaming=roaming)
            reasons |= limited | refused
            if not refused:
                return reasons
        self._stop()
        return reasons

    def _jerk_to(self, velocity: Array) -> tuple[Array, Reason]:
        """Constant jerk [J] over the lead that leads to the velocity, or part of the way there."""
        lead, bounds, now = self._lead, self._bounds, self._acceleration
        jerk = (velocity - self._velocity - lead * now) * (2.0 / (lead * (lead + 1)))
        reasons = Reason.NONE
        most = float((np.abs(jerk) / bounds.jerk).max())
        if most > 1.0:
            jerk, reasons = jerk / most, Reason.JOINT_JERK
        room = bounds.acceleration - np.copysign(now, jerk * now)
        most = float((lead * np.abs(jerk) / np.maximum(room, 1e-30)).max())
        if most > 1.0:
            jerk, reasons = jerk / most, reasons | Reason.JOINT_ACCELERATION
        return jerk, reasons

    def _adopt(self, jerk: Array, jac: Array, lead: int, *, roaming: bool) -> Reason:
        """Go on with a constant jerk for `lead` ticks and then stop, if that passes the guard."""
        start = np.array((self._velocity, self._acceleration, jerk))
        acceleration = start[1] + lead * jerk
        velocity = start[0] + lead * start[1] + (0.5 * lead * (lead + 1)) * jerk
        shape = quickest(
            lead, _with_tool(jac, velocity), _with_tool(jac, acceleration), self._stop_bounds
        )
        refused, path, poses = self._guard.verify(
            self._past, self._q, start, shape, roaming=roaming
        )
        if not refused:
            self._motion, self._roaming = _Motion(path, poses), roaming
        return refused

    def _stop(self) -> None:
        """Stop at once if that passes the guard, else as it was verified before."""
        if self.resting:
            return
        _, jac = self._chain.pose_and_jacobian(self._q)
        self._adopt(np.zeros_like(self._q), jac, 0, roaming=self._roaming)

    # -- goals -----------------------------------------------------------------------------------

    def _inside(self, goal: Goal) -> tuple[list[float], list[float], Reason]:
        """Cut the goal to the workspace, out of the keep-outs, and into the cone."""
        low, high = self._guard.box
        position = goal.position.clip(low, high)
        for box in self._limits.keep_outs:
            position = _pushed_out(position, np.asarray(box.low), np.asarray(box.high))
        reasons = Reason.NONE
        if (position != goal.position).any():
            reasons |= Reason.WORKSPACE
        quat = goal.quat / np.linalg.norm(goal.quat)
        _, x, y, _ = quat.tolist()
        if 2.0 * (x * x + y * y) - 1.0 < self._cone:
            reasons |= Reason.ORIENTATION
            quat = _into_cone(quat, self._limits.orientation_cone)
        return position.tolist(), quat.tolist(), reasons

    def _leash(
        self,
        error: list[float],
        rotation: list[float],
        state: ArmState,
        tool: _Tool,
        paces: tuple[Pace, Pace],
    ) -> tuple[list[float], list[float], Reason] | None:
        """Cut the way to the goal to the leash about the measured arm; None where it is lost."""
        limits = self._limits
        gap = [p - m for p, m in zip(tool.position, state.position.tolist(), strict=True)]
        twist = list(_turn(state.quat.tolist(), self._quat.tolist()))
        if _norm(gap) > _LOST * limits.leash_position:
            return None
        if _norm(twist) > self._lost_turn:
            return None
        # At full speed the arm may lag by the leash: the target ends further ahead, then returns.
        longest = limits.leash_position + braking_distance(_norm(tool.velocity), paces[0])
        widest = limits.leash_rotation + braking_distance(_norm(tool.turning), paces[1])
        beyond = _norm(gap) > limits.leash_position or _norm(twist) > limits.leash_rotation
        reason = Reason.LEASH if beyond else Reason.NONE
        return _cut(error, gap, longest), _cut(rotation, twist, widest), reason

    def _crawling(self) -> bool:
        return float(np.abs(self._velocity).max()) < _CRAWL_TURN * self._dt

    def _margin_speeds(self, q: Array) -> tuple[Array, Array]:
        """Joint speeds per tick from which each joint still stops before its margin."""
        acceleration, jerk = _BRAKED * self._bounds.acceleration, _BRAKED * self._bounds.jerk
        ramp = 0.5 * acceleration**2 / jerk
        rooms = np.maximum(np.array((q - self._low, self._high - q)) - _SHORT, 0.0)
        speeds = np.sqrt(ramp**2 + 2.0 * acceleration * rooms) - ramp
        return -speeds[0], speeds[1]

    # -- one tick --------------------------------------------------------------------------------

    def _play(self) -> Target:
        """Send the next target of the motion, or stay at its end."""
        motion = self._motion
        assert motion is not None
        row = min(motion.next, len(motion.q) - 1)
        motion.next += 1
        q, pose = motion.q[row], motion.poses[row]
        velocity = q - self._q
        self._acceleration, self._velocity, self._q = velocity - self._velocity, velocity, q
        self._past = np.concatenate([self._past[1:], pose[None]])
        quat = matrix_to_quat(pose[:, :3])
        # The same rotation has two quaternions: stay with the nearer one.
        self._quat = quat if float(quat @ self._quat) >= 0.0 else -quat
        return Target(position=pose[:, 3].copy(), quat=self._quat.copy(), q=q.copy())

    def _tool(self) -> _Tool:
        """Position of the tool, and its motion over the last two ticks."""
        steps = self._past[1:] - self._past[:-1]
        turns = steps[:, :, :3] @ self._past[1:, :, :3].transpose(0, 2, 1)
        before, now = (_axial(turn) for turn in turns.tolist())
        rate, (first, second) = 1.0 / self._dt, steps[:, :, 3].tolist()
        return _Tool(
            self._past[2, :, 3].tolist(),
            [rate * s for s in second],
            [rate * rate * (s - f) for f, s in zip(first, second, strict=True)],
            [rate * s for s in now],
            [rate * rate * (s - f) for f, s in zip(before, now, strict=True)],
        )

    def _usable(self, state: ArmState) -> bool:
        quat = state.quat.tolist()
        right = len(state.q) == self._chain.num_joints and len(state.position) == 3
        numbers = (*state.q.tolist(), *state.position.tolist(), *quat)
        return right and _finite(numbers) and _unit(quat)

    def _start(self, state: ArmState) -> None:
        if self._motion is None:
            self.anchor(state)

    def _due(self, goal: tuple[float, ...]) -> bool:
        """Whether to decide: every lead's ticks, sooner for news but not on every tick."""
        self._since += 1
        news = _moved(goal, self._answered)
        if self._since < self._lead and not (news and self._since >= _SOONEST):
            return False
        self._since, self._answered = 0, goal
        return True

    def _refuse(self, state: ArmState) -> tuple[Target, Reason]:
        target, _ = self.brake(state)
        return target, Reason.NOT_FINITE


def _arrived(error: list[float], rotation: list[float], tool: _Tool) -> bool:
    there = _norm(error) < _ARRIVED and _norm(rotation) < _ARRIVED_TURN
    return there and _norm(tool.velocity) < _CRAWL and _norm(tool.turning) < _CRAWL_TURN


def _finite(numbers: Sequence[float]) -> bool:
    return math.isfinite(math.hypot(*numbers))


def _unit(quat: Sequence[float]) -> bool:
    """Whether four numbers are about as long as a rotation's."""
    return len(quat) == 4 and 0.9 < _norm(quat) < 1.1


def _scale(speed: float) -> float:
    return min(1.0, max(1e-3, speed)) if math.isfinite(speed) else 1e-3


def _norm(a: Sequence[float]) -> float:
    return math.hypot(*a)


def _moved(goal: Sequence[float], answered: Sequence[float]) -> bool:
    """Whether a goal is not the one that was answered last."""
    if len(goal) != len(answered):
        return True
    return max(abs(a - b) for a, b in zip(goal, answered, strict=True)) > _NEWS


def _turn(start: Sequence[float], end: Sequence[float]) -> tuple[float, float, float]:
    """Rotation vector from one orientation to another, wxyz."""
    a, b, c, d = start
    w, x, y, z = end
    return quat_to_vector(
        (
            w * a + x * b + y * c + z * d,
            -w * b + x * a - y * d + z * c,
            -w * c + x * d + y * a - z * b,
            -w * d - x * c + y * b + z * a,
        )
    )


def _axial(turn: list[list[float]]) -> list[float]:
    """Rotation vector of a small turn from the difference of matrices."""
    return [
        0.5 * (turn[2][1] - turn[1][2]),
        0.5 * (turn[0][2] - turn[2][0]),
        0.5 * (turn[1][0] - turn[0][1]),
    ]


def _cut(way: list[float], gap: list[float], longest: float) -> list[float]:
    """The way, cut so that gap + way is at most `longest`."""
    end = [g + w for g, w in zip(gap, way, strict=True)]
    length = _norm(end)
    if length <= longest:
        return way
    return [longest / length * e - g for e, g in zip(end, gap, strict=True)]


def _with_tool(jac: Array, motion: Array) -> Array:
    """Joint motion [J] with the lengths of the linear and angular motion it gives the tool."""
    linear, angular = (jac @ motion).reshape(2, 3).tolist()
    return np.concatenate([motion, (_norm(linear), _norm(angular))])


def _pushed_out(point: Array, low: Array, high: Array) -> Array:
    """The point, moved to the nearest face of the box that it is in."""
    below, above = point - low, high - point
    if min(below.min(), above.min()) <= 0.0:
        return point
    moved = point.copy()
    axis = int(np.argmin(np.minimum(below, above)))
    moved[axis] = low[axis] if below[axis] < above[axis] else high[axis]
    return moved


def _into_cone(quat: Array, cone: float) -> Array:
    """The orientation, tilted back so that the tool's axis is `cone` [rad] off straight down."""
    axis = quat_to_matrix(quat.tolist())[:, 2]
    tilt = math.acos(max(-1.0, min(1.0, -float(axis[2]))))
    about = np.array([-axis[1], axis[0], 0.0])  # the axis crossed with straight down
    length = float(np.linalg.norm(about))
    about = about / length if length > 1e-9 else np.array([1.0, 0.0, 0.0])
    half = 0.5 * (tilt - cone)
    back = np.array([math.cos(half), *(math.sin(half) * about)])
    return multiply_quats(back, quat)


def _saturated(
    chosen: list[float], before: tuple[list[float], list[float]], pace: Pace, period: float
) -> Reason:
    """Which limits of the tool shape its motion: a velocity, and velocity and acceleration before.

    Named as for the tool's position; `_as_turn` renames them.
    """
    velocity, acceleration = before
    reasons = Reason.NONE
    if _norm(chosen) > 0.98 * pace.speed:
        reasons |= Reason.TCP_SPEED
    change = _norm([a - b for a, b in zip(chosen, velocity, strict=True)]) / period
    if change > 0.9 * pace.acceleration:
        reasons |= Reason.TCP_ACCELERATION
    if _norm([0.0, change - _norm(acceleration)]) > 0.4 * pace.jerk * period:
        reasons |= Reason.TCP_JERK
    return reasons


_TURN_REASONS = {
    Reason.TCP_SPEED: Reason.TURN_SPEED,
    Reason.TCP_ACCELERATION: Reason.TURN_ACCELERATION,
    Reason.TCP_JERK: Reason.TURN_JERK,
}


def _as_turn(reasons: Reason) -> Reason:
    """The same limits, of the turning."""
    found = Reason.NONE
    for linear, turning in _TURN_REASONS.items():
        if reasons & linear:
            found |= turning
    return found
