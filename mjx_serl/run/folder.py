"""The run folder: its name, its files, and configs as JSON.

runs/<task>-<agent>-s<seed>-<n>/
    config.json  metrics.jsonl  summary.json  curve.png  checkpoints/  tensorboard/
"""

import dataclasses
import difflib
import json
import math
import os
import re
import shutil
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from mjx_serl.run.summary import Summary
from scenes.specs import unknown_name

T = TypeVar("T")

_NON_FINITE = ("inf", "-inf", "nan")
_UNIONS = (Union, types.UnionType)


class RunFolder:
    """One run on disk. `create` makes a new one, `open` finds one to resume or evaluate."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        task: str,
        agent: str,
        seed: int,
        name: str | None = None,
        need_bytes: int = 0,
    ) -> "RunFolder":
        """Make a folder under `root`, named by its contents or by `name`.

        Raises FileExistsError if `name` is taken (a run is never overwritten), ValueError if
        it is no plain name, OSError if the disk has less than `need_bytes` [bytes] free.
        """
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        _require_free(root, need_bytes)
        if name is not None:
            return cls(_make_named(root, name))
        stem = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{task}-{agent}-s{seed}").strip("-.")
        number = 1
        while True:  # mkdir decides, so that two runs started at once get two folders
            try:
                (root / f"{stem}-{number}").mkdir()
                return cls(root / f"{stem}-{number}")
            except FileExistsError:
                number += 1

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Find an existing run; FileNotFoundError names the nearest other runs."""
        path = Path(path)
        if (path / "config.json").is_file():
            return cls(path)
        others = [p.parent.name for p in path.parent.glob("*/config.json")]
        close = difflib.get_close_matches(path.name, others, n=3, cutoff=0.3)
        hint = f" Did you mean: {', '.join(close)}?" if close else ""
        what = "has no config.json" if path.exists() else "does not exist"
        raise FileNotFoundError(f"Run folder '{path}' {what}.{hint}")

    @property
    def checkpoints(self) -> Path:
        """Where the CheckpointStore writes."""
        return self.path / "checkpoints"

    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return f"python train.py --resume {self.path}"

    def write_config(self, config: Any) -> None:
        """Write a config dataclass to `config.json`."""
        _write_atomic(self.path / "config.json", json.dumps(to_json(config), indent=2) + "\n")

    def read_config(self, kind: type[T], *, allow_missing: bool = False) -> T:
        """Read `config.json` as a `kind`; errors as in `from_json`."""
        path = self.path / "config.json"
        try:
            data = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        return from_json(kind, data, allow_missing=allow_missing)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and flush it; non-finite numbers become null."""
        line = json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False)
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`; a line torn by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [row for row in map(_parse_row, lines) if row is not None]

    def truncate_after(self, epoch: int) -> None:
        """Drop torn lines and what a resume repeats: epochs after `epoch`, the final evaluation."""
        rows = [
            row
            for row in self.read_metrics()
            if row.get("epoch", 0) <= epoch and row.get("kind") != "final"
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        _write_atomic(self.path / "metrics.jsonl", text)

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, atomically."""
        _write_atomic(self.path / "summary.json", json.dumps(to_json(summary), indent=2) + "\n")

    def read_summary(self) -> Summary | None:
        """Read `summary.json`, None before the run's end."""
        path = self.path / "summary.json"
        return from_json(Summary, json.loads(path.read_text())) if path.exists() else None


def to_json(value: Any) -> Any:
    """JSON value of a dataclass of plain values; TypeError names what cannot be written.

    Dataclasses carry their class name as `"type"` where the field's type is a union of several,
    tuples become lists, infinite and nan floats text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _tagged(f, getattr(value, f.name), _hints(type(value)))
            for f in dataclasses.fields(value)
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
    ValueError with the path of the field, what was got and what is allowed.
    """
    return _read_dataclass(kind, data, "", allow_missing)


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dataclass_options(hint: Any) -> dict[str, Any]:
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return {kind.__name__: kind for kind in options if dataclasses.is_dataclass(kind)}


def _tagged(field: dataclasses.Field, value: Any, hints: Mapping[str, Any]) -> Any:
    data = to_json(value)
    if dataclasses.is_dataclass(value) and len(_dataclass_options(hints[field.name])) > 1:
        return {"type": type(value).__name__, **data}
    return data


def _read_dataclass(kind: Any, data: Any, path: str, allow_missing: bool) -> Any:
    _expect(isinstance(data, Mapping), path, data, f"the fields of {kind.__name__}")
    hints, fields = _hints(kind), {f.name: f for f in dataclasses.fields(kind) if f.init}
    for name in data:
        if name not in fields:
            raise ValueError(unknown_name(f"field of {path or kind.__name__}", name, list(fields)))
    missing = [n for n, f in fields.items() if n not in data and not _skippable(f, allow_missing)]
    if missing:
        where = path or kind.__name__
        raise ValueError(f"Missing field of {where}: {', '.join(missing)}")
    items = data.items()
    values = {n: _read(hints[n], v, f"{path}.{n}".lstrip("."), allow_missing) for n, v in items}
    return kind(**values)


def _skippable(field: dataclasses.Field, allow_missing: bool) -> bool:
    unset = dataclasses.MISSING
    has_default = field.default is not unset or field.default_factory is not unset
    return allow_missing and has_default


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
            raise ValueError(unknown_name(f"type of {path}", name, list(kinds)))
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
    return ValueError(f"Config field '{path}': got {json.dumps(data)[:80]}, allowed: {allowed}")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _parse_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _make_named(root: Path, name: str) -> Path:
    path = root / name
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"Run name '{name}' must be a plain folder name without '/'")
    try:
        path.mkdir()
    except FileExistsError:
        raise FileExistsError(
            f"Run folder '{path}' exists and is never overwritten. "
            f"Hint: --resume {path} goes on with it, --run.name picks another"
        ) from None
    return path


def _require_free(root: Path, need: int) -> None:
    free = shutil.disk_usage(root).free
    if free < need:
        raise OSError(
            f"The run needs {need / 1e6:.0f} MB under '{root}', {free / 1e6:.0f} MB are free. "
            "Hint: free some, choose another folder, or a smaller buffer"
        )


def _write_atomic(path: Path, text: str) -> None:
    tmp = path.with_name(f".{path.name}.tmp")
    with tmp.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    tmp.replace(path)
