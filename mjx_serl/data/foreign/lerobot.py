"""LeRobotDataset v3.0 read without lerobot and torch: see `scenes.contract.lerobot`.

Numbers and PNG or JPEG pictures come from the tables, videos through the ffmpeg that writes ours.
Nothing that a dataset says is taken for a path or a program.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.source import Budget, Column, ForeignEpisode, ForeignFile
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.lerobot import (
    DATA_PATH,
    INTERVENED,
    VERSION,
    VIDEO_PATH,
    load_pyarrow,
)
from scenes.contract.videos import read_video

KIND = f"LeRobotDataset {VERSION}"
INFO = Path("meta") / "info.json"
REWARD, DONE, TRUNCATED = "next.reward", "next.done", "next.truncated"
_MOST_COUNT = 2**31  # of frames, files and seconds
_MOST_INFO = 16 << 20  # [bytes] of info.json, which is some kB
_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_ONE = Column((1,), "int64")  # what places an episode
_INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_PLACES = ("episode_index", "length", "data/chunk_index", "data/file_index")
_TASKS = "tasks.list.element"  # of meta/episodes, as parquet calls what its lists hold
_SAFE = re.compile(r"[\w.\-]+")  # names of features that are part of a path


def open_lerobot(path: Path) -> ForeignFile:
    """Return what a dataset's folder holds.

    Raises:
        InputError: it is of another version, damaged, or what is asked of it does not fit into
            memory.
    """
    load_pyarrow()  # so that what is missing is told before what a mapping lacks
    info = _read_info(path)
    features = _features(path, info)
    notes: list[str] = []

    def episodes(wanted: frozenset[str]) -> Iterator[ForeignEpisode]:
        yield from _Reader(path, info, features, wanted).episodes(notes)

    hidden = (*_INDEX, REWARD, DONE, TRUNCATED, INTERVENED)
    return ForeignFile(
        path=path,
        kind=KIND,
        columns={name: column for name, (column, _) in features.items() if name not in hidden},
        episodes=episodes,
        rate=float(info["fps"]),
        notes=notes,
    )


def _read_info(path: Path) -> dict[str, Any]:
    file = path / INFO
    if file.stat().st_size > _MOST_INFO:
        raise InputError(f"{file} has over {_MOST_INFO} bytes, allowed: less")
    try:
        info = json.loads(file.read_text())
        version, fps = info["codebase_version"], info["fps"]
        places = (info["data_path"], info.get("video_path") or VIDEO_PATH)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is none of a {KIND}: {error!r}") from error
    if version != VERSION:
        raise InputError(
            f"{path} is a dataset of version {version}, allowed: {VERSION}, to which lerobot "
            "converts those before"
        )
    if places != (DATA_PATH, VIDEO_PATH) or not isinstance(fps, (int, float)):
        raise InputError(f"{file}: paths {places}, {fps} Hz; allowed: {DATA_PATH}, {VIDEO_PATH}")
    return info


def _features(path: Path, info: Mapping[str, Any]) -> dict[str, tuple[Column, str]]:
    """Column and kind ("number", "image" or "video") of each feature that can be read."""
    found: dict[str, tuple[Column, str]] = {}
    try:
        for name, feature in info["features"].items():
            dtype, shape = feature["dtype"], tuple(int(n) for n in feature["shape"])
            if dtype in ("image", "video") and len(shape) == 3 and 3 in (shape[0], shape[2]):
                shape = shape if shape[2] == 3 else (*shape[1:], 3)
                found[name] = Column(shape, "uint8"), dtype
            elif dtype in _NUMBERS and len(shape) == 1:
                names = _entry_names(feature.get("names"), shape[0])
                found[name] = Column(shape, dtype, names), "number"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / INFO}: a feature is not as allowed: {error!r}") from error
    return found


def _entry_names(names: Any, size: int) -> tuple[str, ...]:
    """Names of a vector's entries: a list, or one in a dict ("motors"); () where there are none."""
    if isinstance(names, dict) and len(names) == 1:
        (names,) = names.values()
    fits = isinstance(names, list) and len(names) == size
    return tuple(names) if fits and all(isinstance(name, str) for name in names) else ()


class _Span(NamedTuple):
    """Where a video has an episode's pictures: chunk and number of the file, frames in it."""

    episode: int
    place: tuple[int, int]
    first: int
    length: int

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any], fps: float) -> "_Span":
        """That of a row of meta/episodes."""
        at = {key: row[f"videos/{name}/{key}"] for key in _VIDEO_PLACES}
        place = int(at["chunk_index"]), int(at["file_index"])
        return cls(row["episode_index"], place, round(at["from_timestamp"] * fps), row["length"])


