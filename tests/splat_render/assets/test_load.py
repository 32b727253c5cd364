"""Files that other programs wrote, each with the right answer (see data/README.md)."""

import gzip
import logging
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from scipy.spatial import cKDTree

from splat_render.assets.formats.ply import save_ply
from splat_render.assets.formats.spz import _HEADER
from splat_render.assets.load import load_splats
from splat_render.types import GaussianSet

DATA = Path(__file__).parent / "data"
TRUTH = dict(np.load(DATA / "truth.npz"))
# Largest errors of: positions, logarithms of scales, opacities, harmonics 0 and above, and of the
# rotation's cosine; the steps that each format keeps.
EXACT = (1e-6, 1e-5, 1e-6, 1e-6, 1e-6, 1e-6)
SPZ = (2e-4, 1 / 32 + 1e-3, 1 / 510 + 1e-5, 0.014, 1 / 16 + 1 / 256, 2e-6)
COMPRESSED = (1.2e-3, 2e-3, 1 / 510 + 1e-5, 4e-3, 1 / 64 + 1e-4, 2e-6)
SPLAT = (0.0, 1e-5, 1 / 255 + 1e-5, 0.014, np.inf, 3e-5)
FILES = {
    "plain.ply": EXACT,
    "header_mip.ply": EXACT,
    "a.spz": SPZ,
    "from_spz.ply": SPZ,
    "a.compressed.ply": COMPRESSED,
    "from_compressed.ply": COMPRESSED,
    "a.splat": SPLAT,
    "one_nan_one_zero_quaternion.ply": EXACT,
    "activated_values.ply": EXACT,
}


def differences(read: GaussianSet) -> tuple[float, ...]:
    """Largest errors, in the order above; programs sort splats anew, so the nearest is the same."""
    nearest = cKDTree(TRUTH["means"]).query(np.asarray(read.means))[1]
    assert len(set(nearest)) == len(nearest)
    true = {name: value[nearest] for name, value in TRUTH.items()}
    quats = true["quats"] / np.linalg.norm(true["quats"], axis=1, keepdims=True)
    sh, higher = np.asarray(read.sh), true["sh"][:, 1 : np.shape(read.sh)[1]]
    kept = np.abs(higher) < 0.9  # SPZ holds no more than 1
    return (
        float(np.abs(read.means - true["means"]).max()),
        float(np.abs(np.log(read.scales) - np.log(true["scales"])).max()),
        float(np.abs(read.opacities - true["opacities"]).max()),
        float(np.abs(sh[:, 0] - true["sh"][:, 0]).max()),
        float(np.abs(sh[:, 1:] - higher)[kept].max(initial=0.0)),
        float((1 - np.abs(np.sum(read.quats * quats, axis=1))).max()),
    )


@pytest.mark.parametrize("name", FILES)
def test_reads_what_others_wrote(name: str) -> None:
    read = load_splats(DATA / name)
    assert len(read.means) == (298 if "zero" in name else 300)
    assert np.less_equal(differences(read), FILES[name]).all(), differences(read)
    assert np.isfinite(np.asarray(read.sh)).all() and np.max(read.opacities) <= 1


SAID = {
    "from_spz.ply": ["40 with an infinite opacity"],
    "from_compressed.ply": ["40 with an infinite opacity"],
    "one_nan_one_zero_quaternion.ply": ["1 of 300 .*not finite.*7", "1 of 300 .*zero.*11"],
    "activated_values.ply": ["taken as they are"],
}


@pytest.mark.parametrize("name", FILES)
def test_what_was_mended_is_said_or_with_strict_refused(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_splats(DATA / name)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    expected = SAID.get(name, [])
    for message, pattern in zip(warned, expected, strict=True):
        assert re.search(pattern, message)
    if expected:
        with pytest.raises(ValueError, match=expected[0]):
            load_splats(DATA / name, strict=True)
    else:
        load_splats(DATA / name, strict=True)


def test_the_mode_that_a_header_names_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="splat_render")
    for name, said in (("header_mip.ply", "with"), ("a.spz", "without"), ("plain.ply", None)):
        caplog.clear()
        load_splats(DATA / name)
        assert [r.getMessage().split()[-2:] for r in caplog.records] == (
            [[said, "antialiasing"]] if said else []
        )


