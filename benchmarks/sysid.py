"""Does system identification find what an arm is like? Twenty arms that nobody has told it of.

    python -m benchmarks.sysid

Each trial draws an arm, records `mjx-serl excite`'s motion of it through the bridge, and fits the
recordings. Each row is filed once it is there, so that a stopped run goes on where it was;
`--again` measures anew. Gains, armature and damping are drawn within 30 % of nominal, friction
0.4-1.5 % of the largest torques, payload 0.1-0.6 kg; commands come 30 ms late. The arm and the fit
share one simulator, so this tells how well parameters are told apart under noise and a delay, not
what a real arm's friction is like.
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import Recorder
from benchmarks.resumable import drop, go_on, is_wanted
from mjx_serl.sysid.__main__ import read_log
from mjx_serl.sysid.driven_arm import DrivenArm
from mjx_serl.sysid.identify import identify
from mjx_serl.sysid.motion import cut_motions
from robot_bridge.clock import ManualClock
from robot_bridge.deploy.deployment import Talk
from robot_bridge.deploy.excite import ExciteConfig, excite
from robot_bridge.deploy.rig import Rig, Senses
from robot_bridge.drivers.simulated_joints import SimJointDriver
from scenes.contract.ranges import MOST_SEED, ranged
from scenes.contract.robot import RobotSpec
from scenes.contract.robot_fit import FittedValue, RobotFit
from scenes.robots import robot_named

_SPREAD = 0.3
_FRICTION = (0.004, 0.015)
_PAYLOAD = (0.1, 0.6)
# Of a parameter that counts as found [%].
_BOUND = 5.0


@dataclass(frozen=True, kw_only=True)
class SysidConfig:
    """What to measure.

    Attributes:
        robots: by name.
        trials: arms per robot.
        recordings: of each arm; the last quarter of them, at least one, only validates.
        seconds: of a recording [s].
        delay: of the arms [s].
        seed: of the first trial.
        again: measure once more what is filed already.
    """

    robots: tuple[str, ...] = ("piper", "panda")
    trials: int = ranged(20, least=1)
    recordings: int = ranged(3, least=1)
    seconds: float = ranged(30.0, least=5)
    delay: float = ranged(0.03, least=0, most=0.2)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    again: bool = False


@dataclass(frozen=True)
class Miss:
    """How far an estimate is from the truth.

    Attributes:
        name: of the parameter: "kp joint1".
        relative: error over the true value; of the delay in seconds.
        inside: whether the interval holds the truth.
    """

    name: str
    relative: float
    inside: bool


def drawn_arm(robot: RobotSpec, seed: int) -> RobotSpec:
    """An arm of a robot's kind as it might really be."""
    draw = np.random.default_rng(seed)

    def near(values: tuple[float, ...]) -> tuple[float, ...]:
        factors = draw.uniform(1.0 - _SPREAD, 1.0 + _SPREAD, len(values))
        return tuple(float(v * f) for v, f in zip(values, factors, strict=True))

    shares = draw.uniform(*_FRICTION, robot.num_joints)
    return dataclasses.replace(
        robot,
        kp=near(robot.kp),
        kd=near(robot.kd),
        armature=near(robot.armature),
        damping=near(robot.damping),
        friction_loss=tuple(float(s * t) for s, t in zip(shares, robot.tau_max, strict=True)),
        payload=float(draw.uniform(*_PAYLOAD)),
    )


def record_arm(
    arm: RobotSpec, folder: Path, *, recordings: int, seconds: float, delay: float, seed: int
) -> list[Path]:
    """Record the motion of an arm through the bridge, each time with other sines and noise."""
    quiet, made = Talk(lambda _: None, lambda _: ""), []
    for i in range(recordings):
        clock, number = ManualClock(), recordings * seed + i
        driven = DrivenArm(arm, delay=delay, seed=number)
        rig = Rig(driver=SimJointDriver(driven, clock), clock=clock, senses=Senses)
        cfg = ExciteConfig(seconds=seconds, record=folder, seed=number)
        made.append(excite(rig, cfg, quiet))
    return made


