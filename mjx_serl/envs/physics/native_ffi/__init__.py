"""The compiled twin of the native physics: XLA FFI calls into C MuJoCo.

Built once from `physics.cc` where a C++ compiler is, and kept in the user's cache under a key of
everything it depends on. Without a compiler the same steps run through a JAX callback.
"""

import ctypes
import functools
import hashlib
from pathlib import Path

import jax
import jaxlib
import mujoco
import numpy as np

from mjx_serl.envs.physics.entries import ModelEntries
from scenes import native_build
from scenes.native_build import NativeBuildError, NativeLibrary

_TARGETS = {
    "mjx_serl_step": "MjxSerlStep",
    "mjx_serl_step_running": "MjxSerlStepRunning",
    "mjx_serl_reset": "MjxSerlReset",
    "mjx_serl_step_varied": "MjxSerlStepVaried",
    "mjx_serl_step_varied_running": "MjxSerlStepVariedRunning",
    "mjx_serl_reset_varied": "MjxSerlResetVaried",
}
_OTHERWISE = "physics goes through a callback"


def register_model(
    model: mujoco.MjModel, *, num_threads: int, entries: ModelEntries | None = None
) -> int:
    """File a model with the library and return the number its FFI calls name it by.

    The number is a hash of the model's content, and of the `entries` that differ between worlds, so
    programs cached on disk stay valid. Raises NativeBuildError where the library cannot be built.
    """
    library = load()
    content = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    varied = b"" if entries is None else repr(entries.fields).encode()
    digest = hashlib.sha256(content.tobytes() + bytes([num_threads]) + varied).digest()
    number = int.from_bytes(digest[:8], "little") >> 1
    library.mjx_serl_register(
        ctypes.c_int64(number), ctypes.c_void_p(model._address), ctypes.c_int(num_threads)
    )
    for position, (field, index) in enumerate(entries.fields if entries else ()):
        library.mjx_serl_vary(
            ctypes.c_int64(number),
            field.encode(),
            (ctypes.c_int64 * len(index))(*index),
            ctypes.c_int(len(index)),
            ctypes.c_int(position),
            ctypes.c_int(entries is not None and entries.derived),
        )
    return number


@functools.cache
def load() -> ctypes.CDLL:
    """Return the library, built if needed, and register its FFI targets with JAX."""
    library = ctypes.cdll.LoadLibrary(str(build()))
    for name, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu"
        )
    return library


def build() -> Path:
    """Return the path of the library for these versions, compiled on first use (about 3 s)."""
    folder = Path(mujoco.__file__).parent
    mujoco_library = next(iter(sorted(folder.glob("libmujoco.*"))), None)
    if mujoco_library is None:
        raise NativeBuildError(f"no libmujoco in {folder}: {_OTHERWISE}")
    library = NativeLibrary(
        name="physics",
        sources=(Path(__file__).with_name("physics.cc"),),
        flags=("-O2",),
        includes=(jax.ffi.include_dir(), str(folder / "include")),
        # The library carries the path of the MuJoCo it was linked to.
        link=(str(mujoco_library), f"-Wl,-rpath,{folder}"),
        versions=(mujoco.mj_versionString(), jaxlib.__version__),
        otherwise=_OTHERWISE,
    )
    return native_build.build(library)
