"""LeRobotDataset v3.0, without lerobot: parquet tables, mp4 videos or PNG pictures, and JSON.

The layout is that of huggingface/lerobot, src/lerobot/datasets (codebase_version "v3.0"): many
episodes share a file; `meta/episodes` says which rows and which seconds of video are whose.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.statistics import ColumnStats, PictureStats
from scenes.contract.videos import VideoWriter

VERSION = "v3.0"
CHUNK = 1000  # files per folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
STATE_KEY, ACTION_KEY = "observation.state", "action"
PICTURE_KEY = "observation.images."  # before the name of a camera
INTERVENED = "complementary_info.is_intervention"
# Columns that every dataset has, in this order at the end of the table.
_INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """What columns a dataset has.

    Attributes:
        state_names: one per entry of the state; without any there is no such column.
        pictures: shape [H, W, 3] by camera.
        action_names: one per entry of the action.
        flags: dtype of each further column of single numbers, by name.
        fps: steps per second [Hz].
        videos: pictures become mp4, which loses some of them; else PNG in the table, which does
            not.
        keys: what columns are called that another project calls otherwise, by our names, for
            example {"action": "actions"}.
    """

    state_names: tuple[str, ...]
    pictures: Mapping[str, tuple[int, ...]]
    action_names: tuple[str, ...]
    flags: Mapping[str, str]
    fps: int
    videos: bool
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def key(self, name: str) -> str:
        """What a column or video is called in the dataset."""
        return self.keys.get(name, name)

    def picture_key(self, camera: str) -> str:
        """What the pictures of a camera are called."""
        return self.key(PICTURE_KEY + camera)

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """What info.json says of each column and video."""
        features: dict[str, dict[str, Any]] = {}
        if self.state_names:
            features[STATE_KEY] = _feature("float32", list(self.state_names))
        for camera, shape in self.pictures.items():
            features[PICTURE_KEY + camera] = _picture_feature(shape, self.fps, video=self.videos)
        features[ACTION_KEY] = _feature("float32", list(self.action_names))
        columns = dict(self.flags) | _INDEX_COLUMNS
        features |= {name: _feature(dtype, None) for name, dtype in columns.items()}
        return {self.key(name): feature for name, feature in features.items()}


def require_whole_rate(rate: float) -> None:
    """Raise InputError for a rate [Hz] that the format does not know."""
    if rate != int(rate):
        raise InputError(f"Actions come at {rate} Hz, allowed: a whole number")


def entry_names(name: str, size: int) -> tuple[str, ...]:
    """What the entries of a vector are called in the state."""
    return (name,) if size == 1 else tuple(f"{name}.{i}" for i in range(size))


class DatasetWriter:
    """Writes episode after episode; `rows` says where each one went.

    Args:
        path: folder of the dataset, which is there and empty.
        layout: of its columns.
        frames_per_file: steps after which a new table and new videos are begun.
    """

    def __init__(self, path: Path, layout: DatasetLayout, *, frames_per_file: int = 36_000) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()
        self._layout, self._limit = layout, frames_per_file
        self._pa, self._pq = load_pyarrow()
        self._schema = _table_schema(self._pa, layout)
        self._stats = _new_stats(layout)
        self._file = -1
        self._in_file = self._total = 0
        self._table: Any = None
        self._videos: dict[str, VideoWriter] = {}
        self._tasks: dict[str, int] = {}  # their index by their words

    def add(
        self,
        columns: Mapping[str, NDArray[Any]],
        pictures: Mapping[str, NDArray[np.uint8]],
        *,
        task: str = "",
    ) -> None:
        """Write an episode, and note where it is.

        Args:
            columns: state, action and flags of each step, [T, ...], by our names.
            pictures: of each camera, [T, H, W, 3].
            task: what was done in it, in words; "" what `write_meta` says of all.
        """
        length = len(columns[ACTION_KEY])
        if self._table is None or self._in_file + length > self._limit:
            self._next_file()
        index = self._tasks.setdefault(task, len(self._tasks))
        columns = {self._layout.key(name): x for name, x in columns.items()}
        columns |= self._places(length, index)
        shown = {self._layout.picture_key(camera): x for camera, x in pictures.items()}
        own = _new_stats(self._layout)
        for stats in (self._stats, own):
            for name, values in (columns | shown).items():
                stats[name].add(values)
        for key, video in self._videos.items():
            video.write(shown[key])
        table: Any = self._table
        table.write_table(_make_table(self._pa, columns | shown, self._schema))
        self._note(length, task, {name: entry.summary() for name, entry in own.items()})

    def close(self) -> None:
        """Finish the files that are open; OSError where ffmpeg failed."""
        table, self._table = self._table, None
        if table is not None:
            table.close()
        videos, self._videos = self._videos, {}
        for video in videos.values():
            video.close()

    def write_meta(self, task: str, robot: str | None) -> None:
        """Write everything under meta/: what was done, in words, and the robot's name."""
        pa, pq, meta = self._pa, self._pq, self.path / "meta"
        episodes = self.path / EPISODES_PATH.format(chunk_index=0, file_index=0)
        episodes.parent.mkdir(parents=True)
        rows = [{**row, "tasks": [row["tasks"][0] or task]} for row in self.rows]
        pq.write_table(pa.Table.from_pylist(rows), episodes)
        words = [said or task for said in self._tasks] or [task]
        pq.write_table(_task_table(pa, words), meta / "tasks.parquet")
        stats = {name: entry.summary() for name, entry in self._stats.items()}
        _write_json(meta / "stats.json", stats)
        _write_json(meta / "info.json", self._info(robot))

    def _info(self, robot: str | None) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": robot,
            "total_episodes": len(self.rows),
            "total_frames": self._total,
            "total_tasks": max(1, len(self._tasks)),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._layout.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._video_keys else None,
            "features": self._layout.features,
        }

    def _next_file(self) -> None:
        self.close()
        self._file, self._in_file = self._file + 1, 0
        data = self._place(DATA_PATH)
        self._table = self._pq.ParquetWriter(data, self._schema)
        for camera, key in self._video_keys.items():
            video = self._place(VIDEO_PATH, video_key=key)
            shape = self._layout.pictures[camera]
            self._videos[key] = VideoWriter(video, shape, self._layout.fps)

    @property
    def _video_keys(self) -> dict[str, str]:
        """Name of each camera's video; none where pictures stand in the table."""
        cameras = self._layout.pictures if self._layout.videos else ()
        return {camera: self._layout.picture_key(camera) for camera in cameras}

    def _place(self, pattern: str, **names: str) -> Path:
        chunk, file = divmod(self._file, CHUNK)
        path = self.path / pattern.format(chunk_index=chunk, file_index=file, **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _places(self, length: int, task: int) -> dict[str, NDArray[Any]]:
        frames = np.arange(length)
        return {
            "timestamp": (frames / self._layout.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, len(self.rows)),
            "index": np.arange(self._total, self._total + length),
            "task_index": np.full(length, task),
        }

    def _note(self, length: int, task: str, stats: Mapping[str, Mapping[str, list]]) -> None:
        chunk, file = divmod(self._file, CHUNK)
        row: dict[str, Any] = {
            "tasks": [task],
            "episode_index": len(self.rows),
            "length": length,
            "dataset_from_index": self._total,
            "dataset_to_index": self._total + length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for key in self._video_keys.values():
            row[f"videos/{key}/chunk_index"] = chunk
            row[f"videos/{key}/file_index"] = file
            row[f"videos/{key}/from_timestamp"] = self._in_file / self._layout.fps
            row[f"videos/{key}/to_timestamp"] = (self._in_file + length) / self._layout.fps
        row |= {f"stats/{n}/{k}": v for n, entry in stats.items() for k, v in entry.items()}
        self.rows.append(row)
        self._in_file += length
        self._total += length


def _feature(dtype: str, names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1 if names is None else len(names)], "names": names}


def _picture_feature(shape: Sequence[int], fps: int, *, video: bool) -> dict[str, Any]:
    height, width, channels = shape
    names = ["height", "width", "channels"]
    if not video:
        return {"dtype": "image", "shape": list(shape), "names": names}
    even = height % 2 == width % 2 == 0
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p" if even else "yuv444p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": list(shape), "names": names, "info": info}


def _new_stats(layout: DatasetLayout) -> dict[str, ColumnStats | PictureStats]:
    pictures = {layout.picture_key(camera) for camera in layout.pictures}
    return {k: PictureStats() if k in pictures else ColumnStats() for k in layout.features}


def load_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet."""
    return require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")


def _table_schema(pa: Any, layout: DatasetLayout) -> Any:
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    fields = []
    for name, feature in layout.features.items():
        if feature["dtype"] == "image":
            # As the library `datasets` stores an Image; the path is for those that are files.
            fields.append((name, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        elif feature["dtype"] != "video":
            kind, size = kinds[feature["dtype"]], feature["shape"][0]
            # One number is stored as such, several as a list of fixed size.
            vector = feature["names"] is not None and size > 1
            fields.append((name, pa.list_(kind, size) if vector else kind))
    return pa.schema(fields)


def _make_table(pa: Any, columns: Mapping[str, NDArray[Any]], schema: Any) -> Any:
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_struct(field.type):
            rows = [{"bytes": png_of(picture), "path": None} for picture in values]
            arrays.append(pa.array(rows, field.type))
        elif pa.types.is_fixed_size_list(field.type):
            flat = pa.array(values.ravel(), field.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        else:
            arrays.append(pa.array(values.reshape(len(values)), field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _task_table(pa: Any, tasks: Sequence[str]) -> Any:
    """The table of tasks, which lerobot reads with pandas: the words are its index."""
    index = pa.array(range(len(tasks)), pa.int64())
    table = pa.table({"task_index": index, "task": list(tasks)})
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    note = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": p, "numpy_type": d, "metadata": None}
            for n, p, d in columns
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")


def png_of(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture [H, W, 3] as a PNG."""
    out = io.BytesIO()
    require("PIL.Image", "lerobot").fromarray(picture).save(out, "PNG")
    return out.getvalue()
