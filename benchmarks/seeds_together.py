"""What is gained by training seeds together, and do they come to the same?

    python -m benchmarks.seeds_together            python -m benchmarks.seeds_together --only rates

`rates`: updates per second of all seeds of a preset while they are trained, beside those of one
seed, and processor time of each update; the ways take turns. `sweeps`: wall and processor time of
whole `train.py` processes, one after another and `--together`, starting up and evaluating included,
and whether each seed came to the same; half of the processes run before the other way and half
after it. `resumed`: seeds together are interrupted and resumed, and each one's rows are compared
with the undisturbed ones'.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.compare import Group
from benchmarks.options import read_options
from benchmarks.process import ROOT
from benchmarks.results import Ratio, Recorder, measure_load, say
from benchmarks.table import finish
from benchmarks.train import SMOKE_ARGS, last_line
from scenes.contract.ranges import ranged

Part = Literal["rates", "sweeps", "resumed"]
GOAL = 2.0  # times the throughput of processes one after another, issue 16
WORKER = "benchmarks.workers.together"
ALONE, CORES, ONE_CALL = "one seed", "together, on cores", "together, in one call"
NO_TIMES = ("elapsed_s",)  # of a row of metrics.jsonl, what depends on the clock


@dataclass(frozen=True, kw_only=True)
class SeedsTogetherConfig:
    """What to measure.

    Attributes:
        only: parts.
        preset: of `mjx_serl/experiments.py`.
        seeds: how many.
        repeats: interleaved rounds of the rates.
        seconds: of a repetition, at least one epoch of all seeds [s].
        steps_per_epoch: vector steps of an epoch in the rates.
        timed: of the processes one after another are timed, and their sum is taken for all; 0 times
            all.
        env_steps: of each run of the sweeps.
        interrupt: env steps of the slowest seed after which they are interrupted.
        kill: interrupt with SIGKILL.
        smoke: sizes that only show that everything runs.
        save: file the results and rewrite RESULTS.md.
    """

    only: tuple[Part, ...] = get_args(Part)
    preset: str = "laptop"
    seeds: int = ranged(8, least=2)
    repeats: int = ranged(5, least=1)
    seconds: float = ranged(1.0, above=0)
    steps_per_epoch: int = ranged(5, least=1)
    timed: int = ranged(0, least=0)
    env_steps: int = ranged(4000, least=1)
    interrupt: int = ranged(1200, least=1)
    kill: bool = False
    smoke: bool = False
    save: bool = False


def run(cfg: SeedsTogetherConfig, recorder: Recorder) -> None:
    """Measure and record the parts that are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "together"
        if "sweeps" in cfg.only:
            sweeps(cfg, recorder, Path(folder))
        if "resumed" in cfg.only:
            if not together.exists():
                _train(cfg, [*_seeds(cfg), "--together"], together)
            resumed(cfg, recorder, together, Path(folder) / "interrupted")
    if "rates" in cfg.only:
        rates(cfg, recorder)


def rates(cfg: SeedsTogetherConfig, recorder: Recorder) -> None:
    """Updates per second in training, of one seed and of all by each way."""
    common = {
        "preset": cfg.preset,
        "of": cfg.seeds,
        "steps_per_epoch": cfg.steps_per_epoch,
        "seconds": cfg.seconds,
    }
    ways = {ALONE: ("cores", 1), CORES: ("cores", cfg.seeds), ONE_CALL: ("one_call", cfg.seeds)}
    with Group() as group:
        for name, (how, seeds) in ways.items():
            group.start(name, WORKER, {**common, "how": how, "seeds": seeds})
        samples = group.measure(cfg.repeats, repeat_timeout=600.0)
        for name in samples.rates:
            ratio = None if name == ALONE else samples.ratio(name, ALONE, goal=GOAL)
            row = f"{cfg.preset}: {name}"
            last = group.workers[name].last
            # What it takes where others take cores away.
            cpu_ms = 1e3 * last["busy_cores"] / last["value"]
            params = group.facts(name) | {"cpu_ms_per_update": cpu_ms}
            group.record(
                recorder, samples, name, "updates/s", label=row, ratio=ratio, params=params
            )
        group.record_failures(recorder)


