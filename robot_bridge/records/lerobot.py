"""Recordings as a LeRobotDataset v3.0: parquet tables, mp4 videos and JSON, without lerobot.

The layout is that of huggingface/lerobot, src/lerobot/datasets (codebase_version "v3.0"): many
episodes share a file; `meta/episodes` says which rows and which seconds of video are whose.
"""

import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.cameras.ffmpeg import ffmpeg_program
from robot_bridge.messages import ENDINGS, Ending
from robot_bridge.records.demonstrations import Exported, choose_episodes, read_field
from robot_bridge.records.reader import Episode
from robot_bridge.records.statistics import ColumnStats, PictureStats
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.files import new_folder
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ObsField

VERSION = "v3.0"
CHUNK = 1000  # files per folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
_INTERVENED = "complementary_info.is_intervention"
# Columns that every dataset has, in this order at the end of the table.
_INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def export_lerobot(
    recordings: Sequence[Path],
    path: Path,
    contract: Contract,
    *,
    task: str,
    endings: Sequence[Ending] = ENDINGS,
    allow_damage: bool = False,
    frames_per_file: int = 36_000,
) -> Exported:
    """Write the episodes of recordings as one dataset.

    "observation.state" is all numbers that the policy observes, in the contract's order,
    "observation.images.NAME" its pictures, "action" what was executed; "next.reward" is 1 at the
    end of a success, "next.done" true at the end of every episode, and
    "complementary_info.is_intervention" true where a person acted.

    Args:
        recordings: folders.
        path: of the dataset; made, never added to.
        contract: that of the recorded policy, from its bundle.
        task: what was done, in words.
        endings: of the episodes to take.
        allow_damage: take what is whole of a recording that is damaged.
        frames_per_file: steps after which a new table and new videos are begun.

    Raises:
        FileExistsError: `path` is there.
        ValueError: a recording was made under another contract or is damaged, no episode fits, or
            the rate of actions is no whole number, which the format does not know.
        OSError: ffmpeg could not write a video; the message is ffmpeg's own.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a dataset is never added to")
    if contract.action.rate != int(contract.action.rate):
        raise InputError(f"Actions come at {contract.action.rate} Hz, allowed: a whole number")
    counts = np.zeros(3, int)
    with new_folder(path) as part, ExitStack() as stack:
        writer = _DatasetWriter(part, Layout.of(contract), frames_per_file=frames_per_file)
        stack.callback(writer.close)
        for episode in choose_episodes(
            recordings, contract, endings=endings, allow_damage=allow_damage
        ):
            writer.add(episode)
            counts += (1, len(episode.steps), sum(step.intervened for step in episode.steps))
        writer.close()
        writer.write_meta(task, contract)
    return Exported(*counts.tolist())


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which observations are numbers and which are pictures, and what their columns are called.

    Attributes:
        numbers: observations that become the state.
        pictures: observations that become videos.
        actions: names of the action's entries.
        fps: steps per second [Hz].
    """

    numbers: tuple[ObsField, ...]
    pictures: tuple[ObsField, ...]
    actions: tuple[str, ...]
    fps: int

    @classmethod
    def of(cls, contract: Contract) -> "Layout":
        """Make that of a contract."""
        names = {camera.name for camera in contract.cameras}
        fields = contract.obs.fields
        if contract.depth:
            raise InputError("Pictures with depth have no video, allowed: a policy of colours")
        return cls(
            numbers=tuple(f for f in fields if f.name not in names),
            pictures=tuple(f for f in fields if f.name in names),
            actions=contract.action.names,
            fps=int(contract.action.rate),
        )

    @property
    def video_keys(self) -> dict[str, str]:
        """Name of each camera's feature."""
        return {f.name: f"observation.images.{f.name}" for f in self.pictures}

    @property
    def state_names(self) -> list[str]:
        """One name per entry of the state vector."""
        return [
            f.name if size == 1 else f"{f.name}.{i}"
            for f in self.numbers
            for size in (int(np.prod(f.shape, dtype=int)),)
            for i in range(size)
        ]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """What info.json says of each column and video."""
        features: dict[str, dict[str, Any]] = {}
        if self.numbers:
            features["observation.state"] = _feature("float32", self.state_names)
        for field in self.pictures:
            features[self.video_keys[field.name]] = _video_feature(field.shape, self.fps)
        features["action"] = _feature("float32", list(self.actions))
        features["next.reward"] = _feature("float32", None)
        features["next.done"] = _feature("bool", None)
        features[_INTERVENED] = _feature("bool", None)
        return features | {k: _feature(dtype, None) for k, dtype in _INDEX_COLUMNS.items()}


