"""Random numbers by a call of C++ instead of 80 operations each: the same bits, less to compile."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.ffi
import jax.numpy as jnp
import jaxlib
from jax._src import prng
from jax._src.interpreters import mlir
from jax.extend.random import threefry2x32_p

from scenes import native_build
from scenes.native_build import NativeBuildError, NativeLibrary

TARGET = "test_threefry2x32"


PLAIN = prng._threefry2x32_cpu_lowering_rule


@contextlib.contextmanager
def random_by_call(wanted: bool = True) -> Iterator[bool]:
    """Lower threefry to the call, or as JAX does, while it lasts; yields whether to the call.

    JAX makes a loop of 80 operations of each draw, which is a quarter to a half of what XLA has
    to compile of our programs; on a GPU it makes a call, as here. Without a compiler nothing
    changes.
    """
    before = mlir._platform_specific_lowerings["cpu"][threefry2x32_p]
    called = wanted and _load()
    rule = mlir.lower_fun(_call, multiple_results=True) if called else PLAIN
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu")
    try:
        yield called
    finally:
        mlir._platform_specific_lowerings["cpu"][threefry2x32_p] = before


@functools.cache
def _load() -> bool:
    """Register the call with JAX, compiled on first use; returns whether it could be compiled."""
    try:
        library = ctypes.cdll.LoadLibrary(str(_build()))
    except NativeBuildError:
        return False
    capsule = jax.ffi.pycapsule(library.Threefry2x32)
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    return True


def _build() -> Path:
    return native_build.build(
        NativeLibrary(
            name="threefry",
            sources=(Path(__file__).parent / "native" / "threefry.cc",),
            flags=("-O1",),
            includes=(jax.ffi.include_dir(),),
            versions=(jaxlib.__version__,),
            otherwise="the tests compile for longer",
        )
    )


def _call(*words: jax.Array) -> Any:
    """The two keys and the two counters of each draw, to two words."""
    shape = jnp.broadcast_shapes(*(x.shape for x in words))
    wide = [jnp.broadcast_to(x, shape) for x in words]
    if 0 in shape:
        return tuple(wide[2:])
    out = jax.ShapeDtypeStruct(shape, jnp.uint32)
    return tuple(jax.ffi.ffi_call(TARGET, (out, out))(*wide))