def misses(fit: RobotFit, arm: RobotSpec, nominal: RobotSpec, delay: float) -> list[Miss]:
    """Errors of all parameters that were fitted.

    Damping of a driven joint does what its drive's does: the truth of kd is what both together are
    beyond the nominal damping.
    """
    return [_miss(v, _truth(v, arm, nominal, delay)) for v in fit.values if not v.held]


def _truth(value: FittedValue, arm: RobotSpec, nominal: RobotSpec, delay: float) -> float:
    if value.field == "delay":
        return delay
    if value.field == "payload":
        return arm.payload
    joint = arm.joint_names.index(value.joint)
    beyond = arm.damping[joint] - nominal.damping[joint] if value.field == "kd" else 0.0
    return getattr(arm, value.field)[joint] + beyond


def _miss(value: FittedValue, truth: float) -> Miss:
    scale = 1.0 if value.field == "delay" else truth
    return Miss(
        name=f"{value.field} {value.joint}".strip(),
        relative=(value.value - truth) / scale,
        inside=value.low <= truth <= value.high,
    )


def trial(name: str, seed: int, cfg: SysidConfig) -> list[Miss]:
    """Draw an arm, record it, fit the recordings, compare."""
    robot = robot_named(name)
    arm = drawn_arm(robot, seed)
    with tempfile.TemporaryDirectory(prefix="mjx_serl-sysid-") as folder:
        paths = record_arm(
            arm,
            Path(folder),
            recordings=cfg.recordings,
            seconds=cfg.seconds,
            delay=cfg.delay,
            seed=seed,
        )
        motions = [motion for path in paths for motion in cut_motions(read_log(path, robot=name))]
    return misses(identify(robot, motions).fit, arm, robot, cfg.delay)


def run(cfg: SysidConfig, recorder: Recorder) -> None:
    """Measure every arm that has no row yet, then what all of a robot's rows say."""
    for name in cfg.robots:
        for seed in range(cfg.seed, cfg.seed + cfg.trials):
            if is_wanted(recorder, f"{name}, arm {seed}: worst error", again=cfg.again):
                _record_arm(name, seed, trial(name, seed, cfg), cfg, recorder)
        _sum_up(name, recorder)


def _record_arm(
    name: str, seed: int, found: list[Miss], cfg: SysidConfig, recorder: Recorder
) -> None:
    delay = next(miss for miss in found if miss.name == "delay")
    others = [miss for miss in found if miss is not delay]
    worst = max(others, key=lambda miss: abs(miss.relative))
    recorder.add(
        f"{name}, arm {seed}: worst error",
        100.0 * abs(worst.relative),
        "%",
        {
            "robot": name,
            "seconds": cfg.seconds * cfg.recordings,
            "worst": worst.name,
            "median": 100.0 * float(np.median([abs(miss.relative) for miss in others])),
            "fitted": len(found),
            "inside": sum(miss.inside for miss in found),
            "delay_error_ms": 1e3 * abs(delay.relative),
            "delay_inside": delay.inside,
        },
    )


def _sum_up(name: str, recorder: Recorder) -> None:
    arms = [row for row in recorder.results if row.name.startswith(f"{name}, arm ")]
    facts = {"robot": name, "trials": len(arms)}
    fitted = sum(row.params["fitted"] for row in arms)
    inside = sum(row.params["inside"] for row in arms)
    right = sum((row.value or 0.0) <= _BOUND for row in arms)
    worst_delay = max(row.params["delay_error_ms"] for row in arms)
    for what, value, unit in (
        ("arms with every parameter within 5 %", right, "arms"),
        ("worst delay", worst_delay, "ms"),
        ("intervals that hold the truth", 100.0 * inside / fitted, "%"),
    ):
        drop(recorder, f"{name}: {what}")
        recorder.add(f"{name}: {what}", value, unit, facts)


if __name__ == "__main__":
    go_on(SysidConfig, __doc__, "sysid", run)
