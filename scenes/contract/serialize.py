"""Dataclasses of plain values as JSON, and back with every type checked.

What configs, run folders and policy bundles are written in; stdlib only, so that the robot bridge
reads it too.
"""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union

from scenes.contract.errors import InputError
from scenes.contract.names import unknown_name

T = TypeVar("T")

_LATER = "later"
_KINDS = "kinds"
_NON_FINITE = ("inf", "-inf", "nan")
_UNIONS = (Union, types.UnionType)


def later_field(default: Any) -> Any:
    """Dataclass field that a format gained after it was in use, with what it means to lack it.

    While it equals `default` it is not written, so that values from before keep their digests and
    files from before are read as they were meant.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


class Kinds(Protocol):
    """Classes of plain dataclasses by name, such as a registry that others may add to."""

    def __getitem__(self, name: str) -> Any:
        """Return the class; raises KeyError, naming the allowed ones."""
        ...

    def name_of(self, entry: Any) -> str:
        """Return the name of a class."""
        ...


def open_field(kinds: Kinds, default: Callable[[], Any]) -> Any:
    """Dataclass field for a value of any class in `kinds`; its JSON names the class as "type"."""
    return dataclasses.field(default_factory=default, metadata={_KINDS: kinds})


def digest(value: Any) -> str:
    """Sha256 of a dataclass of plain values: equal values have equal digests, on any machine."""
    # Read back first: 0 and 0.0 are the same length in a file and must be the same here.
    plain = to_json(from_json(type(value), to_json(value)))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def to_json(value: Any) -> Any:
    """JSON value of a dataclass of plain values; TypeError names what cannot be written.

    Dataclasses carry their class name as `"type"` where the field's type is a union of several,
    tuples become lists, infinite and nan floats text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _tagged(f, getattr(value, f.name), _hints(type(value)))
            for f in dataclasses.fields(value)
            if not (f.metadata.get(_LATER) and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"A config holds plain values, got {value!r} ({type(value).__name__})")


def from_json(kind: type[T], data: Any, *, allow_missing: bool = False) -> T:
    """Build the dataclass `kind` from `to_json`'s output.

    Unknown fields, wrong types and, unless `allow_missing`, fields that are not in `data` raise
    ValueError with the path of the field, what was got and what is allowed. A class may have a
    static method `upgrade` that brings what earlier versions wrote up to date.
    """
    return _read_dataclass(kind, data, "", allow_missing)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    # Evaluating annotations anew was a sixth of the time that a bundle's export took.
    return typing.get_type_hints(kind)


def _dataclass_options(hint: Any) -> dict[str, Any]:
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return {kind.__name__: kind for kind in options if dataclasses.is_dataclass(kind)}


def _tagged(field: dataclasses.Field, value: Any, hints: Mapping[str, Any]) -> Any:
    data = to_json(value)
    if _KINDS in field.metadata:
        return {"type": field.metadata[_KINDS].name_of(type(value)), **data}
    if dataclasses.is_dataclass(value) and len(_dataclass_options(hints[field.name])) > 1:
        return {"type": type(value).__name__, **data}
    return data


def _read_dataclass(kind: Any, data: Any, path: str, allow_missing: bool) -> Any:
    _expect(isinstance(data, Mapping), path, data, f"the fields of {kind.__name__}")
    if hasattr(kind, "upgrade"):
        data = kind.upgrade(data)
    hints, fields = _hints(kind), {f.name: f for f in dataclasses.fields(kind) if f.init}
    for name in data:
        if name not in fields:
            raise InputError(unknown_name(f"field of {path or kind.__name__}", name, list(fields)))
    missing = [n for n, f in fields.items() if n not in data and not _skippable(f, allow_missing)]
    if missing:
        where = path or kind.__name__
        raise InputError(f"Missing field of {where}: {', '.join(missing)}")
    values = {}
    for name, value in data.items():
        where = f"{path}.{name}".lstrip(".")
        values[name] = (
            _read_open(fields[name].metadata[_KINDS], value, where, allow_missing)
            if _KINDS in fields[name].metadata
            else _read(hints[name], value, where, allow_missing)
        )
    return kind(**values)


