"""Fewer splats that make the same pictures: alike ones become one, what no camera sees goes."""

import dataclasses

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged
from splat_render.assets.contribution import (
    Viewpoint,
    blending_weights,
    contributions,
    task_views,
)
from splat_render.assets.splat_sets import take
from splat_render.backends.reference import covariances
from splat_render.types import SH_C0, GaussianSet, RasterConfig

POSES = 24  # in which each camera looks at the scene
PICTURE_SIZE = 64  # [px] as `PixelConfig.size`
_COLOR = 0.1  # difference of colours that parts two splats as much as a pixel does
_APART = 1e4  # [px] between bodies
_BATCHES = 4  # in which the middles of cells are drawn
_ROUNDS = 6  # of Lloyd's algorithm
# Deviation of what became one over that of its parts: it closes the gaps between neighbours.
_SPREAD = 1.3
_OPACITY = 0.98  # the most
_HOLD = 0.5  # pixels that a colour must be worth before it is changed much
_SOLVER_ROUNDS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThinOptions:
    """How many splats a scene may have.

    Attributes:
        max_splats: of all; fewer are made that look the same to the model's cameras. None keeps
            what there is.
        picture_size: of their pictures, as --pixels.size of the run [px].
    """

    max_splats: int | None = ranged(None, least=1)
    picture_size: int = ranged(PICTURE_SIZE, least=1, most=4096)


KEEP_ALL = ThinOptions()


def thin_if_asked(
    splats: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData, options: ThinOptions
) -> tuple[GaussianSet, str]:
    """Return the splats, thinned where the options say so, and a line about it."""
    if options.max_splats is None or len(splats.means) <= options.max_splats:
        return splats, ""
    size = options.picture_size
    thinned = thin(splats, model, data, most=options.max_splats, size=size)
    alike = likeness(thinned, splats, model, data, size=size)
    cameras = ", ".join(f"{decibels:.1f} dB {name}" for name, decibels in alike.items())
    return thinned, (
        f"thinned from {len(splats.means)} to {len(thinned.means)} splats; pictures of {size} px "
        f"in new poses against those of all: {cameras}\n"
    )


def thin(
    splats: GaussianSet,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    most: int,
    size: int = PICTURE_SIZE,
    poses: int = POSES,
) -> GaussianSet:
    """Return at most so many splats whose pictures are those of all, sorted by body.

    What adds nothing to any of the pictures is left out. The others are gathered into compact
    cells of one body, smaller where more pixels are seen of it and where they are seen from near,
    and each cell becomes one splat with the cell's moments. Its colour is then fitted to the
    pictures, by least squares.

    Args:
        splats: on the model's bodies.
        model, data: whose cameras look at them, where they are and around it.
        most: splats to keep.
        size: width and height of the pictures [px].
        poses: in which each camera looks at them.

    Raises:
        InputError: `most` is below one for each body, the model has no camera, or they see nothing.
    """
    bodies = len(np.unique(np.asarray(splats.body_id)))
    if most < bodies:
        raise InputError(f"--max-splats {most}, allowed: {bodies}, one for each body, or more")
    if len(splats.means) <= most:
        return splats
    config = RasterConfig(width=size, height=size)
    views = task_views(model, data, size=size, count=poses)
    weight, pixel = contributions(splats, views, config)
    seen = np.flatnonzero(weight > 0)
    some, weight, pixel = take(splats, seen), weight[seen], pixel[seen]
    typical = float(np.average(pixel, weights=weight))
    # A splat that becomes part of one a length away is seen to move by so many of its own pixels:
    # those of a camera on the hand are a third of a far one's.
    weight = weight * (typical / pixel) ** 2
    merged = some
    if len(seen) > most:
        merged = _merged(some, weight, _cells(some, weight, most, pixel=typical))
    return _recoloured(merged, some, views, config)


def likeness(
    thinned: GaussianSet,
    splats: GaussianSet,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    *,
    size: int = PICTURE_SIZE,
    poses: int = POSES,
) -> dict[str, float]:
    """Return for each camera how like its pictures are [dB], in other poses than `thin` saw."""
    config = RasterConfig(width=size, height=size)
    views = task_views(model, data, size=size, count=poses + 1, seed=1)[model.ncam :]
    errors = [
        np.square(_picture(thinned, view, config)[0] - _picture(splats, view, config)[0]).mean()
        for view in views
    ]
    mean = np.reshape(errors, (poses, model.ncam)).mean(axis=0)
    with np.errstate(divide="ignore"):
        return {model.camera(i).name: float(-10 * np.log10(mean[i])) for i in range(model.ncam)}


