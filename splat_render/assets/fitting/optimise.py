"""Splats by gradient: they are moved, shaped and coloured until they look like photographs.

Every step draws one photograph, at its own size or coarser so that the splats stay opaque from
afar, before a wall of some colour so that the outline counts as much as it will be seen, and takes
a step of Adam on all that describes a splat. From time to time those that
contribute least are moved to where the picture asks most for detail (as 3DGS-MCMC relocates, arXiv
2404.09591), which splits and prunes at a constant number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from scenes.contract.rotations import quats_to_matrices
from splat_render.assets.fitting.studio import Photos
from splat_render.backend import choose_backend
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

# Than the photograph, in turn: parts of its size. Only until moves end, for it costs 0.5 dB.
_COARSER = (1, 1, 1, 2, 1, 1, 1, 4)
_OPAQUEST = 0.98  # two in a row must not meet the renderers' transmittance stop of 1e-4
_RATES = {"means": 3e-4, "quats": 4e-3, "scales": 1.5e-2, "opacities": 3e-2, "sh": 5e-3}
_MOMENTUM, _SQUARES, _TINY = 0.9, 0.99, 1e-15  # Adam's beta 1, beta 2 and epsilon
_LAST_RATE = 0.02  # of the first
# Steps between moves, most moved at once, and in which part of all steps: later steps are too
# small to heal what a move breaks.
_EVERY, _MOVED, _UNTIL = 100, 0.05, 0.5
_FEW = 100.0  # [px] of the robot; fewer are no picture of it
_IDLE = 0.1  # of the median contribution: so little is not missed
_LOOKS = 24  # photographs that say what contributes
_SPLIT = 1.6  # how much smaller halves of a splat are than the whole


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long to fit.

    Attributes:
        steps: of Adam, one photograph each.
        degree: of the harmonics: 0 is matte, 1 follows a light at the camera, 2 has some gloss.
        seed: of the order of the photographs.
    """

    steps: int = 2000
    degree: int = 1
    seed: int = 0


@struct.dataclass
class _Free:
    """What is optimised, without bounds.

    Attributes:
        means: [m].
        quats: not normalised.
        scales: logarithms.
        opacities: logits of parts of `_OPAQUEST`.
        sh: harmonics.
    """

    means: Float[Array, "G 3"]
    quats: Float[Array, "G 4"]
    scales: Float[Array, "G 3"]
    opacities: Float[Array, " G"]
    sh: Float[Array, "G K 3"]


@struct.dataclass
class _Adam:
    """What Adam remembers.

    Attributes:
        count: of steps.
        mean: of the gradients.
        square: mean of their squares.
    """

    count: Float[Array, ""]
    mean: _Free
    square: _Free


@struct.dataclass
class _Shot:
    """One photograph in linear floats.

    Attributes:
        poses: of the bodies.
        cameras: one.
        rgb: times alpha, as it is before black.
        alpha: of the robot.
    """

    poses: BodyPoses
    cameras: CameraBatch
    rgb: Float[Array, "S S 3"]
    alpha: Float[Array, "S S"]


def fit(
    splats: GaussianSet,
    photos: Photos,
    config: FitConfig,
    *,
    log: Callable[[int, float], None] = lambda step, loss: None,
) -> GaussianSet:
    """Return as many splats that look like the photographs where these show the robot.

    Args:
        splats: to begin with; `body_id` is a row of the photographs' poses.
        photos: from many sides, before black.
        config: how long.
        log: is told the step and the mean loss since the last time.
    """
    draw = np.random.default_rng(config.seed)
    body_id = jnp.asarray(splats.body_id)
    free = _freed(splats, config.degree)
    state = _Adam(
        jnp.zeros(()), jax.tree.map(jnp.zeros_like, free), jax.tree.map(jnp.zeros_like, free)
    )
    sums, order, losses = np.zeros(len(body_id)), np.array([], int), []
    for step in range(config.steps):
        if not len(order):
            order = draw.permutation(len(photos))
        early = step < _UNTIL * config.steps
        coarser = _COARSER[step % len(_COARSER)] if early else 1
        shot, order = _shot(photos, int(order[-1]), coarser), order[:-1]
        rate = _LAST_RATE ** (step / config.steps)
        wall = jnp.asarray(draw.uniform(size=3), jnp.float32)
        free, state, loss, pull = _step(free, state, body_id, shot, wall, rate)
        sums += np.asarray(pull)
        losses.append(loss)
        if step % _EVERY == _EVERY - 1:
            log(step + 1, float(np.mean(losses)))
            losses = []
            if early:
                used = _contributions(free, body_id, photos, draw)
                free, state, body_id = _relocate(free, state, body_id, used, sums, draw)
            sums[:] = 0
    return _bound(free, body_id)


