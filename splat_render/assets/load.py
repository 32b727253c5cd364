"""Any file of splats -> GaussianSet; a reader that believes nothing it is told.

    splats = load_splats("scan.spz")

What is mended on the way is logged, with a count; `strict` refuses it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from scenes.contract.errors import InputError
from splat_render.assets.formats.ply import PLY_MAGIC, read_ply
from splat_render.assets.formats.splat import read_splat
from splat_render.assets.formats.spz import GZIP_MAGIC, SPZ_MAGIC, read_spz
from splat_render.assets.formats.stored import StoredSplats
from splat_render.types import GaussianSet

SUFFIXES = (".ply", ".spz", ".splat")
_MAX_VALUE = 1e9  # of a position, scale or harmonic
_LEAST_NORM = 1e-9  # of a quaternion
_CONVERT = "npx @playcanvas/splat-transform {name} {stem}.ply"
# What starts so, or is called so, is another program's format.
_FOREIGN_MAGIC = {b"PK\x03\x04": "SOG", b"glTF": "glTF"}
_FOREIGN_SUFFIX = {
    ".sog": "SOG",
    ".json": "SOG",
    ".ksplat": "ksplat",
    ".gltf": "glTF",
    ".glb": "glTF",
}
_log = logging.getLogger(__name__)


def load_splats(path: str | Path, *, strict: bool = False) -> GaussianSet:
    """Return the splats of a .ply (plain or compressed), .spz or .splat; all on the world's body.

    Splats with a value that is not finite or a rotation of zero are left out, values beyond what
    they can be are clamped; both are logged as warnings.

    Args:
        path: what kind of file it is is seen from its first bytes, of .splat from its name.
        strict: raise instead of mending.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: one line with what is wrong with it and what to do.
    """
    path = Path(path)
    try:
        stored = _reader(path)(path)
        kept, faults = _clean(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        size = path.stat().st_size >> 20
        raise InputError(f"{path}: no memory for a file of {size} MiB; crop or thin it") from None
    if strict and faults:
        raise InputError(f"{path}: {'; '.join(faults)}; clean it, or read it without strict")
    for fault in faults:
        _log.warning("%s: %s", path, fault)
    if stored.antialiased is not None:
        _log.info("%s: trained %s antialiasing", path, "with" if stored.antialiased else "without")
    return _as_set(stored, kept)


def _reader(path: Path) -> Callable[[Path], StoredSplats]:
    with path.open("rb") as file:
        start = file.read(4)
    foreign = _FOREIGN_MAGIC.get(start) or _FOREIGN_SUFFIX.get(path.suffix.lower())
    if foreign:
        command = _CONVERT.format(name=path.name, stem=path.stem)
        raise InputError(
            f"is {foreign}, allowed: {', '.join(SUFFIXES)}; convert it, for example: {command}"
        )
    if start.startswith(GZIP_MAGIC) or start == SPZ_MAGIC:
        return read_spz
    if not start.startswith(PLY_MAGIC) and path.suffix.lower() == ".splat":
        return read_splat
    return read_ply


def _clean(stored: StoredSplats) -> tuple[Bool[np.ndarray, " G"], tuple[str, ...]]:
    """Return which splats can be drawn, and what is wrong with the others."""
    count = len(stored.means)
    values = (stored.means, stored.quats, stored.scales, stored.opacities, stored.sh)
    sane = np.ones(count, bool)
    for value in values:
        sane &= (np.abs(value.reshape(count, -1)) < _MAX_VALUE).all(axis=1)
    turned = np.linalg.norm(stored.quats, axis=1) >= _LEAST_NORM
    sized = (stored.scales >= 0).all(axis=1) & (stored.opacities >= 0) & (stored.opacities <= 1)
    kept = sane & turned & sized
    counts = {
        f"a value that is not finite or above {_MAX_VALUE:g}": ~sane,
        "a rotation of zero": sane & ~turned,
        "a negative scale or an opacity outside [0, 1]": sane & turned & ~sized,
    }
    faults = [
        f"{int(rows.sum())} of {count} splats left out: {what} (first: splat {int(rows.argmax())})"
        for what, rows in counts.items()
        if rows.any()
    ]
    if not kept.any():
        raise InputError(f"holds no splat that can be drawn ({'; '.join(faults)})")
    mended = [f"{fault} ({count} splats in all)" for fault in stored.faults]
    return kept, (*mended, *faults)


def _as_set(stored: StoredSplats, kept: Bool[np.ndarray, " G"]) -> GaussianSet:
    chosen = slice(None) if kept.all() else kept
    quats = stored.quats[chosen].astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return GaussianSet(
        means=jnp.asarray(stored.means[chosen], jnp.float32),
        quats=jnp.asarray(quats, jnp.float32),
        scales=jnp.asarray(stored.scales[chosen], jnp.float32),
        opacities=jnp.asarray(stored.opacities[chosen], jnp.float32),
        sh=jnp.asarray(stored.sh[chosen], jnp.float32),
        body_id=jnp.zeros(len(quats), jnp.int32),
    )
