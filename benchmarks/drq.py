"""How fast does DrQ learn from two cameras? Updates per second, and the encoder's share of them.

    python -m benchmarks.drq

An update is a critic, actor and temperature step on a fresh, randomly shifted batch from the
replay buffer. Passes are one encoder forward and backward on a batch of one camera, by the
convolution that is chosen on this device and by XLA's own.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Group
from benchmarks.results import Recorder, say
from benchmarks.resumable import measure_to_save
from scenes.contract.ranges import ranged

WORKER = "benchmarks.workers.encoder"


@dataclass(frozen=True, kw_only=True)
class DrqConfig:
    """What to measure.

    Attributes:
        encoders: by name.
        compute_dtypes: of the products.
        batches: images of each camera in an update.
        size: of an image [px].
        repeats: interleaved rounds.
        seconds: of each repetition.
        save: file the results and rewrite RESULTS.md.
    """

    encoders: tuple[str, ...] = ("small", "serl_small")
    compute_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    batches: tuple[int, ...] = ranged((128, 256), least=1, filled=True)
    size: int = ranged(64, least=1, most=4096)
    repeats: int = ranged(3, least=1)
    seconds: float = ranged(1.0, above=0)
    save: bool = False


def run(cfg: DrqConfig, recorder: Recorder) -> None:
    """Measure and record each encoder in comparisons of its own."""
    for encoder in cfg.encoders:
        say(f"drq: {encoder}")
        common = {"encoder": encoder, "size": cfg.size, "seconds": cfg.seconds}
        _side_by_side(cfg, recorder, _passes(cfg, common), "passes/s")
        _side_by_side(cfg, recorder, _updates(cfg, common), "updates/s")


def _passes(cfg: DrqConfig, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    batch = max(cfg.batches)
    return {
        f"{common['encoder']}: pass of {batch}, {dtype}, {convolution} convolution": {
            **common,
            "what": "passes",
            "batch": batch,
            "compute_dtype": dtype,
            "convolution": convolution,
        }
        for dtype, convolution in itertools.product(cfg.compute_dtypes, ("chosen", "library"))
    }


def _updates(cfg: DrqConfig, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{common['encoder']}: update of {batch}, {dtype}": {
            **common,
            "what": "updates",
            "batch": batch,
            "compute_dtype": dtype,
        }
        for dtype, batch in itertools.product(cfg.compute_dtypes, cfg.batches)
    }


def _side_by_side(
    cfg: DrqConfig, recorder: Recorder, workers: dict[str, dict[str, Any]], unit: str
) -> None:
    with Group() as group:
        for name, params in workers.items():
            group.start(name, WORKER, params)
        samples = group.measure(cfg.repeats)
        for name in samples.rates:
            library = name.replace("chosen", "library")
            ratio = samples.ratio(name, library) if library != name else None
            group.record(recorder, samples, name, unit, ratio=ratio)
        group.record_failures(recorder)


def smoke() -> DrqConfig:
    """Return sizes that only show that it runs."""
    return DrqConfig(
        encoders=("small",),
        compute_dtypes=("float32",),
        batches=(8,),
        size=32,
        repeats=1,
        seconds=0.02,
    )


if __name__ == "__main__":
    measure_to_save(DrqConfig, __doc__, "drq", run)
