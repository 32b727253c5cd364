"""What does a step cost in brax PPO, the usual way to train Playground's PandaPickCube?

    python -m benchmarks.ppo

A few iterations of brax PPO on Playground's environment with MJX, in a virtual environment of
its own; on a CPU this is slow to compile, so it gets a time limit and no comparison of success.
"""

from dataclasses import dataclass

from benchmarks.compare import Group
from benchmarks.options import read_options
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import Deadline
from benchmarks.results import Recorder
from benchmarks.table import finish
from scenes.contract.ranges import ranged

PPO = "brax PPO on playground PandaPickCube"


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """What to measure.

    Attributes:
        num_envs: worlds.
        timeout: seconds for compiling and training together.
        peers: without it nothing is measured, and the result says so.
        save: file the results and rewrite RESULTS.md.
    """

    num_envs: int = ranged(64, least=1)
    timeout: float = ranged(400.0, above=0)
    peers: bool = True
    save: bool = False


def run(cfg: PpoConfig, recorder: Recorder) -> None:
    """Measure and record env-steps per second of PPO, learning included."""
    if not cfg.peers:
        recorder.missing(PPO, "peers were switched off")
        return
    try:
        python = peer_python("playground")
    except PeerError as error:
        recorder.missing(PPO, str(error))
        return
    params = {"num_envs": cfg.num_envs, "seconds": 0.0}
    with Group() as group:
        group.start(PPO, "benchmarks.peers.brax_ppo", params, python=python)
        samples = group.measure(1, deadline=Deadline(cfg.timeout), repeat_timeout=cfg.timeout)
        for name in samples.rates:
            group.record(recorder, samples, name, "env-steps/s")
        group.record_failures(recorder)


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(PpoConfig, __doc__)
    recorder = Recorder("ppo")
    run(cfg, recorder)
    if cfg.save:
        finish(recorder.results)


if __name__ == "__main__":
    main()
