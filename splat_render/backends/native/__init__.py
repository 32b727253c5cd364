"""The C++ rasteriser of the cpu backend: built on first use, registered with JAX as FFI calls."""

import ctypes
import functools
from pathlib import Path

import jax
import jaxlib

from scenes import native_build
from scenes.native_build import NativeLibrary

# The second is what a machine without AVX2 runs; tests run it everywhere.
TARGET = "splat_render"
BASELINE_TARGET = "splat_render_baseline"
GRADIENT_TARGET = "splat_blend_gradient"
_SYMBOLS = {
    TARGET: "SplatRender",
    BASELINE_TARGET: "SplatRenderBaseline",
    GRADIENT_TARGET: "SplatBlendGradient",
}
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("splat.cc", "kernel.h", "gradient.h"))


@functools.cache
def load() -> ctypes.CDLL:
    """Build the library if needed, load it and register its FFI targets with JAX.

    Raises NativeBuildError where the library cannot be built.
    """
    library = ctypes.cdll.LoadLibrary(str(build()))
    for name, symbol in _SYMBOLS.items():
        capsule = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return library


def build() -> Path:
    """Return the path of the library, compiled on first use (5 s); raises NativeBuildError."""
    library = NativeLibrary(
        name="splat",
        sources=_SOURCES,
        flags=("-O3",),
        includes=(jax.ffi.include_dir(),),
        versions=(jaxlib.__version__,),
        otherwise="use the xla backend",
    )
    return native_build.build(library)
