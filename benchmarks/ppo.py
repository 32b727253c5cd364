"""How many env steps a second does PPO make, ours and brax's, learning included?

    python -m benchmarks.ppo

Side by side on one of our tasks, brax's through `BraxEnv`: the same physics, worlds, rollouts,
minibatches, passes and network sizes, in turns. And a few iterations of brax PPO on Playground's
PandaPickCube with MJX, in a virtual environment of its own; on a CPU this is slow to compile, so it
gets a time limit. Nothing here compares success.
"""

from dataclasses import dataclass

from benchmarks.compare import Group
from benchmarks.peers.venvs import PeerError, peer_python
from benchmarks.process import Deadline
from benchmarks.results import Recorder
from benchmarks.resumable import measure_to_save
from scenes.contract.ranges import ranged

PPO = "brax PPO on playground PandaPickCube"
OURS, BRAX = "mjx_serl PPO", "brax PPO through BraxEnv"
SWITCHED_OFF = "peers were switched off"
RATE = 10_000  # about, of two cores: how long a repetition of brax's is [env-steps/s]
GOAL = 3.0  # of brax's, issue 15
# The preset `ppo`'s.
SIZES = {"rollout_steps": 32, "passes": 4, "minibatches": 8, "hidden": [256, 256]}


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """What to measure.

    Attributes:
        task: of ours, for both sides.
        num_envs: worlds.
        repeats: interleaved rounds.
        seconds: of each of ours; brax takes about as long.
        timeout: seconds for compiling and training Playground's together.
        peers: without it ours alone is measured, and the results say so.
        playground: measure Playground's too.
        save: file the results and rewrite RESULTS.md.
    """

    task: str = "franka/pick_cube_dense"
    num_envs: int = ranged(128, least=8)
    repeats: int = ranged(3, least=1)
    seconds: float = ranged(5.0, above=0)
    timeout: float = ranged(400.0, above=0)
    peers: bool = True
    playground: bool = True
    save: bool = False


def run(cfg: PpoConfig, recorder: Recorder) -> None:
    """Measure and record env-steps per second of PPO, learning included."""
    _side_by_side(cfg, recorder)
    if cfg.playground:
        _on_playground(cfg, recorder)


def _side_by_side(cfg: PpoConfig, recorder: Recorder) -> None:
    common = {"task": cfg.task, "num_envs": cfg.num_envs, **SIZES}
    per_rollout = cfg.num_envs * common["rollout_steps"]
    with Group() as group:
        group.start(OURS, "benchmarks.workers.ppo", {**common, "seconds": cfg.seconds})
        if cfg.peers:
            # Whole rollouts.
            steps = max(1, round(cfg.seconds * RATE / per_rollout)) * per_rollout
            group.start(BRAX, "benchmarks.workers.brax_ppo", {**common, "steps": steps})
        else:
            recorder.missing(BRAX, SWITCHED_OFF)
        samples = group.measure(cfg.repeats)
        if BRAX in samples:
            group.record(recorder, samples, BRAX, "env-steps/s")
        if OURS in samples:
            ratio = samples.ratio(OURS, BRAX, goal=GOAL)
            group.record(recorder, samples, OURS, "env-steps/s", ratio=ratio)
        group.record_failures(recorder)


def _on_playground(cfg: PpoConfig, recorder: Recorder) -> None:
    if not cfg.peers:
        recorder.missing(PPO, SWITCHED_OFF)
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


def smoke() -> PpoConfig:
    """Return sizes that only show that ours runs."""
    return PpoConfig(num_envs=8, repeats=1, seconds=0.1, peers=False)


if __name__ == "__main__":
    measure_to_save(PpoConfig, __doc__, "ppo", run)
