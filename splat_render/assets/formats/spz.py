"""Niantic's .spz, versions 2 to 4 (github.com/nianticlabs/spz, docs of versions 3 and 4).

A header of 16 bytes, then one array per attribute: positions (24-bit fixed point), opacities,
colours, logarithms of scales, rotations, harmonics. Versions 2 and 3 put all into one gzip stream;
version 4 has a plain header of 32 bytes, a table of sizes, and a zstd stream per array.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from jaxtyping import Float, UInt8

from scenes.contract.errors import InputError
from splat_render.assets.formats.stored import (
    StoredSplats,
    check_count,
    check_size,
    smallest_three,
)
from splat_render.types import MAX_SH_DEGREE

SPZ_MAGIC, GZIP_MAGIC = b"NGSP", b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")
_LATER_HEADER = struct.Struct("<I12x")  # of version 4: where the table of sizes is
_STREAM = struct.Struct("<QQ")  # bytes compressed, bytes not
_ANTIALIASED, _EXTENDED = 0x1, 0x2  # of the flags
_COLOUR_SCALE = 0.15
# The axes are x right, y up, z back: half a turn about x from 3DGS's. Harmonics with an odd number
# of factors y and z change their sign (the order is that of `backends.reference`).
_HALF_TURN = np.array([1, -1, -1], np.float32)
_SH_SIGNS = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)


@dataclass(frozen=True, kw_only=True)
class _Header:
    version: int
    count: int
    degree: int
    fractional_bits: int
    flags: int
    streams: int

    def sizes(self) -> tuple[int, ...]:
        """Bytes of each array, in order; of harmonics 0 at degree 0."""
        rotation = 3 if self.version < 3 else 4
        harmonics = 3 * ((self.degree + 1) ** 2 - 1)
        return tuple(self.count * each for each in (9, 1, 3, 3, rotation, harmonics))


def read_spz(path: Path) -> StoredSplats:
    """Return the splats of an .spz file; InputError where it is none."""
    with path.open("rb") as file:
        later = file.read(4) == SPZ_MAGIC
        file.seek(0)
        header, arrays = _read_streams(file) if later else _read_gzip(file)
    return _decoded(header, *arrays)


def _read_gzip(file: BinaryIO) -> tuple[_Header, list[UInt8[np.ndarray, " B"]]]:
    unpack = zlib.decompressobj(wbits=31)
    packed = file.read()
    try:
        raw = unpack.decompress(packed, _HEADER.size)
        header = _parse(raw, allowed=(2, 3))
        needed = sum(header.sizes())
        # One byte more than needed, so that a longer stream is seen and never unpacked in full.
        body = unpack.decompress(unpack.unconsumed_tail, needed + 1)
    except zlib.error as error:
        raise InputError(f"its gzip stream is damaged ({error}); export it again") from None
    if len(body) < needed or not header.flags & _EXTENDED:
        check_size(len(body), needed, f"{header.count} splats of degree {header.degree}")
    values = np.frombuffer(body, np.uint8, needed)
    return header, np.split(values, np.cumsum(header.sizes())[:-1])


def _read_streams(file: BinaryIO) -> tuple[_Header, list[UInt8[np.ndarray, " B"]]]:
    raw = file.read(_HEADER.size + _LATER_HEADER.size)
    check_size(len(raw), _HEADER.size + _LATER_HEADER.size, "A header's fields")
    header = _parse(raw, allowed=(4,))
    (table_at,) = _LATER_HEADER.unpack_from(raw, _HEADER.size)
    sizes = [size for size in header.sizes() if size]
    if header.streams != len(sizes):
        raise InputError(f"has {header.streams} streams, needed: {len(sizes)}; export it again")
    file.seek(table_at)
    table = _exactly(file, _STREAM.size * len(sizes))
    arrays = [
        _unpack(_exactly(file, packed), size, said=said)
        for size, (packed, said) in zip(sizes, _STREAM.iter_unpack(table), strict=True)
    ]
    return header, arrays + [np.empty(0, np.uint8)] * (len(header.sizes()) - len(arrays))


def _exactly(file: BinaryIO, size: int) -> bytes:
    start, end = file.tell(), file.seek(0, 2)
    check_size(min(end - start, size), size, f"A stream's bytes from {start}")
    file.seek(start)
    return file.read(size)


def _unpack(packed: bytes, size: int, *, said: int) -> UInt8[np.ndarray, " B"]:
    try:
        # A frame that says another size would be unpacked in full whatever the limit is.
        frame = zstandard.frame_content_size(packed)
        if said != size or frame not in (size, -1):
            raise InputError(f"says a stream of {said} bytes, needed: {size}; export it again")
        body = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise InputError(f"a zstd stream is damaged ({error}); export it again") from None
    check_size(len(body), size, "Its arrays")
    return np.frombuffer(body, np.uint8)


def _parse(raw: bytes, *, allowed: tuple[int, ...]) -> _Header:
    if len(raw) < _HEADER.size or not raw.startswith(SPZ_MAGIC):
        raise InputError("no .spz file (its stream does not start with NGSP)")
    _, version, count, degree, fractional_bits, flags, streams = _HEADER.unpack_from(raw)
    if version not in allowed:
        raise InputError(f"is SPZ version {version}, allowed: 2, 3, 4; export it anew")
    check_count(count)
    if degree > MAX_SH_DEGREE:
        raise InputError(f"has harmonics of degree {degree}, allowed: 0 to {MAX_SH_DEGREE}")
    return _Header(
        version=version,
        count=count,
        degree=degree,
        fractional_bits=fractional_bits,
        flags=flags,
        streams=streams,
    )


def _decoded(
    header: _Header,
    positions: UInt8[np.ndarray, " P"],
    opacities: UInt8[np.ndarray, " G"],
    colours: UInt8[np.ndarray, " C"],
    scales: UInt8[np.ndarray, " S"],
    rotations: UInt8[np.ndarray, " R"],
    harmonics: UInt8[np.ndarray, " H"],
) -> StoredSplats:
    count = header.count
    rest = (harmonics.reshape(count, -1, 3).astype(np.float32) - 128) / 128
    rest *= _SH_SIGNS[: rest.shape[1], None]
    constant = (colours.reshape(count, 1, 3).astype(np.float32) / 255 - 0.5) / _COLOUR_SCALE
    decode = _quats if header.version < 3 else _quats_of_three
    return StoredSplats(
        means=_fixed_point(positions.reshape(count, 3, 3), header.fractional_bits) * _HALF_TURN,
        quats=decode(rotations) * np.concatenate([[1], _HALF_TURN]).astype(np.float32),
        scales=np.exp(scales.reshape(count, 3).astype(np.float32) / 16 - 10),
        opacities=opacities.astype(np.float32) / 255,
        sh=np.concatenate([constant, rest], axis=1),
        antialiased=bool(header.flags & _ANTIALIASED),
    )


def _fixed_point(raw: UInt8[np.ndarray, "G 3 3"], fractional_bits: int) -> Float[np.ndarray, "G 3"]:
    low, middle, high = (raw[..., k].astype(np.int32) for k in range(3))
    # The highest byte holds the sign.
    value = low | middle << 8 | (high ^ 0x80) - 0x80 << 16
    return np.ldexp(value.astype(np.float32), -fractional_bits)


def _quats(raw: UInt8[np.ndarray, " R"]) -> Float[np.ndarray, "G 4"]:
    xyz = raw.reshape(-1, 3).astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.maximum(0.0, 1 - np.sum(xyz**2, axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _quats_of_three(raw: UInt8[np.ndarray, " R"]) -> Float[np.ndarray, "G 4"]:
    words = raw.view("<u4")
    # Nine bits and a sign each, in units of 1 / sqrt(2); the index and the order are xyzw's.
    fields = np.stack([words >> shift for shift in (20, 10, 0)], axis=1)
    sizes = (fields & 0x1FF) / np.float32(0x1FF * np.sqrt(2))
    others = np.where(fields & 0x200, -sizes, sizes).astype(np.float32)
    return np.roll(smallest_three(words >> 30, others), 1, axis=1)
