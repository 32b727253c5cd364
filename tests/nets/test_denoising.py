"""Random denoising against what is known of Normal data, by analytic fields."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.nets import denoising
from mjx_serl.nets.denoising import FPO, FROM, INDEX, TO, FlowNoise, FlowSDE

MEAN, STD = 0.7, 0.2
SAMPLES = 40_000


def exact(x: Any, time: Any) -> Any:
    """E[eps - a | x_t] of a ~ N(0.7, 0.2^2)."""
    t = time[:, None, None]
    variance = t**2 + (1 - t) ** 2 * STD**2
    return (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN) - MEAN


def no_std(x: Any, time: Any) -> Any:
    raise AssertionError("Flow-SDE has no learned noise")


@functools.cache
def carried(kind: str, steps: int) -> np.ndarray:
    """Where the exact field carries noise to."""
    start = jax.random.normal(jax.random.key(0), (SAMPLES, 1, 1))
    if kind == "ode":
        return np.asarray(jax.jit(lambda x: denoising.follow(exact, x, steps))(start))
    sde = FlowSDE(steps, 0.5)
    if kind == "hybrid":
        sample = jax.jit(lambda x, key: sde.sample(exact, no_std, x, key)[0])
        return np.asarray(sample(start, jax.random.key(1)))
    x, keys = start, jax.random.split(jax.random.key(1), steps)
    for time, std, key in zip(denoising.times(steps), sde.std, keys, strict=True):
        at = jnp.full((SAMPLES, 1, 1), time)
        x = sde.mean(x, exact(x, at[:, 0, 0]), at, std) + std * jax.random.normal(key, x.shape)
    return np.asarray(x)


@pytest.mark.parametrize(
    ("steps", "kind", "std"),
    [
        (100, "ode", 0.195), (100, "sde", 0.198), (100, "hybrid", 0.195),
        (5, "ode", 0.114), (5, "sde", 0.160), (5, "hybrid", 0.129),
    ],
)  # fmt: skip
def test_the_exact_field_carries_noise_to_the_data(steps: int, kind: str, std: float) -> None:
    """Reference vla_and_real2sim.md 3.2: Euler's method shrinks the variance, noise less so."""
    x = carried(kind, steps)
    assert x.std() == pytest.approx(std, rel=0.03)
    assert x.mean() == pytest.approx(MEAN, abs=0.01)


def test_a_hundred_steps_of_the_ode_end_where_the_analytic_solution_does() -> None:
    """Of Normal data the flow is linear: it carries x to mean + std x; Euler errs by O(1 / K)."""
    x = jnp.linspace(-2, 2, 9)[:, None, None]
    want = MEAN + STD * x
    errors = [np.abs(denoising.follow(exact, x, k) - want).max() for k in (100, 400)]
    assert errors[0] < 0.015 and errors[1] < 0.3 * errors[0]


def test_standard_deviations_are_those_of_the_reference() -> None:
    """Section 3.2's table, a = 0.5."""
    np.testing.assert_allclose(FlowSDE(4, 0.5).std, [0.5, 0.4330, 0.25, 0.1443], atol=1e-4)
    want = [0.5, 0.4472, 0.2739, 0.1826, 0.1118]
    np.testing.assert_allclose(FlowSDE(5, 0.5).std, want, atol=1e-4)


def field(x: Any, time: Any) -> Any:
    return jnp.sin(3 * x) + time[:, None, None]


def spread(x: Any, time: Any) -> Any:
    return denoising.bounded_std(x, 0.08, 0.16)


