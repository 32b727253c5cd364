"""Flow matching: what is known by hand, and that it can hold two modes at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mjx_serl.nets.flow import Flow
from mjx_serl.nets.mlp import MLP

FLOW = Flow(MLP((32, 32), 1, activation="swish", layer_norm=False), dim=1, steps=10)
NOTHING = jnp.zeros((64, 1))  # features


def constant(value: float) -> dict:
    """Parameters whose velocity is `value` everywhere."""
    params = jax.tree.map(jnp.zeros_like, FLOW.init(jax.random.key(0), 1))
    params["params"]["head_bias"] = jnp.full(1, value)
    return params


def test_euler_adds_up_the_velocity_and_clips() -> None:
    noise = jnp.array([[-0.3], [0.2], [2.0]])
    got = FLOW.transport(constant(0.5), NOTHING[:3], noise)
    np.testing.assert_allclose(got, [[0.2], [0.7], [1.0]], atol=1e-6)
    many = FLOW.candidates(constant(0.5), NOTHING[:2], jnp.zeros((3, 2, 1)))
    np.testing.assert_allclose(many, np.full((3, 2, 1), 0.5), atol=1e-6)


def test_the_loss_is_the_distance_to_the_straight_line() -> None:
    """v = 0: the mean of (x_1 - x_0)^2 over what counts; zeros for what does not."""
    key, data = jax.random.key(3), jnp.full((64, 1), 0.5)
    noise = jax.random.normal(jax.random.split(key)[0], data.shape)
    counted = jnp.arange(64)[:, None] % 2 == 0
    loss = FLOW.loss(constant(0.0), NOTHING, data, key, counted=counted)
    want = np.where(counted, np.square(data - noise), 0.0).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_a_flow_holds_two_modes() -> None:
    optimizer = optax.adam(3e-3)
    data = jnp.where(jnp.arange(64)[:, None] % 2 == 0, 0.6, -0.6)

    @functools.partial(jax.jit, static_argnums=1)
    def learn(params: dict, count: int) -> jax.Array:
        def step(carry: tuple, key: jax.Array) -> tuple:
            params, opt = carry
            grads = jax.grad(FLOW.loss)(params, NOTHING, data, key, counted=data != 0)
            updates, opt = optimizer.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), None

        keys = jax.random.split(jax.random.key(1), count)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return FLOW.transport(params, NOTHING, jax.random.normal(jax.random.key(2), (64, 1)))

    drawn = np.asarray(learn(FLOW.init(jax.random.key(0), 1), 800))[:, 0]
    near = np.abs(np.abs(drawn) - 0.6) < 0.2
    assert near.mean() > 0.8 and 0.25 < (drawn > 0).mean() < 0.75
