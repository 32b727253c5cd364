"""One loop for both compositions: fused into one compiled call, or staged by the host.

A renderer that cannot be traced (gsplat works on torch tensors) is called between compiled
pieces. The pieces are the same functions, so both compositions give the same numbers.
"""

import functools
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


def run_once(function: Callable[..., Any], *args: Any, traceable: bool) -> Any:
    """Call a function that runs once; on a CPU it is compiled in half the time, unoptimised.

    Called again for another seed, the same function of the same shapes is not compiled again.
    """
    if not traceable:
        return function(*args)
    leaves, structure = jax.tree.flatten(args)
    key = (structure, *((x.shape, x.dtype) for x in leaves))
    programs = _programs_of(function)
    if key not in programs:
        on_cpu = jax.default_backend() == "cpu"
        options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"} if on_cpu else {}
        programs[key] = jax.jit(function).lower(*args).compile(compiler_options=options)
    return programs[key](*args)


# Of a run: that of its demonstrations, and that of its first state.
@functools.lru_cache(maxsize=2)
def _programs_of(function: Callable[..., Any]) -> dict[Any, Any]:
    del function
    return {}
