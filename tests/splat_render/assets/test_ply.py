"""A .ply comes back as it was written, and one that lies is refused in one line."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splat_render.assets.formats.ply import save_ply
from splat_render.assets.formats.stored import MAX_SPLATS
from splat_render.assets.load import load_splats
from splat_render.types import GaussianSet


def some_splats(count: int, degree: int, seed: int = 0) -> GaussianSet:
    """Random splats of every size, opacity and direction."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    return GaussianSet(
        means=jnp.asarray(rng.uniform(-3, 3, (count, 3)), jnp.float32),
        quats=jnp.asarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), jnp.float32),
        scales=jnp.asarray(np.exp(rng.uniform(-9, 0, (count, 3))), jnp.float32),
        opacities=jnp.asarray(rng.uniform(0.004, 0.999, count), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(count, (degree + 1) ** 2, 3)), jnp.float32),
        body_id=jnp.zeros(count, jnp.int32),
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(1, 40), degree=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_round_trip(tmp_path: Path, count: int, degree: int, seed: int) -> None:
    written = some_splats(count, degree, seed)
    save_ply(tmp_path / "a.ply", written)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        load_splats(tmp_path / "a.ply"),
        written,
    )


def test_certain_and_flat_splats_are_written_as_almost_so(tmp_path: Path) -> None:
    splats = some_splats(2, 0)
    splats = splats.replace(opacities=jnp.array([0.0, 1.0]), scales=jnp.zeros((2, 3)))
    save_ply(tmp_path / "a.ply", splats)
    read = load_splats(tmp_path / "a.ply")
    np.testing.assert_allclose(read.opacities, [0, 1], atol=2e-7)
    np.testing.assert_allclose(read.scales, 0, atol=2e-12)


def by_hand(columns: dict[str, list[float]], head: str = "") -> bytes:
    """A file as another program would write it, column by column."""
    count = len(next(iter(columns.values())))
    properties = "".join(f"property float {name}\n" for name in columns)
    header = (
        f"ply\nformat binary_little_endian 1.0\n{head}element vertex {count}\n"
        f"{properties}end_header\n"
    )
    return header.encode() + np.array(list(columns.values()), "<f4").T.tobytes()


def test_conventions_of_the_format(tmp_path: Path) -> None:
    # Logit, logarithm, quaternion of any norm, wxyz, red before green, columns in any order.
    one = {f"f_rest_{i}": [float(i)] for i in range(9)}
    one |= {"opacity": [np.log(0.25 / 0.75)], "rot_0": [2.0], "rot_1": [0.0], "rot_2": [0.0]}
    one |= {"rot_3": [0.0], "scale_0": [np.log(0.5)], "scale_1": [0.0], "scale_2": [-1.0]}
    one |= {"z": [3.0], "y": [2.0], "x": [1.0], "f_dc_0": [0.1], "f_dc_1": [0.2], "f_dc_2": [0.3]}
    (tmp_path / "a.ply").write_bytes(by_hand(one, head="comment by hand\n"))
    read = load_splats(tmp_path / "a.ply")
    np.testing.assert_allclose(read.means, [[1, 2, 3]])
    np.testing.assert_allclose(read.quats, [[1, 0, 0, 0]])
    np.testing.assert_allclose(read.opacities, [0.25], rtol=1e-6)
    np.testing.assert_allclose(read.scales, [[0.5, 1, np.exp(-1)]], rtol=1e-6)
    np.testing.assert_allclose(
        read.sh[0], [[0.1, 0.2, 0.3], [0, 3, 6], [1, 4, 7], [2, 5, 8]], rtol=1e-6
    )
    assert read.body_id.tolist() == [0]


def change(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """A fault that replaces what must be there."""

    def apply(raw: bytes) -> bytes:
        assert raw.count(old) == 1
        return raw.replace(old, new)

    return apply


def with_value(column: int, value: float) -> Callable[[bytes], bytes]:
    """A fault in one number of the third splat."""

    def apply(raw: bytes) -> bytes:
        start = raw.index(b"end_header\n") + len(b"end_header\n")
        table = np.frombuffer(raw[start:], "<f4").reshape(5, -1).copy()
        table[2, column] = value
        return raw[:start] + table.tobytes()

    return apply


COUNT = b"element vertex 5\n"
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "count too large": (change(COUNT, b"element vertex 6\n"), "truncated"),
    "count too small": (change(COUNT, b"element vertex 4\n"), "followed by other bytes"),
    "count huge": (change(COUNT, b"element vertex 99999999999\n"), f"1 to {MAX_SPLATS}"),
    "count negative": (change(COUNT, b"element vertex -5\n"), f"1 to {MAX_SPLATS}"),
    "count zero": (change(COUNT, b"element vertex 0\n"), f"1 to {MAX_SPLATS}"),
    "count in other digits": (change(COUNT, "element vertex ٥\n".encode()), f"1 to {MAX_SPLATS}"),
    "truncated": (lambda raw: raw[:-1], "truncated"),
    "trailing byte": (lambda raw: raw + b"\0", "followed by other bytes"),
    "nan": (with_value(0, np.nan), r"1 of 5 splats left out: .*not finite.*\(first: splat 2\)"),
    "infinite opacity": (with_value(9, np.inf), "1 with an infinite opacity"),
    "scale not a logarithm": (with_value(10, 50.0), r"exp\(50\) m"),
    "big-endian": (change(b"little", b"big"), "allowed: format binary_little_endian"),
    "ascii": (change(b"binary_little_endian", b"ascii"), "allowed: format binary_little_endian"),
    "no .ply": (lambda raw: b"PLY" + raw[3:], "does not start with 'ply'"),
    "empty": (lambda _: b"", "does not start with 'ply'"),
    "endless header": (lambda raw: raw[:40] + b"comment\n" * 4096, "does not end within"),
    "endless line": (lambda raw: raw[:40] + b"a" * 100_000, "does not end within"),
    "header cut": (lambda raw: raw[:100], "does not end within"),
    "unknown column": (change(b"float nx", b"float red"), "unknown: red"),
    "missing column": (change(b"property float rot_3\n", b""), "missing: rot_3"),
    "column twice": (change(b"float ny", b"float nx"), "each once"),
    "double column": (change(b"float opacity", b"double opacity"), "allowed: property float"),
    "list": (change(b"float opacity", b"list uchar int a"), "and property float"),
    "compressed": (change(COUNT, b"element chunk 5\n"), "allowed: chunk, vertex and sh"),
    "second element": (change(b"end_header", b"element face 1\nend_header"), "'element face 1'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "scan.ply"
    save_ply(path, some_splats(5, 0))
    spoil, message = FAULTS[fault]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        load_splats(path, strict=True)
    assert "\n" not in str(caught.value)
    assert "scan.ply" in str(caught.value)


def test_odd_degree_is_refused(tmp_path: Path) -> None:
    splats = some_splats(3, 1)
    save_ply(tmp_path / "a.ply", splats.replace(sh=splats.sh[:, :3]))
    with pytest.raises(ValueError, match="has 6 columns f_rest"):
        load_splats(tmp_path / "a.ply")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_splats(tmp_path / "none.ply")