class _Reader:
    """Reads the episodes of a dataset, file by file."""

    def __init__(
        self,
        path: Path,
        info: Mapping[str, Any],
        features: Mapping[str, tuple[Column, str]],
        wanted: frozenset[str],
    ) -> None:
        self._path, self._fps, self._features = path, float(info["fps"]), features
        self._budget = Budget(path)
        _, self._pq = load_pyarrow()
        self._videos = [n for n in sorted(wanted) if features[n][1] == "video"]
        tabled = wanted - set(self._videos)
        extra = [n for n in (REWARD, DONE, TRUNCATED, INTERVENED) if n in features]
        self._columns = [*sorted(tabled), *extra]

    def episodes(self, notes: list[str]) -> Iterator[ForeignEpisode]:
        """Yield the episodes in their order; what was decided is noted."""
        unsaid, tasks = 0, self._tasks()
        for chunk, file, rows in self._by_file():
            table = self._table(chunk, file)
            videos = {name: self._frames(name, rows) for name in self._videos}
            for row in rows:
                steps = np.flatnonzero(table["episode_index"] == row["episode_index"])
                if len(steps) != row["length"]:
                    raise self._damaged(f"episode {row['episode_index']} has {len(steps)} rows")
                columns = {name: table[name][steps] for name in self._columns}
                columns |= {name: videos[name][row["episode_index"]] for name in self._videos}
                unsaid += DONE not in columns
                yield _episode(columns, self._videos, tasks.get(row["episode_index"], ""))
        if unsaid:
            notes.append(f"{unsaid} episodes say nothing of their end ({DONE}): cut there")

    def _tasks(self) -> dict[int, str]:
        """What was done in each episode, where the dataset says it in words."""
        found: dict[int, str] = {}
        for file in self._episode_files:
            try:
                # Once each, however many rows repeat them.
                table = self._pq.ParquetFile(file, read_dictionary=[_TASKS])
                self._budget.take(_read_bytes(table.metadata, ("episode_index", _TASKS)))
                rows = table.read(columns=["episode_index", "tasks"]).combine_chunks()
            except KeyError:
                continue  # none are said
            except (OSError, ValueError, self._pa_error) as error:
                raise self._damaged(f"{file}: {error}") from error
            found |= _first_tasks(rows)
        return found

    @property
    def _episode_files(self) -> list[Path]:
        return sorted((self._path / "meta" / "episodes").glob("chunk-*/file-*.parquet"))

    def _by_file(self) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        """Chunk and number of each table, with the episodes in it."""
        columns = list(_PLACES)
        for name in self._videos:
            columns += [f"videos/{name}/{key}" for key in _VIDEO_PLACES]
        rows: list[dict[str, Any]] = []
        for file in self._episode_files:
            rows += self._read(file, columns).to_pylist()
        if not rows or not all(_is_count(key, value) for row in rows for key, value in row.items()):
            raise self._damaged("meta/episodes lacks episodes, or places of theirs")
        places = sorted({(row["data/chunk_index"], row["data/file_index"]) for row in rows})
        for chunk, number in places:
            inside = [
                row
                for row in rows
                if (row["data/chunk_index"], row["data/file_index"]) == (chunk, number)
            ]
            yield int(chunk), int(number), sorted(inside, key=lambda row: row["episode_index"])

    def _read(self, file: Path, columns: Iterable[str]) -> Any:
        """Some columns of a table; what they unpack to, and are decoded to, is counted before."""
        wanted = list(columns)
        try:
            table = self._pq.ParquetFile(file)
            meta = table.metadata
            packed = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            self._budget.take(packed + meta.num_rows * sum(map(self._width, wanted)))
            missing = [name for name in wanted if name not in table.schema_arrow.names]
            if missing:
                raise self._damaged(f"{file.name} has no column '{missing[0]}'")
            return table.read(columns=wanted)
        except InputError:
            raise
        # Of text that is none ValueError; ArrowException is the rest.
        except (OSError, ValueError, self._pa_error) as error:
            raise self._damaged(f"{file}: {error}") from error

    def _width(self, name: str) -> int:
        """Bytes of a column in each row, decoded."""
        column, _ = self._features.get(name, (_ONE, ""))
        return int(np.prod(column.shape)) * np.dtype(column.dtype).itemsize

    @property
    def _pa_error(self) -> type[Exception]:
        return require("pyarrow", "lerobot").ArrowException

    def _table(self, chunk: int, number: int) -> dict[str, NDArray[Any]]:
        file = self._path / DATA_PATH.format(chunk_index=chunk, file_index=number)
        table = self._read(file, ["episode_index", *self._columns])
        return {
            name: self._array(name, table[name].combine_chunks()) for name in table.column_names
        }

    def _array(self, name: str, values: Any) -> NDArray[Any]:
        """A column as an array [rows, ...]."""
        column, kind = self._features.get(name, (_ONE, "number"))
        if values.null_count:
            raise self._damaged(f"'{name}' lacks values")
        if kind == "image":
            pictures = [self._picture(name, column, row) for row in values.to_pylist()]
            return np.stack(pictures)
        lists = hasattr(values.type, "value_type")
        if hasattr(values, "offsets") and (np.diff(values.offsets) != column.shape[0]).any():
            raise self._damaged(f"'{name}' has vectors of several lengths")
        flat = values.flatten() if lists else values
        array = np.asarray(flat.to_numpy(zero_copy_only=False))
        if array.dtype.kind not in "buif" or array.size != len(values) * column.shape[0]:
            raise self._damaged(f"'{name}' is not {column}")
        return array.reshape(len(values), *column.shape) if column.shape != (1,) else array

    def _picture(self, name: str, column: Column, row: Any) -> NDArray[np.uint8]:
        image = require("PIL.Image", "lerobot", purpose="Reading pictures")
        data = row.get("bytes") if isinstance(row, dict) else None
        if data is None:
            raise self._damaged(
                f"'{name}' has pictures in files of their own, allowed: in the table"
            )
        try:
            with image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                # The header is read and no more: a bomb says its size.
                if (picture.height, picture.width) != column.shape[:2]:
                    raise self._damaged(f"'{name}' is not {column}")
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise self._damaged(f"'{name}' is no PNG or JPEG: {error}") from error

    def _frames(self, name: str, rows: list[dict[str, Any]]) -> dict[int, NDArray[np.uint8]]:
        """Pictures of each episode, by its index."""
        if not _SAFE.fullmatch(name) or ".." in name:
            raise self._damaged(f"'{name}' cannot be the name of a folder")
        shape: Any = self._features[name][0].shape
        found: dict[int, NDArray[np.uint8]] = {}
        spans = [_Span.of(name, row, self._fps) for row in rows]
        for place in sorted({span.place for span in spans}):
            inside = [span for span in spans if span.place == place]
            frames = max(span.first + span.length for span in inside)
            self._budget.take(frames * int(np.prod(shape)))
            file = VIDEO_PATH.format(video_key=name, chunk_index=place[0], file_index=place[1])
            pictures = read_video(self._path / file, shape, frames)
            found |= {s.episode: pictures[s.first : s.first + s.length] for s in inside}
        return found

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self._path} is no {KIND} that can be read: {why}")


