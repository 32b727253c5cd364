"""Calls in compiled programs that take a device's time and none of this machine's: they sleep."""

import ctypes
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jaxtyping import Array, Float

from scenes.native_build import NativeLibrary, build

_MOST = 30_000  # numbers that are noted
# XLA runs small programs of a CPU where they are called from; one with a product as large does not
# keep its caller, and so stands for a program of a GPU.
_EDGE = 384


def asleep(x: Float[Array, "N A"], which: int, seconds: float) -> Float[Array, "N A"]:
    """Return x after so long; `noted` tells when, under the number `which`."""
    _library()
    call = jax.ffi.ffi_call("benchmarks_asleep", jax.ShapeDtypeStruct(x.shape, x.dtype))
    slept = call(x, which=np.int64(which), seconds=np.float64(seconds))
    edge = jnp.arange(_EDGE, dtype=jnp.float32)
    wide = jnp.sin(edge[:, None] * edge + slept[0, 0])
    return slept + 0.0 * jnp.tanh((wide @ wide)[0, 0])


def noted() -> list[tuple[int, float, float]]:
    """Return which calls slept from when to when [s], since this was asked last."""
    room = (ctypes.c_double * _MOST)()
    count = _library().asleep_noted(room, ctypes.c_int64(_MOST))
    rows = np.array(room[:count]).reshape(-1, 3)
    return [(int(which), begin, end) for which, begin, end in rows]


@functools.cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_suffix(".cc")
    library = NativeLibrary(
        name="asleep",
        sources=(source,),
        flags=("-O2",),
        includes=(jax.ffi.include_dir(),),
        versions=(jaxlib.__version__,),
        otherwise="nothing can be measured",
    )
    loaded = ctypes.cdll.LoadLibrary(str(build(library)))
    loaded.asleep_noted.restype = ctypes.c_int64
    jax.ffi.register_ffi_target(
        "benchmarks_asleep", jax.ffi.pycapsule(loaded.Asleep), platform="cpu"
    )
    return loaded
