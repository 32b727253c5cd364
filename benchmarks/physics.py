"""How fast do worlds step? Ours (native, mjx, warp) beside the raw engines and other environments.

    python -m benchmarks.physics --device cpu      python -m benchmarks.physics --device gpu

Prints one JSON line per result; `--save` also files them and rewrites RESULTS.md.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.compare import Group, Samples
from benchmarks.gpu import GpuConfig, run_gpu
from benchmarks.options import read_options
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import Deadline, WorkerError, WorkerProcess
from benchmarks.results import Ratio, Recorder, say, usable_cores
from benchmarks.table import finish
from scenes.contract.ranges import ranged

ENV = "benchmarks.workers.env"
RAW = "benchmarks.workers.raw"
START_LIMIT = 60.0  # seconds for one start of the mjx path, from the issue
GYM_HIL_ENVS = 10
DENSE_TASK = "franka/pick_cube_dense"  # 50 Hz, as envpool's PandaPickCube


@dataclass(frozen=True, kw_only=True)
class PhysicsConfig:
    """What to measure.

    Attributes:
        device: cpu, or gpu for a machine with an NVIDIA GPU.
        task: a registered task.
        num_envs: worlds of the native physics.
        mjx_envs: worlds of MJX (slow on a CPU).
        warp_envs: worlds of MJX-Warp (slower still on a CPU).
        raw_envs: worlds at which raw MuJoCo runs beside ours.
        repeats: interleaved rounds.
        seconds: of each repetition.
        memory_of: physics whose memory per world is measured.
        memory_envs: few and many worlds, between which memory grows.
        starts: fresh processes of the mjx path at 256 worlds; the issue's check takes 20.
        peers: measure other projects' environments, each in a virtual environment of its own.
        smoke: sizes that only show that everything runs.
        save: file the results and rewrite RESULTS.md.
        gpu: what `--device gpu` measures.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    task: str = "franka/pick_cube"
    num_envs: tuple[int, ...] = ranged((1, 16, 256, 1024, 4096), least=1, filled=True)
    mjx_envs: tuple[int, ...] = ranged((256, 1024), least=1)
    warp_envs: tuple[int, ...] = ranged((64,), least=1)
    raw_envs: tuple[int, ...] = ranged((256, 1024), least=1)
    repeats: int = ranged(5, least=1)
    seconds: float = ranged(0.5, above=0)
    memory_of: tuple[str, ...] = ("native", "mjx")
    memory_envs: tuple[int, int] = ranged((256, 4096), least=1)
    starts: int = ranged(2, least=0)
    peers: bool = True
    smoke: bool = False
    save: bool = False
    gpu: GpuConfig = field(default_factory=GpuConfig)