def _read_bytes(meta: Any, columns: tuple[str, ...]) -> int:
    """Bytes that columns take, packed and as eight for each value."""
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    every = [group.column(i) for group in groups for i in range(group.num_columns)]
    chosen = [column for column in every if column.path_in_schema in columns]
    return sum(column.total_uncompressed_size + 8 * column.num_values for column in chosen)


def _first_tasks(rows: Any) -> dict[int, str]:
    """The first of the words of each row, by its episode."""
    listed = rows["tasks"].chunk(0) if rows["tasks"].num_chunks else None
    if listed is None or listed.null_count or listed.flatten().null_count:
        return {}
    words = listed.flatten()
    texts, which = words.dictionary.to_pylist(), words.indices.to_numpy()
    lengths, first = np.diff(listed.offsets), np.cumsum(np.diff(listed.offsets))
    episodes = rows["episode_index"].to_pylist()
    return {
        episode: texts[which[end - length]]
        for episode, length, end in zip(episodes, lengths, first, strict=True)
        if length
    }


def _is_count(key: str, value: Any) -> bool:
    """Whether it can be what is said of an episode: a number of something, or seconds [s]."""
    kinds = (int, float) if key.endswith("timestamp") else int
    return isinstance(value, kinds) and (key == "length") <= value < _MOST_COUNT


_VIDEO_PLACES = ("chunk_index", "file_index", "from_timestamp")


def _episode(columns: dict[str, NDArray[Any]], videos: list[str], task: str) -> ForeignEpisode:
    reward, expert = columns.pop(REWARD, None), columns.pop(INTERVENED, None)
    done, truncated = columns.pop(DONE, None), columns.pop(TRUNCATED, None)
    ended = done is not None and bool(done[-1])
    paid = reward is not None and float(reward[-1]) > 0.0
    # A dataset that tells time-outs apart is believed; one that does not ends by what it pays.
    solved = ended and (not bool(truncated[-1]) if truncated is not None else paid)
    return ForeignEpisode(
        columns=columns,
        reward=None if reward is None else reward.astype(np.float32),
        solved=solved,
        expert=None if expert is None else expert.astype(bool),
        task=task,
    )
