"""3D Gaussian splatting's .ply and PlayCanvas's compressed one.

Plain: one `vertex` element of little-endian float32 columns, in any order: x y z, f_dc_0..2,
f_rest_* (0, 9, 24 or 45 of them, channel after channel), opacity (logit), scale_0..2 (logarithm
of metres), rot_0..3 (wxyz, any norm), and optionally nx ny nz, which are ignored (arXiv 2308.04079
and its successors write them as zeros). A comment `SplatRenderMode: mip` says that the splats were
trained for antialiased rendering.

Compressed (github.com/playcanvas/splat-transform): `chunk` has the ranges of 256 splats each,
`vertex` four packed words a splat, `sh` the bytes of f_rest_*.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt, UInt8

from scenes.contract.errors import InputError
from splat_render.assets.formats.stored import (
    LEAST_OPACITY,
    LEAST_SCALE,
    MAX_SPLATS,
    StoredSplats,
    check_count,
    check_size,
    smallest_three,
)
from splat_render.types import MAX_SH_DEGREE, SH_C0, GaussianSet

PLY_MAGIC = b"ply"
_MAX_HEADER = 16_384  # [bytes]; 62 columns need 1.5 kB
_MAX_LOG_SCALE = 15.0  # 3000 km
_ROWS = 65_536  # read at once, so that a scan of gigabytes needs little more than it holds
# Fewer splats than this say nothing about whether they were written activated.
_TELLING = 16

_FORMAT = "format binary_little_endian 1.0"
_NORMALS = ("nx", "ny", "nz")
_MEANS = ("x", "y", "z")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_MEANS, *_DC, "opacity", *_SCALES, *_QUATS)
_COEFFICIENTS = tuple((degree + 1) ** 2 for degree in range(MAX_SH_DEGREE + 1))

_CHUNK = 256  # splats that share a range
_RANGES = ("x", "y", "z", "scale_x", "scale_y", "scale_z")
_COLOUR_RANGES = ("r", "g", "b")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    kinds: tuple[str, ...]
    names: tuple[str, ...]


def read_ply(path: Path) -> StoredSplats:
    """Return the splats of a .ply file, plain or compressed; InputError where it is neither."""
    with path.open("rb") as file:
        elements, antialiased = _read_header(file)
        first = elements[0].name if elements else ""
        read = _read_compressed if first == "chunk" else _read_plain
        return read(file, elements, antialiased)


def save_ply(path: str | Path, splats: GaussianSet) -> None:
    """Write splats as a plain .ply; which body they are on is not part of the format.

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


# -- the header ----------------------------------------------------------------------------------


def _read_header(file: BinaryIO) -> tuple[list[_Element], bool | None]:
    if file.readline(8) not in (b"ply\n", b"ply\r\n"):
        raise InputError("no .ply file (it does not start with 'ply')")
    lines: list[list[str]] = []
    comments: list[str] = []
    size = 0
    while not lines or lines[-1] != ["end_header"]:
        raw = file.readline(_MAX_HEADER)
        size += len(raw)
        if size > _MAX_HEADER or not raw.endswith(b"\n"):
            raise InputError(f"its header does not end within {_MAX_HEADER} bytes; export it again")
        words = raw.decode("ascii", errors="replace").split()
        if words and words[0] in ("comment", "obj_info"):
            comments.append(" ".join(words[1:]))
        elif words:
            lines.append(words)
    return _parse_elements(lines[:-1]), _said_mode(comments)


def _said_mode(comments: Sequence[str]) -> bool | None:
    modes = [text.partition(":") for text in comments if text.startswith("SplatRenderMode:")]
    return modes[-1][2].strip() == "mip" if modes else None


def _parse_elements(lines: Sequence[Sequence[str]]) -> list[_Element]:
    if not lines or " ".join(lines[0]) != _FORMAT:
        first = lines[0] if lines else ()
        raise InputError(f"got '{_shown(first)}', allowed: {_FORMAT}; export it as such")
    elements: list[_Element] = []
    for words in lines[1:]:
        if len(words) == 3 and words[0] == "element":
            elements.append(_Element(words[1], _parse_count(words[2]), (), ()))
        elif len(words) == 3 and words[0] == "property" and elements:
            last = elements.pop()
            kinds, names = (*last.kinds, words[1]), (*last.names, words[2])
            elements.append(_Element(last.name, last.count, kinds, names))
        else:
            raise InputError(
                f"got '{_shown(words)}', allowed: element NAME COUNT and property float NAME; "
                "export as 3DGS"
            )
    return elements


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)[:60]


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise InputError(f"says it has '{text[:20]}' splats, allowed: 1 to {MAX_SPLATS}; crop it")
    check_count(int(text))
    return int(text)


