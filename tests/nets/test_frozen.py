"""A trained encoder on disk: the same features after loading, and nothing else is loaded."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.frozen import FrozenEncoder, Reader, ReaderSpec, load_encoder, save_encoder
from mjx_serl.types import Obs, PyTree

SPEC = ReaderSpec(
    cameras=("front", "wrist"),
    size=32,
    encoder=EncoderConfig(name="small", features=8),
    hidden=6,
    targets=(("cube", 3, 0.2), ("angle", 1, 1.0)),
)


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    blank = {camera: np.zeros((1, 32, 32, 3), np.uint8) for camera in SPEC.cameras}
    return FrozenEncoder(SPEC, jax.jit(Reader(SPEC).init)(jax.random.key(0), blank))


def load(name: str | Path) -> FrozenEncoder:
    return load_encoder(str(name), cameras=("front", "wrist"), size=32)


def pictures() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {c: draw.integers(0, 256, (5, 32, 32, 3), np.uint8) for c in SPEC.cameras}


@jax.jit
def seen_by(params: PyTree, shown: Obs) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What an encoder with these parameters gives, and its reader's features and estimates."""
    return FrozenEncoder(SPEC, params)(shown), Reader(SPEC).apply(params, shown)


def test_features_and_estimates_lie_one_after_the_other(encoder: FrozenEncoder) -> None:
    seen, (features, estimates) = jax.device_get(seen_by(encoder.params, pictures()))
    assert seen.shape == (5, *SPEC.shape({})) == (5, 6 + 4)
    np.testing.assert_array_equal(seen, np.concatenate([features, estimates], axis=-1))
    assert np.std(seen, axis=0).min() > 0  # every entry depends on the pictures


def test_a_file_holds_the_encoder_to_half_precision(encoder: FrozenEncoder, tmp_path: Path) -> None:
    save_encoder(tmp_path / "e.npz", SPEC, encoder.params, note={"seed": 3})
    loaded = load(tmp_path / "e.npz")
    assert loaded.spec == SPEC
    (found, _), (wanted, _) = (seen_by(x.params, pictures()) for x in (loaded, encoder))
    np.testing.assert_allclose(found, wanted, atol=2e-2)


def test_other_cameras_or_sizes_are_refused(encoder: FrozenEncoder) -> None:
    encoder.check(("wrist", "front"), 32)
    with pytest.raises(ValueError, match=r"reads cameras \('front', 'wrist'\) at 32 px"):
        encoder.check(("front",), 32)
    with pytest.raises(ValueError, match="at 64 px"):
        encoder.check(("front", "wrist"), 64)


def test_what_is_no_encoder_is_refused_in_one_line(encoder: FrozenEncoder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No frozen encoder 'pickcube'"):
        load("pickcube")
    path = tmp_path / "e.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="no frozen encoder"):
        load(path)
    save_encoder(path, SPEC, encoder.params, note={})
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    weight = next(name for name, x in arrays.items() if x.ndim == 2)
    for wrong in (arrays[weight][:1], np.full_like(arrays[weight], np.nan)):
        np.savez(path, **(arrays | {weight: wrong}))
        with pytest.raises(ValueError, match="does not hold the finite weights"):
            load(path)
    meta = json.loads(str(arrays["meta"]))
    meta["spec"]["cameras"] = ["front"]
    np.savez(path, **(arrays | {"meta": np.array(json.dumps(meta))}))
    with pytest.raises(ValueError, match="does not hold"):
        load(path)
