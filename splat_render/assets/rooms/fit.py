"""A room's splats, fitted to MuJoCo's pictures of its design."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from splat_render.assets.fitting.optimise import FitConfig, fit
from splat_render.assets.fitting.studio import Eye, Photos, Studio
from splat_render.assets.rooms.designs import ROOMS, WORK_HIGH, WORK_LOW
from splat_render.assets.rooms.stored import SCALE, scaled
from splat_render.assets.splat_sets import take
from splat_render.backend import choose_backend
from splat_render.background import psnr
from splat_render.types import SH_C0, BodyPoses, CameraBatch, GaussianSet, RasterConfig

_AHEAD = 0.05  # [m] what is nearer to a camera has no pixel
WORLD = "world"  # MuJoCo's name of body 0
HELD_OUT = 20_260_101  # seed of views that no fit has seen


@dataclass(frozen=True, kw_only=True)
class RoomPlan:
    """Splats for pictures of one size.

    Attributes:
        splats: of the room.
        size: of the pictures [px].
        photos: to fit to.
        config: of the optimiser.
    """

    splats: int
    size: int
    photos: int
    config: FitConfig


# The first is for scenes of 3,000. Its splats only take the photographs' colours: a fit would make
# them larger, and then they would hide what stands on the table.
PLANS = (
    RoomPlan(splats=1300, size=64, photos=160, config=FitConfig(steps=0, degree=0)),
    RoomPlan(splats=7000, size=256, photos=140, config=FitConfig(steps=1000, degree=0)),
)


def fit_room(
    name: str,
    plan: RoomPlan,
    bake: Callable[[mujoco.MjModel, int], GaussianSet],
    *,
    log: Callable[[str], None],
) -> GaussianSet:
    """Return splats of a room on the world.

    Args:
        name: of the design.
        plan: how many splats, and how finely.
        bake: makes so many splats of a model, to begin with.
        log: is told how it goes, a line at a time.
    """
    model = ROOMS[name]()
    photos = room_photos(model, plan.photos, size=plan.size, seed=plan.config.seed)
    log(f"{len(photos)} photographs of {plan.size} px")
    first = _coloured(bake(model, plan.splats), photos)
    small = fit(
        scaled(first, SCALE),
        _smaller(photos),
        plan.config,
        log=lambda step, loss: log(f"step {step} of {plan.config.steps}: loss {loss:.4f}"),
    )
    done = cleared(scaled(small, 1 / SCALE))
    unseen = room_photos(model, 24, size=plan.size, seed=HELD_OUT)
    log(
        f"{len(done.means)} splats at {plan.size} px, 24 views that no fit has seen: "
        f"{likeness(done, unseen):.2f} dB, {likeness(first, unseen):.2f} dB before"
    )
    return done


def _coloured(splats: GaussianSet, photos: Photos) -> GaussianSet:
    """Return splats with the median colour of the pixels that their centres fall on."""
    size = photos.alpha.shape[-1]
    means = np.asarray(splats.means, np.float64)
    seen = np.full((len(photos), len(means), 3), np.nan)
    for number, (view, K) in enumerate(zip(photos.viewmats, photos.Ks, strict=True)):
        points = means @ view[:3, :3].T + view[:3, 3]
        ahead = points[:, 2] > _AHEAD
        pixels = np.zeros((len(means), 2))
        pixels[ahead] = (points[ahead] @ K.T)[:, :2] / points[ahead, 2:]
        inside = ahead & np.all((pixels >= 0) & (pixels < size), axis=1)
        column, row = pixels[inside].astype(int).T
        seen[number, inside] = photos.rgb[number, row, column] / 255.0
    rgb = np.asarray(splats.sh)[:, 0] * SH_C0 + 0.5
    known = np.isfinite(seen).any(axis=(0, 2))
    rgb[known] = np.nanmedian(seen[:, known], axis=0)
    sh = np.array(splats.sh)
    sh[:, 0] = (rgb - 0.5) / SH_C0
    return splats.replace(sh=jnp.asarray(sh, jnp.float32))


def cleared(splats: GaussianSet) -> GaussianSet:
    """Return splats without those that a fit left in the air where tasks work.

    What it left close above the table there is laid on it, or it would veil what stands there.
    """
    means = np.array(splats.means)
    beside = np.all((means[:, :2] > WORK_LOW[:2]) & (means[:, :2] < WORK_HIGH[:2]), axis=1)
    hovers = beside & (means[:, 2] > WORK_LOW[2]) & (means[:, 2] < WORK_HIGH[2])
    means[beside & ~hovers, 2] = means[beside & ~hovers, 2].clip(max=0.0)
    return take(splats.replace(means=jnp.asarray(means)), np.flatnonzero(~hovers))


def _smaller(photos: Photos) -> Photos:
    """Return the same pictures of a model of the room; the world's frame stands at its origin."""
    viewmats = photos.viewmats.copy()
    viewmats[:, :3, 3] *= SCALE
    return dataclasses.replace(photos, viewmats=viewmats)


def room_photos(model: mujoco.MjModel, count: int, *, size: int, seed: int) -> Photos:
    """Return MuJoCo's pictures of a room from where the cameras of tasks are."""
    eyes = room_eyes(np.random.default_rng(seed), count)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with Studio([(model, [WORLD])], size=size) as studio:
        return studio.photograph(eyes, [(model, data)] * count, [WORLD])


def room_eyes(rng: np.random.Generator, count: int) -> list[Eye]:
    """Return cameras before the walls: half of them afar, some at the walls, some like a wrist's.

    The table's middle is what most look at.
    """
    eyes = []
    for number in range(count):
        kind = number % 6
        if kind < 2:  # from a hand
            at = np.array([rng.uniform(0.2, 0.8), rng.uniform(-0.45, 0.45), 0.0])
            turn, height = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(35, 85))
            away, fovy = rng.uniform(0.15, 0.5), 75.0
        else:  # from the sides without a wall
            at = np.array([rng.uniform(-0.4, 0.6), rng.uniform(-0.4, 0.5), rng.uniform(0, 0.3)])
            if kind == 5:
                at = np.array([-0.8, rng.uniform(-0.7, 0.8), rng.uniform(0.1, 0.8)])
            turn, height = np.radians(rng.uniform(-110, 35)), np.radians(rng.uniform(8, 55))
            away, fovy = rng.uniform(0.8, 1.5), 45.0
        direction = np.array(
            [np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)]
        )
        eyes.append(Eye(position=at + away * direction, target=at, fovy=fovy))
    return eyes


def likeness(splats: GaussianSet, photos: Photos) -> float:
    """Return how like photographs splats are: the mean PSNR [dB], before black."""
    wanted = photos.rgb / 255.0 * (photos.alpha / 255.0)[..., None]
    return float(np.mean(psnr(drawn(splats, photos), wanted)))


def drawn(splats: GaussianSet, photos: Photos) -> np.ndarray:
    """Return our pictures [V, S, S, 3] from where photographs were taken, in [0, 1]."""
    size = photos.alpha.shape[-1]
    config = RasterConfig(width=size, height=size, rgb_dtype="float32")
    arrays = (photos.xpos, photos.xquat, photos.viewmats[:, None], photos.Ks[:, None])
    xpos, xquat, viewmats, Ks = (jnp.asarray(x, jnp.float32) for x in arrays)
    rasterize = choose_backend("auto").backend.rasterize
    frame = jax.jit(lambda s, p, c: rasterize(s, p, c, config))(
        splats, BodyPoses(xpos, xquat), CameraBatch(viewmats, Ks)
    )
    return np.clip(np.asarray(frame.rgb[:, 0]), 0.0, 1.0)