def sweeps(cfg: SeedsTogetherConfig, recorder: Recorder, folder: Path) -> None:
    """Whole processes: wall and processor time, and what the seeds came to."""
    load, timed = measure_load(), cfg.timed or cfg.seeds
    half = timed // 2
    alone = [_train_alone(cfg, seed, folder / "alone") for seed in range(half)]
    together = _train(cfg, [*_seeds(cfg), "--together"], folder / "together")
    alone += [_train_alone(cfg, seed, folder / "alone") for seed in range(half, timed)]
    params = {"preset": cfg.preset, "seeds": cfg.seeds, "timed": timed, "env_steps": cfg.env_steps}
    for place, unit in enumerate(("s", "CPU s")):
        each, whole = [took[place] for took in alone], together[place]
        after = sum(each) / timed * cfg.seeds
        name = f"{cfg.preset}, {cfg.seeds} seeds of {cfg.env_steps} env steps"
        recorder.add(f"{name}, one after another", after, unit, params, load=load)
        gain = after / whole  # the inverse of the row's own: how many times as fast
        goal = GOAL if unit == "s" else None
        ratio = Ratio(to="one after another", value=gain, low=gain, high=gain, rounds=1, goal=goal)
        recorder.add(f"{name}, together", whole, unit, params, load=load, ratio=ratio)
    _record_same(recorder, cfg, "as alone", folder / "alone", folder / "together", seeds=timed)


def resumed(cfg: SeedsTogetherConfig, recorder: Recorder, whole: Path, folder: Path) -> None:
    """Interrupt seeds that are trained together, resume them, and compare with undisturbed ones."""
    words = [*_options(cfg), *_seeds(cfg), "--together", *_kept(folder)]
    with (folder.parent / "interrupted.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], stdout=log, stderr=log
        )
        while process.poll() is None and _least_steps(folder, cfg.seeds) < cfg.interrupt:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL if cfg.kill else signal.SIGINT)
        process.wait()
    reached = _least_steps(folder, cfg.seeds)
    say(f"interrupted after {reached} env steps of the slowest seed")
    _run([f"--resume={folder}"])
    how = "killed" if cfg.kill else "interrupted"
    _record_same(
        recorder, cfg, f"{how} and resumed", whole, folder, seeds=cfg.seeds, reached=reached
    )


def _record_same(
    recorder: Recorder,
    cfg: SeedsTogetherConfig,
    what: str,
    one: Path,
    other: Path,
    *,
    seeds: int,
    **more: Any,
) -> None:
    """How many seeds have the same rows, but for their times, in two folders."""
    pairs = [(_rows(one, seed), _rows(other, seed)) for seed in range(seeds)]
    success = [rows[-1]["success_rate"] for _, rows in pairs]
    params = {"seeds": seeds, "env_steps": cfg.env_steps, "success": success, **more}
    same = sum(mine == theirs for mine, theirs in pairs)
    name = f"{cfg.preset}, together: seeds that are the same {what}"
    recorder.add(name, same, f"of {seeds}", params)


def _rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    lines = (folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return [{k: v for k, v in row.items() if k not in NO_TIMES} for row in rows]


def _least_steps(folder: Path, seeds: int) -> int:
    """Env steps of the slowest seed."""
    files = [folder / f"seed-{seed}" / "metrics.jsonl" for seed in range(seeds)]
    lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
    return min(json.loads(last[-1])["env_steps"] if last else 0 for last in lines)


def _options(cfg: SeedsTogetherConfig) -> list[str]:
    # The stop rule off: every run is of the same length.
    small = SMOKE_ARGS if cfg.smoke else ()
    length = f"--total-env-steps={cfg.env_steps}"
    return [f"--preset={cfg.preset}", *small, length, "--stop-at=2"]


def _seeds(cfg: SeedsTogetherConfig) -> list[str]:
    return ["--seeds", f"0..{cfg.seeds - 1}"]


def _kept(folder: Path) -> list[str]:
    return [f"--run.folder={folder.parent}", f"--run.name={folder.name}"]


def _train_alone(cfg: SeedsTogetherConfig, seed: int, folder: Path) -> tuple[float, float]:
    return _train(cfg, [f"--seed={seed}"], folder / f"seed-{seed}")


def _train(cfg: SeedsTogetherConfig, words: Sequence[str], folder: Path) -> tuple[float, float]:
    say(f"training {' '.join(words)}")
    return _run([*_options(cfg), *words, *_kept(folder)])


def _run(words: Sequence[str]) -> tuple[float, float]:
    """Wall and processor time of a process of train.py that ends well [s]."""
    begun, before = time.monotonic(), _children()
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"train.py ended with {done.returncode}: {last_line(done.stderr)}")
    return time.monotonic() - begun, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def smoke() -> SeedsTogetherConfig:
    """Return sizes that only show that it runs."""
    return SeedsTogetherConfig(
        only=("sweeps", "resumed"), seeds=2, env_steps=160, interrupt=40, smoke=True
    )


def main() -> None:
    """Parse, measure, print."""
    cfg = read_options(SeedsTogetherConfig, __doc__)
    cfg = smoke() if cfg.smoke else cfg
    run(cfg, Recorder("seeds_together", keep=finish if cfg.save else None))


if __name__ == "__main__":
    main()
