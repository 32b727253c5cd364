"""Does a policy do on an arm what it did in training? Success, tracking, timing of the bridge.

    python -m benchmarks.bridge --run runs/NAME

On the simulated arm (the training environment under the governor), and on a simulated Franka
(franka-sim, which speaks the robot's own protocol and enforces its limits). `--soak 30` runs the
whole chain, policy in its own process, for thirty minutes on no arm at all.
"""

from __future__ import annotations

import contextlib
import statistics
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.peers.franka_server import SimulatorError, serve
from benchmarks.results import Recorder, say
from benchmarks.resumable import measure_to_save
from robot_bridge.clock import Clock, MonotonicClock
from robot_bridge.deploy.deployment import DeployConfig, Deployment, Talk
from robot_bridge.deploy.rig import Rig, RigConfig, Senses
from robot_bridge.deploy.rigs import sim_rig
from robot_bridge.driver import ArmDriver, ArmState
from robot_bridge.drivers.dry_run import NullDriver
from robot_bridge.messages import Tick
from robot_bridge.policy.bundle import Bundle, find_bundle, load_bundle
from robot_bridge.policy.policy import measure_latency
from robot_bridge.reasons import Phase, Reason
from scenes.contract.ranges import ranged

# Where the cube of franka/pick_cube may lie [m], and how near fingers hold it.
SPAWN = ((0.3, -0.15, 0.02), (0.5, 0.15, 0.02))
CUBE_WIDTH, REACH = 0.04, 0.025
FRANKA_SECONDS = 10.0
SOAK_EPISODE = 50.0  # [s]; the limit of an episode is 60


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """What to measure.

    Attributes:
        run: folder of a run with a bundle, or a bundle where no episodes are asked for.
        episodes: on the simulated arm; 0 leaves it out.
        franka_episodes: of 10 s each on the simulated Franka; 0 leaves it out.
        library: that drives the Franka: franky or franka-rs.
        soak: minutes of the whole chain without an arm; 0 leaves it out.
        save: file the results and rewrite RESULTS.md.
    """

    run: Path
    episodes: int = ranged(100, least=0)
    franka_episodes: int = ranged(20, least=0)
    library: str = "franky"
    soak: float = ranged(0.0, least=0)
    save: bool = False


def run(cfg: BridgeConfig, recorder: Recorder) -> None:
    """Measure what is asked for."""
    bundle = load_bundle(find_bundle(cfg.run))
    _policy_latency(bundle, recorder)
    if cfg.episodes:
        on_simulated_arm(cfg, bundle, recorder)
    if cfg.franka_episodes:
        on_franka(cfg, bundle, recorder)
    if cfg.soak:
        soak(cfg, bundle, recorder)


@dataclass
class Watcher:
    """Keeps what is reported of every tick.

    Attributes:
        errors: of tracking [m].
        lateness: of ticks [s].
        delays: from the state that the policy saw to the tick that executes its action [s].
        faults: number of ticks with a fault of robot or driver.
        held: number of ticks in HOLD.
    """

    # Four bytes a number: half an hour must not look like a leak.
    errors: array[float] = field(default_factory=lambda: array("f"))
    lateness: array[float] = field(default_factory=lambda: array("f"))
    delays: array[float] = field(default_factory=lambda: array("f"))
    faults: int = 0
    held: int = 0
    _sent: NDArray[np.float64] | None = None
    _seq: int = -1

    def __call__(self, tick: Tick) -> None:
        """Take a tick."""
        self.lateness.append(tick.lateness)
        self.faults += bool(tick.reasons & (Reason.ROBOT_FAULT | Reason.DRIVER_ERROR))
        self.held += tick.phase is Phase.HOLD
        if tick.seq != self._seq and tick.age >= 0.0:
            self.delays.append(tick.age)
        self._seq = tick.seq
        if tick.phase is Phase.RUN and self._sent is not None:
            self.errors.append(float(np.linalg.norm(self._sent - tick.state.position)))
        self._sent = None if tick.target is None else tick.target.position

    def facts(self) -> dict[str, float]:
        """Return figures in [mm] and [ms]."""
        late = np.asarray(self.lateness, np.float64) * 1e3
        errors = np.asarray(self.errors or [0.0], np.float64) * 1e3
        delays = np.asarray(self.delays or [0.0], np.float64) * 1e3
        return {
            # From the state that the policy saw to the tick that executes its action.
            "command_ms": float(np.median(delays)),
            "command_p99_ms": float(np.percentile(delays, 99)),
            "ticks": len(late),
            "held_ticks": self.held,
            "lateness_mean_ms": float(late.mean()),
            "lateness_p99_ms": float(np.percentile(late, 99)),
            "lateness_worst_ms": float(late.max()),
            "missed_deadlines": int((late > 10.0).sum()),
            "error_mean_mm": float(errors.mean()),
            "error_p99_mm": float(np.percentile(errors, 99)),
            "error_worst_mm": float(errors.max()),
        }


