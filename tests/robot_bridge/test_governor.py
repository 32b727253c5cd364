"""The governor: inside all limits whatever comes in, and quick about it where nothing is wrong."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_bridge.collision import CollisionModel
from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.governor import Governor
from robot_bridge.kinematics import Chain
from robot_bridge.limits import KeepOut, Limits, default_limits, tighten
from robot_bridge.messages import Goal
from robot_bridge.reasons import Reason
from scenes.robots import ROBOTS, robot_named
from scenes.rotations import multiply_quats

DT = 0.01
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
BAD = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e308, 0.0)
# Ticks of the property test, over all robots.
TICKS = 102_000


def arm_state(q, position, quat) -> ArmState:
    return ArmState(
        t=0.0,
        seq=0,
        q=np.asarray(q, np.float64),
        dq=np.zeros(len(q)),
        position=np.asarray(position, np.float64),
        quat=np.asarray(quat, np.float64),
        gripper_width=0.0,
        mode=Mode.IDLE,
    )


@dataclass
class Rig:
    """A governor whose arm is where it was told to be, `lag` ticks ago."""

    robot_name: str
    limits: Limits
    lag: int = 1
    targets: list[Target] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def __post_init__(self):
        self.robot = robot_named(self.robot_name)
        self.chain = Chain(self.robot)
        self.governor = Governor(self.robot, self.limits, dt=DT)
        self.anchor(self.robot.home)

    def anchor(self, q):
        position, quat = self.chain.forward(q)
        self.governor.anchor(arm_state(q, position, quat))
        self.targets = [Target(position=position, quat=quat, q=np.asarray(q, np.float64))]
        self.reasons = []

    @property
    def state(self) -> ArmState:
        target = self.targets[max(0, len(self.targets) - self.lag)]
        return arm_state(target.q, target.position, target.quat)

    def note(self, sent: tuple[Target, Reason]) -> Target:
        self.targets.append(sent[0])
        self.reasons.append(sent[1])
        return sent[0]

    def go(self, position, *, quat=DOWN, ticks=1, speed=1.0) -> Target:
        goal = Goal(position=np.asarray(position, np.float64), quat=quat, closure=0.0)
        for _ in range(ticks):
            self.note(self.governor.step(goal, self.state, speed=speed))
        return self.targets[-1]

    def brake(self, ticks=1):
        for _ in range(ticks):
            self.note(self.governor.brake(self.state))

    def home(self, q, ticks, speed=1.0):
        for _ in range(ticks):
            self.note(self.governor.move_to(np.asarray(q), self.state, speed=speed))

    def positions(self) -> np.ndarray:
        return np.array([t.position for t in self.targets])


@pytest.fixture(params=["panda", "fr3"])
def franka(request) -> Rig:
    return Rig(request.param, default_limits(robot_named(request.param)))


# -- all limits, checked from the targets alone --------------------------------------------------


def differences(values: np.ndarray) -> list[np.ndarray]:
    """First, second and third differences per second."""
    return [np.diff(values, order, axis=0) / DT**order for order in (1, 2, 3)]


def turn_rates(quats: np.ndarray) -> list[np.ndarray]:
    """Turning speed, acceleration and jerk from rotation vectors of successive orientations."""
    w, *axis = multiply_quats(quats[1:], quats[:-1] * [1.0, -1.0, -1.0, -1.0]).T
    sine = np.linalg.norm(axis, axis=0)
    scale = np.divide(2 * np.arctan2(sine, w), sine, out=np.full_like(sine, 2.0), where=sine > 0)
    turns = (scale * axis).T / DT
    return [turns, *(np.diff(turns, order, axis=0) / DT**order for order in (1, 2))]


def norms(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values, axis=1)


def most(values: np.ndarray) -> float:
    return float(np.max(values, initial=-math.inf))


def excesses(rig: Rig, *, roaming: bool = False) -> dict[str, float]:
    """By how much each limit is exceeded: relative for rates, [m] or [rad] for places."""
    limits, targets = rig.limits, rig.targets
    q = np.array([t.q for t in targets])
    points, quats = rig.positions(), np.array([t.quat for t in targets])
    speed, acceleration, jerk = differences(q)
    low, high = limits.speed_range(q[1:])
    found = {
        "finite": 0.0 if np.isfinite(q).all() and np.isfinite(points).all() else math.inf,
        "joint speed": most(np.maximum(speed - high, low - speed)),
        "joint acceleration": most(np.abs(acceleration) / limits.joint_acceleration) - 1,
        "joint jerk": most(np.abs(jerk) / limits.joint_jerk) - 1,
        "joint position": most(np.maximum(limits.q_low - q, q - limits.q_high)),
    }
    bounds = {
        "tcp": (points, limits.tcp_speed, limits.tcp_acceleration, limits.tcp_jerk),
    }
    for name, (values, *rates) in bounds.items():
        for order, (row, rate) in enumerate(zip(differences(values), rates, strict=True)):
            found[f"{name} {order}"] = most(norms(row)) / rate - 1
    turning = limits.turn_speed, limits.turn_acceleration, limits.turn_jerk
    for order, (row, rate) in enumerate(zip(turn_rates(quats), turning, strict=True)):
        found[f"turn {order}"] = most(norms(row)) / rate - 1
    poses = rig.chain.poses(q)
    found["pose is not of q"] = most(np.abs(poses[:, :, 3] - points)) - 1e-9
    found["table"] = most(limits.clearance - points[:, 2])
    for box in limits.keep_outs:
        inside = np.minimum(points - box.low, np.asarray(box.high) - points).min(axis=1)
        found["keep-out"] = most(inside)
    if not roaming:
        low, high = np.asarray(limits.workspace_low), np.asarray(limits.workspace_high)
        outside = np.maximum(low - points, points - high).max(axis=1)
        found["workspace"] = most(outside - max(0.0, outside[0]))  # no further out than it began
        found["cone"] = most(np.arccos(np.clip(-poses[:, 2, 2], -1, 1))) - limits.orientation_cone
    apart = CollisionModel(rig.robot, rig.chain).distances(q[:: max(1, len(q) // 400)])
    found["separation"] = limits.separation - float(apart.min())
    return found


def assert_inside(rig: Rig, *, roaming: bool = False):
    broken = {k: v for k, v in excesses(rig, roaming=roaming).items() if v > 1e-6}
    assert not broken, f"{rig.robot_name}: {broken}"


# -- whatever comes in ---------------------------------------------------------------------------


class Adversary:
    """Goals and states that no policy, operator or arm should send; changes tactics as it goes."""

    def __init__(self, rig: Rig, seed: int, *, homes: bool):
        self.rig, self.rng = rig, np.random.default_rng(seed)
        self.low = np.asarray(rig.limits.workspace_low)
        self.high = np.asarray(rig.limits.workspace_high)
        self.goal, self.quat = rig.targets[0].position, DOWN
        self.tactics: list[Callable[[], None]] = [
            self.policy, self.policy, self.jumps, self.jitter, self.turns,
            self.bad_goals, self.bad_states, self.arm_jumps, self.brakes,
            *([self.homes] if homes else []),
        ]  # fmt: skip

    def play(self, ticks: int):
        while len(self.rig.targets) <= ticks:
            tactic = self.tactics[self.rng.integers(len(self.tactics))]
            self.speed = self.rng.choice([1.0, 1.0, 0.2])
            for _ in range(self.rng.integers(20, 120)):
                tactic()

    def send(self, goal=None, quat=None, state=None):
        goal = self.goal if goal is None else goal
        quat = self.quat if quat is None else quat
        state = self.rig.state if state is None else state
        rig = self.rig
        rig.note(
            rig.governor.step(Goal(position=goal, quat=quat, closure=0.0), state, speed=self.speed)
        )

    def every(self, ticks: int) -> bool:
        return len(self.rig.targets) % ticks == 0

    def policy(self):
        if self.every(10):
            step = self.rng.choice([-1, 0, 1], 3) * 0.025
            self.goal = (self.goal + step).clip(self.low - 0.05, self.high + 0.05)
            self.quat = DOWN
        self.send()

    def jumps(self):
        if self.every(7):
            self.goal = self.rng.uniform(self.low - 1.0, self.high + 1.0)
        self.send()

    def jitter(self):
        self.send(self.goal + self.rng.normal(0, 0.01, 3))

    def turns(self):
        if self.every(20):
            quat = self.rng.normal(size=4)
            self.quat = quat / np.linalg.norm(quat)
        self.send()

    def bad_goals(self):
        goal, quat = self.goal.copy(), self.quat.copy()
        values = goal if self.rng.random() < 0.6 else quat
        values[self.rng.integers(len(values))] = self.rng.choice(BAD)
        self.send(goal, quat)

    def bad_states(self):
        state = self.rig.state
        values = (state.q, state.position, state.quat)[self.rng.integers(3)].copy()
        values[self.rng.integers(len(values))] = self.rng.choice(BAD)
        name = {len(state.q): "q", 3: "position", 4: "quat"}[len(values)]
        self.send(state=replace(state, **{name: values}))

    def arm_jumps(self):
        state = self.rig.state
        q = state.q + self.rng.normal(0, self.rng.choice([0.01, 0.1, 1.0]), len(state.q))
        position, quat = self.rig.chain.forward(q)
        self.send(state=arm_state(q, position, quat))

    def homes(self):
        q = np.asarray(self.rig.robot.home)
        self.rig.note(self.rig.governor.move_to(q, self.rig.state, speed=self.speed))

    def brakes(self):
        self.rig.brake()


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_inside_all_limits_whatever_comes_in(name: str):
    limits = default_limits(robot_named(name))
    per_run, runs = 2000, round(TICKS / len(ROBOTS) / 2000)
    far = 0.0
    for seed in range(runs):
        rig = Rig(name, limits)
        # On its way home the arm may leave the task's box, and then needs time to come back.
        homes = seed % 4 == 0
        Adversary(rig, seed, homes=homes).play(per_run)
        assert_inside(rig, roaming=homes)
        far += norms(np.diff(rig.positions(), axis=0)).sum()
    # It was alive all the while: on average it moved faster than a tenth of its speed.
    assert far / (runs * per_run * DT) > 0.1 * limits.tcp_speed


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(width=64), min_size=7, max_size=7),
            st.lists(st.floats(width=64), min_size=14, max_size=14),
            st.floats(),
            st.integers(1, 8),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_floats_stay_inside(rows):
    rig = Rig("fr3", default_limits(robot_named("fr3")))
    for goal, state, speed, ticks in rows:
        state = arm_state(state[:7], state[7:10], state[10:])
        wanted = Goal(position=np.array(goal[:3]), quat=np.array(goal[3:]), closure=0.0)
        for _ in range(ticks):
            rig.note(rig.governor.step(wanted, state, speed=speed))
        rig.go([0.4, 0.1, 0.3], ticks=ticks)
    assert_inside(rig)
