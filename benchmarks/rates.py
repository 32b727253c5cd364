"""How many steps a second does every task make, beside the raw engine on the same model?

    python -m benchmarks.rates --only franka/peg_insertion

Ours is the whole environment on native physics, the engine `mujoco.batch.Batch` with the same
threads and controls, in turns. Tasks of gym-hil stand beside gym-hil's own. Each row is filed once
it is there, so that a stopped run goes on where it was; `--again` measures anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from benchmarks.compare import Group
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.physics import ENV, GYM_HIL_ENVS, RAW, record_rate
from benchmarks.results import Recorder
from benchmarks.resumable import drop, go_on, is_wanted, named_tasks
from scenes.contract.ranges import ranged

QUESTION = "rates"
GOAL = 0.85  # of the raw engine, issue 11
ENGINE = "mujoco.batch.Batch"
# gym-hil's own environment of a task.
GYM_HIL: Mapping[str, str] = MappingProxyType(
    {
        "franka/pick_cube": "gym_hil/PandaPickCubeBase-v0",
        "franka/arrange_boxes": "gym_hil/PandaArrangeBoxesBase-v0",
    }
)


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """Which tasks, how thoroughly.

    Attributes:
        only: names of tasks; all registered ones by default.
        num_envs: worlds.
        repeats: interleaved rounds.
        seconds: of each repetition.
        peers: measure gym-hil too, in a virtual environment of its own.
        again: measure once more what is filed already.
    """

    only: tuple[str, ...] = ()
    num_envs: int = ranged(256, least=1)
    repeats: int = ranged(3, least=1)
    seconds: float = ranged(1.0, above=0)
    peers: bool = True
    again: bool = False


def run(cfg: RatesConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    for task in named_tasks(cfg.only):
        if is_wanted(recorder, task, again=cfg.again):
            drop(recorder, f"{task}: gym-hil")  # of the same rounds
            _measure(cfg, task, recorder)


def _measure(cfg: RatesConfig, task: str, recorder: Recorder) -> None:
    common = {"task": task, "num_envs": cfg.num_envs, "seconds": cfg.seconds}
    peer = f"{task}: gym-hil"
    with Group() as group:
        group.start(task, ENV, {**common, "physics": "native"})
        group.start(ENGINE, RAW, {**common, "engine": "batch"})
        if cfg.peers and task in GYM_HIL:
            _start_gym_hil(group, cfg, task, recorder)
        samples = group.measure(cfg.repeats)
        if task in samples:
            ratio = samples.ratio(task, ENGINE, goal=GOAL)
            record_rate(recorder, group, samples, task, ratio=ratio)
        if peer in samples:
            record_rate(recorder, group, samples, peer, ratio=samples.ratio(peer, task))
        group.record_failures(recorder)


def _start_gym_hil(group: Group, cfg: RatesConfig, task: str, recorder: Recorder) -> None:
    params: dict[str, Any] = {"num_envs": GYM_HIL_ENVS, "seconds": cfg.seconds, "id": GYM_HIL[task]}
    try:
        python = peer_python("gym_hil")
        group.start(f"{task}: gym-hil", "benchmarks.peers.gym_hil", params, python=python)
    except PeerError as error:
        recorder.missing(f"{task}: gym-hil", str(error))


if __name__ == "__main__":
    go_on(RatesConfig, __doc__, QUESTION, run)
