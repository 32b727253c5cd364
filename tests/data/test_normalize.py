"""Running moments against numpy, and what is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs_of import obs_spec_of

from mjx_serl.data import normalize

SHAPES = {
    "state": jax.ShapeDtypeStruct((3,), jnp.float32),
    "image": jax.ShapeDtypeStruct((2, 2, 3), jnp.uint8),
}


def observations(count: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    state = rng.normal([1000.0, 0.0, 5.0], [1.0, 3.0, 0.0], (count, 3))
    return {
        "state": state.astype(np.float32),
        "image": rng.integers(0, 256, (count, 2, 2, 3)).astype(np.uint8),
    }


update, scaled_by = jax.jit(normalize.update), jax.jit(normalize.normalize)


@pytest.mark.parametrize("parts", [(100,), (1, 99), (37, 0, 63), (50, 25, 25)])
def test_moments_do_not_depend_on_how_the_samples_come(parts: tuple[int, ...]) -> None:
    obs = observations(100)
    state, start = normalize.init(obs_spec_of(SHAPES)), 0
    for size in parts:
        chunk = jax.tree.map(lambda x, a=start, b=start + size: x[a:b], obs)
        state = update(state, chunk, np.ones(size, bool))
        start += size
    x = np.asarray(obs["state"], np.float64)
    np.testing.assert_allclose(state.mean["state"], x.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state.m2["state"] / 100, x.var(0), rtol=1e-3, atol=1e-6)


def test_masked_samples_are_ignored_even_when_not_finite() -> None:
    obs = observations(8)
    mask = np.arange(8) % 2 == 0
    spoiled = obs | {"state": np.where(mask[:, None], obs["state"], np.float32(np.nan))}
    even = jax.tree.map(lambda x: x[::2], obs)
    got = update(normalize.init(obs_spec_of(SHAPES)), spoiled, mask)
    want = update(normalize.init(obs_spec_of(SHAPES)), even, np.ones(4, bool))
    assert float(got.count) == 4
    np.testing.assert_allclose(got.mean["state"], want.mean["state"], rtol=1e-6)
    np.testing.assert_allclose(got.m2["state"], want.m2["state"], rtol=1e-4, atol=1e-5)


def test_normalize_scales_clips_floors_and_leaves_images() -> None:
    obs = observations(4096)
    state = update(normalize.init(obs_spec_of(SHAPES)), obs, np.ones(4096, bool))
    out = jax.device_get(scaled_by(state, obs))
    np.testing.assert_allclose(out["state"][:, :2].mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(out["state"][:, :2].std(0), 1.0, rtol=1e-3)
    assert out["image"].dtype == np.uint8 and (out["image"] == obs["image"]).all()
    moved = {"state": np.float32([[1000.0, 1e6, 5.05]]), "image": obs["image"][:1]}
    scaled = np.asarray(scaled_by(state, moved)["state"])[0]
    assert float(scaled[1]) == 10.0
    assert float(scaled[2]) == pytest.approx(5.0, rel=1e-3)  # 0.05 over the floor of 0.01


def test_identity_before_the_first_sample() -> None:
    obs = {"state": np.float32([[0.5, -2.0, 3.0]]), "image": np.zeros((1, 2, 2, 3), np.uint8)}
    out = scaled_by(normalize.init(obs_spec_of(SHAPES)), obs)
    assert (np.asarray(out["state"]) == obs["state"]).all()
