"""3D Gaussian splatting's .ply <-> GaussianSet; a reader that believes nothing it is told.

One `vertex` element of little-endian float32 columns, in any order: x y z, f_dc_0..2,
f_rest_* (0, 9, 24 or 45 of them, channel after channel), opacity (logit), scale_0..2 (logarithm
of metres), rot_0..3 (wxyz, any norm), and optionally nx ny nz, which are ignored (arXiv 2308.04079
and its successors write them as zeros).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from splat_render.types import MAX_SH_DEGREE, GaussianSet

MAX_SPLATS = 20_000_000
_MAX_HEADER = 16_384  # [bytes]; 62 columns need 1.5 kB
_MAX_VALUE = 1e9  # of a column
_MAX_LOG_SCALE = 15.0  # 3000 km
_LEAST_OPACITY, _LEAST_SCALE = 1e-7, 1e-12  # whose logit and logarithm are written for 0 and 1

_FORMAT = "format binary_little_endian 1.0"
_NORMALS = ("nx", "ny", "nz")
_MEANS = ("x", "y", "z")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_MEANS, *_DC, "opacity", *_SCALES, *_QUATS)
_COEFFICIENTS = tuple((degree + 1) ** 2 for degree in range(MAX_SH_DEGREE + 1))


def load_ply(path: str | Path) -> GaussianSet:
    """Return the splats of a file; all are attached to body 0, the world.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one line with what is wrong with it and what to do.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            count, names = _read_header(file)
            table = _read_table(file, count, names)
        return _activated(dict(zip(names, table.T, strict=True)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_ply(path: str | Path, splats: GaussianSet) -> None:
    """Write splats; which body they are on is not part of the format.

    Opacities 0 and 1 and scales of 0 have no logit and logarithm: they become 1e-7 less extreme
    and 1e-12 m.
    """
    columns = _stored(splats)
    count = len(columns["x"])
    table = np.stack([np.asarray(column, "<f4") for column in columns.values()], axis=1)
    properties = "".join(f"property float {name}\n" for name in columns)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    )
    Path(path).write_bytes(header.encode() + table.tobytes())


def _read_header(file: BinaryIO) -> tuple[int, tuple[str, ...]]:
    if file.readline(8) not in (b"ply\n", b"ply\r\n"):
        raise ValueError("no .ply file (it does not start with 'ply')")
    lines: list[list[str]] = []
    size = 0
    while not lines or lines[-1] != ["end_header"]:
        raw = file.readline(_MAX_HEADER)
        size += len(raw)
        if size > _MAX_HEADER or not raw.endswith(b"\n"):
            raise ValueError(f"its header does not end within {_MAX_HEADER} bytes; export it again")
        words = raw.decode("ascii", errors="replace").split()
        if words and words[0] not in ("comment", "obj_info"):
            lines.append(words)
    return _parse_header(lines[:-1])


def _parse_header(lines: Sequence[Sequence[str]]) -> tuple[int, tuple[str, ...]]:
    first, second = [*lines, [], []][:2]
    if " ".join(first) != _FORMAT:
        raise ValueError(f"got '{_shown(first)}', allowed: {_FORMAT}; export it as such")
    if len(second) != 3 or second[:2] != ["element", "vertex"]:
        raise ValueError(f"got '{_shown(second)}', needed: element vertex COUNT; uncompressed")
    names = []
    for words in lines[2:]:
        if len(words) != 3 or words[0] != "property" or words[1] not in ("float", "float32"):
            raise ValueError(f"got '{_shown(words)}', allowed: property float NAME; export as 3DGS")
        names.append(words[2])
    _check_names(names)
    return _parse_count(second[2]), tuple(names)


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)[:60]


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or not 1 <= int(text) <= MAX_SPLATS:
        raise ValueError(f"says it has '{text[:20]}' splats, allowed: 1 to {MAX_SPLATS}; crop it")
    return int(text)