def _read_open(kinds: Kinds, data: Any, path: str, allow_missing: bool) -> Any:
    _expect(isinstance(data, Mapping) and "type" in data, path, data, "an object with its type")
    rest = {key: value for key, value in data.items() if key != "type"}
    try:
        kind = kinds[data["type"]]
    except KeyError as error:
        raise InputError(f"Field '{path}': {error.args[0]}") from None
    return _read_dataclass(kind, rest, path, allow_missing)


def _skippable(field: dataclasses.Field, allow_missing: bool) -> bool:
    unset = dataclasses.MISSING
    has_default = field.default is not unset or field.default_factory is not unset
    return has_default and (allow_missing or bool(field.metadata.get(_LATER)))


def _read(hint: Any, data: Any, path: str, allow_missing: bool) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin is Literal:
        _expect(data in args, path, data, " | ".join(map(repr, args)))
        return data
    if origin in _UNIONS:
        return _read_union(hint, data, path, allow_missing)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, data, path, allow_missing)
    if origin is tuple:
        return _read_tuple(args, data, path, allow_missing)
    if origin in (dict, Mapping):
        _expect(isinstance(data, Mapping), path, data, "an object")
        return {k: _read(args[1], v, f"{path}.{k}", allow_missing) for k, v in data.items()}
    return _read_plain(hint, data, path)


def _read_union(hint: Any, data: Any, path: str, allow_missing: bool) -> Any:
    kinds = _dataclass_options(hint)
    if len(kinds) > 1 and isinstance(data, Mapping):
        name = data.get("type", "(no type)")
        if name not in kinds:
            raise InputError(unknown_name(f"type of {path}", name, list(kinds)))
        rest = {key: value for key, value in data.items() if key != "type"}
        return _read_dataclass(kinds[name], rest, path, allow_missing)
    if len(kinds) == 1 and isinstance(data, Mapping):
        return _read_dataclass(next(iter(kinds.values())), data, path, allow_missing)
    for option in typing.get_args(hint):
        try:
            return _read(option, data, path, allow_missing)
        except ValueError:
            continue
    raise _wrong(path, data, _name(hint))


def _read_tuple(args: tuple[Any, ...], data: Any, path: str, allow_missing: bool) -> Any:
    _expect(isinstance(data, (list, tuple)), path, data, "a list")
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    _expect(len(args) == len(data), path, data, f"a list of {len(args)}")
    pairs = enumerate(zip(args, data, strict=True))
    return tuple(_read(hint, item, f"{path}[{i}]", allow_missing) for i, (hint, item) in pairs)


def _read_plain(hint: Any, data: Any, path: str) -> Any:
    if hint is float and (data in _NON_FINITE or _is_number(data)):
        return float(data)
    if hint is Path and isinstance(data, str):
        return Path(data)
    # bool is an int in Python; a config that mixes them up is a mistake.
    fits = data is None if hint is type(None) else type(data) is hint
    _expect(fits, path, data, _name(hint))
    return data


def _is_number(data: Any) -> bool:
    return isinstance(data, (int, float)) and not isinstance(data, bool)


def _name(hint: Any) -> str:
    if typing.get_origin(hint) in _UNIONS:
        return " | ".join(_name(option) for option in typing.get_args(hint))
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _expect(condition: bool, path: str, data: Any, allowed: str) -> None:
    if not condition:
        raise _wrong(path, data, allowed)


def _wrong(path: str, data: Any, allowed: str) -> ValueError:
    return InputError(f"Field '{path}': got {json.dumps(data)[:80]}, allowed: {allowed}")


def flattened(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested JSON objects by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        inner = isinstance(value, Mapping)
        flat |= flattened(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