def test_one_step_of_each_sample_is_random_and_has_the_density_that_is_told() -> None:
    sde, key = FlowSDE(5, 0.5), jax.random.key(3)
    start = jax.random.normal(jax.random.key(2), (64, 2, 3))
    end, noted = sde.sample(field, spread, start, key)
    index = np.asarray(noted[INDEX])
    assert set(index) == {0, 1, 2, 3, 4}
    # By hand: Euler's steps up to the random one, and from where that led.
    density, _ = sde.log_density(field, spread, noted)
    for i in (0, 17, 63):
        x, want = start[i : i + 1], None
        for k, time in enumerate(denoising.times(5)):
            if k == index[i]:
                np.testing.assert_allclose(noted[FROM][i], x[0], atol=1e-6)
                v = field(x, time[None])
                std = sde.std[k]
                mean = x - v / 5 - std**2 / (2 * time) * (x + (1 - time) * v)
                x = noted[TO][i : i + 1]
                z = (x - mean) / std
                want = -0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
            else:
                x = x - field(x, time[None]) / 5
        np.testing.assert_allclose(end[i], x[0], atol=1e-5)
        assert want is not None
        np.testing.assert_allclose(density[i], want[0], atol=1e-4)


def test_flow_noise_tells_the_mean_density_of_its_whole_way() -> None:
    noisy = FlowNoise(3)
    start = jax.random.normal(jax.random.key(2), (8, 2, 3))
    end, noted = noisy.sample(field, spread, start, jax.random.key(3))
    path = np.asarray(noted[denoising.PATH])
    np.testing.assert_array_equal(path[:, 0], start)
    np.testing.assert_array_equal(path[:, -1], end)
    density, entropy = noisy.log_density(field, spread, noted)
    terms, wide = [-0.5 * path[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)], []
    for k, time in enumerate(denoising.times(3)):
        at = jnp.full(8, time)
        std = np.asarray(spread(path[:, k], at))
        assert std.min() >= 0.08 and std.max() <= 0.16
        z = (path[:, k + 1] - (path[:, k] - np.asarray(field(path[:, k], at)) / 3)) / std
        terms.append(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi))
        wide.append(np.log(std) + 0.5 * np.log(2 * np.pi * np.e))
    np.testing.assert_allclose(density, np.mean(terms, axis=0), atol=1e-4)
    np.testing.assert_allclose(entropy, np.mean(wide, axis=0), atol=1e-5)


def test_fpo_tells_how_much_better_another_field_fits_the_choice() -> None:
    """Fields of constants, so that the ratio is known: exp of the mean difference of the losses."""

    def constant(value: float) -> Any:
        return lambda x, time: jnp.full_like(x, value)

    fpo = FPO(4, 2)
    start = jax.random.normal(jax.random.key(2), (3, 1, 2))
    end, noted = fpo.sample(constant(0.5), no_std, start, jax.random.key(3))
    # Four Euler steps of a fourth of it.
    np.testing.assert_allclose(end, start - 0.5, atol=1e-6)
    at = np.asarray(noted["times"])[..., None, None]
    assert at.shape == (3, 2, 1, 1) and len(np.unique(at)) == 6
    both = np.repeat(np.asarray(end)[:, None], 2, axis=1)
    np.testing.assert_allclose(noted["points"] - at * noted["wanted"], both, atol=1e-5)
    old, new = (fpo.log_density(constant(v), no_std, noted)[0].sum((1, 2)) for v in (0.5, 0.7))
    # Over 2 points and 2 entries, mean((0.5 - w)^2 - (0.7 - w)^2) = 0.4 mean(w) - 0.24.
    gain = 0.4 * np.asarray(noted["wanted"]).mean(axis=(1, 2, 3)) - 0.24
    np.testing.assert_allclose(new - old, gain, atol=1e-5)


def test_times_of_imitation_are_openpis() -> None:
    data = jnp.ones((SAMPLES, 1, 1))
    x, time, wanted = denoising.noisy_point(jax.random.key(0), data)
    # x = t eps + (1 - t) a, and the field is eps - a: so x - t v = a.
    np.testing.assert_allclose(x - time[:, None, None] * wanted, data, atol=1e-5)
    # 0.999 Beta(1.5, 1) + 0.001
    assert float(time.mean()) == pytest.approx(0.999 * 0.6 + 0.001, abs=5e-3)
    assert float(time.min()) >= 0.001 and float(time.max()) <= 1.0
