"""What the dashboard knows of runs: their folders, read anew where they have changed."""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mjx_serl.dashboard.replay import replay_files
from mjx_serl.run.folder import RunFolder, parse_row, runs_in
from mjx_serl.run.nan_world import FILE as NAN_DUMP
from mjx_serl.run.remote import COMMANDS, is_paused
from mjx_serl.run.run_lock import require_unlocked
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.serialize import flattened

# Points of a curve: of more, every second is dropped and the rest stand for them.
POINTS = 500
# Runs whose curves are kept in memory.
KEPT = 32
FILES: Mapping[str, str] = {
    "worlds.png": "image/png",
    "curve.png": "image/png",
    "policy.mp4": "video/mp4",
}
_TAIL = 1 << 16  # of the metrics, read for a run's line [bytes]
_RECENT = 20  # rows that the steps per second are of


class Runs:
    """The runs below a folder, by name.

    Args:
        root: a folder of runs, or one run's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._curves: OrderedDict[str, _Curve] = OrderedDict()

    def names(self) -> list[str]:
        """All runs, the newest first; those of several seeds by their folder's name too."""
        return [self._name(path) for path in self._newest_first()]

    def lines(self) -> list[dict[str, Any]]:
        """What is told of all runs in the list, the newest first; the folder is searched once."""
        return [self._line(self._name(path), path) for path in self._newest_first()]

    def path(self, name: str) -> Path:
        """The folder of a run; raises UnknownNameError for another name."""
        names = {self._name(path): path for path in self._paths()}
        if name not in names:
            raise UnknownNameError(unknown_name("run", name, sorted(names)))
        return names[name]

    def line(self, name: str) -> dict[str, Any]:
        """What is told of a run in the list: state, task, success, speed, time left."""
        return self._line(name, self.path(name))

    def _line(self, name: str, path: Path) -> dict[str, Any]:
        line: dict[str, Any] = {"name": name, "state": "damaged"}
        try:
            config = RunFolder(path).read_json()
            line |= {key: config.get(key) for key in ("task", "seed", "preset")}
            line |= {"agent": _agent(path, config), "total": config.get("total_env_steps")}
        except (InputError, OSError, AttributeError) as error:
            return line | {"why": f"config.json: {error}"}
        rows, torn = _last_rows(path / "metrics.jsonl")
        line |= _progress(rows, config.get("total_env_steps"))
        line["state"] = _state(path, rows)
        line["files"] = _written(path, FILES)
        line["nan"] = str(path / NAN_DUMP) if (path / NAN_DUMP).is_file() else None
        line["replay"] = _written(path, replay_files(path))
        if torn > 1 or (torn and line["state"] != "training"):
            line |= {"state": "damaged", "why": f"metrics.jsonl: {torn} lines are none"}
        return line

    def curve(self, name: str) -> dict[str, Any]:
        """The points of a run: of its epochs at most `POINTS`, of its evaluations all."""
        path = self.path(name) / "metrics.jsonl"
        curve = self._curves.pop(name, None)
        if curve is None or not curve.goes_on(path):
            curve = _Curve()
        curve.read(path)
        self._curves[name] = curve
        while len(self._curves) > KEPT:
            self._curves.popitem(last=False)
        return {"epochs": curve.epochs, "evals": curve.evals}

    def config(self, name: str) -> dict[str, Any]:
        """The options of a run by dotted names."""
        return flattened(RunFolder(self.path(name)).read_json())

    def file(self, name: str, which: str) -> tuple[Path, str]:
        """A file of a run that may be shown, and its media type; raises UnknownNameError."""
        if which not in FILES:
            raise UnknownNameError(unknown_name("file", which, list(FILES)))
        return self.path(name) / which, FILES[which]

    def replay(self, name: str, which: str) -> Path:
        """A file of a run that may hold episodes; raises UnknownNameError."""
        path = self.path(name)
        if which not in (files := replay_files(path)):
            raise UnknownNameError(unknown_name("file", which, files))
        return path / which

    def _newest_first(self) -> list[Path]:
        return sorted(self._paths(), key=_changed, reverse=True)

    def _paths(self) -> Iterator[Path]:
        root = self.root
        if (root / "config.json").is_file():
            yield root
            return
        for path in sorted(p for p in root.glob("*") if p.is_dir()):
            if (inside := runs_in(path)) != [path]:
                yield from inside
            elif any((path / file).exists() for file in ("config.json", "metrics.jsonl")):
                yield path

    def _name(self, path: Path) -> str:
        return path.name if path == self.root else path.relative_to(self.root).as_posix()


