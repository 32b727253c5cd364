"""Checkpoints of the whole run state: asynchronous, atomic, verified by checksum.

A step lies in `<folder>/<step>/` as

    arrays/           every leaf of the state, written by orbax
    state.json        names, shapes and dtypes of the leaves, and the caller's `meta`
    MANIFEST.sha256   checksum of every file above; `sha256sum -c` reads it too

The three are written under a temporary name and appear by one rename, so that a killed process
leaves a whole step or none. Orbax checks no array data on restore (a flipped bit comes back as
a wrong number), hence the manifest.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mjx_serl.devices import place
from mjx_serl.types import PyTree
from scenes.contract.errors import InputError
from scenes.contract.files import sync, write_atomically

_MANIFEST = "MANIFEST.sha256"
_TMP = ".tmp-"
_DIFF_LINES = 8
_OTHER_VERSION = (
    "Hint: where another version of mjx_serl wrote it, only that one goes on with it; evaluate.py, "
    "play.py, export and deploy.py still take its policy"
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXT = ("no space left", "disk quota", "file too large")  # as tensorstore words it

# Leaves by the names that they had in older checkpoints: the start of the path, then and now.
_RENAMED = (
    ("worlds/worlds/", "worlds/envs/"),
    ("buffer/", "data/online/"),
    ("demos/", "data/demos/"),
)

LeafSpec = dict[str, Any]
"""One stored leaf: `path`, `shape`, `dtype` as text, and `key_impl` of a typed PRNG key."""


class MisfitError(InputError):
    """A checkpoint of other leaves, shapes or dtypes than asked for; `differences` names each."""

    def __init__(self, text: str, differences: list[str]) -> None:
        super().__init__(text)
        self.differences = differences


def warn_line(message: str) -> None:
    """Write one warning line to stderr, above the live console if there is one."""
    sys.stderr.write(f"warning: {message}\n")
    sys.stderr.flush()


class CheckpointStore:
    """Saves and restores the state of one run; one process writes, any number may read.

    `keep` is the number of steps left on disk; a full disk lowers it. I/O errors of `save` end in
    one line to `warn` (and the next one only after a save has worked again): training outlives a
    full disk.
    """

    def __init__(
        self, folder: Path, *, keep: int = 2, warn: Callable[[str], None] = warn_line
    ) -> None:
        if keep < 1:
            raise InputError(f"keep must be at least 1 checkpoint, got {keep}")
        self.folder = Path(folder)
        self.last_saved: int | None = None
        self._keep = keep
        self._warn = warn
        self._failing = False
        self._swept = False
        self._damaged: set[int] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps on disk, oldest first; a listed step is whole but not yet verified."""
        if not self.folder.is_dir():
            return []
        found = (p for p in self.folder.iterdir() if p.name.isdigit())
        return sorted(int(p.name) for p in found if (p / _MANIFEST).is_file())

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Copy `state` to the host now and write it in the background.

        The caller may donate the state's buffers as soon as this returns. Waits for the write
        before it, if that still runs, so at most one copy is held. Raises TypeError only for a
        `meta` that is not JSON or a leaf that is no array; never for the disk.
        """
        leaves, specs = _to_host(state)
        text = json.dumps({"step": step, "meta": dict(meta), "leaves": specs}, indent=1)
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._pool.submit(self._try_write, step, leaves, text)

    def wait(self) -> None:
        """Return once no write is under way."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def restore(
        self, template: PyTree, *, part: bool = False, step: int | None = None
    ) -> tuple[PyTree, int, dict[str, Any]]:
        """Return (state, step, meta) of the newest step whose checksums hold, or of `step` alone.

        `template` has the structure of the state or, with `part`, of some of it under the same
        names; its leaves are arrays or ShapeDtypeStructs. A leaf goes where its template is
        committed, else it stays uncommitted like a fresh one. Raises FileNotFoundError if there is
        no step, ValueError if none is intact or if the stored state has other leaves, shapes or
        dtypes than the template.
        """
        self.wait()
        steps, problems = self.steps()[::-1], []
        if step is not None:
            steps = [found for found in steps if found == step]
        if not steps:
            raise FileNotFoundError(f"No checkpoint in {self.folder}: nothing to resume from")
        for step in steps:
            problem = _find_damage(self._path(step))
            if problem is None:
                self._report_damage(problems, step)
                return _load(self._path(step), template, part)
            problems.append(f"checkpoint step {step} is damaged ({problem})")
            self._damaged.add(step)
        raise InputError(f"No intact checkpoint in {self.folder}: {'; '.join(problems)}")

    def _report_damage(self, problems: list[str], used: int) -> None:
        if problems:
            self._warn(f"{'; '.join(problems)}; using step {used}")

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:010d}"

    def _try_write(self, step: int, leaves: list[np.ndarray], text: str) -> None:
        # Everything is caught: this thread serves training, which must outlive any disk.
        try:
            self._sweep()
            self._write(step, leaves, text)
        except Exception as error:
            self._recover(step, error)
            return
        if self._failing:
            self._warn(f"checkpoints work again: step {step} is saved")
        self._failing = False
        self.last_saved = step
        self._rotate(step)

    def _write(self, step: int, leaves: list[np.ndarray], text: str) -> None:
        target, tmp = self._path(step), self.folder / f"{_TMP}{step}-{os.getpid()}"
        if target.exists() and _find_damage(target) is None:
            return
        _require_space(self.folder, sum(leaf.nbytes for leaf in leaves))
        tmp.mkdir()
        _write_arrays(tmp / "arrays", leaves)
        (tmp / "state.json").write_text(text)
        _write_manifest(tmp)
        if target.exists():
            self._drop(step)
        tmp.rename(target)
        sync(self.folder)

    def _recover(self, step: int, error: Exception) -> None:
        """Give back what the failed write holds and, on a full disk, the oldest spare step."""
        with contextlib.suppress(OSError):
            self._remove_leftovers()
            if _is_full(error) and len(self.steps()) > 1:
                self._drop(self.steps()[0])
                # What did not fit once would not fit again at every other save.
                self._keep = min(self._keep, len(self.steps()))
        if not self._failing:
            self._warn(
                f"checkpoint step {step} was not saved ({_reason(error)}); "
                "training goes on, the next save tries again"
            )
        self._failing = True

    def _rotate(self, newest: int) -> None:
        with contextlib.suppress(OSError):
            for step in self._damaged - {newest}:
                self._drop(step)
            self._damaged.clear()
            for step in self.steps()[: -self._keep]:
                self._drop(step)

    def _drop(self, step: int) -> None:
        # Renamed first: a kill in the middle of rmtree must not leave half a step.
        path = self._path(step)
        if path.exists():
            trash = self.folder / f"{_TMP}drop-{step}-{os.getpid()}"
            path.rename(trash)
            shutil.rmtree(trash)

    def _sweep(self) -> None:
        # Only the writer sweeps, at its first save: a reader must not remove a live write.
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._remove_leftovers()
            self._swept = True

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(f"{_TMP}*"):
            shutil.rmtree(path, ignore_errors=True)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in named]


