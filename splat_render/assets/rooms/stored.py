"""Rooms on disk: fitted splats in some numbers, on the world."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from splat_render.assets.fitting.stored import FittedSplats, from_columns
from splat_render.types import GaussianSet

_DATA = Path(__file__).parent.parent / "data" / "rooms"
# Rooms are fitted and stored as models of this scale: robots are what the optimiser's steps and the
# coordinates of `FittedSplats` were made for. A coordinate reaches 3.2 m.
SCALE = 0.2
_SHARE = 0.75  # of the budget of a scene that a room's splats may reach, for they are drawn beside


def room_names() -> tuple[str, ...]:
    """Return the names of the rooms that ship with the package."""
    return tuple(sorted(path.stem for path in _DATA.glob("*.npz")))


def room_file(name: str) -> Path:
    """Return the file of a shipped room, or of yours by its path (it ends in .npz).

    Raises UnknownNameError with the allowed names, and FileNotFoundError.
    """
    path = Path(name)
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(f"Room '{name}' is not there; shipped: {_shipped()}")
        return path
    if name not in room_names():
        raise UnknownNameError(unknown_name("room", name, room_names()))
    return _DATA / f"{name}.npz"


def is_shipped(name: str) -> bool:
    """Return whether a room is one that every installation has, rather than a file of yours."""
    return Path(name).suffix != ".npz"


def save_room(path: Path, fits: Sequence[GaussianSet]) -> None:
    """Write a room's splats in several numbers, fewest first, rounded to 0.1 mm."""
    columns: dict[str, np.ndarray] = {}
    for number, splats in enumerate(fits):
        small = FittedSplats(splats=scaled(splats, SCALE), pixel=0.0)
        for name, column in small.columns().items():
            columns[f"fit{number}_{name}"] = column
    np.savez_compressed(path, allow_pickle=False, **columns)


def load_room(name: str, *, budget: int) -> GaussianSet:
    """Return the most splats of a room that suit a scene of `budget` splats, else its fewest.

    Raises UnknownNameError, FileNotFoundError, and InputError for a file that is no room.
    """
    fits = load_fits(name)
    affordable = [fit for fit in fits if len(fit.means) <= _SHARE * budget]
    return max(affordable, key=lambda fit: len(fit.means)) if affordable else fits[0]


def load_fits(name: str) -> list[GaussianSet]:
    """Return a room's splats in every number that is stored, fewest first."""
    path = room_file(name)
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = dict(file)
        count = sum(key.endswith("_means") for key in stored)
        fits = [_read(stored, f"fit{number}_") for number in range(count)]
    except (KeyError, ValueError, EOFError, OSError, BadZipFile) as error:
        raise InputError(f"{path} is no room; make one: bake --room NAME --out FILE") from error
    if not fits:
        raise InputError(f"{path} is no room; make one: bake --room NAME --out FILE")
    return fits


def scaled(splats: GaussianSet, factor: float) -> GaussianSet:
    """Return splats of another size, about the origin."""
    return splats.replace(means=splats.means * factor, scales=splats.scales * factor)


def _read(stored: dict[str, np.ndarray], mark: str) -> GaussianSet:
    own = {key.removeprefix(mark): x for key, x in stored.items() if key.startswith(mark)}
    splats = from_columns(own).splats
    return scaled(splats.replace(body_id=jnp.zeros_like(splats.body_id)), 1 / SCALE)


def _shipped() -> str:
    return ", ".join(room_names())
