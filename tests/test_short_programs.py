"""What the suite does to compile less computes what users' programs compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_programs import TARGETS, random_by_call


def draws(key: jax.Array, legacy: jax.Array) -> tuple[jax.Array, ...]:
    """Draws of every kind: many of a key, some of many keys, of one of each, of old keys, none."""
    one, two = jax.random.split(key)
    numbers = jnp.arange(-2, 2)
    each = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(one, i), (3,)))
    own = jax.vmap(jax.random.fold_in)(jax.random.split(two, 4), numbers)
    grid = jax.vmap(lambda key: jax.random.split(key, (2, 3)))(own)
    return (
        jax.random.normal(one, (7, 3)),
        jax.random.bits(two, (5,), jnp.uint32),
        jax.random.bits(two, (5,), jnp.uint8),
        jax.random.randint(two, (), 0, 9),
        jax.random.permutation(one, 11),
        jax.random.uniform(two, (0,)),
        each(numbers),
        jax.random.key_data(grid),
        jax.vmap(lambda key: jax.random.normal(key, (2,)))(own),
        jax.random.uniform(jax.random.split(legacy, 3)[1], (2,)),
        jax.random.bits(jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")),
    )


def test_random_numbers_by_call_are_jaxs_to_the_bit():
    keys = jax.random.key(3), jax.random.PRNGKey(2**31)
    with random_by_call(False):
        by_loops = jax.jit(lambda *keys: draws(*keys)).lower(*keys)
    with random_by_call(True) as possible:
        by_call = jax.jit(lambda *keys: draws(*keys)).lower(*keys)
    if not possible:
        pytest.skip("no C++ compiler")
    assert all(target in by_call.as_text() for target in TARGETS)
    assert not any(target in by_loops.as_text() for target in TARGETS)
    assert len(by_call.as_text()) < len(by_loops.as_text()) / 2
    for one, other in zip(by_loops.compile()(*keys), by_call.compile()(*keys), strict=True):
        np.testing.assert_array_equal(one, other)
