"""Do many devices learn what one learns, exchanging gradients and no more? On a CPU that is many.

    python -m benchmarks.devices
    python -m benchmarks.devices --parts collectives --presets laptop ppo pixels

Rows are filed once they are there, so that a stopped run goes on where it was; `--again` measures
anew. "collectives" counts what a compiled epoch exchanges and predicts what that costs on GPUs;
"methods" trains an epoch of every kind of learner and looks whether devices have come apart;
"statistics" compares losses over seeds with one device's; "exact" repeats and resumes runs, also on
fewer devices; "starts" starts training again and again, for devices that wait for each other for
ever; "training" is whole runs. Virtual devices share the cores, so no rate here is one of devices.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.exchange import predicted
from benchmarks.process import ROOT
from benchmarks.results import Recorder, say
from benchmarks.resumable import ask_worker, go_on, is_wanted, require_known
from benchmarks.train import last_line
from benchmarks.training_run import TrainingRun
from benchmarks.workers.platform import prepare
from scenes.contract.ranges import MOST_SEED, ranged

QUESTION = "devices"
Part = Literal["collectives", "methods", "statistics", "exact", "starts", "training"]
WORKER = "benchmarks.workers.devices"
COMPARED = ("learner/critic_loss", "learner/q", "learner/actor_loss", "learner/entropy")
CHANCE = 0.05  # of a difference in any of what is compared where there is none


@dataclass(frozen=True, kw_only=True)
class DevicesConfig:
    """What to measure.

    Attributes:
        parts: of the question.
        presets: whose epochs are compiled for "collectives", and trained for "methods".
        compiled: presets for "collectives" alone.
        among: devices that an epoch is compiled for there.
        devices: numbers of them in all other parts, beside one.
        seeds: of "statistics", on each number of devices.
        epochs: of each of its runs, the first of which is left out; and of the halves of "exact".
        starts: of train.py.
        train_seeds: whole runs on each number of devices.
        minutes: of two cores for one of them [min].
        timeout: seconds for what is not training [s].
        again: measure once more what is filed already.
        folder: where runs are kept.
    """

    parts: tuple[Part, ...] = get_args(Part)
    presets: tuple[str, ...] = (
        *("laptop", "ppo", "pixels", "pixels_frozen", "qc", "hybrid_laptop"),
        *("bc", "hg_dagger", "vice", "reset_free"),
    )
    compiled: tuple[str, ...] = ("fast",)
    among: int = ranged(8, least=2)
    devices: tuple[int, ...] = ranged((2, 4), least=2, filled=True)
    seeds: tuple[int, ...] = ranged(tuple(range(8)), least=0, most=MOST_SEED, filled=True)
    epochs: int = ranged(5, least=2)
    starts: int = ranged(20, least=1)
    train_seeds: tuple[int, ...] = ranged((0,), least=0, most=MOST_SEED, filled=True)
    minutes: float = ranged(10.0, above=0)
    timeout: float = ranged(1800.0, above=0)
    again: bool = False
    folder: Path = Path("runs/devices")


def run(cfg: DevicesConfig, recorder: Recorder) -> None:
    """Measure what has no row yet; with `again`, all that is asked for."""
    prepare()
    from mjx_serl.experiments import PRESETS

    require_known("preset", (*cfg.presets, *cfg.compiled), PRESETS)
    for part in cfg.parts:
        _PARTS[part](cfg, recorder)


def _ask(cfg: DevicesConfig, recorder: Recorder, name: str, **params: Any) -> dict[str, Any] | None:
    """What a process with so many devices says; None where it did not, which is filed."""
    return ask_worker(recorder, WORKER, name, cfg.timeout, params)


# -- collectives ---------------------------------------------------------------------------------


def _collectives(cfg: DevicesConfig, recorder: Recorder) -> None:
    for preset in (*cfg.presets, *cfg.compiled):
        name = f"{preset}, {cfg.among} devices: exchanged per update"
        if not is_wanted(recorder, name, again=cfg.again):
            continue
        found = _ask(cfg, recorder, name, ask="collectives", preset=preset, devices=cfg.among)
        if found is None:
            continue
        params = summary(found)
        times, size = params["all_reduces_per_update"], params["bytes_per_update"]
        params["predicted"] = predicted(times, size)
        recorder.add(name, params["bytes_per_update"], "bytes", params)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What the exchanges of an epoch come to."""
    inside, updates = found["inside"], found["updates"]
    return {
        "updates_per_epoch": updates,
        "all_reduces_per_update": sum(n for _, _, n in inside) / updates,
        "bytes_per_update": sum(size * n for _, size, n in inside) / updates,
        "kinds_inside": sorted({kind for kind, _, _ in inside}),
        "sizes_inside": sorted({size for _, size, _ in inside}),
        "outside_per_epoch": len(found["outside"]),
        "bytes_outside": sum(size for _, size in found["outside"]),
    }


# -- what they learn -----------------------------------------------------------------------------


def _methods(cfg: DevicesConfig, recorder: Recorder) -> None:
    few = min(cfg.devices)
    for preset in cfg.presets:
        name = f"{preset}, {few} devices: numbers that differ between them after an epoch"
        if not is_wanted(recorder, name, again=cfg.again):
            continue
        found = _ask(cfg, recorder, name, ask="same", preset=preset, devices=few)
        if found is not None:
            recorder.add(name, float(len(found["torn"])), "leaves", found)


