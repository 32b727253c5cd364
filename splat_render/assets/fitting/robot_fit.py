"""A robot's splats fitted to pictures of its meshes, in poses around its home."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import mujoco
import numpy as np

from splat_render.assets.fitting.optimise import FitConfig, fit
from splat_render.assets.fitting.stored import FittedSplats, from_columns
from splat_render.assets.fitting.studio import Studio, around
from splat_render.assets.splat_sets import take
from splat_render.types import GaussianSet

_FOVY, _DISTANCE = 45.0, 1.2  # [deg], [m] of most pictures
_AT_HOME = 0.75  # share of the pictures in which the robot stands at home
_BENT = 0.15  # [rad or m] standard deviation of its joints from home in the others


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Splats for pictures of one size.

    Attributes:
        splats: of the robot.
        size: of the pictures [px].
        photos: to fit to.
        oversample: how many times larger along each axis those are drawn and averaged.
        config: of the optimiser.
    """

    splats: int
    size: int
    photos: int
    oversample: int
    config: FitConfig


# Of a scene's 10,000 and 30,000.
FITS = (
    FitPlan(
        splats=6000, size=256, photos=240, oversample=3, config=FitConfig(steps=4500, degree=2)
    ),
    FitPlan(
        splats=24_000, size=512, photos=200, oversample=2, config=FitConfig(steps=6000, degree=2)
    ),
)


def fit_robot(
    model: mujoco.MjModel,
    bodies: Sequence[str],
    first: GaussianSet,
    plan: FitPlan,
    *,
    home: Sequence[float] = (),
    log: Callable[[str], None],
) -> FittedSplats:
    """Return splats on a robot's bodies.

    Args:
        model: of the robot, compiled.
        bodies: their names.
        first: splats to begin with, `body_id` of the model.
        plan: how many, and how finely.
        home: values of its joints, around which it moves [rad or m]; its own without.
        log: is told how it goes, a line at a time.
    """
    rng = np.random.default_rng(plan.config.seed)
    eyes = around(rng, plan.photos)
    placed = [(model, bent(model, rng, home=home)) for _ in eyes]
    models = [(model, bodies)]
    with Studio(models, size=plan.size, oversample=plan.oversample, sky=False) as studio:
        photos = studio.photograph(eyes, placed, bodies)
    log(f"{len(photos)} photographs of {plan.size} px")
    row = np.full(model.nbody, -1)
    row[[model.body(name).id for name in bodies]] = np.arange(len(bodies))
    splats = first.replace(body_id=jnp.asarray(row[np.asarray(first.body_id)], jnp.int32))
    done = fit(
        splats,
        photos,
        plan.config,
        log=lambda step, loss: log(f"step {step} of {plan.config.steps}: loss {loss:.4f}"),
    )
    pixel = 2 * np.tan(np.radians(_FOVY) / 2) * _DISTANCE / plan.size
    order = np.argsort(np.asarray(done.body_id), kind="stable")
    done = take(done, order)
    # As it will be read: rounded.
    return from_columns(FittedSplats(splats=done, pixel=float(pixel)).columns())


def bent(
    model: mujoco.MjModel,
    rng: np.random.Generator,
    *,
    home: Sequence[float] = (),
    at_home: float = _AT_HOME,
) -> mujoco.MjData:
    """Return the robot at home, or with its joints some way off."""
    data = mujoco.MjData(model)
    if model.nkey:
        mujoco.mj_resetDataKeyframe(model, data, 0)
    if len(home):
        data.qpos[:] = home
    if rng.uniform() >= at_home:
        for joint in range(model.njnt):
            kind = model.jnt_type[joint]
            if kind not in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
                continue
            at, (low, high) = model.jnt_qposadr[joint], model.jnt_range[joint]
            moved = data.qpos[at] + rng.normal(0.0, _BENT)
            data.qpos[at] = np.clip(moved, low, high) if model.jnt_limited[joint] else moved
    mujoco.mj_kinematics(model, data)
    return data