@dataclasses.dataclass
class _Curve:
    """The rows of a metrics file, thinned as they come."""

    epochs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    _offset: int = 0
    _inode: int = 0
    _stride: int = 1
    _count: int = 0

    def goes_on(self, path: Path) -> bool:
        """Whether the file has only grown since: a resumed run writes another."""
        try:
            found = path.stat()
        except OSError:
            return False
        return found.st_ino == self._inode and found.st_size >= self._offset

    def read(self, path: Path) -> None:
        """Take what is new."""
        try:
            with path.open("rb") as file:
                self._inode = path.stat().st_ino
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1  # the last line may still be written
        self._offset += whole
        for row in _rows(data[:whole])[0]:
            self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        if row.get("kind") in ("eval", "final"):
            self.evals.append(row)
        elif row.get("kind") == "epoch":
            if self._count % self._stride == 0:
                self.epochs.append(row)
            self._count += 1
            if len(self.epochs) > POINTS:
                self.epochs, self._stride = self.epochs[::2], 2 * self._stride


def _rows(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Rows of whole lines, and how many lines were none."""
    parsed = [parse_row(line) for line in data.decode(errors="replace").splitlines()]
    rows = [row for row in parsed if row is not None]
    return rows, len(parsed) - len(rows)


def _last_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except OSError:
        return [], 0
    if size > _TAIL:
        data = data[data.find(b"\n") + 1 :]
    return _rows(data)


def _progress(rows: list[dict[str, Any]], total: int | None) -> dict[str, Any]:
    epochs = [row for row in rows if row.get("kind") == "epoch"][-_RECENT:]
    evals = [row for row in rows if row.get("kind") in ("eval", "final")]
    told: dict[str, Any] = {}
    if evals:
        last = evals[-1]
        told |= {"success": last.get("success_rate"), "interval": last.get("success_ci95")}
    if not epochs:
        return told
    first, last = epochs[0], epochs[-1]
    told |= {"env_steps": last["env_steps"], "elapsed_s": last["elapsed_s"]}
    took, made = last["elapsed_s"] - first["elapsed_s"], last["env_steps"] - first["env_steps"]
    if took > 0 and made > 0:
        told["steps_per_s"] = made / took
        if total:
            told["left_s"] = max(0.0, (total - last["env_steps"]) * took / made)
    return told


def _state(path: Path, rows: list[dict[str, Any]]) -> str:
    try:
        require_unlocked(path)
    except InputError:
        return "paused" if is_paused(path) else "training"
    except OSError:
        pass
    return "finished" if any(row.get("kind") == "final" for row in rows[-1:]) else "stopped"


def _agent(path: Path, config: Mapping[str, Any]) -> str:
    """What the run calls its agent, once it has ended; before, what the agent is."""
    try:
        return str(json.loads((path / "summary.json").read_text())["agent"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    method = config.get("method", {})
    agent = method.get("agent", config.get("agent", {}))
    return str(agent.get("type", "?")) if isinstance(agent, Mapping) else "?"


def _written(path: Path, names: Iterable[str]) -> dict[str, float]:
    """When each of a run's files that are there was written [s], by its name."""
    return {name: (path / name).stat().st_mtime for name in names if (path / name).is_file()}


def _changed(path: Path) -> float:
    try:
        return max(p.stat().st_mtime for p in (path, path / "metrics.jsonl") if p.exists())
    except (OSError, ValueError):
        return 0.0


def require_command(what: str) -> None:
    """Raise UnknownNameError for what no run can be told."""
    if what not in COMMANDS:
        raise UnknownNameError(unknown_name("command", what, COMMANDS))