def test_a_flat_splat_keeps_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = (DATA / "plain.ply").read_bytes()
    head, body = raw[: (at := raw.index(b"end_header\n") + 11)], raw[at:]
    names = [line.split()[-1] for line in head.decode().splitlines() if "property" in line]
    table = np.frombuffer(body, "<f4").reshape(300, -1).copy()
    table[5, names.index("scale_1")] = -np.inf
    table[6, names.index("opacity")] = -np.inf
    (tmp_path / "a.ply").write_bytes(head + table.tobytes())
    read = load_splats(tmp_path / "a.ply")
    assert len(read.means) == 300 and 0 < read.scales[5, 1] < 1e-9 and read.opacities[6] == 0
    assert "1 with a scale of exp(-inf)" in caplog.text
    assert "1 with an infinite opacity" in caplog.text


# -- SPZ's other versions and faults -------------------------------------------------------------


def streams() -> tuple[tuple[int, ...], list[bytes]]:
    """Header fields and unpacked arrays of the file of version 4."""
    raw = (DATA / "a.spz").read_bytes()
    fields = _HEADER.unpack_from(raw)
    sizes = [struct.unpack_from("<QQ", raw, 32 + 16 * k) for k in range(6)]
    start, arrays = 32 + 16 * 6, []
    for packed, unpacked in sizes:
        one = zstandard.ZstdDecompressor().decompress(raw[start : start + packed], unpacked)
        arrays.append(one)
        start += packed
    return fields, arrays


def gzipped(*, version: int, arrays: list[bytes], **changes: int) -> bytes:
    """A file of version 2 or 3."""
    fields = dict(
        zip(
            ("magic", "version", "count", "degree", "bits", "flags", "none"),
            streams()[0],
            strict=True,
        )
    )
    fields |= {"version": version, "none": 0} | changes
    return gzip.compress(_HEADER.pack(*fields.values()) + b"".join(arrays))


def test_versions_2_and_3_hold_the_same(tmp_path: Path) -> None:
    fourth = load_splats(DATA / "a.spz")
    arrays = streams()[1]
    (tmp_path / "3.spz").write_bytes(gzipped(version=3, arrays=arrays, flags=1))
    third = load_splats(tmp_path / "3.spz")
    for name in ("means", "quats", "scales", "opacities", "sh"):
        np.testing.assert_array_equal(getattr(third, name), getattr(fourth, name))
    # Version 2 keeps x, y, z of a quaternion with w >= 0 as bytes, in axes turned about x.
    quats = np.asarray(fourth.quats) * [1, 1, -1, -1]
    quats *= np.where(quats[:, :1] < 0, -1, 1)
    arrays[4] = np.round(127.5 + 127.5 * quats[:, 1:]).astype(np.uint8).tobytes()
    (tmp_path / "2.spz").write_bytes(gzipped(version=2, arrays=arrays))
    second = load_splats(tmp_path / "2.spz")
    assert (1 - np.abs(np.sum(second.quats * fourth.quats, axis=1))).max() < 2e-2
    np.testing.assert_array_equal(second.sh, fourth.sh)


def put(at: int, kind: str, value: int) -> Callable[[bytes], bytes]:
    """A fault in one field of the header of version 4."""

    def apply(raw: bytes) -> bytes:
        size = struct.calcsize(kind)
        return raw[:at] + struct.pack(kind, value) + raw[at + size :]

    return apply


def bomb(raw: bytes) -> bytes:
    """A stream whose frame says a terabyte."""
    frame = bytearray(raw[128:])
    frame[4] = 0xE0  # the field of its content size has eight bytes, no window
    frame[5:13] = (1 << 40).to_bytes(8, "little")
    return raw[:128] + bytes(frame)


SPZ_FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda raw: raw[:-1], "truncated"),
    "header cut": (lambda raw: raw[:20], "truncated"),
    "version 1": (put(4, "<I", 1), "version 1, allowed: 2, 3, 4"),
    "version 9": (put(4, "<I", 9), "version 9"),
    "no splats": (put(8, "<I", 0), "allowed: 1 to"),
    "too many": (put(8, "<I", 2**32 - 1), "allowed: 1 to"),
    "one more": (put(8, "<I", 301), "needed: 2709"),
    "degree 9": (put(12, "<B", 9), "degree 9"),
    "streams": (put(15, "<B", 3), "3 streams, needed: 6"),
    "table outside": (put(16, "<I", 2**31), "truncated"),
    "size huge": (put(32, "<Q", 2**60), "truncated"),
    "unpacked huge": (put(40, "<Q", 2**60), "needed: 2700"),
    "damaged": (put(140, "<Q", 2**63), "zstd stream is damaged|arrays"),
    "bomb": (bomb, "needed: 2700|damaged"),
}


