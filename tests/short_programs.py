"""Random numbers by calls of C++ instead of some 100 operations each: the same bits.

Half of all operations of our programs, before XLA reads them, are those of JAX's generator, which
it makes a loop of at each draw. On a GPU it makes a call, as here.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.ffi
import jax.numpy as jnp
import jaxlib
from jax._src import core, prng
from jax._src.interpreters import mlir

from scenes import native_build
from scenes.native_build import NativeBuildError, NativeLibrary

TARGETS = ("ThreefryHash", "ThreefryBits", "ThreefrySplit", "ThreefryFoldIn")


@contextlib.contextmanager
def random_by_call(wanted: bool = True) -> Iterator[bool]:
    """Lower random numbers to calls, or as JAX does, while it lasts; yields whether to calls.

    Without a compiler nothing changes.
    """
    rules, called = mlir._platform_specific_lowerings["cpu"], wanted and _load()
    before = dict(rules)
    for primitive, rule in _RULES.items():
        if called:
            mlir.register_lowering(primitive, rule, platform="cpu")
        else:
            rules.pop(primitive, None)
    if not called:
        mlir.register_lowering(prng.threefry2x32_p, _LOOPS, platform="cpu")
    try:
        yield called
    finally:
        rules.clear()
        rules.update(before)


@functools.cache
def _load() -> bool:
    """Register the calls with JAX, compiled on first use; returns whether that is possible."""
    library = NativeLibrary(
        name="threefry",
        sources=(Path(__file__).parent / "native" / "threefry.cc",),
        flags=("-O1",),
        includes=(jax.ffi.include_dir(),),
        versions=(jaxlib.__version__,),
        otherwise="the tests compile for longer",
    )
    try:
        loaded = ctypes.cdll.LoadLibrary(str(native_build.build(library)))
    except NativeBuildError:
        return False
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu")
    return True


def _words(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def _hash(*words: jax.Array) -> tuple[jax.Array, ...]:
    """The two keys and the two counters of each draw, to two words."""
    shape = jnp.broadcast_shapes(*(x.shape for x in words))
    wide = [jnp.broadcast_to(x, shape) for x in words]
    if 0 in shape:
        return tuple(wide[2:])
    return tuple(jax.ffi.ffi_call("ThreefryHash", [_words(*shape)] * 2)(*wide))


def _bits(ctx: Any, keys: Any, *, bit_width: int, shape: tuple[int, ...]) -> Any:
    """Words [..., *shape] of keys [...]."""
    wide = ctx.avals_out[0].shape
    if bit_width != 32 or not _callable(ctx, wide):
        return prng.random_bits_lowering(ctx, keys, bit_width=bit_width, shape=shape)
    return _lower(ctx, jax.ffi.ffi_call("ThreefryBits", _words(*wide)), keys)


def _split(ctx: Any, keys: Any, *, shape: tuple[int, ...]) -> Any:
    """Keys [..., *shape] of keys [...]."""
    wide = ctx.avals_out[0].shape
    if not _callable(ctx, wide):
        return prng.random_split_lowering(ctx, keys, shape=shape)
    return _lower(ctx, jax.ffi.ffi_call("ThreefrySplit", _words(*wide, 2)), keys)


def _fold_in(ctx: Any, keys: Any, numbers: Any) -> Any:
    """Keys [...] of keys and numbers [...]; both may be broadcast."""
    wide = ctx.avals_out[0].shape
    if not _callable(ctx, wide):
        return prng.random_fold_in_lowering(ctx, keys, numbers)

    def call(keys: jax.Array, numbers: jax.Array) -> jax.Array:
        numbers = jnp.broadcast_to(numbers.astype(jnp.uint32), wide)
        keys = jnp.broadcast_to(keys, (*wide, 2))
        return jax.ffi.ffi_call("ThreefryFoldIn", _words(*wide, 2))(keys, numbers)

    return _lower(ctx, call, keys, numbers)


def _callable(ctx: Any, shape: tuple[int, ...]) -> bool:
    """Whether the keys are threefry's, and anything is drawn."""
    mine = ctx.avals_in[0].dtype._impl is prng.threefry_prng_impl
    return mine and jax.config.jax_threefry_partitionable and 0 not in shape


def _lower(ctx: Any, function: Callable[..., jax.Array], *operands: Any) -> Any:
    """Lower a function of keys as the words that they are."""
    return mlir.delegate_lowering(
        ctx,
        mlir.lower_fun(function, multiple_results=False),
        *operands,
        avals_in=[core.physical_aval(x) for x in ctx.avals_in],
        avals_out=[core.physical_aval(x) for x in ctx.avals_out],
    )


_LOOPS = prng._threefry2x32_cpu_lowering_rule
_RULES = {
    prng.threefry2x32_p: mlir.lower_fun(_hash, multiple_results=True),
    prng.random_bits_p: _bits,
    prng.random_split_p: _split,
    prng.random_fold_in_p: _fold_in,
}