def _freed(splats: GaussianSet, degree: int) -> _Free:
    share = np.clip(np.asarray(splats.opacities) / _OPAQUEST, 0.01, 0.99)
    sh = np.zeros((len(share), (degree + 1) ** 2, 3), np.float32)
    sh[:, : splats.sh.shape[1]] = np.asarray(splats.sh)[:, : sh.shape[1]]
    return _Free(
        means=jnp.asarray(splats.means),
        quats=jnp.asarray(splats.quats),
        scales=jnp.log(jnp.asarray(splats.scales)),
        opacities=jnp.asarray(np.log(share / (1 - share)), jnp.float32),
        sh=jnp.asarray(sh),
    )


def _bound(free: _Free, body_id: Int[Array, " G"]) -> GaussianSet:
    return GaussianSet(
        means=free.means,
        quats=free.quats / jnp.linalg.norm(free.quats, axis=-1, keepdims=True),
        scales=jnp.exp(free.scales),
        opacities=_OPAQUEST * jax.nn.sigmoid(free.opacities),
        sh=free.sh,
        body_id=body_id,
    )


def _shot(photos: Photos, index: int, coarser: int) -> _Shot:
    size = photos.alpha.shape[-1] // coarser
    blocks = [
        (x[index].astype(np.float32) / 255).reshape(size, coarser, size, coarser, -1)
        for x in (photos.rgb, photos.alpha)
    ]
    rgb, alpha = (x.mean(axis=(1, 3)) for x in blocks)
    K = photos.Ks[index] * np.array([1 / coarser, 1 / coarser, 1])[:, None]
    xpos, xquat = (jnp.asarray(x[index], jnp.float32) for x in (photos.xpos, photos.xquat))
    viewmats, Ks = (jnp.asarray(x[None], jnp.float32) for x in (photos.viewmats[index], K))
    return _Shot(
        poses=BodyPoses(xpos, xquat),
        cameras=CameraBatch(viewmats, Ks),
        rgb=rgb,
        alpha=alpha[..., 0],
    )


def _drawn(free: _Free, body_id: Int[Array, " G"], shot: _Shot) -> tuple[Array, Array]:
    """Return rgb times alpha, and alpha."""
    size = shot.alpha.shape[-1]
    config = RasterConfig(width=size, height=size, rgb_dtype="float32")
    rasterize = choose_backend("auto").backend.rasterize
    frame = rasterize(_bound(free, body_id), shot.poses, shot.cameras, config)
    return frame.rgb[0], frame.alpha[0]


