"""Files of torch.save: arrays come out as they lie there, nothing is run, nothing else is read."""

import hashlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjx_serl.nets.torch_file import read_tensors
from scenes.contract.errors import InputError

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
COUNT = np.array(7, np.int64)


class FloatStorage:
    """Stands for torch's."""

    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class LongStorage(FloatStorage):
    """Likewise."""


def _rebuild_tensor_v2(*arguments: Any) -> Any:
    raise AssertionError("a reader must not call this")


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage: FloatStorage, shape: tuple, strides: tuple, offset: int = 0):
        self.parts = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self):
        return _rebuild_tensor_v2, self.parts


@pytest.fixture(autouse=True)
def torch_s_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins are pickled under the names that torch's own have."""
    for name in ("torch", "torch._utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for kind in (FloatStorage, LongStorage):
        monkeypatch.setattr(kind, "__module__", "torch")
        monkeypatch.setattr(sys.modules["torch"], kind.__name__, kind, raising=False)
    monkeypatch.setattr(_rebuild_tensor_v2, "__module__", "torch._utils")
    monkeypatch.setattr(
        sys.modules["torch._utils"], "_rebuild_tensor_v2", _rebuild_tensor_v2, raising=False
    )


def pickled(value: Any) -> bytes:
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, FloatStorage):
                return ("storage", type(obj), obj.key, "cpu", obj.count, None)
            return None

    Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def state(weight: Tensor | None = None) -> OrderedDict:
    weight = weight or Tensor(FloatStorage("0", 24), (2, 3, 4), (12, 4, 1))
    tensors = OrderedDict(weight=weight, count=Tensor(LongStorage("1", 1), (), ()))
    tensors._metadata = {"version": 2}  # type: ignore[attr-defined]
    return tensors


def zipped(value: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/data/0", WEIGHT.tobytes())
        archive.writestr("archive/data/1", COUNT.tobytes())
        archive.writestr("archive/version", "3")
    return out.getvalue()


def in_a_row(value: Any) -> bytes:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [head, pickle.dumps(sizes, 2), pickled(value), pickle.dumps(["1", "0"], 2)]
    parts += [struct.pack("<q", 1), COUNT.tobytes(), struct.pack("<q", 24), WEIGHT.tobytes()]
    return b"".join(parts)


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(data)
    return read_tensors(path, sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("write", [zipped, in_a_row])
def test_arrays_come_out_by_name(write, tmp_path: Path):
    found = read(tmp_path / "w.pt", write(state()))
    assert list(found) == ["weight", "count"] and found["count"] == 7
    np.testing.assert_array_equal(found["weight"], WEIGHT)


def test_an_array_may_lie_otherwise_in_its_storage(tmp_path: Path):
    turned = Tensor(FloatStorage("0", 24), (3, 2), (1, 12), offset=4)
    found = read(tmp_path / "w.pt", zipped(state(turned)))
    np.testing.assert_array_equal(found["weight"], WEIGHT[:, 1, :3].T)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (Tensor(FloatStorage("0", 24), (3, 3, 4), (12, 4, 1)), "does not lie in its storage"),
        (Tensor(FloatStorage("0", 24), (2,), (-1,), offset=3), "does not lie in its storage"),
        (Tensor(FloatStorage("9", 24), (2,), (1,)), "no file of arrays"),
    ],
)
def test_an_array_beyond_its_storage_is_refused(weight: Tensor, said: str, tmp_path: Path):
    with pytest.raises(InputError, match=said):
        read(tmp_path / "w.pt", zipped(state(weight)))


class Calls:
    """A pickle as a call."""

    def __reduce__(self):
        return print, ("called",)


BROKEN = {
    "a call": lambda: zipped(Calls()),
    "a list": lambda: zipped([1]),
    "a zip cut off": lambda: zipped(state())[:200],
    "a picture": lambda: b"GIF89a",
    "nothing": lambda: b"",
    "a row cut off": lambda: in_a_row(state())[:-1],
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_such_file_is_one_line(name: str, tmp_path: Path, capsys):
    with pytest.raises(InputError, match="is no file of arrays") as caught:
        read(tmp_path / "w.pt", BROKEN[name]())
    assert "\n" not in str(caught.value) and "called" not in capsys.readouterr().out


def test_another_file_than_the_one_that_is_meant_is_refused(tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(zipped(state()))
    with pytest.raises(InputError, match="allowed: 0000"):
        read_tensors(tmp_path / "w.pt", sha256="0000")
