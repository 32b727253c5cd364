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
    rng = np.random.default_rng(9)
    return jax.tree.map(
        lambda x: x + (0.3 * rng.normal(size=x.shape)).astype(np.float32), jax.device_get(params)
    )


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_ensemble_is_its_members_and_they_are_the_plain_network(
    activation: str, layer_norm: bool
) -> None:
    net = MLP((16, 24), 1, activation=activation, layer_norm=layer_norm, members=3)
    params = shaken(jax.jit(net.init)(jax.random.key(0), np.zeros((1, 7), np.float32)))
    x = np.random.default_rng(1).normal(2.0, size=(5, 7)).astype(np.float32)
    members = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3)]

    @jax.jit
    def run(params: dict, members: list[dict], x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        plain = net.clone(members=None)
        return ensemble_q(net, params, x[:, :4], x[:, 4:]), [plain.apply(m, x) for m in members]

    q, apart = jax.device_get(run(params, members, x))
    for i in range(3):
        want = numpy_mlp(members[i], np.asarray(x, np.float64), activation, layer_norm)[:, 0]
        np.testing.assert_allclose(q[i], want, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(apart[i][:, 0], want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "swish"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_hand_written_gradient_is_autodiffs(activation: str, lead: tuple[int, ...]) -> None:
    def plain(z: jax.Array, bias: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        h = z + bias[..., None, :]
        xhat = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return ACTIVATIONS[activation](xhat * scale[..., None, :] + shift[..., None, :])

    rng = np.random.default_rng(0)
    shapes = [(*lead, 6, 10)] + [(*lead, 10)] * 3
    args = [rng.normal(1.0, size=shape).astype(np.float32) for shape in shapes]
    weight = rng.normal(size=shapes[0]).astype(np.float32)

    @jax.jit
    def grads(args: list[jax.Array]) -> list[list[jax.Array]]:
        return [
            jax.grad(lambda a, block=block: jnp.sum(weight * block(*a)))(args)
            for block in (partial(norm_activate, activation), plain)
        ]

    for got, want in zip(*grads(args), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_bfloat16_product_and_its_gradients_round_only_their_factors(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    # Whole numbers up to 8 are exact in bfloat16, and their sums in float32.
    x, kernel, weight = (
        rng.integers(-8, 9, (*lead, *shape)).astype(np.float32)
        for shape in ((6, 10), (10, 4), (6, 4))
    )

    @partial(jax.jit, static_argnums=0)
    def value_and_grads(product: Callable, x: jax.Array, kernel: jax.Array) -> tuple:
        y, pull = jax.vjp(product, x, kernel)
        return y, *pull(jnp.asarray(weight))

    found = value_and_grads(bfloat16_product, x, kernel)
    assert found[0].dtype == jnp.float32
    np.testing.assert_array_equal(found[0], x @ kernel)
    for got, want in zip(found[1:], value_and_grads(jnp.matmul, x, kernel)[1:], strict=True):
        np.testing.assert_array_equal(got, want)
    x = x + np.float32(0.3)
    rounded = np.asarray(value_and_grads(bfloat16_product, x, kernel)[0])
    assert 0.0 < np.max(np.abs(rounded - x @ kernel)) < 1.0


def test_weights_start_xavier_uniform() -> None:
    net = MLP((256, 256), 1, members=2)
    params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 33), np.float32))["params"]
    for name, fan in (("dense_0", 33 + 256), ("dense_1", 512), ("head", 257)):
        limit = np.sqrt(6 / fan)
        kernel = np.asarray(params[name])
        assert np.abs(kernel).max() <= limit and np.abs(kernel).max() > 0.97 * limit
        assert not np.array_equal(kernel[0], kernel[1])
        assert not np.asarray(params[f"{name}_bias"]).any()


def test_random_members_are_different_and_all_can_be_drawn() -> None:
    params = {"w": jnp.arange(5.0)}
    draw = jax.jit(lambda key: random_members(params, key, 2)["w"])
    draws = [np.asarray(draw(jax.random.key(i))) for i in range(40)]
    assert all(float(d[0]) != float(d[1]) for d in draws)
    assert {float(x) for d in draws for x in d} == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_density_integrates_to_one_and_matches_the_samples() -> None:
    mean, std = np.float32([0.4]), np.float32([0.7])
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    log_prob_of = jax.jit(tanh_normal_log_prob)
    density = np.exp(np.asarray(log_prob_of(grid.astype(np.float32)[:, None], mean, std)))
    assert np.sum(density) * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
    shape = (1000, 3)
    mean, std = np.full(shape, 0.3, np.float32), np.full(shape, 0.5, np.float32)
    action, log_prob = jax.jit(tanh_normal_sample)(jax.random.key(0), mean, std)
    again = log_prob_of(action, mean, std)
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
    encode = jax.jit(lambda obs: encode_vectors(obs, fields))
    np.testing.assert_array_equal(encode(obs), [[0, 1, 2, 3, 4, 5, 6]])
