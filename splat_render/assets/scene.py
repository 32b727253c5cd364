"""A scene's splats from all that there is: a scan, robot surfaces, baking for the rest."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import mujoco
import numpy as np

from scenes.contract.errors import InputError
from splat_render.assets.bake import DEFAULT_BUDGET, PIXEL, SHIPPED, pose, scene_splats
from splat_render.assets.robot_surfaces import load_surface
from splat_render.assets.scan import load_scan, scan_files
from splat_render.assets.splat_sets import concatenate, take
from splat_render.types import GaussianSet


def scanned_scene(
    model: mujoco.MjModel,
    *,
    scan: Path | None = None,
    surfaces: Sequence[Path] = (),
    budget: int = DEFAULT_BUDGET,
    pixel: float = PIXEL,
) -> GaussianSet:
    """Return the splats of a scan, and baked ones on the bodies that it has none of.

    Args:
        model: of the scene.
        scan: a folder of one .ply per body, None without a scan.
        surfaces: .npz files of robot surfaces, used before the shipped ones.
        budget: about how many splats the whole scene is baked into.
        pixel: as for `bake` [m].

    Raises:
        FileNotFoundError, InputError, UnknownNameError: as `load_scan` and `load_surface`.
        InputError: a surface is of no robot in the scene.
    """
    for path in surfaces:
        if not load_surface(str(path)).fits(model):
            raise InputError(
                f"{path} is the surface of no robot in this scene: its bodies are not there by "
                "name, or stand elsewhere; docs/scans.md says when one fits"
            )
    chosen = (*map(str, surfaces), *SHIPPED)
    baked = scene_splats(model, surfaces=chosen, budget=budget, pixel=pixel)
    if scan is None:
        return baked
    scanned = load_scan(scan, model)
    missing = ~np.isin(np.asarray(baked.body_id), np.asarray(scanned.body_id))
    return concatenate([scanned, take(baked, np.flatnonzero(missing))])


def pixel_extent(model: mujoco.MjModel, cameras: Collection[str], size: int) -> float:
    """Return what a pixel of a picture of `size` px spans on the bodies that can move [m].

    On the furthest body from any of the cameras, at home; `PIXEL` without either.
    """
    data = pose(model)
    mujoco.mj_camlight(model, data)
    movable = data.xpos[model.body_weldid != 0]
    if not len(movable):
        return PIXEL
    ids = [model.camera(name).id for name in cameras]
    extents = [
        2
        * np.tan(np.radians(model.cam_fovy[camera]) / 2)
        / size
        * np.linalg.norm(movable - data.cam_xpos[camera], axis=1).max()
        for camera in ids
    ]
    return float(max(extents, default=PIXEL))


def digest_of(scan: Path | None, surfaces: Sequence[Path]) -> str:
    """Return the sha256 of a scan's and surfaces' files and names; "" without any.

    Raises FileNotFoundError for what is not there.
    """
    files = [*(scan_files(scan) if scan is not None else ()), *surfaces]
    if not files:
        return ""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
        # Of a scan, whose file names are its bodies; a surface may be called anything.
        total.update(path.name.encode() if path not in surfaces else b"")
    return total.hexdigest()
