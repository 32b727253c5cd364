"""The governor: inside all limits whatever comes in, and quick about it where nothing is wrong."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import Goal
from robot_bridge.reasons import Reason
from robot_bridge.safety.collision import CollisionModel
from robot_bridge.safety.command_check import ActionGate
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.kinematics import Chain, vector_to_quat
from robot_bridge.safety.limits import KeepOut, Limits, default_limits, tighten
from robot_bridge.safety.motion_check import Guard
from robot_bridge.safety.stopping import Shape
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.rotations import multiply_quats, quat_to_matrix
from scenes.contract.specs import ActionSpec, ObsSpec
from scenes.robots import ROBOTS, robot_named

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
    damping: float = 4e-4
    targets: list[Target] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def __post_init__(self):
        self.robot = robot_named(self.robot_name)
        self.chain = Chain(self.robot)
        self.governor = Governor(self.robot, self.limits, dt=DT, damping=self.damping)
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
        """Until it has been at rest for a while."""
        rested = 0
        for _ in range(ticks):
            self.note(self.governor.move_to(np.asarray(q), self.state, speed=speed))
            rested = rested + 1 if self.governor.resting else 0
            if rested == 30:
                break

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


def pose_contract(rig: Rig) -> Contract:
    """Actions of 7 numbers, steps and turns as long as the limits allow."""
    step, turn = rig.limits.step_position, rig.limits.step_rotation
    action = ActionSpec(
        mode="ee_delta",
        names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        scale=(step,) * 3 + (turn,) * 3 + (1.0,),
        rate=10.0,
    )
    return Contract(
        robot=rig.robot,
        obs=ObsSpec(fields=()),
        action=action,
        ik=IkSpec(rate=40.0, damping=1e-3, max_joint_step=0.15),
        home=rig.robot.home,
        episode_steps=100,
    )


def random_turn(rng: np.random.Generator, widest: float) -> np.ndarray:
    """Quaternion of a turn by up to `widest` [rad] about any axis."""
    axis = rng.normal(size=3)
    return vector_to_quat(axis / np.linalg.norm(axis) * rng.uniform(0.0, widest))


class Adversary:
    """Goals and states that no policy, operator or arm should send; changes tactics as it goes."""

    def __init__(self, rig: Rig, seed: int, *, homes: bool):
        self.rig, self.rng = rig, np.random.default_rng(seed)
        self.low = np.asarray(rig.limits.workspace_low)
        self.high = np.asarray(rig.limits.workspace_high)
        self.goal, self.quat = rig.targets[0].position, DOWN
        self.gate = ActionGate(pose_contract(rig), rig.limits)
        # Furthest that targets were from an arm that did not move [m], [rad].
        self.ahead, self.turned_ahead = 0.0, 0.0
        self.stuck_since: ArmState | None = None
        self.tactics: list[Callable[[], None]] = [
            self.policy, self.policy, self.jumps, self.jitter, self.turns,
            self.bad_goals, self.bad_states, self.arm_jumps, self.brakes, self.poses, self.stuck,
            *([self.homes] if homes else []),
        ]  # fmt: skip

    def play(self, ticks: int):
        while len(self.rig.targets) <= ticks:
            tactic = self.tactics[self.rng.integers(len(self.tactics))]
            self.speed = self.rng.choice([1.0, 1.0, 0.2])
            self.stuck_since = None
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

    def poses(self):
        """A policy of 7-D actions, as far as the gate lets it."""
        if self.every(10):
            before = Goal(position=self.goal, quat=self.quat, closure=0.0)
            action = self.rng.choice([-1.0, 0.0, 1.0, 2.0], 7)
            after, _ = self.gate.advance(before, self.rig.state, action)
            self.goal, self.quat = np.float64(after.position), np.float64(after.quat)
        self.send()

    def stuck(self):
        """An arm that does not move, whatever it is sent."""
        if self.stuck_since is None:
            self.stuck_since = self.rig.state
            self.goal = self.rng.uniform(self.low, self.high)
            quat = multiply_quats(random_turn(self.rng, 2.0), self.stuck_since.quat)
            self.quat = quat / np.linalg.norm(quat)
        state = self.stuck_since
        self.send(state=state)
        target = self.rig.targets[-1]
        self.ahead = max(self.ahead, float(np.linalg.norm(target.position - state.position)))
        away = abs(float(target.quat @ state.quat) / np.linalg.norm(state.quat))
        self.turned_ahead = max(self.turned_ahead, 2.0 * math.acos(min(1.0, away)))

    def bad_goals(self):
        goal, quat = self.goal.copy(), self.quat.copy()
        values = goal if self.rng.random() < 0.6 else quat
        values[self.rng.integers(len(values))] = BAD[self.rng.integers(len(BAD))]
        self.send(goal, quat)

    def bad_states(self):
        state = self.rig.state
        values = (state.q, state.position, state.quat)[self.rng.integers(3)].copy()
        values[self.rng.integers(len(values))] = BAD[self.rng.integers(len(BAD))]
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


def assert_leashed(adversary: Adversary):
    """Ahead of an arm that stands: twice the leash, where it stops, the stop, and a decision."""
    limits = adversary.rig.limits
    for found, leash, speed, acceleration, jerk in (
        (adversary.ahead, limits.leash_position,
         limits.tcp_speed, limits.tcp_acceleration, limits.tcp_jerk),
        (adversary.turned_ahead, limits.leash_rotation,
         limits.turn_speed, limits.turn_acceleration, limits.turn_jerk),
    ):  # fmt: skip
        stop = 0.5 * speed * (speed / acceleration + acceleration / jerk)
        assert found <= 2 * leash + 1.25 * stop + 0.03 * speed, (found, leash, stop)


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_inside_all_limits_whatever_comes_in(name: str):
    limits = default_limits(robot_named(name))
    per_run, runs = 2000, round(TICKS / len(ROBOTS) / 2000)
    far = turned = 0.0
    for seed in range(runs):
        # Every third has the damping of the contracts that the simulator writes.
        rig = Rig(name, limits, damping=1e-3 if seed % 3 == 2 else 4e-4)
        # On its way home the arm may leave the task's box, and then needs time to come back.
        homes = seed % 4 == 0
        adversary = Adversary(rig, seed, homes=homes)
        adversary.play(per_run)
        assert_inside(rig, roaming=homes)
        assert_leashed(adversary)
        far += norms(np.diff(rig.positions(), axis=0)).sum()
        turned += norms(turn_rates(np.array([t.quat for t in rig.targets]))[0]).sum() * DT
    # It was alive all the while: on average it moved faster than a tenth of its speed.
    assert far / (runs * per_run * DT) > 0.1 * limits.tcp_speed
    assert turned / (runs * per_run * DT) > 0.1 * limits.turn_speed


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


# -- where nothing is wrong ----------------------------------------------------------------------


def first_within(rig: Rig, goal, distance: float) -> float:
    """Seconds until the target is and stays within `distance` [m] of the goal."""
    away = norms(rig.positions() - goal) > distance
    return DT * (1 + int(np.flatnonzero(away).max(initial=-1)))


def quickest_move(distance: float, limits: Limits) -> float:
    """Shortest time [s] of a straight move that reaches the speed limit."""
    v, a, j = limits.tcp_speed, limits.tcp_acceleration, limits.tcp_jerk
    return distance / v + v / a + a / j


def test_straight_moves_are_straight_exact_and_quick(franka: Rig):
    start = franka.targets[0].position
    goal = start + np.array([0.1, 0.15, -0.2])
    franka.go(goal, ticks=200)
    distance = np.linalg.norm(goal - start)
    along = (goal - start) / distance
    off = franka.positions() - start
    off -= np.outer(off @ along, along)
    assert norms(franka.positions()[-1:] - goal)[0] < 1e-4
    assert norms(off).max() < 2e-3
    assert first_within(franka, goal, 1e-3) < 1.08 * quickest_move(distance, franka.limits)
    assert franka.governor.resting
    assert_inside(franka)


@pytest.mark.parametrize("step", [0.001, 0.005, 0.025])
def test_small_steps_do_not_overshoot(franka: Rig, step: float):
    start = franka.targets[0].position
    franka.go(start + np.array([step, 0, 0]), ticks=80)
    along = franka.positions()[:, 0] - start[0]
    assert along.max() < step + 2e-4
    # Rest to rest at the jerk limit takes 4 (d / 2 j)^(1/3).
    shortest = 4 * (step / (2 * franka.limits.tcp_jerk)) ** (1 / 3)
    assert (
        first_within(franka, start + np.array([step, 0, 0]), 0.1 * step + 1e-4)
        < 1.2 * shortest + 0.03
    )


def test_full_policy_speed_is_followed_at_the_lag_that_the_limits_allow(franka: Rig):
    """25 mm every 100 ms is the speed limit: what starting costs cannot be caught up with."""
    start, goals = franka.targets[0].position, []
    for action in range(12):
        goal = start + np.array([0.0, 0.025 * (action + 1) - 0.15, 0.0])
        if action == 0:
            franka.anchor(franka.chain.solve(start - [0, 0.15, 0], DOWN).q)
        franka.go(goal, ticks=10)
        goals += [goal] * 10
    lag = norms(goals - franka.positions()[1:])
    speed, a, j = 0.25, franka.limits.tcp_acceleration, franka.limits.tcp_jerk
    starting = 0.5 * speed * (speed / a + a / j)
    assert lag[60:].max() < starting + 0.025 + 0.012
    franka.go(goals[-1], ticks=60)
    assert norms(franka.positions()[-1:] - goals[-1])[0] < 1e-4
    assert_inside(franka)


def test_braking_from_full_speed(franka: Rig):
    goal = franka.targets[0].position + np.array([0.1, 0.15, -0.3])
    franka.go(goal, ticks=60)
    at_speed = norms(np.diff(franka.positions()[-2:], axis=0))[0] / DT
    assert at_speed > 0.9 * franka.limits.tcp_speed
    before = len(franka.targets) - 1
    franka.brake(60)
    stopped = first_within(franka, franka.positions()[-1], 1e-6) - before * DT
    way = np.linalg.norm(franka.positions()[-1] - franka.positions()[before])
    assert franka.governor.resting
    assert stopped <= 0.40 and way < 0.050
    assert_inside(franka)


def test_a_goal_that_turns_round_at_full_speed(franka: Rig):
    start = franka.targets[0].position
    franka.go(start + np.array([0.0, 0.2, 0.0]), ticks=60)
    franka.go(start + np.array([0.0, -0.1, 0.0]), ticks=300)
    assert norms(franka.positions()[-1:] - (start + np.array([0.0, -0.1, 0.0])))[0] < 1e-4
    assert_inside(franka)


def test_speed_scale_is_kept(franka: Rig):
    franka.go(franka.targets[0].position + np.array([0.1, 0, 0]), ticks=150, speed=0.2)
    fastest = norms(np.diff(franka.positions(), axis=0)).max() / DT
    assert 0.8 * 0.2 * 0.25 < fastest <= 0.2 * 0.25


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_home_is_reached_from_anywhere(name: str):
    rig = Rig(name, default_limits(robot_named(name)))
    rng, collision = np.random.default_rng(3), CollisionModel(rig.robot, rig.chain)
    home = np.asarray(rig.robot.home)
    tried = 0
    for _ in range(400):
        q = home + rng.uniform(-0.6, 0.6, len(home))
        line = np.linspace(q, home, 30)
        inside = (line >= rig.limits.q_low).all() and (line <= rig.limits.q_high).all()
        low = rig.chain.poses(line)[:, 2, 3].min() < rig.limits.clearance + 0.01
        near = collision.distances(line).min() < rig.limits.separation + 0.003
        if not inside or low or near or tried == 8:
            continue
        tried += 1
        rig.anchor(q)
        rig.home(home, 600)
        assert np.abs(rig.targets[-1].q - home).max() < 1e-3
        assert rig.governor.resting
        assert_inside(rig, roaming=True)
    assert tried == 8


def test_home_beyond_a_limit_ends_at_it(franka: Rig):
    q = np.asarray(franka.robot.home)
    q[3] = franka.robot.q_max[3] + 1.0
    franka.home(q, 500)
    assert franka.reasons[-1] & Reason.JOINT_LIMIT
    assert franka.targets[-1].q[3] <= franka.limits.q_high[3]
    assert_inside(franka, roaming=True)


def test_unreachable_goals_end_at_rest_inside(franka: Rig):
    far = tighten(franka.limits)
    far = replace(far, workspace_low=(-2.0, -2.0, 0.0), workspace_high=(2.0, 2.0, 2.0))
    rig = Rig(franka.robot_name, far)
    rig.go([1.5, 0.5, 0.8], ticks=700)
    assert np.linalg.norm(np.diff(rig.positions()[-30:], axis=0), axis=1).max() < 2e-4
    assert np.linalg.norm(rig.positions()[-1][:2]) > 0.6  # it went as far as it can
    assert_inside(rig)
    rig.go([0.4, 0.1, 0.4], ticks=500)
    assert norms(rig.positions()[-1:] - np.array([0.4, 0.1, 0.4]))[0] < 1e-3
    assert_inside(rig)


def test_a_stretched_arm_comes_back():
    """A singular start: elbow as straight as the margins allow."""
    limits = default_limits(robot_named("fr3"))
    limits = replace(limits, workspace_low=(-2.0, -2.0, 0.0), workspace_high=(2.0, 2.0, 2.0))
    rig = Rig("fr3", replace(limits, orientation_cone=math.pi))
    q = np.array([0.0, 0.6, 0.0, -0.21, 0.0, 0.6, 0.785])
    rig.anchor(q)
    assert np.linalg.svd(rig.chain.jacobian(q), compute_uv=False)[-1] < 0.08
    position, quat = rig.chain.forward([0.2, 0.3, 0.0, -1.2, 0.0, 1.3, 0.785])
    rig.go(position, quat=quat, ticks=500)
    # Differential kinematics may end at the elbow's margin; it must come nearer, and home.
    away = norms(rig.positions() - position)
    assert away[-1] < 0.3 * away[0]
    rig.home(rig.robot.home, 800)
    assert np.abs(rig.targets[-1].q - rig.robot.home).max() < 1e-3
    assert_inside(rig)


# -- layers, one by one --------------------------------------------------------------------------


def test_goals_outside_are_cut_to_the_box_and_the_table(franka: Rig):
    franka.go([9.0, 0.0, -9.0], ticks=400)
    low, high = franka.limits.workspace_low, franka.limits.workspace_high
    end = franka.targets[-1].position
    assert franka.reasons[-1] & Reason.WORKSPACE
    np.testing.assert_allclose(end, [high[0], 0.0, max(low[2], franka.limits.clearance)], atol=1e-3)


def test_keep_outs_are_kept_out_of(franka: Rig):
    box = KeepOut(low=(0.35, -0.1, 0.0), high=(0.45, 0.1, 0.35))
    rig = Rig(franka.robot_name, tighten(franka.limits, keep_outs=(box,)))
    rig.go([0.4, 0.0, 0.2], ticks=300)
    assert rig.reasons[-1] & Reason.WORKSPACE
    rig.go([0.5, 0.0, 0.2], ticks=300)
    assert_inside(rig)


def test_orientation_is_cut_to_the_cone(franka: Rig):
    tilted = np.array([0.0, math.cos(0.5), 0.0, math.sin(0.5)])  # 1 rad off straight down
    franka.go(franka.targets[0].position, quat=tilted, ticks=300)
    axis = quat_to_matrix(franka.targets[-1].quat)[:, 2]
    assert franka.reasons[-1] & Reason.ORIENTATION
    assert math.acos(-axis[2]) == pytest.approx(franka.limits.orientation_cone, abs=2e-3)
    assert_inside(franka)


def test_turns_arrive(franka: Rig):
    quat = multiply_quats(np.array([math.cos(0.3), 0, 0, math.sin(0.3)]), DOWN)
    franka.go(franka.targets[0].position, quat=quat, ticks=200)
    assert abs(float(franka.targets[-1].quat @ quat)) > 1 - 1e-7
    assert_inside(franka)


def test_the_arm_turned_inside_out_keeps_its_distance():
    """Homing into its own forearm stops before it gets there."""
    rig = Rig("panda", default_limits(robot_named("panda")))
    q = np.asarray(rig.robot.home)
    q[5] = 0.05
    rig.home(q, 400)
    assert rig.reasons[-1] & Reason.COLLISION
    assert_inside(rig, roaming=True)


def test_a_stuck_arm_leashes_the_target(franka: Rig):
    stuck, start = franka.state, franka.targets[0].position
    goal = Goal(position=start + np.array([0.2, 0.0, -0.1]), quat=DOWN, closure=0.0)
    for _ in range(300):
        franka.note(franka.governor.step(goal, stuck))
    away = norms(franka.positions() - start)
    assert away.max() < franka.limits.leash_position + 0.04  # the leash and a stop
    assert away[-1] < franka.limits.leash_position + 1e-3
    assert any(reason & Reason.LEASH for reason in franka.reasons)
    assert_inside(franka)


def test_a_stuck_arm_leashes_the_turn(franka: Rig):
    stuck = franka.state
    quat = multiply_quats(np.array([math.cos(0.5), 0, 0, math.sin(0.5)]), DOWN)  # 1 rad
    goal = Goal(position=franka.targets[0].position, quat=quat, closure=0.0)
    for _ in range(300):
        franka.note(franka.governor.step(goal, stuck))
    away = np.array([2 * math.acos(min(1.0, abs(float(t.quat @ DOWN)))) for t in franka.targets])
    assert away.max() < franka.limits.leash_rotation + 0.19  # the leash and a stop
    assert away[-1] < franka.limits.leash_rotation + 2e-3
    assert any(reason & Reason.LEASH for reason in franka.reasons)
    assert_inside(franka)


def test_turning_says_which_limits_shape_it(franka: Rig):
    quat = multiply_quats(np.array([math.cos(0.5), 0, 0, math.sin(0.5)]), DOWN)
    franka.go(franka.targets[0].position, quat=quat, ticks=200)
    said = Reason.NONE
    for reason in franka.reasons:
        said |= reason
    assert said & Reason.TURN_SPEED and said & Reason.TURN_ACCELERATION and said & Reason.TURN_JERK
    assert not said & (Reason.TCP_SPEED | Reason.TCP_ACCELERATION)
    assert abs(float(franka.targets[-1].quat @ quat)) > 1 - 1e-6
    assert_inside(franka)


def test_an_arm_that_is_elsewhere_stops_the_target(franka: Rig):
    franka.go(franka.targets[0].position + np.array([0.1, 0, 0]), ticks=40)
    q = franka.targets[-1].q.copy()
    q[0] += 0.5
    elsewhere = arm_state(q, *franka.chain.forward(q))
    for _ in range(100):
        goal = Goal(position=elsewhere.position, quat=DOWN, closure=0.0)
        franka.note(franka.governor.step(goal, elsewhere))
    assert franka.reasons[-1] & Reason.LEASH
    assert norms(np.diff(franka.positions()[-30:], axis=0)).max() == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_nonsense_brakes_and_is_said(franka: Rig, bad: float):
    franka.go(franka.targets[0].position + np.array([0.1, 0, 0]), ticks=40)
    franka.go([bad, 0.0, 0.3] if bad != 1e300 else [np.nan] * 3, ticks=60)
    assert franka.reasons[-1] == Reason.NOT_FINITE
    assert franka.governor.resting
    assert_inside(franka)


def test_an_unmeasured_arm_is_no_place_to_start(franka: Rig):
    with pytest.raises(ValueError, match="not measured"):
        franka.governor.anchor(arm_state(np.full(7, np.nan), np.zeros(3), DOWN))


def test_anchored_outside_the_box_it_comes_in(franka: Rig):
    outside = franka.chain.solve(np.array([0.4, 0.4, 0.4]), DOWN).q
    franka.anchor(outside)
    franka.go([0.4, 0.2, 0.3], ticks=300)
    y = franka.positions()[:, 1]
    assert y.max() <= y[0] + 1e-6 and y[-1] == pytest.approx(0.2, abs=1e-3)


def test_a_joint_ahead_of_the_arm_goes_no_further(franka: Rig):
    """The tool is where it should be; the first joint is measured 0.2 rad behind."""
    q = franka.state.q.copy()
    q[0] -= 0.2
    behind = arm_state(q, franka.state.position, franka.state.quat)
    start = franka.targets[0]
    for y in (0.02, -0.02):
        goal = Goal(position=start.position + np.array([0.0, y, 0.0]), quat=DOWN, closure=0.0)
        for _ in range(40):
            franka.note(franka.governor.step(goal, behind))
    first = np.array([t.q[0] for t in franka.targets]) - start.q[0]
    assert first[:41].max() <= 1e-3 and first[-1] < -0.01
    assert any(reason & Reason.LEASH for reason in franka.reasons[:40])


@pytest.mark.parametrize(("speed", "reason"), [(0.7, Reason.NONE), (0.9, Reason.JOINT_SPEED)])
def test_the_guard_keeps_the_fr3s_braking_curve(speed: float, reason: Reason):
    """Joint 2, 0.2 rad from its end, may move at -0.2 + sqrt(2 2.585 0.2) = 0.817 rad/s."""
    robot = robot_named("fr3")
    wide = replace(default_limits(robot), tcp_speed=9.0, tcp_acceleration=99.0, tcp_jerk=9e3)
    wide = replace(wide, turn_speed=9.0, turn_acceleration=99.0, turn_jerk=9e3)
    chain, q = Chain(robot), np.asarray(robot.home, np.float64)
    q[1] = robot.q_max[1] - 0.2 - speed * DT
    guard = Guard(robot, chain, replace(wide, joint_margin=0.01), dt=DT)
    guard.anchor(q)
    start = np.zeros((3, 7))
    start[0, 1] = speed * DT
    shape = Shape(lead=1, into=2, even=16, out=2)
    past = chain.poses(q - np.outer([2, 1, 0], start[0]))
    judged = guard.verify(past, q, start, shape, roaming=True)
    assert judged[0] & Reason.JOINT_SPEED == reason