def _deploy(cfg: DeployConfig, bundle: Bundle, rig: Rig) -> tuple[Deployment, Watcher]:
    watcher = Watcher()
    talk = Talk(say, lambda prompt: "")
    deployment = Deployment(cfg, bundle, replace(rig, sinks=(*rig.sinks, watcher)), talk)
    deployment.run()
    return deployment, watcher


# -- questions -----------------------------------------------------------------------------------


def _policy_latency(bundle: Bundle, recorder: Recorder) -> None:
    zeros = {f.name: np.zeros(f.shape, f.dtype) for f in bundle.contract.obs.fields}
    latency = measure_latency(bundle.policy, zeros)
    facts = {"p99_us": latency.p99 * 1e6, "task": bundle.manifest.task}
    recorder.add("policy, median", latency.p50 * 1e6, "us", facts)


def on_simulated_arm(cfg: BridgeConfig, bundle: Bundle, recorder: Recorder) -> None:
    """File success under the bridge beside the simulator's own of the same starts."""
    own, solved = solved_by(cfg.run, bundle, episodes=cfg.episodes)
    facts = {"task": bundle.manifest.task, "episodes": cfg.episodes, "simulator": own}
    recorder.add("simulated arm: episodes solved", float(solved), "episodes", facts)


def solved_by(run: Path, bundle: Bundle, *, episodes: int) -> tuple[int, int]:
    """Return how many episodes a run's policy solves in the simulator, and its bundle on an arm.

    The simulated arm, under the bridge's governor; both begin with the same starts.
    """
    from mjx_serl.platform import prepare_platform

    prepare_platform(cache_dir=Path(__file__).resolve().parents[1] / ".cache" / "jax")
    from mjx_serl.run.evaluation import evaluate_run
    from mjx_serl.run.simulated_arm import build_world

    _, result = evaluate_run(run, episodes=episodes, seed=0)
    own = int(np.sum(result.success))
    contract = bundle.contract
    world = build_world(bundle.manifest.task, contract, seed=0, episodes=episodes)
    deployment, _ = _deploy(DeployConfig(episodes=episodes), bundle, sim_rig(world, contract))
    return own, sum(report.success for report in deployment.reports)


def on_franka(cfg: BridgeConfig, bundle: Bundle, recorder: Recorder) -> None:
    """Whole episodes on franka-sim with its limits enforced; the cube is imagined."""
    row = f"franka-sim by {cfg.library}: episodes without a fault"
    try:
        with serve(kind="franka", object_width=CUBE_WIDTH) as server:
            cube = ImaginedCube(_franka(cfg.library, server.host), bundle, seed=0)
            options = DeployConfig(
                episodes=cfg.franka_episodes, seconds=FRANKA_SECONDS, separate=False
            )
            deployment, watcher = _deploy(options, bundle, cube.rig())
    except SimulatorError as error:
        recorder.missing(row, str(error))
        return
    fine = sum(report.ending == "timeout" for report in deployment.reports)
    facts = watcher.facts() | {"episodes": cfg.franka_episodes, "lifted": cube.lifted}
    recorder.add(row, float(fine), "episodes", facts | {"fault_ticks": watcher.faults})


