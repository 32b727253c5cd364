"""A scanned scene on disk: a folder with one .ply per body, in that body's frame."""

from pathlib import Path
from urllib.parse import quote, unquote

import jax.numpy as jnp
import mujoco
import numpy as np

from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name
from splat_render.assets.formats.ply import save_ply
from splat_render.assets.load import load_splats
from splat_render.assets.splat_sets import concatenate, take
from splat_render.types import GaussianSet


def save_scan(folder: Path, splats: GaussianSet, model: mujoco.MjModel) -> None:
    """Write `<body>.ply` for every body that has splats; `world.ply` is what never moves.

    Raises FileExistsError where the folder has .ply files: old bodies would stay among the new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.ply")):
        raise FileExistsError(f"{folder} has .ply files already; give another folder")
    body_id = np.asarray(splats.body_id)
    for body in np.unique(body_id):
        own = np.flatnonzero(body_id == body)
        name = quote(model.body(int(body)).name, safe="")
        save_ply(folder / f"{name}.ply", take(splats, own))


def scan_files(folder: Path) -> list[Path]:
    """Return a scan's files in order; FileNotFoundError without any."""
    files = sorted(Path(folder).glob("*.ply"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .ply files; docs/scans.md says how to make them")
    return files


def load_scan(folder: Path, model: mujoco.MjModel) -> GaussianSet:
    """Return the splats of a folder of `<body>.ply`, sorted by body.

    Raises FileNotFoundError without any, KeyError for a file that names no body of the model,
    ValueError for a faulty file.
    """
    files = scan_files(folder)
    names = [model.body(body).name for body in range(model.nbody)]
    parts = []
    for file in files:
        name = unquote(file.stem)
        if name not in names:
            raise UnknownNameError(unknown_name(f"body (of {file})", name, names))
        part = load_splats(file)
        parts.append(part.replace(body_id=jnp.full_like(part.body_id, names.index(name))))
    return concatenate(parts)
