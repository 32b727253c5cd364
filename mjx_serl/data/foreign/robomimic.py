"""robomimic's HDF5: data/demo_N with actions, rewards, dones and obs/NAME.

The layout is that of robomimic.github.io/docs/datasets/overview.html. A file may be anybody's, so
that only datasets in the file itself are read, by filters that are part of HDF5.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.source import (
    ACTION,
    Budget,
    Column,
    ForeignEpisode,
    ForeignFile,
    until_solved,
)
from scenes.contract.errors import InputError, UserError
from scenes.contract.extras import require

KIND = "robomimic HDF5"
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # by HDF5's number
# What h5py raises on files that are damaged or lie about their sizes.
_BROKEN = (KeyError, OSError, OverflowError, MemoryError, RuntimeError, TypeError, ValueError)
_GROUP, _DATASET = "Group", "Dataset"  # h5py's names
_ENDS = ("rewards", "dones")


def open_robomimic(path: Path) -> ForeignFile:
    """Return what an HDF5 file of robomimic holds; it is opened again to read the episodes.

    Raises:
        InputError: it is another file, has links, virtual datasets or data elsewhere, or what is
            asked of it does not fit into memory.
    """
    notes: list[str] = []
    with _opened(path) as file:
        demos = _demos(path, file)
        first = _datasets(path, demos[0])
        columns = {n: Column(x.shape[1:], str(x.dtype)) for n, x in first.items() if n not in _ENDS}
        rate = _rate(file["data"].attrs.get("env_args"))

    def episodes(wanted: frozenset[str]) -> Iterator[ForeignEpisode]:
        budget, counts = Budget(path), np.zeros(2, int)
        with _opened(path) as file:
            for demo in _demos(path, file):
                yield _episode(path, demo, wanted, budget, counts)
        said = ("steps after the one that solved it left out", "episodes are not solved: cut")
        notes.extend(f"{n} {text}" for n, text in zip(counts, said, strict=True) if n)

    return ForeignFile(
        path=path, kind=KIND, columns=columns, episodes=episodes, rate=rate, notes=notes
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; what h5py makes of a damaged one is an InputError."""
    h5py = require("h5py", "robomimic", purpose="Reading robomimic's files")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except _BROKEN as error:
        raise InputError(f"{path} is no HDF5 file that can be read: {error}") from error


def _demos(path: Path, file: Any) -> list[Any]:
    """The groups of episodes, in their order."""
    data = _inside(path, file, "data", _GROUP)
    names = [name for name in data if re.fullmatch(r"demo_\d+", name)]
    if not names:
        raise InputError(f"{path} has no data/demo_0; allowed: {KIND}")
    names.sort(key=lambda name: int(name.removeprefix("demo_")))
    return [_inside(path, data, name, _GROUP) for name in names]


def _inside(path: Path, parent: Any, name: str, kind: str) -> Any:
    """A "Group" or "Dataset" that lies in the file itself; InputError for any other."""
    h5py = require("h5py", "robomimic")
    where = f"{parent.name.rstrip('/')}/{name}"
    link = parent.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path} has no {where}; allowed: {KIND}")
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {where} is a {type(link).__name__}, allowed: what lies there")
    found = parent[name]
    if not isinstance(found, getattr(h5py, kind)):
        raise InputError(f"{path}: {where} is a {type(found).__name__}, allowed: a {kind}")
    if kind == _DATASET:
        _check_dataset(path, where, found)
    return found


def _check_dataset(path: Path, where: str, dataset: Any) -> None:
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {where} is of data elsewhere, allowed: data in the file")
    if dataset.dtype.kind not in "buif" or dataset.ndim < 1:
        raise InputError(f"{path}: {where} is {dataset.dtype}, allowed: arrays of numbers")
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    strange = [number for number in filters if number not in _FILTERS]
    if strange:
        allowed = ", ".join(_FILTERS.values())
        raise InputError(f"{path}: {where} is packed by filter {strange[0]}, allowed: {allowed}")


def _datasets(path: Path, demo: Any) -> dict[str, Any]:
    """Datasets of an episode by name, all of one length."""
    found = {name: _inside(path, demo, name, _DATASET) for name in ("actions", *_ENDS)}
    obs = _inside(path, demo, "obs", _GROUP)
    found |= {name: _inside(path, obs, name, _DATASET) for name in obs}
    length = len(found["actions"])
    for name, dataset in found.items():
        if len(dataset) != length or not length:
            raise InputError(
                f"{path}: {demo.name} has {length} actions and {len(dataset)} of '{name}'; "
                "allowed: as many, and some"
            )
    found[ACTION] = found.pop("actions")
    return found


def _episode(
    path: Path, demo: Any, wanted: frozenset[str], budget: Budget, counts: NDArray[np.int64]
) -> ForeignEpisode:
    datasets = _datasets(path, demo)
    missing = sorted(wanted - datasets.keys())
    if missing:
        raise InputError(f"{path}: {demo.name} has no obs/{missing[0]}, other episodes have")
    arrays = {name: _read(datasets[name], budget) for name in {*wanted, *_ENDS}}
    length = len(arrays["rewards"])
    solved = until_solved(arrays["rewards"], arrays["dones"])
    last = length if solved is None else solved
    counts += (length - last, solved is None)
    return ForeignEpisode(
        columns={name: arrays[name][:last] for name in wanted},
        reward=arrays["rewards"][:last].astype(np.float32).reshape(last),
        solved=solved is not None,
    )


def _read(dataset: Any, budget: Budget) -> NDArray[Any]:
    budget.take(dataset.size * dataset.dtype.itemsize)
    return dataset[...]


def _rate(text: Any) -> float | None:
    """Control rate [Hz] that robosuite's environment had, where the file says so."""
    try:
        rate = json.loads(text)["env_kwargs"]["control_freq"]
    except (KeyError, TypeError, ValueError):
        return None
    return float(rate) if isinstance(rate, (int, float)) else None
