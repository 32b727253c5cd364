"""How much of the robot the splats let through, and how well they keep its outline.

    PYTHONPATH=. python tests/splat_render/solidity.py

prints, for budgets of splats and picture sizes, the share of the pixels inside the Panda's outline
whose alpha is below 0.9, and intersection over union of that outline with alpha above one half.
"""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from scenes.build import build_scene
from scenes.contract.specs import CameraSpec
from scenes.layouts import pick_cube
from splat_render.assets.bake import pose, scene_splats
from splat_render.assets.robot_surfaces import load_surface
from splat_render.assets.splat_sets import take
from splat_render.backends.cpu import rasterize
from splat_render.cameras import make_rig, place
from splat_render.types import BodyPoses, GaussianSet, RasterConfig

SIZES = (64, 128, 256)
_FINE = 1024  # [px] of the picture that has the outline
_OUTLINE = Path(__file__).parent / "assets" / "data" / "panda_outline.npz"


def pictures(size: int, *names: str) -> tuple[CameraSpec, ...]:
    """Return cameras of the scene, all unless named, with square pictures of `size` [px]."""
    chosen = [c for c in pick_cube().cameras if not names or c.name in names]
    return tuple(dataclasses.replace(c, width=size, height=size) for c in chosen)


def robot_alpha(splats: GaussianSet, model: mujoco.MjModel, size: int) -> Float[np.ndarray, "S S"]:
    """Return how much the robot's splats alone stop of the light to the front camera."""
    data = pose(model)
    robot = [model.body(name).id for name in load_surface("panda").bodies]
    alone = take(splats, np.flatnonzero(np.isin(np.asarray(splats.body_id), robot)))
    poses = BodyPoses(jnp.asarray(data.xpos, jnp.float32), jnp.asarray(data.xquat, jnp.float32))
    rig = make_rig([pick_cube().cameras[0]], {}, width=size, height=size)
    config = RasterConfig(width=size, height=size)
    drawn = jax.jit(lambda s: rasterize(s, poses, place(rig, poses), config).alpha)(alone)
    return np.asarray(drawn[0])


@functools.cache
def _fine_outline() -> Bool[np.ndarray, "F F"]:
    """Return where MuJoCo draws the robot's meshes at home, for the front camera.

    The file is what `Studio.photograph` gave for the wheel that NOTICE names.
    """
    with np.load(_OUTLINE) as file:
        return np.unpackbits(file["bits"]).astype(bool).reshape(_FINE, _FINE)


def outline(size: int) -> Bool[np.ndarray, "S S"]:
    """Return the pixels that the robot covers by more than half."""
    part = _FINE // size
    return _fine_outline().reshape(size, part, size, part).mean(axis=(1, 3)) > 0.5


def transparent_share(alpha: Float[np.ndarray, "S S"]) -> float:
    """Return the share with alpha below 0.9 inside the outline, without its outermost pixels."""
    inside = ndimage.binary_erosion(outline(len(alpha)))
    return float((alpha[inside] < 0.9).mean())


def agreement(alpha: Float[np.ndarray, "S S"]) -> float:
    """Return intersection over union of the outline and where most light is stopped."""
    mask, stopped = outline(len(alpha)), alpha > 0.5
    return float((mask & stopped).sum() / (mask | stopped).sum())


def main() -> None:
    """Print the table."""
    model = build_scene(pick_cube()).model
    sys.stdout.write(
        "splats  baked for  " + "".join(f"{size:>6} px  IoU  " for size in SIZES) + "\n"
    )
    for budget in map(int, sys.argv[1:] or (3000, 10_000, 30_000)):
        for picture in (64, 256):
            splats = scene_splats(model, budget=budget, cameras=pictures(picture))
            alphas = [robot_alpha(splats, model, size) for size in SIZES]
            cells = [f"{100 * transparent_share(a):6.1f} % {agreement(a):.4f} " for a in alphas]
            sys.stdout.write(f"{budget:6}  {picture:4} px  {' '.join(cells)}\n")


if __name__ == "__main__":
    main()
