"""Train an image encoder on what the simulator knows, on pictures that vary in appearance.

The targets are the task's privileged observations, for example where the cube is. Frozen, the
encoder turns pictures into features when they are collected, and the learner never sees a pixel.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from mjx_serl.envs.observation import Observer, require_plain_pictures
from mjx_serl.envs.vector import vectorize
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.frozen import Reader, ReaderSpec
from mjx_serl.pretraining.fit import Fit, Init, make_fit
from mjx_serl.training.collect import demonstrate, rollout
from mjx_serl.training.policies import random_policy
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.language import INSTRUCTION
from scenes.contract.ranges import ranged

# Noise on the expert's steps [m]: from its own track to one that mostly wanders.
NOISES = (0.0075, 0.03, 0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How much data and how long.

    Attributes:
        rounds: of data; each plays `episodes` episodes of the expert at every noise level and as
            many of random actions.
        episodes: worlds side by side.
        updates: optimiser steps.
        every: steps between two that are kept: with more, as much memory holds more episodes.
        batch_size: pictures of each camera per update.
        lr: Adam's step size, which falls to zero along a cosine [1/update].
        encoder: of each camera.
        hidden: width of the joint features [units].
    """

    rounds: int = ranged(6, least=1)
    episodes: int = ranged(64, least=1)
    updates: int = ranged(10_000, least=1)
    every: int = ranged(1, least=1)
    batch_size: int = ranged(128, least=1)
    lr: float = ranged(1e-3, above=0)
    encoder: EncoderConfig = dataclasses.field(
        default_factory=lambda: EncoderConfig(name="medium", features=64)
    )
    hidden: int = ranged(64, least=1)


@struct.dataclass
class Examples:
    """What a reader learns from.

    Attributes:
        pictures: of every camera by name.
        targets: what there was to know, in units of the targets' scales.
        words: what the worlds were told; None where they are told nothing.
    """

    pictures: dict[str, UInt8[Array, "M H W 3"]]
    targets: Float[Array, "M T"]
    words: Int[Array, "M L"] | None = None


def reader_spec(config: PretrainConfig, observer: Observer) -> ReaderSpec:
    """Return the reader of an observer's cameras; ValueError where there is nothing to learn."""
    fields = [field for field in observer.env.obs_spec.fields if field.privileged]
    if observer.cameras is None or not fields:
        raise InputError("pretraining needs cameras and a task with privileged observations")
    require_plain_pictures(observer)
    return ReaderSpec(
        cameras=tuple(sorted(observer.cameras.config.cameras)),
        size=observer.cameras.config.size,
        encoder=config.encoder,
        hidden=config.hidden,
        targets=tuple((f.name, f.shape[0], f.scale) for f in fields),
    )


def collect_rounds(
    config: PretrainConfig, spec: ReaderSpec, observer: Observer, key: PRNGKey
) -> Iterator[Examples]:
    """Yield `rounds` times the examples of all ways to act.

    Args:
        config: see there.
        spec: from `reader_spec`.
        observer: with `PixelConfig.privileged`, so that its observations hold the targets.
        key: draws starts, looks and actions.
    """
    wander = vectorize(observer, num_envs=config.episodes, pool_size=config.episodes)
    steps = observer.env.task.episode_steps
    policy = random_policy(observer.env.action_dim)

    @jax.jit
    def play(key: PRNGKey) -> Examples:
        parts = []
        for i, noise in enumerate(NOISES):
            k = jax.random.fold_in(key, i)
            parts.append(demonstrate(observer, k, episodes=config.episodes, noise=noise)[0].obs)
        k_start, k_run = jax.random.split(jax.random.fold_in(key, len(NOISES)))
        parts.append(rollout(wander, policy, wander.reset(k_start), k_run, steps)[1].obs)
        kept = [jax.tree.map(lambda x: x[:: config.every], obs) for obs in parts]
        joined = [_examples(spec, obs) for obs in kept]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *joined)

    for i in range(config.rounds):
        yield play(jax.random.fold_in(key, i))


def _examples(spec: ReaderSpec, obs: Obs) -> Examples:
    """Return examples from observations [T, N, ...]."""
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in obs.items()}
    return Examples(
        pictures={camera: flat[camera] for camera in spec.cameras},
        targets=jnp.concatenate([flat[name] / scale for name, _, scale in spec.targets], axis=-1),
        words=flat.get(INSTRUCTION),
    )


def reader_fit(config: PretrainConfig, spec: ReaderSpec) -> tuple[Init, Fit]:
    """Return what `make_fit` does, for a reader of `Examples`."""
    reader = Reader(spec)
    schedule = optax.cosine_decay_schedule(config.lr, config.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def init(key: PRNGKey) -> PyTree:
        shape = (1, spec.size, spec.size, 3)
        return reader.init(key, {c: jnp.zeros(shape, jnp.uint8) for c in spec.cameras})

    def loss(params: PyTree, batch: Examples, key: PRNGKey) -> Float[Array, ""]:
        del key
        _, found = cast(tuple[Array, Array], reader.apply(params, batch.pictures))
        # Beyond 2 % of the scale linear, so that what is hidden does not outweigh what is seen.
        return optax.huber_loss(found, batch.targets, delta=0.02).mean()

    def draw(key: PRNGKey, examples: Examples, steps: int) -> Int[Array, "steps B"]:
        count = examples.targets.shape[0]
        return jax.random.randint(key, (steps, config.batch_size), 0, count)

    return make_fit(init, loss, optimizer, draw)


def estimate(spec: ReaderSpec, params: PyTree, examples: Examples) -> Float[Array, "M T"]:
    """Return what a reader tells, in units of the targets' scales."""
    return spec.apply(params, examples.pictures)[:, spec.hidden :]


def errors(
    spec: ReaderSpec, tell: Callable[[Examples], Float[Array, "M T"]], examples: Examples
) -> dict[str, Float[Array, " M"]]:
    """Return the distance between estimate and truth of each target, in the target's own unit."""
    found, start = [], 0
    for first in range(0, examples.targets.shape[0], 512):
        found.append(tell(jax.tree.map(lambda x, i=first: x[i : i + 512], examples)))
    missed = jnp.concatenate(found) - examples.targets
    result = {}
    for name, length, scale in spec.targets:
        result[name] = scale * jnp.linalg.norm(missed[:, start : start + length], axis=-1)
        start += length
    return result
