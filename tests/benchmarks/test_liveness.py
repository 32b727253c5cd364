"""Bytes that a lowered program has alive at once, by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.liveness import bytes_of, peak_bytes, values_by_size

SIDE = 16
UNIT = 4 * SIDE * SIDE  # bytes of a matrix


def _inner(x: jax.Array) -> jax.Array:
    return jax.jit(lambda x: x.at[3].set(2.0))(x)


def _loop(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]


@pytest.mark.parametrize(
    ("compute", "fused", "unfused"),
    [
        (lambda x: jnp.tanh(x) * x, 0, 2),
        (lambda x: (x @ x) @ x, 2, 2),
        (lambda x: x @ x + x.T, 1, 3),
        # Written in place; where the old one is read later in a buffer of its own.
        (lambda x: _inner(_inner(x)), 0, 0),
        (lambda x: _inner(x) @ x, 2, 2),
        # The carry is in the buffer of what was given.
        (_loop, 1, 1),
        (lambda x: jax.lax.cond(x[0, 0] > 0, _inner, lambda x: x, x), 0, 0),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x), 1, 1),
    ],
)
def test_what_is_alive_at_once_is_counted(compute, fused, unfused):
    x = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32)
    module = jax.jit(compute).lower(x).compiler_ir("stablehlo")
    # Counters and rows come on top.
    assert peak_bytes(module, fused=True) // UNIT == fused
    assert peak_bytes(module, fused=False) // UNIT == unfused
    assert values_by_size(module)[0] == (UNIT, f"tensor<{SIDE}x{SIDE}xf32>")


def test_arrays_are_measured_by_their_types():
    assert bytes_of("tensor<2x3xui8>") == bytes_of("tensor<6xi1>") == 6
    assert bytes_of("tensor<f64>") == 8 and bytes_of("!stablehlo.token") == 0