def _spec(path: str, leaf: Any) -> LeafSpec:
    if not hasattr(leaf, "dtype"):
        raise TypeError(f"State leaf '{path}' is a {type(leaf).__name__}, must be an array")
    impl = None
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        impl = str(jax.random.key_impl(leaf))
    shape = [int(n) for n in leaf.shape]
    return {"path": path, "shape": shape, "dtype": str(leaf.dtype), "key_impl": impl}


def _to_host(state: PyTree) -> tuple[list[np.ndarray], list[LeafSpec]]:
    """Own copies of all leaves (on a CPU `np.asarray` would be a view of the donated buffer)."""
    named = _named_leaves(state)
    specs = [_spec(path, leaf) for path, leaf in named]
    raw = [
        jax.random.key_data(x) if s["key_impl"] else x
        for s, (_, x) in zip(specs, named, strict=True)
    ]
    return [np.array(x, copy=True) for x in jax.device_get(raw)], specs


def _array_keys(leaves: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    # Numbers, not paths, name the arrays: no path needs escaping. Orbax refuses empty arrays.
    return ((f"{i:05d}", leaf) for i, leaf in enumerate(leaves) if leaf.size)


def _alone() -> Any:
    """Orbax's options of a process that waits for no other: each reads and one writes."""
    from orbax.checkpoint.options import MultiprocessingOptions

    if jax.process_count() == 1:
        return MultiprocessingOptions()
    own = jax.process_index()
    return MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"rank-{own}"
    )


def _write_arrays(path: Path, leaves: list[np.ndarray]) -> None:
    # Imported here: the first progress line need not wait for it. Uncompressed: 105 MB take
    # 0.09 s instead of 0.76 s of the cores that train.
    import orbax.checkpoint as ocp

    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    with quiet_orbax(), contextlib.closing(checkpointer):
        tree = dict(_array_keys(leaves))
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def _read_arrays(path: Path, specs: list[LeafSpec]) -> list[np.ndarray]:
    import orbax.checkpoint as ocp

    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
    with quiet_orbax(), contextlib.closing(checkpointer):
        keys = [f"{i:05d}" for i, spec in enumerate(specs) if 0 not in spec["shape"]]
        args = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in keys}
        found = checkpointer.restore(
            path.absolute(), args=ocp.args.PyTreeRestore(restore_args=args)
        )
    return [found.get(f"{i:05d}", np.zeros(0)) for i in range(len(specs))]


