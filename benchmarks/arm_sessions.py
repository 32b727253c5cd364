"""Does an arm's own simulator learn for minutes on end, new parameters and all, without a fault?

    python -m benchmarks.arm_sessions --minutes 10

franka-sim, which speaks the robot's protocol and enforces its motion limits, and a Piper's firmware
on a pseudo terminal. Real time: a learner in a process of its own, the bridge in this one. The cube
is imagined (`benchmarks.bridge.ImaginedCube`): lifted is solved. A row's figure is the minutes of
the session without a fault.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.arms import wait_for
from benchmarks.bridge import CUBE_WIDTH, ImaginedCube, Watcher
from benchmarks.peers.franka_server import serve
from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import measure_once
from robot_bridge.clock import MonotonicClock
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.driver import ArmDriver
from robot_bridge.drivers.franka.config import FrankaConfig
from robot_bridge.drivers.franka.franky import franky_driver
from robot_bridge.learning.link import LearningConfig
from robot_bridge.messages import Ending
from robot_bridge.policy.bundle import load_bundle
from scenes.contract.operator import OperatorInput
from scenes.contract.ranges import MOST_EPISODES, ranged

QUESTION = "arm_sessions"
SECONDS = 8.0  # of an episode


@dataclass(frozen=True, kw_only=True)
class SessionsConfig:
    """What is measured.

    Attributes:
        arms: which simulators.
        minutes: of the session, homing and resets included [min].
        folder: where the runs are kept.
    """

    arms: tuple[str, ...] = field(default_factory=lambda: tuple(ARMS))
    minutes: float = ranged(10.0, above=0)
    folder: Path = Path("runs/arm_sessions")


@contextlib.contextmanager
def _franka() -> Iterator[ArmDriver]:
    with serve(kind="franka", object_width=CUBE_WIDTH) as server:
        yield franky_driver(FrankaConfig(host=server.host, realtime=False))


@contextlib.contextmanager
def _piper() -> Iterator[ArmDriver]:
    sys.path.insert(0, str(ROOT / "tests" / "robot_bridge"))
    from piper_firmware import SlcanPiper  # pyright: ignore[reportMissingImports]

    from robot_bridge.drivers.piper.driver import PiperDriver

    with SlcanPiper() as piper:
        yield PiperDriver(piper.port, interface="slcan", clock=MonotonicClock())


class HeldKey:
    """A person who holds the enabling key, as the first episodes of a run on an arm want it."""

    help_text, lost = "", None

    def open(self) -> None:
        """Nothing."""

    def poll(self, now: float) -> OperatorInput:
        """Held, and nothing else."""
        del now
        return OperatorInput(enabled=True)

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class _Arm:
    task: str
    open: Callable[[], contextlib.AbstractContextManager[ArmDriver]]


ARMS = {
    "franka-sim": _Arm("franka/pick_cube_paced", _franka),
    "piper firmware": _Arm("piper/desk_pick", _piper),
}


def run(cfg: SessionsConfig, recorder: Recorder) -> None:
    """One session after the other."""
    for name in cfg.arms:
        say(f"{QUESTION}: {name}")
        folder = (cfg.folder / re.sub(r"\W+", "-", name)).absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        _measure(cfg, name, folder, recorder)


def _measure(cfg: SessionsConfig, name: str, folder: Path, recorder: Recorder) -> None:
    arm = ARMS[name]
    options = [f"--listen={folder}", f"--run.folder={folder}", "--run.name=run", "--run.video=off"]
    options += ["--preset=robot", f"--task={arm.task}", "--total-env-steps=1000000"]
    options += ["--loop.warmup-steps=100", "--loop.updates-per-step=2", "--eval.every-epochs=10000"]
    with (folder / "learn.log").open("ab") as log:
        command = [sys.executable, "learn.py", *options, "--run.no-bundle"]
        learner = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for((folder / "run" / "actor").is_dir, 300)
        with arm.open() as driver:
            params = _session(cfg, folder, driver)
    finally:
        learner.terminate()
        learner.wait(timeout=60)
    recorder.add(name, params.pop("minutes"), "minutes", params)


def _session(cfg: SessionsConfig, folder: Path, driver: ArmDriver) -> dict[str, Any]:
    bundle = load_bundle(folder / "run" / "actor")
    cube, watcher = ImaginedCube(driver, bundle, seed=0), Watcher()
    lifted = [0]

    def judge() -> Ending | None:
        if cube.lifted > lifted[0]:
            lifted[0] = cube.lifted
            return "success"
        return None

    rig = cube.rig()
    rig = replace(rig, judge=judge, operator=HeldKey(), sinks=(*rig.sinks, watcher))
    options = DeployConfig(
        episodes=MOST_EPISODES,
        limits={"session_seconds": 60 * cfg.minutes},
        seconds=SECONDS,
        separate=False,
        reset="home",
        dry_run=False,
        ledger=folder / "ledger.json",
        learning=LearningConfig(learner=str(folder), spool=folder / "spool", noise_seed=0),
    )
    deployment = Deployment(options, bundle, rig, Talk(say, lambda asked: asked.split("'")[1]))
    began = time.monotonic()
    reports = deployment.run()
    link = deployment.link
    return watcher.facts() | {
        "minutes": (time.monotonic() - began) / 60,
        "of_episodes": sum(report.seconds for report in reports) / 60,
        "episodes": len(reports),
        "faults": sum(r.ending == "fault" for r in reports),
        "fault_ticks": watcher.faults,
        "cut": sum(r.ending == "cut" for r in reports),
        "lifted": cube.lifted,
        "version": None if link is None or link.policy is None else link.policy.version,
        "steps": None if link is None else link.experience.steps,
        "lost": None if link is None else link.experience.lost,
        "why": [r.fault for r in reports if r.ending == "fault"],
    }


if __name__ == "__main__":
    measure_once(SessionsConfig, __doc__, QUESTION, run)
