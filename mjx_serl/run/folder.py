"""The run folder: its name, its files, and configs as JSON.

runs/<task>-<agent>-s<seed>-<n>/
    config.json  metrics.jsonl  summary.json  curve.png  checkpoints/  tensorboard/  bundle/
"""

import difflib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mjx_serl.run.summary import Summary
from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError
from scenes.contract.files import write_atomically
from scenes.contract.manifest import MANIFEST
from scenes.contract.serialize import from_json, to_json

SEEDS = "seeds.json"  # in a folder that holds runs of several seeds
SWEEP = "sweep.toml"  # in one that holds such folders
IMITATION = "imitation"  # kind of the rows of what is learned before the first epoch
T = TypeVar("T")


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
        seed: int | str,
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
        """Find an existing run; FileNotFoundError names the nearest others."""
        path = Path(path)
        if (path / "config.json").is_file():
            return cls(path)
        if (path / SEEDS).is_file():
            inside = ", ".join(sorted(p.parent.name for p in path.glob("*/config.json")))
            raise FileNotFoundError(f"'{path}' holds runs of several seeds: name one of {inside}")
        if (path / MANIFEST).is_file():
            raise FileNotFoundError(
                f"'{path}' is a bundle, allowed: a run folder; `{how_to_start('deploy')} {path} "
                "--robot sim` plays a bundle"
            )
        others = [p.parent.name for p in path.parent.glob("*/config.json")]
        close = difflib.get_close_matches(path.name, others, n=3, cutoff=0.3)
        hint = f" Did you mean: {', '.join(close)}?" if close else ""
        what = "has no config.json" if path.exists() else "does not exist"
        raise FileNotFoundError(f"Run folder '{path}' {what}.{hint}")

    @property
    def checkpoints(self) -> Path:
        """Where the CheckpointStore writes."""
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        """Where the policy for a robot is left at the end."""
        return self.path / "bundle"

    @property
    def has_begun(self) -> bool:
        """Whether there is a run."""
        return (self.path / "config.json").is_file()

    @property
    def is_finished(self) -> bool:
        """Whether its last row is the final evaluation."""
        # A summary stays where a finished run is taken further.
        return any(row["kind"] == "final" for row in self.read_metrics()[-1:])

    def resume_command(self) -> str:
        """The command that goes on with this run, and with those of other seeds beside it."""
        several = (self.path.parent / SEEDS).is_file()
        return f"{how_to_start('train')} --resume {self.path.parent if several else self.path}"

    def write_config(self, config: Any) -> None:
        """Write a config dataclass to `config.json`."""
        write_atomically(self.path / "config.json", json.dumps(to_json(config), indent=2) + "\n")

    def read_config(self, kind: type[T], *, allow_missing: bool = False) -> T:
        """Read `config.json` as a `kind`; errors as in `from_json`."""
        return from_json(kind, self.read_json(), allow_missing=allow_missing)

    def read_json(self) -> Any:
        """`config.json` as it is, whatever version wrote it."""
        path = self.path / "config.json"
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON: {error}") from error

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and flush it; non-finite numbers become null."""
        line = json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False)
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of `metrics.jsonl`; a line torn by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [row for row in map(parse_row, lines) if row is not None]

    @property
    def has_trained(self) -> bool:
        """Whether anything is there that a run would go on from, or was told after an epoch."""
        rows = any(row["kind"] != IMITATION for row in self.read_metrics())
        return rows or any(self.checkpoints.glob("*"))

    def truncate_after(self, epoch: int) -> None:
        """Drop torn lines and what a resume repeats: epochs after `epoch`, the final evaluation.

        One that begins anew, at 0, imitates anew too.
        """
        rows = [
            row
            for row in self.read_metrics()
            if row.get("epoch", 0) <= epoch
            and row.get("kind") not in ("final", *([] if epoch else [IMITATION]))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", text)

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, atomically."""
        write_atomically(self.path / "summary.json", json.dumps(to_json(summary), indent=2) + "\n")

    def read_summary(self) -> Summary | None:
        """Read `summary.json`, None before the run's end."""
        path = self.path / "summary.json"
        return from_json(Summary, json.loads(path.read_text())) if path.exists() else None


def runs_in(path: Path) -> list[Path]:
    """The folders of the runs of several seeds, or of a sweep, that a folder holds, else itself."""
    if (path / SWEEP).is_file():
        return [run for inside in sorted(path.glob(f"*/{SEEDS}")) for run in runs_in(inside.parent)]
    if (path / SEEDS).is_file():
        return sorted(inside for inside in path.glob("seed-*") if inside.is_dir())
    return [path]


def write_seeds(path: Path, seeds: Sequence[int], config: Any, *, together: bool = False) -> None:
    """Say that a folder holds runs of several seeds.

    Args:
        path: the folder.
        seeds: of the runs.
        config: theirs, as JSON values.
        together: whether they are trained at the same time.
    """
    data = {"seeds": list(seeds), **({"together": True} if together else {}), **config}
    write_atomically(path / SEEDS, json.dumps(data, indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def parse_row(line: str) -> dict[str, Any] | None:
    """Return the row that a line of `metrics.jsonl` holds, None for one torn by a crash."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _make_named(root: Path, name: str) -> Path:
    path = root / name
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"Run name '{name}' must be a plain folder name without '/'")
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
