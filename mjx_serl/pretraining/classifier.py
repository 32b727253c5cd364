"""Train a classifier of success on pictures whose labels the simulator, or a file, knows.

Frames are of whole episodes: of the scripted expert at several levels of noise, of one that is led
astray now and then, and of random motion. Every state is drawn and labelled, also the one in which
an episode ends and those after it: the simulator goes on.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import Observer, require_plain_pictures
from mjx_serl.envs.task import expert_noise
from mjx_serl.nets.augment import crop_images
from mjx_serl.nets.classifier import ClassifierSpec, Kind, RewardClassifier, SuccessNet
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.frozen import FrozenEncoder, ReaderSpec
from mjx_serl.pretraining.fit import Fit, Init, make_fit
from mjx_serl.training.collect import noisy_expert
from mjx_serl.training.episodes import Act, EpisodeStep, episode_keys, play_episodes
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged

# Ways to act: noise in multiples of what the expert copes with, and the share of the time that
# random motion takes its place.
WAYS = ((1.0, 0.0), (4.0, 0.0), (13.0, 0.0), (1.0, 0.5), (1.0, 1.0))
HOLD = 10  # steps that a random action is held for, so that the hand gets somewhere
MOST_CERTAIN = 0.999  # no threshold above it: nothing would pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """How much data, and how it is learned from.

    Attributes:
        kind: "binary" tells success from the rest; "n_way" tells the stages of a task apart, of
            which the last is success; "stages" tells of each stage whether it is reached.
        episodes: of each of the five ways to act.
        updates: optimiser steps, in whole 250s.
        batch_size: pictures of each camera per update; every class has the same share.
        lr: Adam's step size; SERL's [1/update].
        crop: random shift of the pictures while learning, at most [px].
        encoder: of each camera, where none is frozen.
        frozen: name or file of a trained encoder whose features are used; None trains one.
        hidden: width of the head [units].
        held_out: share of the episodes that are not learned from; one half of them chooses the
            threshold, the other tells the accuracy.
        false_positives: share of the held-out frames without success that may pass the threshold,
            which is the smallest such and at least 0.5. A policy finds what pays by mistake, and
            one false frame ends an episode, so it is kept small at the price of late successes.
    """

    kind: Kind = "binary"
    episodes: int = ranged(32, least=4)
    updates: int = ranged(2000, least=250)
    batch_size: int = ranged(256, least=2)
    lr: float = ranged(1e-4, above=0)
    crop: int = ranged(4, least=0)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    frozen: str | None = None
    hidden: int = ranged(256, least=1)
    held_out: float = ranged(0.3, above=0, below=1)
    false_positives: float = ranged(0.001, least=0, below=1)


@struct.dataclass
class Frames:
    """Labelled pictures.

    Attributes:
        pictures: of every camera by name.
        label: class of each, 0 to len(names) - 1; the last is success.
        episode: that each is from.
    """

    pictures: dict[str, UInt8[Array, "M H W 3"]]
    label: Int[Array, " M"]
    episode: Int[Array, " M"]


def classifier_spec(
    config: ClassifierConfig, observer: Observer, reader: FrozenEncoder | None
) -> ClassifierSpec:
    """Return what is to be trained; InputError where the task or its cameras do not allow it."""
    env, cameras = observer.env, observer.cameras
    if cameras is None:
        raise InputError("a classifier needs cameras, for example --pixels.cameras front wrist")
    require_plain_pictures(observer)
    frozen = None if reader is None else reader.spec
    if frozen is not None and not isinstance(frozen, ReaderSpec):
        raise InputError(
            f"--train.frozen {config.frozen}: a classifier's file holds the encoder, and of those "
            "only ours; allowed: pick_cube, or a file of python -m mjx_serl.pretraining"
        )
    return ClassifierSpec(
        task=env.name,
        kind=config.kind,
        names=("none", *_stage_names(config.kind, env)),
        cameras=tuple(sorted(cameras.config.cameras)),
        size=cameras.config.size,
        encoder=config.encoder,
        frozen=frozen,
        hidden=config.hidden,
    )


def _stage_names(kind: Kind, env: Env) -> tuple[str, ...]:
    if kind == "binary":
        return ("success",)
    names = getattr(env.task, "stage_names", ())
    if not names:
        raise InputError(
            f"--train.kind {kind} with '{env.name}', which has no stages; allowed: binary, or a "
            "task with `stages`, for example franka/pick_cube"
        )
    return names


# -- frames --------------------------------------------------------------------------------------


def collect_frames(
    spec: ClassifierSpec, observer: Observer, key: PRNGKey, *, episodes: int
) -> Iterator[Frames]:
    """Yield the frames of each way to act, as numpy; its episodes are numbered from 0.

    Args:
        spec: what is to be told.
        observer: whose pictures are drawn, without an encoder or a judge.
        key: draws starts, looks and actions.
        episodes: of each way.
    """
    env = observer.env
    own = expert_noise(env.task)

    def play(key: PRNGKey, noise: Array, astray: Array) -> tuple[Frames, Bool[Array, " M"]]:
        act = _led_astray(env, noise, astray, jax.random.fold_in(key, 7))
        # One step more than an episode has: the picture of the state that the limit ends it in.
        keys = episode_keys(key, episodes=episodes, steps=env.task.episode_steps + 1)

        def keep(step: EpisodeStep) -> tuple[Frames, Bool[Array, " N"]]:
            seen = {camera: step.pictures[camera] for camera in spec.cameras}
            label = _label(spec, env, step.before)
            return Frames(seen, label, jnp.arange(episodes)), step.before.valid

        rows = play_episodes(observer, act, keys, keep=keep)[1]
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    run = jax.jit(play) if observer.traceable else play
    for i, (times, astray) in enumerate(WAYS):
        frames, valid = run(
            jax.random.fold_in(key, i), jnp.float32(times * own), jnp.float32(astray)
        )
        good = np.asarray(valid)
        yield jax.tree.map(lambda x, good=good: np.asarray(x)[good], frames)


def _led_astray(env: Env, noise: Array, astray: Array, k_astray: PRNGKey) -> Act:
    """The expert, with random actions held in its place for a share of the time."""
    expert = noisy_expert(env, noise)

    def act(worlds: EnvState, pictures: Obs, key: PRNGKey) -> Float[Array, "N A"]:
        chosen = expert(worlds, pictures, key)
        k_held, k_who = jax.random.split(jax.random.fold_in(k_astray, worlds.t[0] // HOLD))
        held = jax.random.uniform(k_held, chosen.shape, minval=-1.0)
        wanders = jax.random.bernoulli(k_who, astray, (chosen.shape[0], 1))
        return jnp.where(wanders, held, chosen)

    return act


def _label(spec: ClassifierSpec, env: Env, worlds: EnvState) -> Int[Array, " N"]:
    """The class of worlds: how many stages they are in, each with all before it."""
    if spec.kind == "binary":
        return worlds.success.astype(jnp.int32)
    task: Any = env.task
    stages = jax.vmap(task.stages)(worlds.sim, worlds.command, worlds.task_state)
    return jnp.cumprod(stages, axis=1, dtype=jnp.int32).sum(1)


def join_frames(parts: Sequence[Frames]) -> Frames:
    """Return the frames of all parts, whose episodes are numbered on."""
    done, shifted = 0, []
    for part in parts:
        episode = np.asarray(part.episode)
        shifted.append(part.replace(episode=episode + done))
        done += int(episode.max(initial=-1)) + 1
    return jax.tree.map(lambda *xs: np.concatenate(xs), *shifted)


def split_frames(frames: Frames, held_out: float) -> tuple[Frames, Frames, Frames]:
    """Return frames to learn from, to choose a threshold on and to test on: whole episodes each.

    Every k-th episode is held out, and of those every other tests, so that all ways to act have
    their share in each.
    """
    names, number = np.unique(frames.episode, return_inverse=True)
    edges = np.floor(np.arange(len(names) + 1) * held_out)
    held = np.diff(edges) > 0
    tests = held & (np.cumsum(held) % 2 == 0)
    parts = (~held, held & ~tests, tests)
    return tuple(jax.tree.map(lambda x, p=p: x[p[number]], frames) for p in parts)


def require_classes(spec: ClassifierSpec, frames: Frames, what: str) -> None:
    """Raise InputError where a class has no frame in `what`."""
    counts = np.bincount(frames.label, minlength=len(spec.names))
    absent = [name for name, count in zip(spec.names, counts, strict=True) if count == 0]
    if absent:
        raise InputError(
            f"no frame of '{absent[0]}' among the {len(frames.label)} {what}; take more "
            "--train.episodes, or frames from files"
        )


# -- learning ------------------------------------------------------------------------------------


def classifier_fit(
    config: ClassifierConfig, spec: ClassifierSpec, reader: FrozenEncoder | None
) -> tuple[Init, Fit]:
    """Return what `make_fit` does, for a classifier of `Frames`."""
    net = SuccessNet(spec)

    def init(key: PRNGKey) -> PyTree:
        params = cast(dict, net.init(key, net.blank()))
        if reader is None:
            return params
        return {"params": {**params["params"], "reader": reader.params["params"]}}

    def loss(params: PyTree, batch: Frames, key: PRNGKey) -> Float[Array, ""]:
        k_crop, k_drop = jax.random.split(key)
        shown = crop_images(k_crop, batch.pictures, config.crop, cameras=spec.cameras)
        logits = net.apply(params, shown, train=True, rngs={"dropout": k_drop})
        return classifier_loss(spec, cast(Array, logits), batch.label)

    def draw(key: PRNGKey, frames: Frames, steps: int) -> Int[Array, "steps B"]:
        return draw_balanced(key, frames.label, (steps, config.batch_size), len(spec.names))

    return make_fit(init, loss, optax.adam(config.lr), draw)


def classifier_loss(
    spec: ClassifierSpec, logits: Float[Array, "B O"], label: Int[Array, " B"]
) -> Float[Array, ""]:
    """Cross-entropy: of the classes where there are n, else of each stage by itself."""
    if spec.kind == "n_way":
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
    return optax.sigmoid_binary_cross_entropy(logits, spec.reached(label)).mean()


def draw_balanced(
    key: PRNGKey, label: Int[Array, " M"], shape: tuple[int, ...], classes: int
) -> Int[Array, "..."]:
    """Draw frames with replacement, every class as likely; each must have one."""
    order, counts = jnp.argsort(label), jnp.bincount(label, length=classes)
    first = jnp.cumsum(counts) - counts
    k_class, k_frame = jax.random.split(key)
    drawn = jax.random.randint(k_class, shape, 0, classes)
    within = jax.random.randint(k_frame, shape, 0, counts[drawn])
    return order[first[drawn] + within]


# -- judging it ----------------------------------------------------------------------------------


def classify(classifier: RewardClassifier, frames: Frames) -> np.ndarray:
    """Return the probability of each stage [M, K]."""
    found = []
    for start in range(0, len(frames.label), 512):
        part = {name: jnp.asarray(x[start : start + 512]) for name, x in frames.pictures.items()}
        found.append(np.asarray(classifier(part)))
    return np.concatenate(found)


def choose_threshold(
    probability: np.ndarray, reached: np.ndarray, *, false_positives: float
) -> float:
    """Return the smallest threshold, at least 0.5, that few enough frames pass by mistake.

    Args:
        probability: of a stage [M].
        reached: whether it is [M].
        false_positives: share of the frames without it that may pass.
    """
    wrong = np.sort(probability[~reached])[::-1]
    allowed = int(false_positives * len(wrong))
    least = wrong[allowed] if len(wrong) > allowed else 0.0
    return min(max(float(np.nextafter(np.float32(least), np.float32(1))), 0.5), MOST_CERTAIN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How a classifier does on frames, for one stage at its threshold.

    Attributes:
        stage: its name.
        threshold: probability from which it counts.
        frames: judged.
        correct: share of them [1].
        recognised: share of those in which it is reached that pass [1].
        mistaken: share of the others that pass [1].
    """

    stage: str
    threshold: float
    frames: int
    correct: float
    recognised: float
    mistaken: float

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.correct:.2%} of {self.frames} frames right, "
            f"{self.recognised:.1%} of its own recognised, {self.mistaken:.2%} of the others "
            f"mistaken for it "
            f"(threshold {self.threshold:.3f})"
        )


def accuracies(classifier: RewardClassifier, frames: Frames) -> tuple[Accuracy, ...]:
    """Judge frames, stage by stage."""
    spec, probability = classifier.spec, classify(classifier, frames)
    reached = np.asarray(spec.reached(jnp.asarray(frames.label))) > 0.5
    found = []
    for k, (stage, threshold) in enumerate(zip(spec.stages, spec.thresholds, strict=True)):
        passed, true = probability[:, k] >= threshold, reached[:, k]
        found.append(
            Accuracy(
                stage=stage,
                threshold=threshold,
                frames=len(true),
                correct=float(np.mean(passed == true)),
                recognised=float(np.mean(passed[true])) if true.any() else 0.0,
                mistaken=float(np.mean(passed[~true])) if (~true).any() else 0.0,
            )
        )
    return tuple(found)