@pytest.mark.parametrize("fault", SPZ_FAULTS)
def test_a_faulty_spz_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    spoil, message = SPZ_FAULTS[fault]
    (tmp_path / "scan.spz").write_bytes(spoil((DATA / "a.spz").read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load_splats(tmp_path / "scan.spz")
    assert "\n" not in str(caught.value) and "scan.spz" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"NGSP"), "no .spz"),
        (gzip.compress(b"\0" * 64), "no .spz"),
        (b"\x1f\x8b" + b"\0" * 40, "gzip stream is damaged"),
        (b"", "no .ply"),
    ],
    # Compressed bytes hold the time, and every worker must call the tests alike.
    ids=["short", "zeros", "damaged", "empty"],
)
def test_a_faulty_gzip_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "scan.spz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_splats(tmp_path / "scan.spz")


def test_longer_and_shorter_gzip_streams_are_refused(tmp_path: Path) -> None:
    arrays = streams()[1]
    for changed, message in (([*arrays, b"0"], "followed by"), (arrays[:-1], "truncated")):
        (tmp_path / "a.spz").write_bytes(gzipped(version=3, arrays=changed))
        with pytest.raises(ValueError, match=message):
            load_splats(tmp_path / "a.spz")


# -- compressed .ply, .splat, foreign formats ----------------------------------------------------

COMPRESSED_FAULTS = {
    "chunks": ((b"element chunk 2\n", b"element chunk 1\n"), "truncated|followed|1 chunks"),
    "range": ((b"min_scale_x", b"min_other_x"), "not the layout of a compressed"),
    "harmonics": ((b"element sh 300\n", b"element sh 299\n"), "45 harmonics of 299"),
    "kind": ((b"uint packed_color", b"int packed_color"), "other columns"),
    "element": ((b"element sh ", b"element xx "), "allowed: chunk, vertex and sh"),
}


@pytest.mark.parametrize("fault", COMPRESSED_FAULTS)
def test_a_faulty_compressed_ply_is_refused(tmp_path: Path, fault: str) -> None:
    (old, new), message = COMPRESSED_FAULTS[fault]
    (tmp_path / "a.ply").write_bytes((DATA / "a.compressed.ply").read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_splats(tmp_path / "a.ply")


def test_a_cut_splat_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.splat").write_bytes((DATA / "a.splat").read_bytes()[:-1])
    with pytest.raises(ValueError, match="a multiple of 32"):
        load_splats(tmp_path / "a.splat")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.sog", b"PK\x03\x04"),
        ("meta.json", b"{}"),
        ("a.ksplat", b"\0\1"),
        ("a.gltf", b"{}"),
        ("a.glb", b"glTF"),
    ],
)
def test_other_formats_are_refused_with_a_converter(
    tmp_path: Path, name: str, start: bytes
) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(ValueError, match=f"npx @playcanvas/splat-transform {name}"):
        load_splats(tmp_path / name)


MEASURE = """
import resource, sys
from splat_render.assets.load import load_splats
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_splats(sys.argv[1])
before = peak()
load_splats(sys.argv[2])
print(peak() - before)
"""


def test_reading_needs_no_more_than_three_times_the_file(tmp_path: Path) -> None:
    raw = (DATA / "plain.ply").read_bytes()
    at = raw.index(b"end_header\n") + 11
    times = 1000
    head = raw[:at].replace(b"element vertex 300", f"element vertex {300 * times}".encode())
    (tmp_path / "large.ply").write_bytes(head + raw[at:] * times)
    command = [sys.executable, "-c", MEASURE, str(DATA / "plain.ply"), str(tmp_path / "large.ply")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown <= 3 * (tmp_path / "large.ply").stat().st_size


def test_no_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", out_of_memory)
    with pytest.raises(ValueError, match="no memory for a file of 0 MiB; crop or thin it"):
        load_splats(DATA / "plain.ply")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", load_splats(DATA / "a.spz"))
    load_splats(tmp_path / "a.ply", strict=True)