def _check_names(names: Sequence[str]) -> None:
    rest = _rest_names(sum(name.startswith("f_rest_") for name in names))
    unknown = sorted(set(names) - {*_REQUIRED, *_NORMALS, *rest})
    missing = [name for name in _REQUIRED if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        raise ValueError(
            f"not the 3DGS layout (unknown: {_shown(unknown) or 'none'}; missing: "
            f"{_shown(missing) or 'none'}; each once); export it as plain 3DGS .ply"
        )
    if len(rest) // 3 + 1 not in _COEFFICIENTS or len(rest) % 3:
        raise ValueError(f"has {len(rest)} columns f_rest_*, allowed: 0, 9, 24, 45 (SH degree 0-3)")


def _read_table(file: BinaryIO, count: int, names: Sequence[str]) -> Float[np.ndarray, "G P"]:
    start = file.tell()
    present, needed = os.fstat(file.fileno()).st_size - start, 4 * count * len(names)
    if present != needed:
        fault = "truncated" if present < needed else "followed by other bytes"
        raise ValueError(
            f"{count} splats of {len(names)} columns are {needed} bytes, the file has {present}: "
            f"it is {fault}; export it again"
        )
    table = np.frombuffer(file.read(needed), "<f4").reshape(count, len(names))
    bad = ~(np.abs(table) < _MAX_VALUE)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"splat {row} has {names[column]} = {table[row, column]} ({int(bad.any(1).sum())} such "
            f"splats), allowed: finite, below {_MAX_VALUE:g}; clean it in an editor for splats"
        )
    return table


def _activated(columns: dict[str, np.ndarray]) -> GaussianSet:
    count, rest = len(columns["x"]), _rest_names(len(columns.keys() - {*_REQUIRED, *_NORMALS}))
    # Channel-major on disk: all coefficients of red, then of green, then of blue.
    higher = _stack(columns, rest).reshape(count, 3, -1).swapaxes(1, 2)
    quats, scales = _stack(columns, _QUATS), _stack(columns, _SCALES)
    norms = np.linalg.norm(quats, axis=1, keepdims=True)
    if norms.min() < 1e-9:
        raise ValueError(f"splat {int(norms.argmin())} has a rotation of 0; clean it in an editor")
    if scales.max() > _MAX_LOG_SCALE:
        worst = int(scales.max(axis=1).argmax())
        raise ValueError(
            f"splat {worst} has a scale of exp({scales.max():.4g}) m, allowed: up to "
            f"exp({_MAX_LOG_SCALE:g}) m; write logarithms"
        )
    logits = columns["opacity"].astype(np.float64)
    return GaussianSet(
        means=jnp.asarray(_stack(columns, _MEANS), jnp.float32),
        quats=jnp.asarray(quats / norms, jnp.float32),
        scales=jnp.asarray(np.exp(scales), jnp.float32),
        opacities=jnp.asarray(0.5 * (1 + np.tanh(logits / 2)), jnp.float32),
        sh=jnp.asarray(np.concatenate([_stack(columns, _DC)[:, None], higher], 1), jnp.float32),
        body_id=jnp.zeros(count, jnp.int32),
    )


def _stored(splats: GaussianSet) -> dict[str, np.ndarray]:
    sh = np.asarray(splats.sh, np.float64)
    opacities = np.asarray(splats.opacities, np.float64)
    opacities = opacities.clip(_LEAST_OPACITY, 1 - _LEAST_OPACITY)
    scales = np.asarray(splats.scales, np.float64).clip(min=_LEAST_SCALE)
    higher = sh[:, 1:].swapaxes(1, 2).reshape(len(sh), -1)
    columns = dict(zip(_MEANS, np.asarray(splats.means).T, strict=True))
    columns |= dict.fromkeys(_NORMALS, np.zeros(len(sh)))
    columns |= dict(zip(_DC, sh[:, 0].T, strict=True))
    columns |= dict(zip(_rest_names(higher.shape[1]), higher.T, strict=True))
    columns["opacity"] = np.log(opacities / (1 - opacities))
    columns |= dict(zip(_SCALES, np.log(scales).T, strict=True))
    return columns | dict(zip(_QUATS, np.asarray(splats.quats).T, strict=True))


def _rest_names(count: int) -> list[str]:
    return [f"f_rest_{i}" for i in range(count)]


def _stack(columns: dict[str, np.ndarray], names: Sequence[str]) -> Float[np.ndarray, "G P"]:
    picked = [columns[name].astype(np.float64) for name in names]
    return np.stack(picked, axis=-1) if picked else np.zeros((len(columns["x"]), 0))
