"""Adam's clock, and gradients that are not numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.agents.optimizer import Trainable, apply_gradients, make_optimizer, tick

LR = 1e-3


def test_adam_is_adam() -> None:
    optimizer = make_optimizer(0.1)
    x = {"w": jnp.array([1.0, -2.0])}
    trainable = Trainable(x, optimizer.init(x))
    m = v = np.zeros(2)
    want = np.array([1.0, -2.0])
    for t, g in enumerate(([0.5, 0.5], [1.0, -3.0], [-2.0, 0.0]), start=1):
        g = np.array(g)
        trainable, finite = apply_gradients(optimizer, trainable, {"w": jnp.asarray(g)})
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        want = want - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert bool(finite)
    np.testing.assert_allclose(trainable.params["w"], want, rtol=1e-5)


@pytest.mark.parametrize("ticks, gain", [(1, 1.0), (2, 1.41), (4, 2.0), (5, 2.24), (9, 3.0)])
def test_zero_ticks_lengthen_the_step_by_their_root(ticks: int, gain: float) -> None:
    optimizer = make_optimizer(LR)

    def one_gradient(trainable: Trainable, _: None) -> tuple[Trainable, jax.Array]:
        for _ in range(ticks - 1):
            trainable = tick(optimizer, trainable)
        trainable, _ = apply_gradients(optimizer, trainable, jnp.float32(1.0))
        return trainable, trainable.params

    start = Trainable(jnp.float32(0.0), optimizer.init(jnp.float32(0.0)))
    _, path = jax.jit(lambda s: jax.lax.scan(one_gradient, s, None, length=2000))(start)
    step = float(path[999] - path[-1]) / 1000
    assert step / LR == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_gradient_that_is_no_number_changes_nothing(bad: float) -> None:
    optimizer = make_optimizer(LR)
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    before = Trainable(params, optimizer.init(params))
    grads = {"a": jnp.ones(3), "b": jnp.ones((2, 2)).at[1, 0].set(bad)}
    after, finite = apply_gradients(optimizer, before, grads)
    assert not bool(finite)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_warm_up_and_clip() -> None:
    warm = make_optimizer(LR, warmup_steps=10)
    state = Trainable(jnp.float32(0.0), warm.init(jnp.float32(0.0)))
    moved = [0.0]
    for _ in range(12):
        state, _ = apply_gradients(warm, state, jnp.float32(1.0))
        moved.append(float(state.params))
    np.testing.assert_allclose(np.diff(moved)[[0, 5, 11]], [0.0, -LR / 2, -LR], atol=1e-8)
    clipped, free = make_optimizer(LR, clip_norm=1.0), make_optimizer(LR)
    big, unit = {"w": jnp.array([30.0, 40.0])}, {"w": jnp.array([0.6, 0.8])}
    zero = jax.tree.map(jnp.zeros_like, big)
    got, _ = apply_gradients(clipped, Trainable(zero, clipped.init(zero)), big)
    want, _ = apply_gradients(free, Trainable(zero, free.init(zero)), unit)
    for a, b in zip(_moments(got), _moments(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def _moments(trainable: Trainable) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(trainable.opt_state) if leaf.shape == (2,)]