def _franka(library: str, host: str) -> ArmDriver:
    from robot_bridge.drivers.franka.config import FrankaConfig
    from robot_bridge.drivers.franka.franka_rs import franka_rs_driver
    from robot_bridge.drivers.franka.franky import franky_driver

    makers = {"franky": franky_driver, "franka-rs": franka_rs_driver}
    return makers[library](FrankaConfig(host=host, realtime=False))


class ImaginedCube:
    """A cube that franka-sim does not have: it lies still until closed fingers carry it."""

    def __init__(self, driver: ArmDriver, bundle: Bundle, *, seed: int) -> None:
        self.lifted = 0
        self._driver, self._contract = driver, bundle.contract
        self._rng = np.random.default_rng(seed)
        self._clock: Clock = MonotonicClock()
        self._place, self._carried, self._high = np.zeros(3), False, False

    def rig(self) -> Rig:
        """Return the arm with this cube."""
        return Rig(
            driver=self._driver,
            clock=self._clock,
            senses=lambda: Senses(objects=self),
            prepare=self.start,
            sinks=(self.see,),
        )

    def start(self, episode: int) -> None:
        """Lie somewhere else."""
        del episode
        self._place = self._rng.uniform(*SPAWN)
        self._carried = self._high = False

    def see(self, tick: Tick) -> None:
        """Be carried by closed fingers around it."""
        state: ArmState = tick.state
        near = np.linalg.norm(state.position - self._place) < REACH
        closed = tick.goal.closure > 0.5 and state.gripper_width < CUBE_WIDTH + 0.01
        self._carried = closed and (self._carried or bool(near))
        if self._carried:
            self._place = state.position.copy()
        if self._carried and not self._high and self._place[2] > SPAWN[0][2] + 0.1:
            self._high = True
            self.lifted += 1

    def positions(self) -> tuple[Mapping[str, NDArray[np.floating]], float]:
        """Return where it is, just measured."""
        return {"cube": self._place}, self._clock.now()


def soak(cfg: BridgeConfig, bundle: Bundle, recorder: Recorder) -> None:
    """The whole chain for long: late ticks, and memory at the end over memory after a minute."""
    clock = MonotonicClock()
    contract = bundle.contract
    config = RigConfig(robot="null", objects=("cube=0.4,0.05,0.02",))
    memory = Memory(clock)
    rig = Rig(
        driver=NullDriver(contract.robot, contract.home, clock),
        clock=clock,
        senses=Senses,
        homes=False,
        config=config,
        sinks=(memory,),
    )
    seconds = min(SOAK_EPISODE, cfg.soak * 60.0)
    episodes = round(cfg.soak * 60.0 / seconds)
    options = DeployConfig(episodes=episodes, seconds=seconds, separate=True)
    _, watcher = _deploy(options, bundle, rig)
    facts: dict[str, Any] = watcher.facts() | memory.facts()
    recorder.add("soak", cfg.soak, "minutes", facts)


class Memory:
    """A sink that asks every ten seconds for the memory of this process and its children."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._asked = clock, -np.inf
        self._bytes: list[int] = []

    def __call__(self, tick: Tick) -> None:
        """Ask when it is time."""
        if tick.t - self._asked < 10.0:
            return
        self._asked = tick.t
        process = psutil.Process()
        total = 0
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
        self._bytes.append(total)

    def facts(self) -> dict[str, float]:
        """Return medians of the second minute and of the last [MB]."""
        early = statistics.median(self._bytes[6:12] or self._bytes)
        late = statistics.median(self._bytes[-6:])
        return {"early_mb": early / 1e6, "late_mb": late / 1e6, "growth_mb": (late - early) / 1e6}


if __name__ == "__main__":
    measure_to_save(BridgeConfig, __doc__, "bridge", run)
