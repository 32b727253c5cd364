"""Run all quick benchmarks and write RESULTS.md: `make bench`.

python -m benchmarks.harness --only physics learner
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from benchmarks import drq, governor, learner, physics, pixels, ppo, render, train
from benchmarks.options import read_options
from benchmarks.results import Recorder, say
from benchmarks.table import finish
from scenes.contract.ranges import MOST_SEED, ranged

Question = Literal["physics", "learner", "render", "pixels", "drq", "train", "ppo", "governor"]


@dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """Which questions, how thoroughly.

    Attributes:
        only: the questions to ask; what others have in results.jsonl stays.
        repeats: interleaved rounds; ratios are medians over them.
        seeds: training runs, one per seed.
        starts: fresh processes of the mjx path; the issue's check takes 20.
        peers: measure other projects, each in a virtual environment of its own.
        profile: write per-operation tables of the learner into benchmarks/profiles/.
        smoke: sizes that only show that everything runs; nothing is written.
    """

    only: tuple[Question, ...] = get_args(Question)
    repeats: int = ranged(5, least=1)
    seeds: tuple[int, ...] = ranged((0,), least=0, most=MOST_SEED, filled=True)
    starts: int = ranged(2, least=0)
    peers: bool = True
    profile: bool = False
    smoke: bool = False


def questions(cfg: HarnessConfig) -> dict[str, Callable[[Recorder], None]]:
    """Return the questions by name, each a function that records its answers."""
    on_cpu = physics.PhysicsConfig(repeats=cfg.repeats, starts=cfg.starts, peers=cfg.peers)
    sac = learner.LearnerConfig(repeats=cfg.repeats, peers=cfg.peers, profile=cfg.profile)
    splats = render.RenderConfig(repeats=cfg.repeats, peers=cfg.peers)
    seen = pixels.PixelsConfig(peers=cfg.peers)
    drawn = drq.DrqConfig(repeats=cfg.repeats)
    runs = train.TrainBenchConfig(seeds=cfg.seeds)
    on_policy = ppo.PpoConfig(repeats=cfg.repeats, peers=cfg.peers)
    steered = governor.GovernorConfig()
    if cfg.smoke:
        on_cpu, sac, runs = physics.smoke(on_cpu), learner.smoke(), train.smoke()
        splats, on_policy = render.smoke(splats), ppo.smoke()
        seen, drawn = pixels.smoke(seen), drq.smoke()
        steered = governor.smoke(steered)
    return {
        "physics": lambda recorder: physics.run(on_cpu, recorder),
        "learner": lambda recorder: learner.run(sac, recorder),
        "render": lambda recorder: render.run(splats, recorder),
        "pixels": lambda recorder: pixels.run(seen, recorder),
        "drq": lambda recorder: drq.run(drawn, recorder),
        "train": lambda recorder: train.run(runs, recorder),
        "ppo": lambda recorder: ppo.run(on_policy, recorder),
        "governor": lambda recorder: governor.run(steered, recorder),
    }


def main() -> None:
    """Parse, ask every question, write the table after each result."""
    cfg = read_options(HarnessConfig, __doc__)
    for name, ask in questions(cfg).items():
        if name not in cfg.only:
            continue
        say(name)
        recorder = Recorder(name, keep=None if cfg.smoke else finish)
        try:
            ask(recorder)
        except Exception as error:  # one broken question must not cost the others
            recorder.missing(name, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
