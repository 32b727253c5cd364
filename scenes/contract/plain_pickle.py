"""Reads pickles of plain containers and numpy arrays without ever calling what they name.

`pickle.Unpickler`, even with a restricted `find_class`, calls what it finds with the sender's
arguments and can be made to allocate without bound. This reader knows the opcodes that plain data
need (protocols 2 to 5), takes the names in GLOBALS as notes of what to build, and refuses the rest.
"""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.arrays import DTYPES, array_of
from scenes.contract.errors import InputError

MAX_DEPTH = 32
MAX_VALUES = 500_000
MAX_ARRAY_BYTES = 512 * 2**20  # of all arrays together [bytes]
_MAX_NDIM = 8
_MAX_INT_BYTES = 9  # a uint64 and its sign


class PickleRefusedError(InputError):
    """A pickle that is not plain data; one line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Named:
    """A name that a pickle may mention; never the thing itself."""

    what: str


@dataclass(frozen=True, slots=True)
class Extension:
    """What one kind of pickles may hold beyond plain data; nothing of it is looked up either.

    Attributes:
        names: what (module, name) stands for.
        builders: makes a leaf of the arguments that a `Named.what` is called with.
        persistent: makes something of a persistent id; None where there are none.
        leaves: types of the leaves that come out.
        drops_state: whether a dict may have a state, which is left out.
        max_values, max_array_bytes: most values, and most bytes of all arrays together; None is
            what is taken of a network.
    """

    names: Mapping[tuple[str, str], Named]
    builders: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    persistent: Callable[[Any], Any] | None = None
    leaves: tuple[type, ...] = ()
    drops_state: bool = False
    max_values: int | None = None
    max_array_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Dtype:
    """A dtype, little-endian or of one byte; `kind` is one of arrays.DTYPES."""

    kind: str


@dataclass(slots=True)
class _Slot:
    """An array being read: its value comes in a later opcode."""

    value: NDArray[Any] | None = None


# numpy 1.x, then 2.x. SERL's older gym spaces hand out OrderedDicts.
GLOBALS = {
    ("numpy", "ndarray"): Named("ndarray"),
    ("numpy", "dtype"): Named("dtype"),
    ("numpy.core.multiarray", "_reconstruct"): Named("array"),
    ("numpy._core.multiarray", "_reconstruct"): Named("array"),
    ("numpy.core.multiarray", "scalar"): Named("scalar"),
    ("numpy._core.multiarray", "scalar"): Named("scalar"),
    ("numpy.core.numeric", "_frombuffer"): Named("buffer"),
    ("numpy._core.numeric", "_frombuffer"): Named("buffer"),
    ("collections", "OrderedDict"): Named("dict"),
}


def loads(data: bytes) -> Any:
    """Return the plain value; arrays are read-only. PickleRefusedError for anything else."""
    value, end = read(data)
    if end != len(data):
        raise PickleRefusedError("Malformed pickle: something is left over")
    return value


def read(data: bytes, at: int = 0, extension: Extension | None = None) -> tuple[Any, int]:
    """Return the value of a pickle that begins at a byte, and where it ends.

    What it holds is plain, arrays, or leaves of the extension; PickleRefusedError else.
    """
    extension = extension or Extension(names={})
    reader = _Reader(data, at, extension)
    try:
        value = reader.read()
    except PickleRefusedError:
        raise
    # What a malformed pickle makes of stack, memo and arguments.
    except (LookupError, TypeError, ValueError, struct.error, OverflowError) as error:
        raise PickleRefusedError(f"Malformed pickle: {str(error)[:200]}") from None
    return _Resolver(extension).resolve(value, MAX_DEPTH), reader.at


def dumps(value: Any) -> bytes:
    """Pickle plain values and arrays so that numpy 1.x and 2.x both read them."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, protocol=4)
    # numpy 2 would name numpy._core, which numpy before 1.26 does not have.
    pickler.dispatch_table = {np.ndarray: _reduce_array}
    pickler.dump(value)
    return out.getvalue()


def _reduce_array(array: NDArray[Any]) -> tuple[Any, tuple[Any, ...]]:
    if array.dtype.newbyteorder("<").str not in DTYPES:
        raise PickleRefusedError(f"Dtype of an array: got {array.dtype}, allowed: numbers")
    return np.ndarray, (array.shape, array.dtype.str, array.tobytes())


