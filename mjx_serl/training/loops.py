"""One loop for both compositions: fused into one compiled call, or staged by the host.

A renderer that cannot be traced (gsplat works on torch tensors) is called between compiled
pieces. The pieces are the same functions, so both compositions give the same numbers.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Carry = TypeVar("Carry")


def scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    start: Carry,
    xs: Any,
    *,
    traceable: bool,
    length: int | None = None,
) -> tuple[Carry, Any]:
    """`jax.lax.scan`, or the same as a Python loop where `step` is not traceable."""
    if traceable:
        return jax.lax.scan(step, start, xs, length=length)
    count = length if length is not None else jax.tree.leaves(xs)[0].shape[0]
    rows = []
    for i in range(count):
        start, row = step(start, jax.tree.map(lambda x, i=i: x[i], xs))
        rows.append(row)
    return start, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
