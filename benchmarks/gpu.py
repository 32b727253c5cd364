"""The physics question on an NVIDIA GPU: thousands of worlds beside pure Warp and Playground.

Called by `python -m benchmarks.physics --device gpu`. Every part has a share of one time budget,
and what does not fit is said. With `--smoke` the same code runs on a CPU at tiny sizes.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Group, Samples
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import Deadline
from benchmarks.results import Ratio, Recorder, say
from benchmarks.train import SMOKE_ARGS, TrainBenchConfig, run_seed

ENV = "benchmarks.workers.env"
PURE = "pure mujoco_warp"
PLAYGROUND = "playground PandaPickCube"


@dataclass(frozen=True, kw_only=True)
class GpuConfig:
    """What `--device gpu` measures.

    Attributes:
        num_envs: worlds.
        repeats: interleaved rounds.
        seconds: of each repetition.
        budget: seconds for everything.
        train_seconds: of these, kept for the training run.
        playground: measure MuJoCo Playground 0.2.0 beside ours.
        preset: of the training run; empty for none.
        steps: control steps in one compiled call; 0 for the device's default.
    """

    num_envs: tuple[int, ...] = (1024, 4096, 16384)
    repeats: int = 5
    seconds: float = 0.5
    budget: float = 570.0
    train_seconds: float = 200.0
    playground: bool = True
    preset: str = "fast"
    steps: int = 0


SMOKE = GpuConfig(num_envs=(2,), repeats=1, seconds=0.01, playground=False, steps=1)


def run_gpu(cfg: GpuConfig, recorder: Recorder, *, task: str, smoke: bool) -> None:
    """Measure and record: physics at each size, then training end to end."""
    cfg = SMOKE if smoke else cfg
    deadline = Deadline(cfg.budget)
    for num in cfg.num_envs:
        if deadline.left() < cfg.train_seconds:
            recorder.missing(f"{num} worlds", f"the budget of {cfg.budget:.0f} s was used up")
            continue
        say(f"gpu: {num} worlds, {deadline.left():.0f} s left")
        side_by_side(cfg, recorder, task, num, deadline)
    if cfg.preset:
        say(f"gpu: training, {deadline.left():.0f} s left")
        train = TrainBenchConfig(
            preset=cfg.preset,
            timeout=max(30.0, deadline.left()),
            args=SMOKE_ARGS if smoke else (),
        )
        run_seed(train, 0, recorder)


def side_by_side(
    cfg: GpuConfig, recorder: Recorder, task: str, num: int, deadline: Deadline
) -> None:
    """One size: whole environment and physics alone, both implementations, and the baselines."""
    ours: dict[str, Any] = {"task": task, "num_envs": num, "seconds": cfg.seconds}
    if cfg.steps:
        ours["steps"] = cfg.steps
    with Group() as group:
        for physics in ("warp", "mjx"):
            group.start(f"{physics} env", ENV, {**ours, "physics": physics})
        group.start("warp physics alone", ENV, {**ours, "physics": "warp", "piece": "physics"})
        group.start(PURE, "benchmarks.workers.warp", ours)
        # Playground controls at 50 Hz with four substeps: ours beside it at the same rate.
        dense = {**ours, "task": "franka/pick_cube_dense", "physics": "warp"}
        if cfg.playground and _start_playground(group, recorder, ours):
            group.start("warp env, 50 Hz", ENV, dense)
        samples = group.measure(cfg.repeats, deadline=deadline)
        for name in samples.rates:
            _record(recorder, group, samples, name)
        group.record_failures(recorder, label=lambda name: f"{name} {num}")


def _start_playground(group: Group, recorder: Recorder, ours: dict[str, Any]) -> bool:
    try:
        python = peer_python("playground")
    except PeerError as error:
        recorder.missing(f"{PLAYGROUND} {ours['num_envs']}", str(error))
        return False
    module = "benchmarks.peers.playground"
    group.start(PLAYGROUND, module, {**ours, "impl": "warp"}, python=python)
    return True


def _record(recorder: Recorder, group: Group, samples: Samples, name: str) -> None:
    params = group.facts(name)
    params["sim_seconds_per_second"] = samples.median(name) * params["ctrl_dt"]
    params["rss_bytes"] = group.workers[name].last["rss_bytes"]
    row, ratio = f"{name} {params['num_envs']}", _ratio(samples, name)
    group.record(recorder, samples, name, "env-steps/s", params=params, label=row, ratio=ratio)


def _ratio(samples: Samples, name: str) -> Ratio | None:
    if name == "warp env, 50 Hz":
        return samples.ratio(name, PLAYGROUND, goal=1.15)
    if name in ("warp env", "warp physics alone"):
        return samples.ratio(name, PURE, goal=0.85)
    return samples.ratio(name, PURE) if name == "mjx env" else None
