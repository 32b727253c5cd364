"""The compiled twin of the native physics: XLA FFI calls into C MuJoCo.

Built once from `physics.cc` where a C++ compiler is, and kept in the user's cache under a key of
everything it depends on. Without a compiler the same steps run through a JAX callback.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib
import mujoco
import numpy as np

_SOURCE = Path(__file__).with_name("physics.cc")
_TARGETS = {"mjx_serl_step": "MjxSerlStep", "mjx_serl_reset": "MjxSerlReset"}


class NativeBuildError(RuntimeError):
    """The library cannot be built here; the message is one line and says why."""


def register_model(model: mujoco.MjModel, *, num_threads: int) -> int:
    """File a model with the library and return the number its FFI calls name it by.

    The number is a hash of the model's content, so programs cached on disk stay valid. Raises
    NativeBuildError where the library cannot be built.
    """
    library = load()
    content = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    digest = hashlib.sha256(content.tobytes() + bytes([num_threads])).digest()
    number = int.from_bytes(digest[:8], "little") >> 1
    library.mjx_serl_register(
        ctypes.c_int64(number), ctypes.c_void_p(model._address), ctypes.c_int(num_threads)
    )
    return number


@functools.cache
def load() -> ctypes.CDLL:
    """Build the library if needed, load it and register its FFI targets with JAX."""
    library = ctypes.cdll.LoadLibrary(str(build()))
    for name, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu"
        )
    return library


def build() -> Path:
    """Path of the library for these versions, compiled on first use (about 3 s)."""
    path = cache_folder() / f"physics-{_key()}.so"
    if path.exists():
        return path
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NativeBuildError("no C++ compiler (g++ or clang++): physics goes through a callback")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may build at the same time: each writes its own file, the rename decides.
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    result = subprocess.run(
        [compiler, *_flags(), str(_SOURCE), "-o", temporary, *_link()],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        Path(temporary).unlink(missing_ok=True)
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise NativeBuildError(f"{compiler} failed ({last}): physics goes through a callback")
    Path(temporary).rename(path)
    return path


def cache_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/mjx_serl, else ~/.cache/mjx_serl."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mjx_serl"


def _key() -> str:
    parts = [
        _SOURCE.read_bytes(),
        mujoco.mj_versionString().encode(),
        jaxlib.__version__.encode(),
        platform.machine().encode(),
        # The library carries the path of the MuJoCo it was linked to.
        str(_mujoco_folder()).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _flags() -> list[str]:
    includes = [jax.ffi.include_dir(), str(_mujoco_folder() / "include")]
    return ["-O2", "-std=c++17", "-shared", "-fPIC", "-w", *(f"-isystem{i}" for i in includes)]


def _link() -> list[str]:
    folder = _mujoco_folder()
    library = next(iter(sorted(folder.glob("libmujoco.*"))), None)
    if library is None:
        raise NativeBuildError(f"no libmujoco in {folder}: physics goes through a callback")
    return [str(library), f"-Wl,-rpath,{folder}"]


def _mujoco_folder() -> Path:
    return Path(mujoco.__file__).parent