def _cells(
    splats: GaussianSet, weight: Float[np.ndarray, " N"], count: int, *, pixel: float
) -> Int[np.ndarray, " N"]:
    """Return labels of compact cells of alike colours, smaller where it weighs.

    Middles are drawn by what is still far from one (k-means||, Bahmani et al. 2012), then moved
    by Lloyd's algorithm. `pixel` is a length [m].
    """
    rng = np.random.default_rng(0)
    colors = SH_C0 * np.asarray(splats.sh, np.float64)[:, 0]
    body = np.asarray(splats.body_id)[:, None]
    places = np.asarray(splats.means, np.float64) / pixel
    features = np.concatenate([places, colors / _COLOR, _APART * body], axis=1)
    # One of each body to begin with, so that none becomes part of another.
    heaviest = np.argsort(-weight)
    chosen = heaviest[np.unique(body[heaviest, 0], return_index=True)[1]]
    for batch in range(1, _BATCHES + 1):
        far = cKDTree(features[chosen]).query(features)[0]
        chance = weight * far**2 + 1e-12 * weight.max()
        chance[chosen] = 0
        more = max(0, count * batch // _BATCHES - len(chosen))
        drawn = rng.choice(len(features), more, replace=False, p=chance / chance.sum())
        chosen = np.append(chosen, drawn)
    centres = features[chosen]
    for _ in range(_ROUNDS):
        label = np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]
        centres = _means(features, weight, label)
    return np.unique(cKDTree(centres).query(features)[1], return_inverse=True)[1]


def _means(
    values: Float[np.ndarray, "N ..."],
    weight: Float[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "K ..."]:
    """Return the weighted mean of each cell."""
    flat = values.reshape(len(label), -1).T
    sums = np.stack([np.bincount(label, weight * column) for column in flat], axis=-1)
    sums /= np.bincount(label, weight)[:, None]
    return sums.reshape(len(sums), *values.shape[1:])


def _merged(
    splats: GaussianSet, weight: Float[np.ndarray, " N"], label: Int[np.ndarray, " N"]
) -> GaussianSet:
    """Return one splat for each cell, with its moments and covering what its parts do."""
    means, quats, scales, opacities, sh = (
        np.asarray(x, np.float64)
        for x in (splats.means, splats.quats, splats.scales, splats.opacities, splats.sh)
    )
    centre = _means(means, weight, label)
    offset = means - centre[label]
    spread = covariances(quats, scales) + offset[:, :, None] * offset[:, None, :]
    variance, axes = np.linalg.eigh(_means(spread, weight, label))
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    alone = np.bincount(label) == 1
    deviation = np.sqrt(variance.clip(min=0)) * np.where(alone, 1.0, _SPREAD)[:, None]
    # Splats are flat: the product of the two larger deviations is what they cover.
    area = np.sort(scales, axis=1)[:, 1:].prod(axis=1)
    cover = np.bincount(label, opacities * area)
    cover /= np.maximum(deviation[:, 1:].prod(axis=1), 1e-18)
    opacity = np.where(alone, _means(opacities, weight, label), np.minimum(_OPACITY, cover))
    body = np.zeros(len(centre), np.int32)
    body[label] = np.asarray(splats.body_id)
    merged = GaussianSet(
        means=jnp.asarray(centre, jnp.float32),
        quats=jnp.asarray(Rotation.from_matrix(axes).as_quat(scalar_first=True), jnp.float32),
        scales=jnp.asarray(deviation, jnp.float32),
        opacities=jnp.asarray(opacity, jnp.float32),
        sh=jnp.asarray(_means(sh, weight, label), jnp.float32),
        body_id=jnp.asarray(body),
    )
    return take(merged, np.argsort(body, kind="stable"))


def _recoloured(
    merged: GaussianSet, splats: GaussianSet, views: list[Viewpoint], config: RasterConfig
) -> GaussianSet:
    """Return splats with the colours that make their pictures most like those of others."""
    count = len(merged.means)
    gram, right = _HOLD**2 * eye_array(count, format="csr"), np.zeros((count, 3))
    for view in views:
        wanted, _ = _picture(splats, view, config)
        got, weights = _picture(merged, view, config)
        gram += weights.T @ weights
        right += weights.T @ (wanted - got)
    change = [cg(gram, column, maxiter=_SOLVER_ROUNDS)[0] for column in right.T]
    sh = np.asarray(merged.sh).copy()
    sh[:, 0] += (np.stack(change, axis=-1) / SH_C0).astype(np.float32)
    return merged.replace(sh=jnp.asarray(sh))


def _picture(
    splats: GaussianSet, view: Viewpoint, config: RasterConfig
) -> tuple[Float[np.ndarray, "P 3"], csr_array]:
    """Return a picture, minus the grey that stands behind everything, and its weights."""
    weights, seen = blending_weights(splats, view, config)
    colors = np.zeros((len(splats.means), 3))
    colors[seen.index] = seen.colors - 0.5
    return weights @ colors, weights
