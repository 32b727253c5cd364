"""What the suite does to compile less computes what users' programs compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_programs import TARGET, random_by_call


def draws(key: jax.Array) -> tuple[jax.Array, ...]:
    """Draws of every kind that is asked for here: many of a key, one of many keys, none."""
    one, two = jax.random.split(key)
    each = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(one, i), (3,)))
    return (
        jax.random.normal(one, (7, 3)),
        jax.random.bits(two, (5,), jnp.uint32),
        jax.random.randint(two, (), 0, 9),
        jax.random.permutation(one, 11),
        jax.random.uniform(two, (0,)),
        each(jnp.arange(4)),
    )


def test_random_numbers_by_call_are_jaxs_to_the_bit():
    key = jax.random.key(3)
    with random_by_call(False):
        by_loops = jax.jit(lambda key: draws(key)).lower(key)
    with random_by_call(True) as possible:
        by_call = jax.jit(lambda key: draws(key)).lower(key)
    if not possible:
        pytest.skip("no C++ compiler")
    assert TARGET in by_call.as_text() and TARGET not in by_loops.as_text()
    assert "while" in by_loops.as_text() and "while" not in by_call.as_text()
    for one, other in zip(by_loops.compile()(key), by_call.compile()(key), strict=True):
        np.testing.assert_array_equal(one, other)
