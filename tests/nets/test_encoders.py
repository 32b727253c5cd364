"""Encoders: their shapes, their convolutions against XLA's, what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs_of import obs_spec_of

from mjx_serl.nets.convolution import Conv, Convolution, by_library, by_product, convolve
from mjx_serl.nets.encoders import ENCODERS, EncoderConfig, ObsEncoder, SpatialEmbeddings
from mjx_serl.nets.mlp import MLP
from mjx_serl.types import Obs


def images(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def spec(*shape: int, dtype: type = jnp.uint8) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def obs_encoder(config: EncoderConfig, **shapes: jax.ShapeDtypeStruct) -> ObsEncoder:
    return ObsEncoder(config, obs_spec_of(shapes))


# -- convolutions --------------------------------------------------------------------------------


@pytest.mark.parametrize("size, stride", [(4, 4), (8, 4), (3, 2), (3, 1), (1, 2), (2, 3)])
def test_the_chosen_convolution_is_xlas_own(size: int, stride: int) -> None:
    x, kernel = normal(2, 13, 17, 3), normal(size, size, 3, 5, seed=1)
    library = partial(by_library, stride, "float32")
    weight = normal(*jax.eval_shape(library, x, kernel).shape, seed=2)

    def value_and_grads(convolution: Convolution, x: jax.Array, kernel: jax.Array) -> tuple:
        y, pull = jax.vjp(convolution, x, kernel)
        return y, *pull(jnp.asarray(weight))

    @jax.jit
    def by_each(x: jax.Array, kernel: jax.Array) -> list[tuple]:
        ways = (library, partial(convolve, stride, "float32"), partial(by_product, stride))
        return [value_and_grads(way, x, kernel) for way in ways]

    want, *found = by_each(x, kernel)
    for way in found:
        for got, exact in zip(way, want, strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_bfloat16_rounds_and_keeps_float32_outside() -> None:
    x, kernel = images(9).astype(np.float32), np.full((3, 3, 3, 4), 1 / 3, np.float32)
    exact = np.asarray(by_library(2, "float32", x, kernel))
    rounded = by_library(2, "bfloat16", x, kernel)
    assert rounded.dtype == jnp.float32
    assert 0 < np.max(np.abs(np.asarray(rounded) - exact) / exact) < 0.01


def test_padding_is_zeros_on_each_side() -> None:
    x = normal(1, 6, 6, 2)
    conv = Conv(3, 3, 2, padding=1)

    @jax.jit
    def run(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = conv.init(key, x)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        want = by_library(2, "float32", padded, params["params"]["kernel"])
        return conv.apply(params, x), want

    got, want = run(jax.random.key(1), x)
    assert want.shape == (1, 3, 3, 3)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# -- encoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("size", [64, 84, 128])
def test_defect_10_any_size_becomes_features(name: str, size: int) -> None:
    encoder = EncoderConfig(name=name, features=50).build()
    params, out = jax.eval_shape(
        lambda key, x: (encoder.init(key, x), encoder.init_with_output(key, x)[0]),
        jax.random.key(0),
        spec(7, size, size, 3),
    )
    assert out.shape == (7, 50) and out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "name", ["small", "serl_small", pytest.param("resnet10", marks=pytest.mark.slow)]
)
def test_defect_11_every_parameter_matters_and_images_are_told_apart(name: str) -> None:
    encoder = EncoderConfig(name=name, features=8).build()
    pair = images(40)

    @jax.jit
    def run(key: jax.Array, pair: jax.Array) -> tuple:
        # Away from the zeros of the last norm in each residual block, which hide what is before
        # it.
        params = jax.tree.map(lambda leaf: leaf + 0.05, encoder.init(key, pair))
        features, pull = jax.vjp(lambda p: encoder.apply(p, pair), params)
        return features, pull(jnp.zeros_like(features).at[:, 0].set(1.0))[0]

    features, grads = jax.device_get(run(jax.random.key(0), pair))
    assert np.abs(features[0] - features[1]).max() > 1e-3
    assert np.abs(features).max() <= 1.0
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(leaf).max() > 0
    ]
    assert silent == []


def test_layouts_are_serls() -> None:
    def maps(name: str, key: str) -> tuple:
        encoder = EncoderConfig(name=name, features=256).build()
        params = jax.eval_shape(encoder.init, jax.random.key(0), spec(1, 128, 128, 3))["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return [leaf.shape for path, leaf in leaves if key in jax.tree_util.keystr(path)]

    kernels = maps("serl_small", "kernel")
    assert kernels == [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128), (3, 3, 128, 256)]
    assert maps("serl_small", "dense_0'") == [(256, 256)]
    assert maps("resnet10", "SpatialEmbeddings") == [(4, 4, 512, 8)]
    assert maps("resnet10", "dense_0'") == [(512 * 8, 256)]


def test_spatial_embeddings_are_weighted_sums_over_the_image() -> None:
    x = normal(2, 3, 4, 5)
    module = SpatialEmbeddings(count=2)
    found, params = jax.jit(module.init_with_output)(jax.random.key(1), x)
    kernel = np.asarray(params["params"]["kernel"])
    want = [[np.sum(x[b] * kernel[..., e], (0, 1)) for e in (0, 1)] for b in (0, 1)]
    got = np.asarray(found).reshape(2, 5, 2)
    np.testing.assert_allclose(got.transpose(0, 2, 1), want, rtol=1e-4, atol=1e-5)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"Unknown encoder 'resnet18'. Did you mean 'resnet10'\?"):
        EncoderConfig(name="resnet18").build()


@pytest.mark.parametrize("name", ["small", "serl_small"])
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name: str) -> None:
    config = EncoderConfig(name=name)
    least = config.build().least_size
    init = partial(jax.eval_shape, config.build().init, jax.random.key(0))
    init(spec(1, least, least, 3))
    one_less = obs_encoder(config, front=spec(64, least - 1, 3))
    message = f"Image 'front' has {least - 1}x64 px, .*'{name}': at least {least}x{least}"
    with pytest.raises(ValueError, match=message):
        one_less.init(jax.random.key(0))


# -- whole observations --------------------------------------------------------------------------


def test_images_come_first_then_vectors() -> None:
    config = EncoderConfig(features=5)
    encoder = obs_encoder(
        config, wrist=spec(28, 28, 3), arm=spec(2, dtype=jnp.float32), front=spec(32, 28, 3)
    )
    assert encoder.cameras == ("front", "wrist")
    assert (encoder.image_dim, encoder.dim) == (10, 12)
    obs = {
        "arm": np.float32([[1.0, 2.0], [3.0, 4.0]]),
        "front": images(32)[:, :, :28],
        "wrist": images(28, seed=1),
    }
    alone = config.build()

    @jax.jit
    def run(key: jax.Array, obs: Obs) -> tuple[jax.Array, dict]:
        params = encoder.init(key)
        owns = {name: {"params": params["params"][f"camera_{name}"]} for name in encoder.cameras}
        return encoder(params, obs), {name: alone.apply(owns[name], obs[name]) for name in owns}

    out, seen = jax.device_get(run(jax.random.key(0), obs))
    assert out.shape == (2, 12)
    np.testing.assert_array_equal(out[:, 10:], obs["arm"])
    for camera, columns in (("front", out[:, :5]), ("wrist", out[:, 5:10])):
        np.testing.assert_allclose(seen[camera], columns, rtol=1e-5, atol=1e-6)


def test_cameras_share_an_encoder_when_told() -> None:
    shapes = {"front": spec(28, 28, 3), "wrist": spec(28, 28, 3)}
    obs = {"front": images(28), "wrist": images(28)}
    apart, shared = (
        obs_encoder(EncoderConfig(features=6, shared=shared), **shapes) for shared in (False, True)
    )

    @jax.jit
    def run(key: jax.Array, obs: Obs) -> tuple:
        params, one = apart.init(key), shared.init(key)
        return params, one, apart(params, obs), shared(one, obs)

    params, one, by_two, by_one = jax.device_get(run(jax.random.key(0), obs))
    assert len(jax.tree.leaves(params)) == 2 * len(jax.tree.leaves(one))
    front, wrist = np.split(by_one, 2, axis=-1)
    np.testing.assert_array_equal(front, wrist)
    front, wrist = np.split(by_two, 2, axis=-1)
    assert np.abs(front - wrist).max() > 1e-3


def test_an_image_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Image 'front' has shape \[64, 64\], allowed: \[H, W, C"):
        obs_encoder(EncoderConfig(), front=spec(64, 64)).init(jax.random.key(0))


def test_without_images_there_is_nothing_to_learn() -> None:
    encoder = obs_encoder(EncoderConfig(), state=spec(3, dtype=jnp.float32))
    assert encoder.init(jax.random.key(0)) == {} and (encoder.image_dim, encoder.dim) == (0, 3)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(encoder({}, {"state": x}), x)


@pytest.mark.parametrize("members", [None, 2])
def test_embedded_columns_pass_a_block_of_their_own(members: int | None) -> None:
    net = MLP((6,), 3, members=members, embedded=(4, 6))
    x = normal(5, 7)
    found, params = jax.device_get(jax.jit(net.init_with_output)(jax.random.key(1), x))
    inside = params["params"]
    assert inside["dense_embed"].shape[-2:] == (2, 64)
    assert inside["dense_0"].shape[-2:] == (4 + 64 + 1, 6)
    if members is None:
        h = np.matmul(x[:, 4:6], inside["dense_embed"])
        h = h - h.mean(-1, keepdims=True)
        h = np.tanh(h / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-6))
        rest = {k: v for k, v in inside.items() if "embed" not in k}
        joined = np.concatenate([x[:, :4], h, x[:, 6:]], axis=-1)
        want = jax.jit(MLP((6,), 3).apply)({"params": rest}, joined)
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
