"""Train and test classifiers of success: see `mjx_serl.classifier`, their command line."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro

from mjx_serl.data.demos import load_demos
from mjx_serl.data.frames import Labelled, frames_of, load_frames
from mjx_serl.envs.appearance import LookConfig
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.nets.classifier import (
    ClassifierSpec,
    RewardClassifier,
    load_classifier,
    save_classifier,
)
from mjx_serl.nets.frozen import FrozenEncoder, load_encoder
from mjx_serl.pretraining.classifier import (
    Accuracy,
    ClassifierConfig,
    Frames,
    accuracies,
    choose_threshold,
    classifier_fit,
    classifier_spec,
    classify,
    collect_frames,
    join_frames,
    require_classes,
    split_frames,
)
from mjx_serl.pretraining.fit import run_fit
from mjx_serl.pretraining.pretrain_run import say_since
from mjx_serl.training.demonstrations import demo_contract
from mjx_serl.types import PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import MOST_SEED, check_ranges, ranged

_PIXELS = PixelConfig(cameras=("front", "wrist"))
_NEAR = 5  # pictures of a demonstration before its last one that nobody can label


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainClassifier:
    """Collect frames, learn to tell success, choose a threshold, say how good it is.

    Attributes:
        out: the .npz file to write; an existing one is never overwritten.
        task: a registered task.
        seed: of data and weights.
        pixels: cameras, size and looks, as of the run that will use it.
        frames: files of labelled pictures (`mjx_serl.data.frames`) to learn from too.
        demos: files of demonstrations with pictures, whose ends are successes.
        train: data and optimiser; with `--train.episodes` of no account where there are files only
            (`--no-simulate`).
        simulate: play and label episodes in the simulator.
    """

    out: tyro.conf.Positional[Path]
    task: str = "franka/pick_cube"
    seed: int = ranged(0, least=0, most=MOST_SEED)
    pixels: PixelConfig = _PIXELS
    frames: tuple[Path, ...] = ()
    demos: tuple[Path, ...] = ()
    train: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    simulate: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestClassifier:
    """Play episodes that no classifier was trained on and say how often it is right.

    Attributes:
        file: a classifier.
        episodes: of each of the five ways to act.
        seed: picks other episodes.
        look: how much the pictures vary in appearance.
    """

    __test__ = False  # pytest takes it for one of its own

    file: tyro.conf.Positional[Path]
    episodes: int = ranged(16, least=1)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    look: LookConfig = dataclasses.field(default_factory=LookConfig)


def train(cfg: TrainClassifier) -> tuple[RewardClassifier, tuple[Accuracy, ...]]:
    """Train, measure on held-out episodes and save; also returns what was measured.

    Raises FileExistsError where the file is there; InputError for a number out of range or frames
    of which a class is missing, and what `PixelConfig.build` raises.
    """
    check_ranges(cfg)
    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists; give another name or remove it")
    if not (cfg.simulate or cfg.frames or cfg.demos):
        raise InputError("--no-simulate without --frames and --demos: there is nothing to learn")
    say = partial(say_since, time.monotonic())
    observer = cfg.pixels.build(make_env(cfg.task, max_worlds=cfg.train.episodes))
    reader = _reader(cfg)
    spec = classifier_spec(cfg.train, observer, reader)
    say(f"{cfg.task}: {' '.join(spec.cameras)} at {spec.size} px, {', '.join(spec.names)}")
    parts = split_frames(join_frames(list(_frames(cfg, spec, observer, say))), cfg.train.held_out)
    for part, what in zip(parts, ("to learn from", "to choose on", "to test on"), strict=True):
        require_classes(spec, part, f"frames {what}")
    classifier = _fit(cfg, spec, reader, parts, say)
    found = accuracies(classifier, parts[2])
    for accuracy in found:
        say(f"held-out episodes: {accuracy}")
    note = {
        "seed": cfg.seed,
        "train": dataclasses.asdict(cfg.train),
        "held_out": [dataclasses.asdict(accuracy) for accuracy in found],
    }
    save_classifier(cfg.out, classifier, note=note)
    say(f"{cfg.out}: {cfg.out.stat().st_size / 1e3:.0f} kB")
    return classifier, found


def _reader(cfg: TrainClassifier) -> FrozenEncoder | None:
    if cfg.train.frozen is None:
        return None
    return load_encoder(cfg.train.frozen, cameras=cfg.pixels.cameras, size=cfg.pixels.size)


def test(cfg: TestClassifier) -> tuple[Accuracy, ...]:
    """Return, and print, how a classifier does on fresh episodes of its task."""
    check_ranges(cfg)
    classifier, _ = load_classifier(cfg.file)
    spec = classifier.spec
    say = partial(say_since, time.monotonic())
    pixels = PixelConfig(cameras=spec.cameras, size=spec.size, look=cfg.look)
    observer = pixels.build(make_env(spec.task, max_worlds=cfg.episodes))
    # A stream of its own: training draws from the seed itself.
    key = jax.random.fold_in(jax.random.key(cfg.seed), 1)
    frames = join_frames(list(collect_frames(spec, observer, key, episodes=cfg.episodes)))
    found = accuracies(classifier, frames)
    for accuracy in found:
        say(f"{spec.task}: {accuracy}")
    return found


test.__test__ = False  # pyright: ignore


def _frames(
    cfg: TrainClassifier, spec: ClassifierSpec, observer: Observer, say: Callable[[str], None]
) -> Iterator[Frames]:
    """Frames of the simulator and of files, as they come."""
    if cfg.simulate:
        key, episodes = jax.random.key(cfg.seed), cfg.train.episodes
        for part in collect_frames(spec, observer, key, episodes=episodes):
            counts = np.bincount(part.label, minlength=len(spec.names))
            say("  ".join(f"{n} {c}" for n, c in zip(spec.names, counts, strict=True)))
            yield part
    success = len(spec.names) - 1
    for path in cfg.frames:
        found = load_frames(path, cameras=spec.cameras, size=spec.size, classes=success + 1)
        yield _of_file(path, found, say)
    for path in cfg.demos:
        rows = load_demos(path, demo_contract(observer))
        found = frames_of(rows, cameras=spec.cameras, success=success, near=_NEAR)
        yield _of_file(path, found, say)


def _of_file(path: Path, found: Labelled, say: Callable[[str], None]) -> Frames:
    pictures, label, episode = found
    say(f"{path}: {len(label)} frames of {len(np.unique(episode))} episodes")
    return Frames(pictures, label, episode)  # pyright: ignore


def _fit(
    cfg: TrainClassifier,
    spec: ClassifierSpec,
    reader: FrozenEncoder | None,
    parts: tuple[Frames, Frames, Frames],
    say: Callable[[str], None],
) -> RewardClassifier:
    """Fit on the first part, choose the thresholds on the second; the third is for neither."""
    learn, choose, _ = parts

    def report(done: int, loss: float, params: PyTree) -> None:
        say(f"{done} updates, loss {loss:.2e}")

    params = run_fit(
        *classifier_fit(cfg.train, spec, reader),
        jax.tree.map(jax.numpy.asarray, learn),
        updates=cfg.train.updates,
        key=jax.random.key(cfg.seed),
        report=report,
    )
    probability = classify(RewardClassifier(spec, params), choose)
    reached = np.asarray(spec.reached(jax.numpy.asarray(choose.label))) > 0.5
    limit = cfg.train.false_positives
    thresholds = tuple(
        choose_threshold(probability[:, k], reached[:, k], false_positives=limit)
        for k in range(len(spec.stages))
    )
    return RewardClassifier(dataclasses.replace(spec, thresholds=thresholds), params)