def episode_columns(episode: Episode, layout: Layout) -> dict[str, NDArray[Any]]:
    """Columns [T, ...] of an episode, without those that place it in the dataset."""
    steps = episode.steps
    ends = np.arange(len(steps)) == len(steps) - 1
    columns: dict[str, NDArray[Any]] = {}
    if layout.numbers:
        rows = [
            [read_field(step, f.name, f.shape, f.dtype).ravel() for f in layout.numbers]
            for step in steps
        ]
        columns["observation.state"] = np.array([np.concatenate(row) for row in rows], np.float32)
    columns["action"] = np.stack([step.action for step in steps])
    columns["next.reward"] = (ends & (episode.ending == "success")).astype(np.float32)
    columns["next.done"] = ends
    columns[_INTERVENED] = np.array([step.intervened for step in steps])
    columns["frame_index"] = np.arange(len(steps))
    columns["timestamp"] = (columns["frame_index"] / layout.fps).astype(np.float32)
    return columns


class _DatasetWriter:
    """Writes episode after episode; `rows` says where each one went."""

    def __init__(self, path: Path, layout: Layout, *, frames_per_file: int) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()
        self._layout, self._limit = layout, frames_per_file
        self._pa, self._pq = _load_pyarrow()
        self._schema = _table_schema(self._pa, layout)
        self._stats = _new_stats(layout)
        self._file = -1
        self._in_file = self._total = 0
        self._table: Any = None
        self._videos: dict[str, _VideoWriter] = {}

    def add(self, episode: Episode) -> None:
        """Write an episode's rows and pictures, and note where they are."""
        length = len(episode.steps)
        if self._table is None or self._in_file + length > self._limit:
            self._next_file()
        columns = episode_columns(episode, self._layout)
        columns |= self._places(length)
        own = _new_stats(self._layout)
        for stats in (self._stats, own):
            for name, values in columns.items():
                stats[name].add(values)
        table: Any = self._table
        table.write_table(_make_table(self._pa, columns, self._schema))
        for field in self._layout.pictures:
            pictures = [read_field(s, field.name, field.shape, field.dtype) for s in episode.steps]
            key = self._layout.video_keys[field.name]
            self._videos[key].write(np.stack(pictures))
            for stats in (self._stats, own):
                stats[key].add(np.stack(pictures))
        self._note(length, {name: entry.summary() for name, entry in own.items()})

    def close(self) -> None:
        """Finish the files that are open; OSError where ffmpeg failed."""
        table, self._table = self._table, None
        if table is not None:
            table.close()
        videos, self._videos = self._videos, {}
        for video in videos.values():
            video.close()

    def write_meta(self, task: str, contract: Contract) -> None:
        """Write everything under meta/."""
        pa, pq, meta = self._pa, self._pq, self.path / "meta"
        episodes = self.path / _EPISODES_PATH
        episodes.parent.mkdir(parents=True)
        rows = [{"tasks": [task], **row} for row in self.rows]
        pq.write_table(pa.Table.from_pylist(rows), episodes)
        pq.write_table(_task_table(pa, task), meta / "tasks.parquet")
        stats = {name: entry.summary() for name, entry in self._stats.items()}
        _write_json(meta / "stats.json", stats)
        _write_json(meta / "info.json", self._info(contract))

    def _info(self, contract: Contract) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": contract.robot.name,
            "total_episodes": len(self.rows),
            "total_frames": self._total,
            "total_tasks": 1,
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._layout.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._layout.pictures else None,
            "features": self._layout.features,
        }

    def _next_file(self) -> None:
        self.close()
        self._file, self._in_file = self._file + 1, 0
        data = self._place(DATA_PATH)
        self._table = self._pq.ParquetWriter(data, self._schema)
        for field in self._layout.pictures:
            key = self._layout.video_keys[field.name]
            video = self._place(VIDEO_PATH, video_key=key)
            self._videos[key] = _VideoWriter(video, field.shape, self._layout.fps)

    def _place(self, pattern: str, **names: str) -> Path:
        chunk, file = divmod(self._file, CHUNK)
        path = self.path / pattern.format(chunk_index=chunk, file_index=file, **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _places(self, length: int) -> dict[str, NDArray[Any]]:
        return {
            "episode_index": np.full(length, len(self.rows)),
            "index": np.arange(self._total, self._total + length),
            "task_index": np.zeros(length, int),
        }

    def _note(self, length: int, stats: Mapping[str, Mapping[str, list]]) -> None:
        chunk, file = divmod(self._file, CHUNK)
        row: dict[str, Any] = {
            "episode_index": len(self.rows),
            "length": length,
            "dataset_from_index": self._total,
            "dataset_to_index": self._total + length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for key in self._layout.video_keys.values():
            row[f"videos/{key}/chunk_index"] = chunk
            row[f"videos/{key}/file_index"] = file
            row[f"videos/{key}/from_timestamp"] = self._in_file / self._layout.fps
            row[f"videos/{key}/to_timestamp"] = (self._in_file + length) / self._layout.fps
        row |= {f"stats/{n}/{k}": v for n, entry in stats.items() for k, v in entry.items()}
        self.rows.append(row)
        self._in_file += length
        self._total += length


class _VideoWriter:
    """One mp4 of pictures [H, W, 3]: H.264 with a key frame every second picture.

    Training reads single frames at random, so key frames are dense, as lerobot's own are.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], fps: int) -> None:
        height, width, _ = shape
        self._path, self._closed = path, False
        # Colours of odd-sized pictures cannot be stored at half size.
        pixels = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
        read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
        color = ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,format={pixels}"]
        color += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
        write = ["-c:v", "libx264", "-crf", "18", "-g", "2", "-movflags", "+faststart"]
        command = [ffmpeg_program("Writing videos"), "-v", "error", *read, "-i", "-"]
        self._process = subprocess.Popen(
            [*command, *color, *write, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def write(self, pictures: NDArray[np.uint8]) -> None:
        """Append pictures [T, H, W, 3]."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pictures).data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """Finish the file; OSError with ffmpeg's words where it failed."""
        if self._closed:
            return
        self._closed = True
        _, said = self._process.communicate()
        if self._process.returncode != 0:
            lines = (said or b"").decode(errors="replace").strip().splitlines()
            raise OSError(f"{self._path}: ffmpeg failed: {lines[-1] if lines else 'no message'}")


def _feature(dtype: str, names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1 if names is None else len(names)], "names": names}


def _video_feature(shape: Sequence[int], fps: int) -> dict[str, Any]:
    height, width, channels = shape
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
    names = ["height", "width", "channels"]
    return {"dtype": "video", "shape": list(shape), "names": names, "info": info}


def _new_stats(layout: Layout) -> dict[str, ColumnStats | PictureStats]:
    videos = set(layout.video_keys.values())
    return {k: PictureStats() if k in videos else ColumnStats() for k in layout.features}


def _load_pyarrow() -> tuple[Any, Any]:
    return require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")


def _table_schema(pa: Any, layout: Layout) -> Any:
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    fields = []
    for name, feature in layout.features.items():
        if feature["dtype"] != "video":
            kind, size = kinds[feature["dtype"]], feature["shape"][0]
            # One number is stored as such, several as a list of fixed size.
            vector = feature["names"] is not None and size > 1
            fields.append((name, pa.list_(kind, size) if vector else kind))
    return pa.schema(fields)


def _make_table(pa: Any, columns: Mapping[str, NDArray[Any]], schema: Any) -> Any:
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(values.ravel(), field.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        else:
            arrays.append(pa.array(values.reshape(len(values)), field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _task_table(pa: Any, task: str) -> Any:
    """The table of tasks, which lerobot reads with pandas: the words are its index."""
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [task]})
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
