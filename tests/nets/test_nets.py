"""Networks and the squashed Normal against plain numpy."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs_of import obs_spec_of

from mjx_serl.nets.distributions import (
    split_mean_std,
    tanh_log_det,
    tanh_normal_log_prob,
    tanh_normal_sample,
)
from mjx_serl.nets.encoders import encode_vectors, vector_dim
from mjx_serl.nets.ensemble import ensemble_q, random_members
from mjx_serl.nets.mlp import ACTIVATIONS, MLP, bfloat16_product, norm_activate


def numpy_mlp(params: dict, x: np.ndarray, activation: str, layer_norm: bool) -> np.ndarray:
    """The same network in float64, written out."""
    act = {
        "tanh": np.tanh,
        "relu": lambda z: np.maximum(z, 0),
        "swish": lambda z: z / (1 + np.exp(-z)),
    }[activation]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    for i in range(2):
        x = x @ params[f"dense_{i}"] + params[f"dense_{i}_bias"]
        if layer_norm:
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6)
            x = x * params[f"norm_{i}_scale"] + params[f"norm_{i}_bias"]
        x = act(x)
    return x @ params["head"].T + params["head_bias"]


def shaken(params: dict) -> dict:
    """Parameters away from their ones and zeros, so that each of them matters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_ensemble_is_its_members_and_they_are_the_plain_network(
    activation: str, layer_norm: bool
) -> None:
    net = MLP((16, 24), 1, activation=activation, layer_norm=layer_norm, members=3)
    params = shaken(net.init(jax.random.key(0), jnp.zeros((1, 7))))
    x = jax.random.normal(jax.random.key(1), (5, 7)) + 2.0
    q = ensemble_q(net, params, x[:, :4], x[:, 4:])
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        want = numpy_mlp(member, np.asarray(x, np.float64), activation, layer_norm)[:, 0]
        np.testing.assert_allclose(q[i], want, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(
            net.clone(members=None).apply(member, x)[:, 0], want, rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_hand_written_gradient_is_autodiffs(activation: str, lead: tuple[int, ...]) -> None:
    def plain(z: jax.Array, bias: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        h = z + bias[..., None, :]
        xhat = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return ACTIVATIONS[activation](xhat * scale[..., None, :] + shift[..., None, :])

    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(*lead, 6, 10)] + [(*lead, 10)] * 3
    args = [1 + jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    weight = jax.random.normal(keys[4], shapes[0])

    def grads(block: Callable) -> list[jax.Array]:
        return jax.grad(lambda a: jnp.sum(weight * block(*a)))(args)

    for got, want in zip(grads(partial(norm_activate, activation)), grads(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_bfloat16_product_and_its_gradients_round_only_their_factors(lead: tuple[int, ...]) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    # Whole numbers up to 8 are exact in bfloat16, and their sums in float32.
    x, kernel, weight = (
        jax.random.randint(k, (*lead, *shape), -8, 9).astype(jnp.float32)
        for k, shape in zip(keys, ((6, 10), (10, 4), (6, 4)), strict=True)
    )

    def grads(product: Callable) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *a: jnp.sum(weight * product(*a)), (0, 1))(x, kernel)

    assert bfloat16_product(x, kernel).dtype == jnp.float32
    np.testing.assert_array_equal(bfloat16_product(x, kernel), x @ kernel)
    for got, want in zip(grads(bfloat16_product), grads(jnp.matmul), strict=True):
        np.testing.assert_array_equal(got, want)
    rounded = bfloat16_product(x + 0.3, kernel)
    assert 0.0 < float(jnp.max(jnp.abs(rounded - (x + 0.3) @ kernel))) < 1.0


def test_weights_start_xavier_uniform() -> None:
    net = MLP((256, 256), 1, members=2)
    params = net.init(jax.random.key(0), jnp.zeros((1, 33)))["params"]
    for name, fan in (("dense_0", 33 + 256), ("dense_1", 512), ("head", 257)):
        limit = np.sqrt(6 / fan)
        kernel = np.asarray(params[name])
        assert np.abs(kernel).max() <= limit and np.abs(kernel).max() > 0.97 * limit
        assert not np.array_equal(kernel[0], kernel[1])
        assert not np.asarray(params[f"{name}_bias"]).any()


def test_random_members_are_different_and_all_can_be_drawn() -> None:
    params = {"w": jnp.arange(5.0)}
    draws = [random_members(params, jax.random.key(i), 2)["w"] for i in range(40)]
    assert all(float(d[0]) != float(d[1]) for d in draws)
    assert {float(x) for d in draws for x in d} == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_density_integrates_to_one_and_matches_the_samples() -> None:
    mean, std = jnp.array([0.4]), jnp.array([0.7])
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    density = np.exp(np.asarray(tanh_normal_log_prob(jnp.asarray(grid)[:, None], mean, std)))
    assert np.sum(density) * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
    shape = (1000, 3)
    action, log_prob = tanh_normal_sample(
        jax.random.key(0), jnp.full(shape, 0.3), jnp.full(shape, 0.5)
    )
    again = tanh_normal_log_prob(action, jnp.full(shape, 0.3), jnp.full(shape, 0.5))
    np.testing.assert_allclose(log_prob, again, atol=2e-3)


def test_log_det_by_hand_and_far_out() -> None:
    assert float(tanh_log_det(jnp.float32(0.0))) == pytest.approx(0.0, abs=1e-6)
    assert float(tanh_log_det(jnp.float32(1.0))) == pytest.approx(np.log(1 - np.tanh(1.0) ** 2))
    for far in (-50.0, 50.0):  # log(4 e^-100), where 1 - tanh^2 is zero
        assert float(tanh_log_det(jnp.float32(far))) == pytest.approx(np.log(4) - 100, rel=1e-6)


def test_std_is_clipped_as_serl_does() -> None:
    mean, std = split_mean_std(jnp.array([1.0, 2.0, 3.0, 4.0, -100.0, 0.0, 100.0, 1.0]))
    np.testing.assert_allclose(mean, [1, 2, 3, 4])
    np.testing.assert_allclose(std, [1e-5, 1.0, 5.0, np.e], rtol=1e-5)


def test_vectors_are_joined_in_the_order_of_their_names() -> None:
    shapes = {
        "z": jax.ShapeDtypeStruct((2,), jnp.float32),
        "a": jax.ShapeDtypeStruct((2, 2), jnp.float32),
        "m": jax.ShapeDtypeStruct((), jnp.float32),
    }
    obs = {
        "z": jnp.array([[5.0, 6.0]]),
        "a": jnp.array([[[0.0, 1.0], [2.0, 3.0]]]),
        "m": jnp.array([4.0]),
    }
    fields = obs_spec_of(shapes).of_kind("vector")
    assert vector_dim(fields) == 7
    np.testing.assert_array_equal(encode_vectors(obs, fields), [[0, 1, 2, 3, 4, 5, 6]])