def _remaining(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


# -- plain ---------------------------------------------------------------------------------------


def _read_plain(
    file: BinaryIO, elements: Sequence[_Element], antialiased: bool | None
) -> StoredSplats:
    if not elements or elements[0].name != "vertex":
        got = elements[0].name if elements else "nothing"
        raise InputError(f"got 'element {got[:40]}', needed: element vertex COUNT; export as 3DGS")
    if len(elements) > 1:
        other = elements[1]
        raise InputError(
            f"got 'element {other.name[:40]} {other.count}', allowed: vertex alone; export as 3DGS"
        )
    (vertex,) = elements
    strange = [kind for kind in vertex.kinds if kind not in ("float", "float32")]
    if strange:
        raise InputError(
            f"got 'property {strange[0][:40]}', allowed: property float NAME; export as 3DGS"
        )
    rest = _check_names(vertex.names)
    width = 4 * len(vertex.names)
    what = f"{vertex.count} splats of {len(vertex.names)} columns"
    check_size(_remaining(file), vertex.count * width, what)
    at = {name: index for index, name in enumerate(vertex.names)}
    # Channel-major on disk: all coefficients of red, then of green, then of blue.
    higher = np.array([at[name] for name in rest], int).reshape(3, -1).T
    sh = np.concatenate([[[at[name] for name in _DC]], higher]).astype(int)
    chosen = [[at[name] for name in names] for names in (_MEANS, _QUATS, _SCALES, ("opacity",))]
    means, quats, scales, logits, harmonics = _pick(file, vertex, [*chosen, sh.ravel().tolist()])
    activated, faults = _activate(scales, logits[:, 0])
    return StoredSplats(
        means=means,
        quats=quats,
        scales=scales,
        opacities=activated,
        sh=harmonics.reshape(vertex.count, -1, 3),
        antialiased=antialiased,
        faults=faults,
    )


def _check_names(names: Sequence[str]) -> list[str]:
    rest = _rest_names(sum(name.startswith("f_rest_") for name in names))
    unknown = sorted(set(names) - {*_REQUIRED, *_NORMALS, *rest})
    missing = [name for name in _REQUIRED if name not in names]
    if unknown or missing or len(set(names)) != len(names):
        raise InputError(
            f"not the 3DGS layout (unknown: {_shown(unknown) or 'none'}; missing: "
            f"{_shown(missing) or 'none'}; each once); export it as plain 3DGS .ply"
        )
    if len(rest) // 3 + 1 not in _COEFFICIENTS or len(rest) % 3:
        raise InputError(f"has {len(rest)} columns f_rest_*, allowed: 0, 9, 24, 45 (SH degree 0-3)")
    return rest


def _pick(
    file: BinaryIO, vertex: _Element, groups: Sequence[Sequence[int]]
) -> list[Float[np.ndarray, "G P"]]:
    """Return some groups of columns, read a few rows at a time."""
    picked = [np.empty((vertex.count, len(group)), np.float32) for group in groups]
    columns = len(vertex.names)
    for start in range(0, vertex.count, _ROWS):
        stop = min(start + _ROWS, vertex.count)
        rows = np.frombuffer(file.read(4 * columns * (stop - start)), "<f4").reshape(-1, columns)
        for into, group in zip(picked, groups, strict=True):
            into[start:stop] = rows[:, group]
    return picked


def _activate(
    scales: Float[np.ndarray, "G 3"], logits: Float[np.ndarray, " G"]
) -> tuple[Float[np.ndarray, " G"], tuple[str, ...]]:
    """Make logarithms scales, in place, and return opacities of logits, with what was wrong."""
    if len(logits) >= _TELLING and (scales > 0).all() and ((logits >= 0) & (logits <= 1)).all():
        fault = (
            "opacities all in [0, 1] and scales all positive: they were taken as they are, though "
            "the layout means logits and logarithms"
        )
        return logits, (fault,)
    finite = scales[np.isfinite(scales)]
    if finite.size and finite.max() > _MAX_LOG_SCALE:
        raise InputError(
            f"has a scale of exp({finite.max():.4g}) m, allowed: up to exp({_MAX_LOG_SCALE:g}) m; "
            "write logarithms"
        )
    flat, certain = np.isneginf(scales), np.isinf(logits)
    opacities = np.empty_like(logits)
    with np.errstate(over="ignore"):
        for start in range(0, len(logits), _ROWS):
            some = slice(start, start + _ROWS)
            scales[some] = np.exp(scales[some].astype(np.float64))
            opacities[some] = 0.5 * (1 + np.tanh(logits[some].astype(np.float64) / 2))
    scales[flat] = LEAST_SCALE
    counts = {
        f"a scale of exp(-inf) m, taken as {LEAST_SCALE:g} m": int(flat.any(axis=1).sum()),
        "an infinite opacity, taken as fully opaque or fully clear": int(certain.sum()),
    }
    return opacities, tuple(f"{count} with {what}" for what, count in counts.items() if count)


# -- compressed ----------------------------------------------------------------------------------


def _read_compressed(
    file: BinaryIO, elements: Sequence[_Element], antialiased: bool | None
) -> StoredSplats:
    kinds = {"chunk": "float", "vertex": "uint", "sh": "uchar"}
    _check_compressed(elements, kinds)
    sizes = {"float": 4, "uint": 4, "uchar": 1}
    needed = sum(e.count * len(e.names) * sizes[kinds[e.name]] for e in elements)
    count = elements[1].count
    check_size(_remaining(file), needed, f"{count} compressed splats")
    types = {"float": "<f4", "uint": "<u4", "uchar": "u1"}
    tables = {
        e.name: np.fromfile(file, types[kinds[e.name]], e.count * len(e.names)).reshape(e.count, -1)
        for e in elements
    }
    chunk = dict(zip(elements[0].names, tables["chunk"].T, strict=True))
    words = dict(zip(elements[1].names, tables["vertex"].T, strict=True))
    rgba = _unit(words["packed_color"], (24, 8), (16, 8), (8, 8), (0, 8))
    rgb = rgba[:, :3]
    if "min_r" in chunk:
        rgb = _spread(chunk, _COLOUR_RANGES, rgb)
    fields = _unit(words["packed_rotation"], (20, 10), (10, 10), (0, 10))
    thirds = [_unit(words[name], (21, 11), (11, 10), (0, 11)) for name in (_PACKED[0], _PACKED[2])]
    return StoredSplats(
        means=_spread(chunk, _RANGES[:3], thirds[0]),
        quats=smallest_three(
            words["packed_rotation"] >> 30, (fields - np.float32(0.5)) * np.float32(np.sqrt(2))
        ),
        scales=np.exp(_spread(chunk, _RANGES[3:], thirds[1])),
        opacities=rgba[:, 3],
        sh=np.concatenate(
            [((rgb - np.float32(0.5)) / np.float32(SH_C0))[:, None], _harmonics(count, tables)],
            axis=1,
        ),
        antialiased=antialiased,
    )


def _check_compressed(elements: Sequence[_Element], kinds: dict[str, str]) -> None:
    names = [element.name for element in elements]
    if names not in (["chunk", "vertex"], ["chunk", "vertex", "sh"]):
        raise InputError(f"has elements {_shown(names)}, allowed: chunk, vertex and sh")
    chunk, vertex = elements[:2]
    ranges = [f"{end}_{name}" for end in ("min", "max") for name in _RANGES]
    if not set(ranges) <= set(chunk.names) or set(vertex.names) != set(_PACKED):
        raise InputError("not the layout of a compressed .ply; export it as plain 3DGS .ply")
    wrong = [e.name for e in elements if set(e.kinds) - {kinds[e.name]}]
    if wrong:
        raise InputError(f"element {wrong[0]} has other columns than {kinds[wrong[0]]}")
    if chunk.count != -(-vertex.count // _CHUNK):
        raise InputError(f"has {chunk.count} chunks for {vertex.count} splats, of {_CHUNK} each")
    for sh in elements[2:]:
        if sh.count != vertex.count or len(sh.names) // 3 + 1 not in _COEFFICIENTS:
            raise InputError(
                f"has {len(sh.names)} harmonics of {sh.count} splats, needed: 9, 24 or 45 of "
                f"{vertex.count}"
            )


def _unit(words: UInt[np.ndarray, " G"], *fields: tuple[int, int]) -> Float[np.ndarray, "G F"]:
    """Return bit fields (shift, bits) in [0, 1]."""
    parts = [((words >> at) & (2**bits - 1)) / np.float32(2**bits - 1) for at, bits in fields]
    return np.stack(parts, axis=1).astype(np.float32)


def _spread(
    chunk: dict[str, np.ndarray], names: Sequence[str], unit: Float[np.ndarray, "G C"]
) -> Float[np.ndarray, "G C"]:
    low, high = (
        np.stack([chunk[f"{end}_{name}"] for name in names], axis=1).repeat(_CHUNK, 0)[: len(unit)]
        for end in ("min", "max")
    )
    return low + (high - low) * unit


def _harmonics(count: int, tables: dict[str, UInt8[np.ndarray, "G P"]]) -> np.ndarray:
    if "sh" not in tables:
        return np.empty((count, 0, 3), np.float32)
    raw = tables["sh"]
    # 256 bins over [-4, 4] whose outermost two stand for the ends.
    unit = np.where((raw == 0) | (raw == 255), raw / 255, (raw + np.float32(0.5)) / 256)
    return ((unit - 0.5) * 8).astype(np.float32).reshape(count, 3, -1).swapaxes(1, 2)


# -- writing -------------------------------------------------------------------------------------


def _stored(splats: GaussianSet) -> dict[str, np.ndarray]:
    sh = np.asarray(splats.sh, np.float64)
    opacities = np.asarray(splats.opacities, np.float64)
    opacities = opacities.clip(LEAST_OPACITY, 1 - LEAST_OPACITY)
    scales = np.asarray(splats.scales, np.float64).clip(min=LEAST_SCALE)
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