@jax.jit
def _step(
    free: _Free,
    state: "_Adam",
    body_id: Int[Array, " G"],
    shot: _Shot,
    wall: Float[Array, " 3"],
    rate: float,
) -> tuple[_Free, "_Adam", Float[Array, ""], Float[Array, " G"]]:
    """Return the splats after one step, the loss, and how hard each splat's place is pulled.

    The loss is the squared error, summed over the picture before a wall, by pixel of the robot: a
    photograph from nearby weighs no more than one from afar.
    """

    def loss(free: _Free) -> Float[Array, ""]:
        rgb, alpha = _drawn(free, body_id, shot)
        # A photograph cannot say how much brighter than white something is.
        off = jnp.minimum(rgb, alpha[..., None]) - shot.rgb
        off -= (alpha - shot.alpha)[..., None] * wall
        return jnp.square(off).mean(axis=-1).sum() / (shot.alpha.sum() + _FEW)

    value, grad = jax.value_and_grad(loss)(free)
    free, state = _descend(free, state, grad, rate)
    pull = jnp.linalg.norm(grad.means, axis=-1) * jnp.exp(free.scales.max(axis=-1))
    return free, state, value, pull


def _descend(free: _Free, state: _Adam, grad: _Free, rate: float) -> tuple[_Free, _Adam]:
    """Take a step of Adam (Kingma and Ba 2015); written here, for splats know no learner."""
    count = state.count + 1
    mean = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, state.mean, grad)
    square = jax.tree.map(lambda v, g: _SQUARES * v + (1 - _SQUARES) * g * g, state.square, grad)
    first, second = 1 - _MOMENTUM**count, 1 - _SQUARES**count

    def moved(x: Array, m: Array, v: Array, own: Array) -> Array:
        return x - rate * own * (m / first) / (jnp.sqrt(v / second) + _TINY)

    return jax.tree.map(
        moved, free, mean, square, _Free(**{k: jnp.asarray(v) for k, v in _RATES.items()})
    ), _Adam(count, mean, square)


@jax.jit
def _weights(free: _Free, body_id: Int[Array, " G"], shot: _Shot) -> Float[Array, " G"]:
    """Return the sum of each splat's weights over the pixels."""

    def brightness(sh: Float[Array, "G K 3"]) -> Float[Array, ""]:
        return _drawn(free.replace(sh=sh), body_id, shot)[0][..., 0].sum()

    return jax.grad(brightness)(jnp.zeros_like(free.sh).at[:, 0].set(1.0))[:, 0, 0]


def _contributions(
    free: _Free, body_id: Int[Array, " G"], photos: Photos, draw: np.random.Generator
) -> Float[np.ndarray, " G"]:
    chosen = draw.choice(len(photos), min(_LOOKS, len(photos)), replace=False)
    return np.sum([_weights(free, body_id, _shot(photos, int(i), 1)) for i in chosen], axis=0)


def _relocate(
    free: _Free,
    state: _Adam,
    body_id: Int[Array, " G"],
    used: Float[np.ndarray, " G"],
    pulls: Float[np.ndarray, " G"],
    draw: np.random.Generator,
) -> tuple[_Free, _Adam, Int[Array, " G"]]:
    """Put the splats that contribute least in place of halves of those that are pulled most."""
    idle = np.flatnonzero(used < _IDLE * np.median(used))
    least = idle[np.argsort(used[idle])][: int(_MOVED * len(used))]
    wanted = np.where(np.isin(np.arange(len(used)), least), 0.0, pulls)
    most = np.argsort(-wanted)[: len(least)]
    parts = {name: np.array(value) for name, value in vars(free).items()}
    owner = np.array(body_id)
    longest = parts["scales"][most].argmax(axis=1)
    quats = parts["quats"][most] / np.linalg.norm(parts["quats"][most], axis=1, keepdims=True)
    axis = quats_to_matrices(quats)[np.arange(len(most)), :, longest]
    step = 0.5 * np.exp(parts["scales"][most, longest])[:, None] * axis
    parts["scales"][most, longest] -= np.log(_SPLIT)
    for name in parts:
        parts[name][least] = parts[name][most]
    owner[least] = owner[most]
    parts["means"][least] += step
    parts["means"][most] -= step
    fresh = np.concatenate([least, most])
    state = jax.tree.map(lambda x: x.at[fresh].set(0.0) if x.ndim else x, state)
    return _Free(**{k: jnp.asarray(v) for k, v in parts.items()}), state, jnp.asarray(owner)
