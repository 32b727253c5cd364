"""Random crops, a shift of at most `pad`, of each image apart; and words that are misheard."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.nets.augment import crop_images, random_crop, replace_words
from scenes.contract.specs import ObsField, ObsSpec


def images(count: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (count, 12, 10, 3)), jnp.uint8)


def offsets_of(image: np.ndarray, crop: np.ndarray, pad: int) -> list[tuple[int, int]]:
    """Every (down, right) whose window of the edge-padded image is the crop."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    return [
        (i, j)
        for i in range(2 * pad + 1)
        for j in range(2 * pad + 1)
        if np.array_equal(padded[i : i + height, j : j + width], crop)
    ]


def test_each_crop_is_a_window_of_its_image_and_every_offset_comes_up() -> None:
    before = images(500)
    after = jax.jit(random_crop, static_argnums=2)(jax.random.key(0), before, 2)
    assert after.shape == before.shape and after.dtype == jnp.uint8
    found = [
        offsets_of(*pair, 2) for pair in zip(np.asarray(before), np.asarray(after), strict=True)
    ]
    assert all(len(offsets) == 1 for offsets in found)
    assert {offsets[0] for offsets in found} == {(i, j) for i in range(5) for j in range(5)}


def test_four_pixels_are_the_most() -> None:
    before = images(40)
    after = np.asarray(random_crop(jax.random.key(1), before, 4))
    assert all(offsets_of(image, crop, 4) for image, crop in zip(before, after, strict=True))


def test_cameras_move_apart_vectors_and_rows_stay() -> None:
    same = images(30)
    obs = {"front": same, "state": jnp.ones((30, 2)), "wrist": same}
    crop = partial(crop_images, cameras=("front", "wrist"))
    out = crop(jax.random.key(0), obs, 4)
    assert list(out) == list(obs) and out["state"] is obs["state"]
    assert not np.array_equal(out["front"], out["wrist"])
    assert not np.array_equal(out["front"], crop(jax.random.key(1), obs, 4)["front"])
    assert crop(jax.random.key(0), obs, 0)["front"] is same


def test_misheard_words_are_others_and_nothing_is_heard_where_nothing_was_said() -> None:
    words = ObsField(name="told", shape=(4,), dtype="int32", scale=50.0, modality="tokens")
    spec = ObsSpec(fields=(words, ObsField(name="x", shape=(1,))))
    ids = jnp.tile(jnp.array([7, 8, 9, 0]), (2000, 1))
    heard = replace_words(jax.random.key(0), {"told": ids, "x": ids}, spec, share=0.3)
    np.testing.assert_array_equal(heard["x"], ids)
    got = np.asarray(heard["told"])
    assert not got[:, 3].any() and got[:, :3].min() >= 1 and got.max() < 50
    # Of those replaced one in 49 is the same word.
    assert (got[:, :3] != ids[:, :3]).mean() == pytest.approx(0.3 * 48 / 49, abs=0.02)
