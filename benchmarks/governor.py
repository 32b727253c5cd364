"""How long does the governor think, and how far does it lag behind a policy?

    python -m benchmarks.governor

Prints one JSON line per result; `--save` also files them and rewrites RESULTS.md. The policy steps
its goal by 25 mm along each axis at random, ten times a second; the arm is where it was told to be.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.results import Ratio, Recorder, say
from benchmarks.resumable import measure_to_save
from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import Goal
from robot_bridge.safety.collision import CollisionModel
from robot_bridge.safety.governor import Governor
from robot_bridge.safety.kinematics import Array, Chain
from robot_bridge.safety.limits import default_limits
from scenes.contract.policy_contract import FINGERS_DOWN
from scenes.contract.ranges import ranged
from scenes.robots import ROBOTS, robot_named

DT = 0.01
STEP = 0.025
# Median of a tick that the issue asks for [us].
GOAL_US = 50.0


@dataclass(frozen=True, kw_only=True)
class GovernorConfig:
    """What to measure.

    Attributes:
        robots: by name.
        seconds: of robot time per robot.
        repeats: of each part.
        save: file the results and rewrite RESULTS.md.
    """

    robots: tuple[str, ...] = tuple(sorted(ROBOTS))
    seconds: float = ranged(60.0, above=0)
    repeats: int = ranged(2000, least=1)
    save: bool = False


def run(cfg: GovernorConfig, recorder: Recorder) -> None:
    """Measure ticks, their parts, lag and stops of every robot."""
    for name in cfg.robots:
        say(f"governor: {name}")
        _ticks(name, cfg, recorder)
        _parts(name, cfg, recorder)
        _stop(name, recorder)


def _state(target: Target) -> ArmState:
    return ArmState(
        t=0.0,
        seq=0,
        q=target.q,
        dq=np.zeros_like(target.q),
        position=target.position,
        quat=target.quat,
        gripper_width=0.0,
        mode=Mode.MOVING,
    )


def _started(name: str) -> tuple[Governor, Target]:
    """Return a governor at home, and where that is."""
    robot = robot_named(name)
    governor = Governor(robot, default_limits(robot), dt=DT)
    q = np.asarray(robot.home, np.float64)
    position, quat = Chain(robot).forward(q)
    target = Target(position=position, quat=quat, q=q)
    governor.anchor(_state(target))
    return governor, target


def _goal(position: Array) -> Goal:
    return Goal(position=position, quat=np.asarray(FINGERS_DOWN), closure=0.0)


def _ticks(name: str, cfg: GovernorConfig, recorder: Recorder) -> None:
    """Time of every tick under a policy at full speed, and its lag."""
    limits = default_limits(robot_named(name))
    low, high = np.asarray(limits.workspace_low), np.asarray(limits.workspace_high)
    low[2] = max(low[2], limits.clearance)
    rng = np.random.default_rng(0)
    governor, target = _started(name)
    position = target.position
    spent, lags = [], []
    for tick in range(round(cfg.seconds / DT)):
        if tick % 10 == 0:
            position = (position + STEP * rng.choice([-1.0, 0.0, 1.0], 3)).clip(low, high)
        goal, state = _goal(position), _state(target)
        began = time.perf_counter()
        target, _ = governor.step(goal, state)
        spent.append(1e6 * (time.perf_counter() - began))
        lags.append(1e3 * float(np.linalg.norm(position - target.position)))
    # The first second fills tables that later ticks look up.
    times = np.asarray(spent[round(1 / DT) :] if len(spent) > 300 else spent)
    facts = {"robot": name, "ticks": len(times), "mean": float(times.mean())}
    quantiles = {f"p{q}": float(np.percentile(times, q)) for q in (75, 90, 99)}
    median = float(np.median(times))
    ratio = Ratio(
        to=f"{GOAL_US:g} us",
        value=GOAL_US / median,
        low=GOAL_US / float(np.percentile(times, 60)),
        high=GOAL_US / float(np.percentile(times, 40)),
        rounds=1,
        goal=1.0,
    )
    recorder.add(f"{name} tick, median", median, "us", facts | quantiles, ratio=ratio)
    recorder.add(f"{name} tick, p99", quantiles["p99"], "us", facts)
    lag = {"p99": float(np.percentile(lags, 99)), "robot": name}
    recorder.add(f"{name} target behind goal, mean", float(np.mean(lags)), "mm", lag)


def _parts(name: str, cfg: GovernorConfig, recorder: Recorder) -> None:
    """The dear parts of a tick that decides, one by one."""
    robot = robot_named(name)
    chain = Chain(robot)
    model = CollisionModel(robot, chain)
    q = np.asarray(robot.home, np.float64)
    path = q + np.linspace(0.0, 0.1, 35)[:, None]
    parts: dict[str, Callable[[], object]] = {
        "poses of 35 ticks": lambda: chain.poses(path),
        "pose and Jacobian": lambda: chain.pose_and_jacobian(q),
        "distances at one place": lambda: model.distances(path[:1]),
    }
    for part, call in parts.items():
        recorder.add(f"{name} {part}", _median(call, cfg.repeats), "us", {"robot": name})


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e6 * float(np.median(times))


def _stop(name: str, recorder: Recorder) -> None:
    """Time and way from the highest speed of a long move to standstill."""
    governor, target = _started(name)
    limits = default_limits(robot_named(name))
    low, high = np.asarray(limits.workspace_low), np.asarray(limits.workspace_high)
    far = np.where(target.position - low > high - target.position, low, high)
    speed, last = 0.0, target
    for _ in range(1000):
        target, _ = governor.step(_goal(far), _state(last))
        now = float(np.linalg.norm(target.position - last.position)) / DT
        last = target
        if now < speed:
            break
        speed = now
    began, ticks = last.position, 0
    while not governor.resting and ticks < 1000:
        last, ticks = governor.brake(_state(last))[0], ticks + 1
    way = 1e3 * float(np.linalg.norm(last.position - began))
    facts = {"robot": name, "from": speed, "millimetres": way}
    recorder.add(f"{name} stop", 1e3 * DT * ticks, "ms", facts)


def smoke(cfg: GovernorConfig) -> GovernorConfig:
    """Return the same parts at sizes that only show that they run."""
    return dataclasses.replace(cfg, robots=cfg.robots[:1], seconds=0.5, repeats=3)


if __name__ == "__main__":
    measure_to_save(GovernorConfig, __doc__, "governor", run)