def _load(path: Path, template: PyTree, part: bool) -> tuple[PyTree, int, dict[str, Any]]:
    stored = json.loads((path / "state.json").read_text())
    named = _named_leaves(template)
    stored["leaves"] = [s | {"path": _current_name(s["path"])} for s in stored["leaves"]]
    names = {name for name, _ in named}
    there = [leaf for leaf in stored["leaves"] if not part or leaf["path"] in names]
    diff = _spec_diff(there, [_spec(name, leaf) for name, leaf in named])
    if diff:
        head = f"Checkpoint {path} does not fit this configuration ({len(diff)} differences):"
        more = [f"... {len(diff) - _DIFF_LINES} more"] if len(diff) > _DIFF_LINES else []
        lines = [head, *diff[:_DIFF_LINES], *more, _OTHER_VERSION]
        raise MisfitError("\n  ".join(lines), diff)
    # By name: the order of the leaves may have been another.
    arrays = _read_arrays(path / "arrays", stored["leaves"])
    found = {s["path"]: (a, s) for a, s in zip(arrays, stored["leaves"], strict=True)}
    leaves = [_to_device(*found[name], leaf) for name, leaf in named]
    state = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)
    return state, stored["step"], stored["meta"]


def _current_name(path: str) -> str:
    """Return the path that a stored leaf has in today's state."""
    for old, new in _RENAMED:
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def _to_device(array: np.ndarray, spec: LeafSpec, template: Any) -> jax.Array:
    """A device array that a jitted function cannot tell from a fresh one."""
    committed = getattr(template, "committed", not isinstance(template, jax.Array))
    sharding = getattr(template, "sharding", None) if committed else None
    elsewhere = sharding is not None and not sharding.is_fully_addressable
    if spec["key_impl"]:
        keys = jax.random.wrap_key_data(jnp.array(array), impl=spec["key_impl"])
        return place(keys, sharding) if elsewhere else jax.device_put(keys, sharding)
    if 0 in spec["shape"]:
        array = np.zeros(spec["shape"], jnp.dtype(spec["dtype"]))
    if elsewhere:
        leaf: Any = array
        return place(leaf, sharding)
    # The copy keeps the next donated call from writing into numpy's memory.
    return jax.device_put(array, sharding, may_alias=False)


def _spec_diff(stored: list[LeafSpec], expected: list[LeafSpec]) -> list[str]:
    """One line per leaf that differs; empty if the checkpoint fits."""
    old, new = ({spec["path"]: spec for spec in specs} for specs in (stored, expected))
    lines = [f"{path}: only in the checkpoint" for path in old if path not in new]
    lines += [f"{path}: missing in the checkpoint" for path in new if path not in old]
    for path in (path for path in old if path in new):
        have, want = (f"{s['dtype']}{tuple(s['shape'])}" for s in (old[path], new[path]))
        if have != want:
            lines.append(f"{path}: {have} in the checkpoint, {want} expected")
    return lines


def _checksums(folder: Path, *, to_disk: bool = False) -> dict[str, str]:
    """Relative path -> sha256 of every file under `folder` but the manifest; fsync on request."""
    sums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _MANIFEST):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
            if to_disk:
                os.fsync(file.fileno())
    return sums


def _manifest_text(sums: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())


def _write_manifest(folder: Path) -> None:
    """Checksum and sync every file, then write the manifest atomically as the last one."""
    write_atomically(folder / _MANIFEST, _manifest_text(_checksums(folder, to_disk=True)))
    for path in (p for p in folder.rglob("*") if p.is_dir()):
        sync(path)
    sync(folder)


def _find_damage(folder: Path) -> str | None:
    """Say which file of a step is not what was written; None if all are."""
    try:
        text = (folder / _MANIFEST).read_bytes().decode("ascii")
        sums = _checksums(folder)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    if text == _manifest_text(sums):
        return None
    recorded = {line[66:]: line[:64] for line in text.split("\n") if line}
    for name in sorted(recorded.keys() | sums.keys()):
        if recorded.get(name) != sums.get(name):
            missing = "is missing" if name not in sums else "has another checksum"
            return f"file {name} {missing}"
    return f"file {_MANIFEST} is malformed"


def _require_space(folder: Path, nbytes: int) -> None:
    free, need = shutil.disk_usage(folder).free, int(nbytes * 1.02) + (1 << 20)
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
        )


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(text in str(error).lower() for text in _FULL_TEXT)


def _reason(error: Exception) -> str:
    """The error on one short line; tensorstore puts its cause behind hundreds of characters."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"... {text[-160:]}"


class _NoOrbax(logging.Filter):
    """Drops what orbax logs: its page-long tracebacks repeat the one line that we write."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record passes."""
        return "orbax" not in record.pathname


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keep orbax's own log lines off the console for as long as the block runs."""
    logger, drop = logging.getLogger("absl"), _NoOrbax()
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
