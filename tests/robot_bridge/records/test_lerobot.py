"""LeRobot datasets: read back with pyarrow and ffmpeg alone, by the rules of the format."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded import make_contract, make_header, make_tick, record

from mjx_serl.data.foreign.convert import ConvertOptions, convert
from mjx_serl.data.foreign.opening import open_foreign
from robot_bridge.records.demonstrations import Exported
from robot_bridge.records.lerobot import export_lerobot
from robot_bridge.records.recorder import Recorder
from scenes.contract.demonstrations import DemoContract
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ActionSpec
from scenes.contract.videos import ffmpeg_program

LENGTHS = {4: "success", 9: "failure", 6: None}
VIDEO = "observation.images.front"


def export(tmp_path: Path, contract: Contract, **options) -> tuple[Path, Exported]:
    recording = record(tmp_path / "r", contract, LENGTHS, by_hand={1: -0.5})
    out = tmp_path / "dataset"
    return out, export_lerobot([recording], out, contract, task="pick the cube", **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out, said = export(tmp_path_factory.mktemp("lerobot"), make_contract())
    assert said == Exported(episodes=3, steps=19, intervened=3)
    return out


@pytest.fixture(scope="module")
def info(dataset: Path) -> dict:
    return json.loads((dataset / "meta/info.json").read_text())


@pytest.fixture(scope="module")
def episodes(dataset: Path) -> list[dict]:
    return pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()


def decode(video: Path) -> np.ndarray:
    """Frames [T, H, W, 3] of an mp4."""
    command = [ffmpeg_program("this test"), "-v", "error", "-i", str(video)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, 16, 24, 3)


def probe(video: Path) -> str:
    command = [ffmpeg_program("this test"), "-hide_banner", "-i", str(video)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_the_folder_holds_what_the_format_asks_for(dataset: Path):
    files = {str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_file()}
    assert files == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        f"videos/{VIDEO}/chunk-000/file-000.mp4",
    }


def test_info_says_what_there_is(info: dict):
    assert info["codebase_version"] == "v3.0" and info["robot_type"] == "panda"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 19, 1)
    assert info["fps"] == 10 and isinstance(info["fps"], int)
    assert info["splits"] == {"train": "0:3"}
    features = info["features"]
    names = ["ee_lag.0", "ee_lag.1", "ee_lag.2", "gripper_width"]
    assert features["observation.state"] == {"dtype": "float32", "shape": [4], "names": names}
    assert features["action"]["names"] == ["x", "y", "z", "gripper"]
    assert features[VIDEO]["dtype"] == "video" and features[VIDEO]["shape"] == [16, 24, 3]
    assert features[VIDEO]["info"]["video.fps"] == 10


def test_the_table_has_the_declared_columns(dataset: Path, info: dict):
    schema = pq.read_schema(dataset / "data/chunk-000/file-000.parquet")
    kinds = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    for name, feature in info["features"].items():
        if feature["dtype"] == "video":
            assert name not in schema.names
            continue
        kind, (size,) = kinds[feature["dtype"]], feature["shape"]
        assert schema.field(name).type == (kind if size == 1 else pa.list_(kind, size)), name
    assert len(schema.names) == len(info["features"]) - 1


def test_the_rows_are_the_steps(dataset: Path):
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    rows = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    lengths = list(LENGTHS)
    within = np.concatenate([np.arange(n) for n in lengths])
    np.testing.assert_array_equal(rows["index"], np.arange(19))
    np.testing.assert_array_equal(rows["episode_index"], np.repeat([0, 1, 2], lengths))
    np.testing.assert_array_equal(rows["frame_index"], within)
    np.testing.assert_allclose(rows["timestamp"], within / 10, atol=1e-6)
    assert not rows["task_index"].any()
    np.testing.assert_array_equal(rows["observation.state"], np.repeat(within[:, None], 4, 1))
    by_hand = within == 1
    wanted = np.where(by_hand, -0.5, (within + 1) / 100)
    np.testing.assert_allclose(rows["action"], np.repeat(wanted[:, None], 4, 1), atol=1e-7)
    np.testing.assert_array_equal(rows["complementary_info.is_intervention"], by_hand)
    assert np.flatnonzero(rows["next.reward"]).tolist() == [3]
    assert np.flatnonzero(rows["next.done"]).tolist() == [3, 12, 18]


def test_episodes_point_at_their_rows_and_pictures(episodes: list[dict]):
    assert [e["episode_index"] for e in episodes] == [0, 1, 2]
    assert [e["length"] for e in episodes] == [4, 9, 6]
    spans = [(e["dataset_from_index"], e["dataset_to_index"]) for e in episodes]
    assert spans == [(0, 4), (4, 13), (13, 19)]
    seconds = [
        (e[f"videos/{VIDEO}/from_timestamp"], e[f"videos/{VIDEO}/to_timestamp"]) for e in episodes
    ]
    np.testing.assert_allclose(seconds, [(0, 0.4), (0.4, 1.3), (1.3, 1.9)])
    for e in episodes:
        assert e["tasks"] == ["pick the cube"]
        places = ("data", "meta/episodes", f"videos/{VIDEO}")
        assert all(e[f"{p}/chunk_index"] == e[f"{p}/file_index"] == 0 for p in places)


def test_the_video_has_a_frame_per_row_and_the_pictures_of_the_rows(dataset: Path):
    video = dataset / f"videos/{VIDEO}/chunk-000/file-000.mp4"
    frames = decode(video)
    within = np.concatenate([np.arange(n) for n in LENGTHS])
    assert len(frames) == 19
    # The picture of step k is grey of value k.
    np.testing.assert_allclose(frames.mean((1, 2, 3)), within, atol=1.5)
    said = probe(video)
    assert "Video: h264" in said and "yuv420p" in said and re.search(r"\b10 fps\b", said)


def test_tasks_are_indexed_by_their_words(dataset: Path):
    table = pq.read_table(dataset / "meta/tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "pick the cube"}]
    note = json.loads(table.schema.metadata[b"pandas"])
    assert note["index_columns"] == ["task"]
    assert [c["field_name"] for c in note["columns"]] == ["task_index", "task"]


def test_statistics_are_those_of_the_rows(dataset: Path, info: dict, episodes: list[dict]):
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert stats.keys() == info["features"].keys()
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    action = np.array(table["action"].to_pylist())
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], action.std(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(action, 0.9, axis=0), atol=1e-6)
    assert stats["action"]["count"] == stats[VIDEO]["count"] == [19]
    within = np.concatenate([np.arange(n) for n in LENGTHS]) / 255
    assert np.shape(stats[VIDEO]["mean"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(stats[VIDEO]["mean"]), within.mean())
    np.testing.assert_allclose(np.ravel(stats[VIDEO]["std"]), within.std())
    assert episodes[1]["stats/frame_index/max"] == [8] and episodes[1]["stats/action/count"] == [9]
    assert np.shape(episodes[0][f"stats/{VIDEO}/max"]) == (3, 1, 1)


def test_the_trainer_reads_it_as_demonstrations(dataset: Path):
    contract = make_contract()
    wanted = DemoContract.of("toy", contract.obs, contract.action)
    found = convert(open_foreign(dataset, allow_pickle=False), wanted, ConvertOptions())
    assert [len(e["reward"]) for e in found.episodes] == list(LENGTHS)
    # Only the success is a return's end; what ended otherwise was cut off as far as it says.
    assert [bool(e["terminated"][-1]) for e in found.episodes] == [True, False, False]
    for e in found.episodes:
        within = np.arange(len(e["reward"]))
        np.testing.assert_array_equal(e["obs/ee_lag"], np.repeat(within[:, None], 3, 1))
        np.testing.assert_allclose(e["obs/front"].mean((1, 2, 3)), within, atol=1.5)
        np.testing.assert_array_equal(e["expert"], within == 1)


def test_long_datasets_have_several_files(tmp_path: Path):
    out, _ = export(tmp_path, make_contract(), frames_per_file=10)
    rows = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["data/file_index"] for row in rows] == [0, 1, 2]
    for row, length in zip(rows, LENGTHS, strict=True):
        number = row["data/file_index"]
        table = pq.read_table(out / f"data/chunk-000/file-{number:03d}.parquet")
        video = out / f"videos/{VIDEO}/chunk-000/file-{number:03d}.mp4"
        assert table.num_rows == len(decode(video)) == length
        assert table["index"][0].as_py() == row["dataset_from_index"]
        assert row[f"videos/{VIDEO}/from_timestamp"] == 0.0
        assert row[f"videos/{VIDEO}/to_timestamp"] == pytest.approx(length / 10)


def test_pictures_of_odd_size_keep_it(tmp_path: Path):
    out, _ = export(tmp_path, make_contract(size=(25, 17)))
    info = json.loads((out / "meta/info.json").read_text())["features"][VIDEO]
    assert info["shape"] == [17, 25, 3] and info["info"]["video.pix_fmt"] == "yuv444p"
    assert "25x17" in probe(out / f"videos/{VIDEO}/chunk-000/file-000.mp4")


def test_a_policy_without_cameras_has_no_videos(tmp_path: Path):
    out, _ = export(tmp_path, make_contract(size=None), endings=("success",))
    info = json.loads((out / "meta/info.json").read_text())
    assert info["video_path"] is None and info["total_episodes"] == 1
    assert not (out / "videos").exists()


def test_an_existing_folder_is_kept(tmp_path: Path):
    contract = make_contract(size=None)
    export(tmp_path, contract)
    with pytest.raises(FileExistsError, match="never added to"):
        export_lerobot([tmp_path / "r"], tmp_path / "dataset", contract, task="x")


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    contract = make_contract()
    with Recorder(tmp_path / "r", make_header(contract)) as recorder:
        recorder.put(make_tick(0), {"ee_lag": np.zeros(3, np.float32)})
        recorder.put(make_tick(1, action=np.zeros(4)))
    with pytest.raises(ValueError, match="'gripper_width' is missing"):
        export_lerobot([tmp_path / "r"], tmp_path / "dataset", contract, task="x")
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_a_rate_that_is_no_whole_number_is_refused(tmp_path: Path):
    import dataclasses

    contract = make_contract(size=None)
    action: ActionSpec = dataclasses.replace(contract.action, rate=7.5)
    with pytest.raises(ValueError, match=r"7\.5 Hz, allowed: a whole number"):
        odd = dataclasses.replace(contract, action=action)
        export_lerobot([], tmp_path / "dataset", odd, task="x")