def _statistics(cfg: DevicesConfig, recorder: Recorder) -> None:
    names = {n: f"laptop, {n} devices: losses like one device's" for n in cfg.devices}
    wanted = [n for n, name in names.items() if is_wanted(recorder, name, again=cfg.again)]
    if not wanted:
        return
    ask = {"ask": "statistics", "preset": "laptop", "metrics": list(COMPARED)}
    ask |= {"seeds": list(cfg.seeds), "epochs": cfg.epochs}
    one = _ask(cfg, recorder, names[wanted[0]], devices=1, **ask)
    if one is None:
        return
    for n in wanted:
        many = _ask(cfg, recorder, names[n], devices=n, **ask)
        if many is None:
            continue
        found = compared(one["metrics"], many["metrics"])
        limit = CHANCE / (len(COMPARED) * len(cfg.devices))
        params = {"metrics": found, "limit": limit, "seeds": list(cfg.seeds), "epochs": cfg.epochs}
        params["test"] = "exact permutation test of the seeds' means, Bonferroni"
        recorder.add(names[n], min(row["p"] for row in found.values()), "least p", params)


def compared(
    one: dict[str, list[list[float]]], many: dict[str, list[list[float]]]
) -> dict[str, dict[str, float]]:
    """Means over seeds of a metric after the first epoch, and how likely so great a difference is.

    The metric of a seed is its mean over the epochs after the first.
    """
    found = {}
    for name in one:
        a, b = (np.mean(np.asarray(rows[name])[:, 1:], axis=1) for rows in (one, many))
        found[name] = {"one": float(a.mean()), "many": float(b.mean()), "p": p_value(a, b)}
    return found


def p_value(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Share of all ways to divide both samples in which their means differ as much or more."""
    every, size = np.concatenate([a, b]), len(a)
    picks = np.array(list(itertools.combinations(range(len(every)), size)))
    first = every[picks].sum(1)
    differ = np.abs(first / size - (every.sum() - first) / (len(every) - size))
    seen = abs(float(np.mean(a)) - float(np.mean(b)))
    return float(np.mean(differ >= seen * (1 - 1e-9)))


def _exact(cfg: DevicesConfig, recorder: Recorder) -> None:
    most = max(cfg.devices)
    for n in cfg.devices:
        name = f"laptop, {n} devices: repeated and resumed"
        others = [1, *(m for m in cfg.devices if m < n)] if n == most else []
        if not is_wanted(recorder, name, again=cfg.again):
            continue
        with tempfile.TemporaryDirectory() as folder:
            ask = {"preset": "laptop", "folder": folder, "epochs": cfg.epochs}
            found = _ask(cfg, recorder, name, ask="exact", devices=n, **ask)
            if found is None:
                continue
            fine = [found["repeated"], found["resumed"]]
            for m in others:
                resumed = _ask(cfg, recorder, name, ask="resume", devices=m, **ask)
                if resumed is None:
                    break
                fine += [resumed["kept"] == found["kept"], resumed["goes_on"]]
            else:
                params = {"epochs": 2 * cfg.epochs, "also_resumed_on": others, "checks": fine}
                recorder.add(name, float(all(fine)), "exact", params)


def _starts(cfg: DevicesConfig, recorder: Recorder) -> None:
    name = f"laptop: {cfg.starts} starts that did not end"
    if not is_wanted(recorder, name, again=cfg.again):
        return
    hung, seconds = [], []
    for number in range(cfg.starts):
        n = cfg.devices[number % len(cfg.devices)]
        say(f"start {number + 1} of {cfg.starts}, {n} devices")
        begun = time.monotonic()
        problem = _start(n, number, cfg.timeout)
        seconds.append(round(time.monotonic() - begun, 1))
        if problem is not None:
            hung.append(f"start {number + 1}, {n} devices: {problem}")
    params = {"devices": list(cfg.devices), "seconds": seconds, "problems": hung}
    recorder.add(name, float(len(hung)), "starts", params)


def _start(devices: int, seed: int, timeout: float) -> str | None:
    """Train ten short epochs, with checks; what went wrong, None if nothing."""
    options = ["--num-envs=8", "--loop.steps-per-epoch=5", "--loop.warmup-steps=64"]
    options += ["--agent.hidden", "64", "64", "--total-env-steps=400"]
    options += ["--eval.check-episodes=16", "--eval.episodes=16", "--run.no-bundle"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--preset=laptop", f"--devices={devices}"]
        command += [f"--seed={seed}", f"--run.folder={folder}", "--run.no-tensorboard", *options]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return f"not done after {timeout:.0f} s"
    said = last_line(done.stderr.strip() or done.stdout)
    return None if done.returncode == 0 else f"exit {done.returncode}: {said}"


def _training(cfg: DevicesConfig, recorder: Recorder) -> None:
    for n, seed in itertools.product((1, *cfg.devices), cfg.train_seeds):
        name = f"laptop, {n} device{'s' if n > 1 else ''}, seed {seed}: success"
        if not is_wanted(recorder, name, again=cfg.again):
            continue
        command = ["train.py", "--preset=laptop", f"--devices={n}", f"--seed={seed}"]
        folder = cfg.folder / f"laptop-{n}-s{seed}"
        whole = TrainingRun(command=command, folder=folder, minutes=cfg.minutes)
        whole.measure(recorder, name, {"devices": n, "seed": seed, "task": "franka/pick_cube"})


_PARTS: dict[Part, Callable[[DevicesConfig, Recorder], None]] = {
    "collectives": _collectives,
    "methods": _methods,
    "statistics": _statistics,
    "exact": _exact,
    "starts": _starts,
    "training": _training,
}


if __name__ == "__main__":
    go_on(DevicesConfig, __doc__, QUESTION, run)