class _Reader:
    """A stack machine; `_OPCODES` says what each opcode does to it."""

    def __init__(self, data: bytes, at: int, extension: Extension) -> None:
        self.data, self.at = data, at
        self.names = GLOBALS | dict(extension.names)
        self.builders = _BUILDERS | dict(extension.builders)
        self.persistent, self.drops_state = extension.persistent, extension.drops_state
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = self.most = extension.max_values or MAX_VALUES

    def read(self) -> Any:
        """Run until STOP."""
        while True:
            opcode = self.take(1)
            if opcode == pickle.STOP:
                break
            step = _OPCODES.get(opcode)
            self.left -= 1
            if step is None:
                raise PickleRefusedError(f"Opcode {_name(opcode)}: plain data have none such")
            if self.left < 0:
                raise PickleRefusedError(f"Values of a pickle: allowed: {self.most}")
            step(self)
        if len(self.stack) != 1 or self.marks:
            raise PickleRefusedError("Malformed pickle: something is left over")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        """Return the next bytes, which must be there."""
        if count < 0 or self.at + count > len(self.data):
            raise PickleRefusedError(f"Truncated pickle: {count} bytes wanted at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        """Return the next number of a `struct` code."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop_marked(self) -> list[Any]:
        """Take everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def line(self) -> str:
        """Return text up to the end of the line."""
        end = self.data.index(b"\n", self.at)
        text = self.take(end - self.at).decode()
        self.at += 1
        return text


def _name(opcode: bytes) -> str:
    known = pickletools.code2op.get(opcode.decode("latin-1"))
    return repr(opcode) if known is None else known.name


def _integer(reader: _Reader) -> None:
    size = reader.number("B")
    if size > _MAX_INT_BYTES:
        raise PickleRefusedError(f"Integer: got {size} bytes, allowed: {_MAX_INT_BYTES}")
    reader.push(int.from_bytes(reader.take(size), "little", signed=True))


def _text(code: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.take(reader.number(code)).decode())


def _bytes(code: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.take(reader.number(code)))


def _tuple(count: int) -> Callable[[_Reader], None]:
    def step(reader: _Reader) -> None:
        items = [reader.stack.pop() for _ in range(count)]
        reader.push(tuple(reversed(items)))

    return step


def _append(reader: _Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if type(target) is not list:
        raise PickleRefusedError(f"Append to a {type(target).__name__}: allowed: a list")
    target.extend(items)


def _set_items(reader: _Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if type(target) is not dict or len(items) % 2:
        raise PickleRefusedError(f"Items of a {type(target).__name__}: allowed: pairs of a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int, bool, bytes, float):
            raise PickleRefusedError(f"Key of a dict: got {type(key).__name__}, allowed: plain")
        target[key] = value


def _set_item(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _set_items(reader, [key, value])


def _append_one(reader: _Reader) -> None:
    value = reader.stack.pop()
    _append(reader, [value])


def _memoize(reader: _Reader, index: int) -> None:
    reader.memo[index] = reader.stack[-1]


def _global(reader: _Reader, module: Any, name: Any) -> None:
    named = reader.names.get((module, name)) if type(module) is type(name) is str else None
    if named is None:
        raise PickleRefusedError(f"Name in a pickle: got {module!s:.60}.{name!s:.60}, not allowed")
    reader.push(named)


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    _global(reader, module, name)


def _reduce(reader: _Reader) -> None:
    """What would be a call: build the thing that the allowed name stands for."""
    arguments, named = reader.stack.pop(), reader.stack.pop()
    if not isinstance(named, Named) or type(arguments) is not tuple:
        raise PickleRefusedError("Call in a pickle of what cannot be called")
    build = reader.builders.get(named.what)
    if build is None:
        raise PickleRefusedError(f"Call of {named.what} in a pickle: not allowed")
    reader.push(build(*arguments))


def _persistent(reader: _Reader) -> None:
    if reader.persistent is None:
        raise PickleRefusedError("Persistent id in a pickle: plain data have none such")
    reader.push(reader.persistent(reader.stack.pop()))


def _build(reader: _Reader) -> None:
    """Give an array or a dtype its state."""
    state, target = reader.stack.pop(), reader.stack[-1]
    if isinstance(target, _Slot):
        _, shape, dtype, fortran, data = state
        target.value = _array(data, dtype, shape, "F" if fortran else "C")
    elif isinstance(target, _Dtype):
        order = state[1]
        if order not in ("<", "|") or any(part is not None for part in state[2:5]):
            raise PickleRefusedError(f"State of a dtype: got order {order!r}, allowed: '<' | '|'")
    elif not (type(target) is dict and reader.drops_state):
        raise PickleRefusedError(f"State for a {type(target).__name__}: not allowed")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    sizes = type(shape) is tuple and all(type(length) is int for length in shape)
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or not sizes:
        raise PickleRefusedError("Array: allowed: bytes, a dtype and a tuple of lengths")
    if len(shape) > _MAX_NDIM or order not in ("C", "F"):
        raise PickleRefusedError(f"Axes of an array: got {len(shape)}, allowed: {_MAX_NDIM}")
    if order == "C":
        return array_of(data, dtype.kind, shape)
    return array_of(data, dtype.kind, shape[::-1]).T


def _new_array(kind: Any, *_: Any) -> _Slot:
    if kind != Named("ndarray"):
        raise PickleRefusedError("Array: allowed: numpy.ndarray itself")
    return _Slot()


def _new_dtype(letters: Any, *_: Any) -> _Dtype:
    for order in "|<":
        if type(letters) is str and order + letters in DTYPES:
            return _Dtype(order + letters)
    raise PickleRefusedError(f"Dtype of an array: got {letters!s:.20}, allowed: numbers")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _new_dict(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise PickleRefusedError("OrderedDict with arguments: allowed: none")
    return {}


_BUILDERS: dict[str, Callable[..., Any]] = {
    "array": _new_array,
    "dtype": _new_dtype,
    "scalar": _scalar,
    "buffer": _array,
    "dict": _new_dict,
}
_OPCODES: dict[bytes, Callable[[_Reader], Any]] = {
    pickle.PROTO: lambda r: r.take(1),
    pickle.FRAME: lambda r: r.take(8),
    pickle.NONE: lambda r: r.push(None),
    pickle.NEWTRUE: lambda r: r.push(True),
    pickle.NEWFALSE: lambda r: r.push(False),
    pickle.BININT: lambda r: r.push(r.number("i")),
    pickle.BININT1: lambda r: r.push(r.number("B")),
    pickle.BININT2: lambda r: r.push(r.number("H")),
    pickle.LONG1: _integer,
    pickle.BINFLOAT: lambda r: r.push(struct.unpack(">d", r.take(8))[0]),
    pickle.SHORT_BINUNICODE: _text("B"),
    pickle.BINUNICODE: _text("I"),
    pickle.BINUNICODE8: _text("Q"),
    pickle.SHORT_BINBYTES: _bytes("B"),
    pickle.BINBYTES: _bytes("I"),
    pickle.BINBYTES8: _bytes("Q"),
    pickle.BYTEARRAY8: _bytes("Q"),
    pickle.EMPTY_LIST: lambda r: r.push([]),
    pickle.EMPTY_DICT: lambda r: r.push({}),
    pickle.EMPTY_TUPLE: lambda r: r.push(()),
    pickle.TUPLE1: _tuple(1),
    pickle.TUPLE2: _tuple(2),
    pickle.TUPLE3: _tuple(3),
    pickle.TUPLE: lambda r: r.push(tuple(r.pop_marked())),
    pickle.MARK: lambda r: r.marks.append(len(r.stack)),
    pickle.APPEND: _append_one,
    pickle.APPENDS: lambda r: (items := r.pop_marked(), _append(r, items)),
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda r: (items := r.pop_marked(), _set_items(r, items)),
    pickle.MEMOIZE: lambda r: _memoize(r, len(r.memo)),
    pickle.BINPUT: lambda r: _memoize(r, r.number("B")),
    pickle.LONG_BINPUT: lambda r: _memoize(r, r.number("I")),
    pickle.BINGET: lambda r: r.push(r.memo[r.number("B")]),
    pickle.LONG_BINGET: lambda r: r.push(r.memo[r.number("I")]),
    pickle.GLOBAL: lambda r: _global(r, r.line(), r.line()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent,
}


class _Resolver:
    """Copies what was read, with arrays in their slots; bounds depth, values and bytes.

    Shared and circular references are what bombs are made of: each mention counts.
    """

    def __init__(self, extension: Extension) -> None:
        self._leaves = (bool, int, float, str, bytes, np.generic, *extension.leaves)
        self._most = extension.max_values or MAX_VALUES
        self._most_bytes = extension.max_array_bytes or MAX_ARRAY_BYTES
        self._values, self._bytes = self._most, self._most_bytes

    def resolve(self, value: Any, depth: int) -> Any:
        """Return a value made of plain values and arrays only."""
        self._values -= 1
        if depth == 0 or self._values < 0:
            allowed = f"{MAX_DEPTH} levels, {self._most} values"
            raise PickleRefusedError(f"Nesting or number of values, allowed: {allowed}")
        if type(value) is dict:
            return {key: self.resolve(item, depth - 1) for key, item in value.items()}
        if type(value) is list:
            return [self.resolve(item, depth - 1) for item in value]
        if type(value) is tuple:
            return tuple([self.resolve(item, depth - 1) for item in value])
        return self._leaf(value.value if isinstance(value, _Slot) else value)

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            self._bytes -= value.nbytes
            if self._bytes < 0:
                raise PickleRefusedError(f"Arrays of a pickle: allowed: {self._most_bytes} bytes")
            return value
        if value is None or isinstance(value, self._leaves):
            return value
        raise PickleRefusedError(f"Value of a pickle: got {type(value).__name__}, allowed: plain")