def run(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Measure and record everything the device of `cfg` can."""
    if cfg.device == "gpu":
        run_gpu(cfg.gpu, recorder, task=cfg.task, smoke=cfg.smoke)
        return
    for part in (sweep, against_raw, threads, breakdown, memory, starts):
        say(f"physics: {part.__name__}")
        part(cfg, recorder)
    if cfg.peers:
        for part in (against_gym_hil, against_envpool):
            say(f"physics: {part.__name__}")
            part(cfg, recorder)


def sweep(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Env-steps per second over the number of worlds, for each physics."""
    for physics, sizes in (
        ("native", cfg.num_envs),
        ("mjx", cfg.mjx_envs),
        ("warp", cfg.warp_envs),
    ):
        with Group() as group:
            for num in sizes:
                group.start(f"{physics} {num}", ENV, _env(cfg, num, physics=physics))
            samples = group.measure(cfg.repeats)
            for name in samples.rates:
                record_rate(recorder, group, samples, name)
            group.record_failures(recorder)


def against_raw(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Ours beside `Batch` and `rollout` on the same model, threads and controls."""
    for num in cfg.raw_envs:
        raw = {"task": cfg.task, "num_envs": num, "seconds": cfg.seconds}
        with Group() as group:
            group.start("ours", ENV, _env(cfg, num))
            group.start("ours, physics alone", ENV, _env(cfg, num, piece="physics"))
            group.start("mujoco.batch.Batch", RAW, {**raw, "engine": "batch"})
            group.start("mujoco.rollout", RAW, {**raw, "engine": "rollout"})
            samples = group.measure(cfg.repeats)
            goals = {"ours": 0.75, "ours, physics alone": 0.9}
            for name in samples.rates:
                ratio = None
                if name != "mujoco.batch.Batch":
                    ratio = samples.ratio(name, "mujoco.batch.Batch", goal=goals.get(name))
                record_rate(recorder, group, samples, name, ratio=ratio)
            group.record_failures(recorder)


def threads(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """One core against two: everything pinned, and the physics' threads alone."""
    if usable_cores() < 2:
        recorder.missing("threads 1 to 2", "this machine has one usable core")
        return
    num = cfg.raw_envs[0]
    variants: dict[str, dict[str, Any]] = {
        "two cores": {"cpus": [0, 1], "threads": 2},
        "one core": {"cpus": [0], "threads": 1},
        "two cores, physics on one thread": {"cpus": [0, 1], "threads": 1},
    }
    with Group() as group:
        for name, extra in variants.items():
            group.start(name, ENV, _env(cfg, num, **extra))
        samples = group.measure(cfg.repeats)
        for name in samples.rates:
            ratio = samples.ratio(name, "one core", goal=1.8 if name == "two cores" else None)
            record_rate(recorder, group, samples, name, ratio=None if name == "one core" else ratio)
        group.record_failures(recorder)


def breakdown(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Where the time of a control step goes: the whole against the whole without a piece."""
    num = cfg.raw_envs[0]
    with Group() as group:
        for piece in ("env", "control", "physics"):
            group.start(piece, ENV, _env(cfg, num, piece=piece))
        samples = group.measure(cfg.repeats)
        group.record_failures(recorder)
        if len(samples.rates) < 3:
            return
        whole, control, physics = (1 / samples.median(k) for k in ("env", "control", "physics"))
        shares = {
            "physics": physics,
            "control": control - physics,
            "reward, reset, observation": whole - control,
        }
        for name, seconds in shares.items():
            params = group.facts("env") | {"microseconds_per_env_step": 1e6 * seconds}
            recorder.add(f"time: {name}", seconds / whole, "share", params, load=samples.load)


def memory(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Growth of resident memory from few to many worlds, divided by the worlds between."""
    few, many = cfg.memory_envs
    for physics in cfg.memory_of:
        with Group() as group:
            for num in (few, many):
                group.start(str(num), ENV, _env(cfg, num, physics=physics))
            samples = group.measure(1)
            group.record_failures(recorder)
            if len(samples.rates) < 2:
                continue
            low, high = (group.workers[str(n)].last["rss_bytes"] for n in (few, many))
            params = group.facts(str(many)) | {"from_envs": few, "rss_bytes": high}
            recorder.add(
                f"{physics} memory",
                (high - low) / (many - few),
                "bytes/world",
                params,
                load=samples.load,
            )


def starts(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Fresh processes of the mjx path at 256 worlds: how many hang, how long the slowest takes."""
    took, problems = [], []
    for _ in range(cfg.starts):
        try:
            took.append(start_once(_env(cfg, 256, physics="mjx", seconds=0.1)))
        except WorkerError as error:
            problems.append(str(error))
    if cfg.starts:
        params = {"starts": cfg.starts, "limit_seconds": START_LIMIT, "problems": problems}
        recorder.add("mjx starts that hang or fail", len(problems), "starts", params)
    if took:
        recorder.add("mjx slowest start", max(took), "s", {"starts": cfg.starts, "num_envs": 256})


def start_once(params: dict[str, Any]) -> float:
    """Return seconds from a process's birth through its first repetition to its end.

    Raises WorkerError where that takes over `START_LIMIT`.
    """
    limit = Deadline(START_LIMIT)
    worker = WorkerProcess(ENV, params)
    try:
        worker.wait_ready(limit.left())
        worker.measure(limit.left())
    except WorkerError:
        worker.close()
        raise
    if not worker.close(limit.left()):
        raise WorkerError(f"did not end within {START_LIMIT:.0f} s")
    return START_LIMIT - limit.left()


def against_gym_hil(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Simulated seconds per second beside gym-hil's PandaPickCube in a SyncVectorEnv."""
    peer = "gym-hil SyncVectorEnv"
    with Group() as group:
        group.start("ours", ENV, _env(cfg, 256))
        try:
            params = {"num_envs": GYM_HIL_ENVS, "seconds": cfg.seconds}
            python = peer_python("gym_hil")
            group.start(peer, "benchmarks.peers.gym_hil", params, python=python)
        except PeerError as error:
            recorder.missing(peer, str(error))
        samples = group.measure(cfg.repeats)
        # Both control at 10 Hz, so env-steps and simulated seconds have the same ratio.
        for name in samples.rates:
            ratio = samples.ratio(name, peer, goal=15.0) if name == "ours" else None
            record_rate(recorder, group, samples, name, ratio=ratio)
        group.record_failures(recorder)


def against_envpool(cfg: PhysicsConfig, recorder: Recorder) -> None:
    """Env-steps per second beside envpool's PandaPickCube-v1, both at 50 Hz on two threads."""
    for num in (64, 256):
        peer = f"envpool {num}"
        ours = _env(cfg, num, task=DENSE_TASK, threads=2)
        with Group() as group:
            group.start("ours, 50 Hz", ENV, ours)
            try:
                params = {"num_envs": num, "seconds": cfg.seconds, "threads": 2}
                python = peer_python("envpool")
                group.start(peer, "benchmarks.peers.envpool", params, python=python)
            except PeerError as error:
                recorder.missing(peer, str(error))
            samples = group.measure(cfg.repeats)
            for name in samples.rates:
                ratio = samples.ratio(name, peer, goal=1.4) if name != peer else None
                record_rate(recorder, group, samples, name, ratio=ratio)
            group.record_failures(recorder)


def record_rate(
    recorder: Recorder, group: Group, samples: Samples, name: str, *, ratio: Ratio | None = None
) -> None:
    """File a worker's env-steps per second, with simulated seconds per second beside it."""
    params = group.facts(name)
    params["sim_seconds_per_second"] = samples.median(name) * params["ctrl_dt"]
    params["rounds"] = len(samples.rates[name])
    group.record(recorder, samples, name, "env-steps/s", params=params, ratio=ratio)


def _env(cfg: PhysicsConfig, num: int, **changes: Any) -> dict[str, Any]:
    params = {
        "task": cfg.task,
        "physics": "native",
        "num_envs": num,
        "seconds": cfg.seconds,
    }
    return params | changes


def smoke(cfg: PhysicsConfig) -> PhysicsConfig:
    """Return the same parts at sizes that only show that they run."""
    return replace(
        cfg,
        num_envs=(2,),
        mjx_envs=(),
        warp_envs=(),
        raw_envs=(2,),
        memory_of=("native",),
        memory_envs=(2, 4),
        repeats=1,
        seconds=0.02,
        starts=0,
        peers=False,
    )


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(PhysicsConfig, __doc__)
    recorder = Recorder("physics" if cfg.device == "cpu" else "physics_gpu")
    run(smoke(cfg) if cfg.smoke else cfg, recorder)
    if cfg.save:
        finish(recorder.results)


if __name__ == "__main__":
    main()
