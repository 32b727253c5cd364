"""Arrays out of files that `torch.save` wrote, without torch and without running what they name.

Both of its formats: a zip of a pickle and one entry a storage, and before that five pickles in a
row with the storages behind them. The file's sha256 is checked first, so a file is read that
somebody has looked at.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.plain_pickle import Extension, Named, read

MAX_BYTES = 256 << 20  # of a file
_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}
# `torch.serialization.MAGIC_NUMBER`, pickled: the first of the five.
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _storage(entry: Any) -> _Storage:
    """`("storage", kind, key, device, count, ...)`, as torch's persistent ids are."""
    word, kind, key, _, count = entry[:5]
    if word != "storage" or not isinstance(kind, Named) or not isinstance(key, str):
        raise InputError(f"Storage in a torch file: got {str(entry)[:80]}, allowed: arrays")
    return _Storage(_DTYPES[kind.what], key, int(count))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise InputError("Tensor in a torch file without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


_TORCH = Extension(
    names={("torch._utils", "_rebuild_tensor_v2"): Named("tensor")}
    | {("torch", name): Named(name) for name in _DTYPES},
    builders={"tensor": _tensor},
    persistent=_storage,
    leaves=(_Tensor, _Storage),
    drops_state=True,  # versions of the modules
)


def read_tensors(path: Path, *, sha256: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a state dict by name.

    Args:
        path: of a file of `torch.save`.
        sha256: of the file that is meant.

    Raises InputError, one line, for another file and for what is no such file.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES} bytes")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(f"{path} has sha256 {found}, allowed: {sha256}")
    try:
        tensors, storages = _zipped(data) if data[:2] == b"PK" else _in_a_row(data)
        if not isinstance(tensors, dict):
            raise InputError("it holds no dict of arrays")
        return {
            name: _array(tensor, storages)
            for name, tensor in tensors.items()
            if isinstance(tensor, _Tensor)
        }
    except (ValueError, LookupError, TypeError, struct.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no file of arrays: {error}") from None


def _zipped(data: bytes) -> tuple[Any, Mapping[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if sum(info.file_size for info in entries.values()) > MAX_BYTES:
            raise InputError(f"it unpacks to more than {MAX_BYTES} bytes")
        (index,) = (name for name in entries if name.endswith("/data.pkl"))
        folder = index.removesuffix("data.pkl") + "data/"
        value, _ = read(archive.read(index), extension=_TORCH)
        storages = {n.removeprefix(folder): archive.read(n) for n in entries if folder in n}
    return value, storages


def _in_a_row(data: bytes) -> tuple[Any, Mapping[str, bytes]]:
    if not data.startswith(_MAGIC):
        raise InputError("it does not begin as one")
    _, at = read(data, len(_MAGIC))  # version
    _, at = read(data, at)  # sizes of the writer's numbers
    value, at = read(data, at, _TORCH)
    keys, at = read(data, at)
    width = {s.key: np.dtype(s.dtype).itemsize for s in _storages_of(value)}
    storages = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", data, at)
        end = at + 8 + count * width[key]
        if count < 0 or end > len(data):
            raise InputError(f"storage {key} is cut off")
        storages[key], at = data[at + 8 : end], end
    return value, storages


def _storages_of(value: Any) -> list[_Storage]:
    return [t.storage for t in dict(value).values() if isinstance(t, _Tensor)]


def _array(tensor: _Tensor, storages: Mapping[str, bytes]) -> NDArray[Any]:
    flat = np.frombuffer(storages[tensor.storage.key], tensor.storage.dtype)
    shape, strides = tensor.shape, tensor.strides
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min((tensor.offset, *shape, *strides)) < 0 or tensor.offset + last >= len(flat):
        raise InputError(f"a tensor of {shape} does not lie in its storage")
    view = flat[tensor.offset :]
    steps = [step * flat.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(view, shape, steps, writeable=False)
