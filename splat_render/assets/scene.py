"""A scene's splats from all that there is: a scan or a room, robot surfaces, else baked."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from scenes.contract.errors import InputError
from scenes.contract.specs import CameraSpec
from splat_render.assets.bake import DEFAULT_BUDGET, SHIPPED, scene_splats
from splat_render.assets.robot_surfaces import load_surface
from splat_render.assets.rooms.stored import load_room, room_file
from splat_render.assets.scan import load_scan, scan_files
from splat_render.assets.splat_sets import concatenate, take
from splat_render.types import GaussianSet


def scanned_scene(
    model: mujoco.MjModel,
    *,
    scan: Path | None = None,
    room: str | None = None,
    surfaces: Sequence[Path] = (),
    budget: int = DEFAULT_BUDGET,
    cameras: Sequence[CameraSpec] = (),
) -> GaussianSet:
    """Return the splats of a scan or a room, and baked ones on the bodies that it has none of.

    Args:
        model: of the scene.
        scan: a folder of one .ply per body, None without a scan.
        room: name or file of a room in place of all that is part of the world, None without one.
        surfaces: .npz files of robot surfaces, used before the shipped ones.
        budget: about how many splats the whole scene is baked into.
        cameras: that will see them, as for `bake`.

    Raises:
        FileNotFoundError, InputError, UnknownNameError: as `load_scan`, `load_room` and
            `load_surface`.
        InputError: a surface is of no robot in the scene; a scan and a room.
    """
    if scan is not None and room is not None:
        raise InputError(f"A scan ({scan}) and a room ({room}) are both what is around: give one")
    for path in surfaces:
        if not load_surface(str(path)).fits(model):
            raise InputError(
                f"{path} is the surface of no robot in this scene: its bodies are not there by "
                "name, or stand elsewhere; docs/scans.md says when one fits"
            )
    chosen = (*map(str, surfaces), *SHIPPED)
    baked = scene_splats(model, surfaces=chosen, budget=budget, cameras=cameras)
    if scan is None and room is None:
        return baked
    given = load_scan(scan, model) if scan is not None else load_room(str(room), budget=budget)
    missing = ~np.isin(np.asarray(baked.body_id), np.asarray(given.body_id))
    return concatenate([given, take(baked, np.flatnonzero(missing))])


def digest_of(scan: Path | None, surfaces: Sequence[Path], room: str | None = None) -> str:
    """Return the sha256 of a scan's, surfaces' and a room's files and names; "" without any.

    Raises FileNotFoundError for what is not there, UnknownNameError for a room.
    """
    files = [*(scan_files(scan) if scan is not None else ()), *surfaces]
    files += [] if room is None else [room_file(room)]
    if not files:
        return ""
    total = hashlib.sha256()
    for path in files:
        now = path.stat()
        version = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        total.update(_digest_of_file(path.resolve(), version))
        # Of a scan, whose file names are its bodies; a surface may be called anything.
        total.update(path.name.encode() if path not in surfaces else b"")
    return total.hexdigest()


@functools.lru_cache(maxsize=256)
def _digest_of_file(path: Path, version: tuple[int, ...]) -> bytes:
    """Return the sha256 of a file, read once for each version: a run asks several times."""
    del version
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
