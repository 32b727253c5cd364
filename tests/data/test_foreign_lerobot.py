"""LeRobotDataset v3: ours read back bit for bit, others' variants, damaged and hostile ones."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_task import ACTION, CONTRACT, FRONT, NUMBERS, SIZE, contract_of, imported, numbers
from PIL import Image

from mjx_serl.data.foreign import source
from mjx_serl.data.foreign.export import export_lerobot
from scenes.contract.demonstrations import DemoContract, stack_episodes, write_demonstrations
from scenes.contract.lerobot import INTERVENED, DatasetLayout, DatasetWriter
from scenes.contract.specs import ObsField, ObsSpec

LENGTHS = (4, 6, 3)
ENDS = ("terminated", "truncated", "terminated")
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def demos(path: Path, contract: Any = CONTRACT, **changes: Any) -> Path:
    """A file of ours: solved, cut off, solved; each with a reward of its own."""
    episodes = []
    for seed, (length, end) in enumerate(zip(LENGTHS, ENDS, strict=True)):
        data, last = numbers(length, seed), np.arange(length) == length - 1
        episode = {f"obs/{name}": data[name] for name, *_ in contract.obs}
        episode |= {"action": data["action"], "reward": np.linspace(0, 1, length, dtype="f4")}
        episode |= {k: last & (k == end) for k in ("terminated", "truncated")}
        episodes.append(episode | {"expert": np.arange(length) % 2 == 0})
    write_demonstrations(path, stack_episodes(episodes) | changes, contract)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    assert export_lerobot(demos(tmp_path / "demos.npz"), tmp_path / "set") == (3, 13)
    return tmp_path / "set"


def test_what_is_exported_comes_back_bit_for_bit(dataset: Path):
    found = imported(dataset)
    assert found.steps == sum(LENGTHS)
    for seed, (episode, end) in enumerate(zip(found.episodes, ENDS, strict=True)):
        data, length = numbers(LENGTHS[seed], seed), LENGTHS[seed]
        for name in ("position", "grip", "front"):
            np.testing.assert_array_equal(episode[f"obs/{name}"], data[name])
            assert episode[f"obs/{name}"].dtype == data[name].dtype
        np.testing.assert_array_equal(episode["action"], data["action"])
        np.testing.assert_array_equal(episode["reward"], np.linspace(0, 1, length, dtype="f4"))
        np.testing.assert_array_equal(episode["expert"], np.arange(length) % 2 == 0)
        for name in ("terminated", "truncated"):
            last = np.arange(length) == length - 1
            np.testing.assert_array_equal(episode[name], last & (name == end))


def test_the_folder_is_as_the_format_says(dataset: Path):
    files = {str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_file()}
    assert files == {"meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, DATA}
    info = json.loads((dataset / "meta/info.json").read_text())
    assert info["video_path"] is None and info["fps"] == 10 and info["total_frames"] == 13
    names = ["grip", "position.0", "position.1", "position.2"]
    state = {"dtype": "float32", "shape": [4], "names": names}
    assert info["features"]["observation.state"] == state
    front = {"dtype": "image", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]}
    assert info["features"]["observation.images.front"] == front
    assert info["features"]["action"]["names"] == list(ACTION.names)
    schema = pq.read_schema(dataset / DATA)
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("observation.images.front").type == picture
    assert schema.field("observation.state").type == pa.list_(pa.float32(), 4)
    assert schema.field("next.truncated").type == pa.bool_()
    assert set(schema.names) == set(info["features"])
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert stats.keys() == info["features"].keys()
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert pq.read_table(dataset / "meta/tasks.parquet").to_pylist() == [
        {"task_index": 0, "task": "toy"}
    ]


def test_without_pictures_there_are_none(tmp_path: Path):
    contract = contract_of(*NUMBERS)
    export_lerobot(demos(tmp_path / "d.npz", contract), tmp_path / "set", words="pick it up")
    assert imported(tmp_path / "set", contract=contract).steps == 13
    (row,) = pq.read_table(tmp_path / "set/meta/tasks.parquet").to_pylist()
    assert row["task"] == "pick it up"


def test_what_cannot_be_exported(tmp_path: Path, dataset: Path):
    with pytest.raises(FileExistsError, match="never added to"):
        export_lerobot(tmp_path / "demos.npz", dataset)
    depth = ObsField(name="depth", shape=(4, 4), modality="depth")
    contract = DemoContract.of("toy", ObsSpec(fields=(depth,)), ACTION)
    shape = (2, 1)
    flags = dict.fromkeys(("terminated", "truncated", "expert"), np.ones(shape, bool))
    arrays = {"obs/depth": np.zeros((*shape, 4, 4), "f4"), "reward": np.zeros(shape, "f4")}
    arrays |= {"action": np.zeros((*shape, 4), "f4"), "valid": np.ones(shape, bool)} | flags
    arrays["truncated"] = np.zeros(shape, bool)
    write_demonstrations(tmp_path / "depth.npz", arrays, contract)
    with pytest.raises(ValueError, match=r"observation 'depth' is float32\[4, 4\]; allowed: vecto"):
        export_lerobot(tmp_path / "depth.npz", tmp_path / "depth")
    assert not (tmp_path / "depth").exists()


def test_an_episode_that_physics_failed_in_is_left_out(tmp_path: Path):
    valid = np.arange(6)[:, None] < np.array(LENGTHS)
    valid[3, 0] = False
    path = demos(tmp_path / "demos.npz", valid=valid)
    assert export_lerobot(path, tmp_path / "set") == (2, 9)


# -- as others write them ----------------------------------------------------------------------


def change(dataset: Path, place: str, **columns: Any) -> None:
    """Replace columns of a table, or leave out those that are None."""
    table = pq.read_table(dataset / place)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.drop([name]) if values is None else table.set_column(at, name, values)
    pq.write_table(table, dataset / place)


def change_info(dataset: Path, **values: Any) -> None:
    path = dataset / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(dataset: Path, *names: str) -> None:
    features = json.loads((dataset / "meta/info.json").read_text())["features"]
    change_info(dataset, features={k: v for k, v in features.items() if k not in names})


def test_videos_are_decoded_where_the_episodes_are(tmp_path: Path):
    """Grey pictures, whose value is the step's number in the file; H.264 keeps it within 2."""
    layout = DatasetLayout(
        state_names=("grip", "position.0", "position.1", "position.2"),
        pictures={"front": (16, 16, 3)},
        action_names=ACTION.names,
        flags={"next.reward": "float32", "next.done": "bool", INTERVENED: "bool"},
        fps=10,
        videos=True,
    )
    (tmp_path / "set").mkdir()
    writer = DatasetWriter(tmp_path / "set", layout, frames_per_file=7)
    start = 0
    for seed, length in enumerate((4, 3, 5)):
        data, last = numbers(length, seed), np.arange(length) == length - 1
        grey = np.arange(start, start + length, dtype=np.uint8) * 10
        columns = {"observation.state": np.concatenate([data["grip"], data["position"]], axis=1)}
        columns |= {"action": data["action"], "next.done": last, INTERVENED: last}
        columns["next.reward"] = (last & (seed != 1)).astype(np.float32)
        writer.add(
            columns, {"front": np.broadcast_to(grey[:, None, None, None], (length, 16, 16, 3))}
        )
        start += length
    writer.close()
    writer.write_meta("toy", "panda")
    contract = contract_of(*NUMBERS, dataclasses.replace(FRONT, shape=(16, 16, 3)))
    found = imported(tmp_path / "set", contract=contract)
    seen = np.concatenate([e["obs/front"].mean((1, 2, 3)) for e in found.episodes])
    np.testing.assert_allclose(seen, np.arange(12) * 10, atol=2)
    # Without a column that tells time-outs apart, an unpaid end is one.
    assert [bool(e["terminated"][-1]) for e in found.episodes] == [True, False, True]
    (tmp_path / "set/videos/observation.images.front/chunk-000/file-001.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"file-001\.mp4: .*allowed: 5 pictures \[16, 16, 3\]"):
        imported(tmp_path / "set", contract=contract)


def test_datasets_without_rewards_need_to_be_told(dataset: Path):
    """As most that were recorded for imitation are."""
    without(dataset, "next.reward", "next.done", "next.truncated", INTERVENED)
    with pytest.raises(ValueError, match="says nothing of rewards; allowed: with --solved-at-end"):
        imported(dataset)
    found = imported(dataset, solved_at_end=True)
    for episode, length in zip(found.episodes, LENGTHS, strict=True):
        np.testing.assert_array_equal(episode["reward"], np.arange(length) == length - 1)
        np.testing.assert_array_equal(episode["terminated"], episode["reward"] > 0)
        assert episode["expert"].all()
    assert "3 episodes say nothing of their end (next.done): cut there" in found.notes


def test_pictures_in_jpeg_and_vectors_in_lists(dataset: Path):
    red = Image.new("RGB", (SIZE, SIZE), (200, 0, 0))
    out = io.BytesIO()
    red.save(out, "JPEG", quality=95)
    rows = [{"bytes": out.getvalue(), "path": "frame.jpg"}] * 13
    action = pq.read_table(dataset / DATA)["action"].to_pylist()
    change(
        dataset, DATA, **{"observation.images.front": pa.array(rows), "action": pa.array(action)}
    )
    found = imported(dataset)
    assert np.abs(found.episodes[1]["obs/front"].mean((0, 1, 2)) - [200, 0, 0]).max() < 4
    np.testing.assert_array_equal(found.episodes[2]["action"], numbers(3, 2)["action"])


def test_actions_of_another_robot_are_not_taken_for_ours(dataset: Path):
    features = json.loads((dataset / "meta/info.json").read_text())["features"]
    features["action"]["names"] = {"motors": ["pan.pos", "lift.pos", "flex.pos", "gripper.pos"]}
    change_info(dataset, features=features)
    with pytest.raises(ValueError, match=r"task x, y, z, gripper, file pan\.pos, lift\.pos, "):
        imported(dataset)
    assert imported(dataset, "action=action").steps == 13


def test_another_rate_and_picture_size_are_refused(dataset: Path):
    change_info(dataset, fps=30)
    contract = contract_of(*NUMBERS, dataclasses.replace(FRONT, shape=(64, 64, 3)))
    with pytest.raises(ValueError) as caught:
        imported(dataset, contract=contract)
    lines = str(caught.value).splitlines()
    assert "picture 'front': task uint8[64, 64, 3], file uint8[8, 8, 3]; --image-size" in lines[0]
    assert "rate [Hz]: task 10, file 30" in lines[1] and len(lines) == 3


# -- damaged and hostile datasets --------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


def pictures(data: Any) -> Any:
    return pa.array([{"bytes": data, "path": "/etc/passwd"}] * 13)


TABLES = {
    "a picture of another size": (
        pictures(png(900, 900)),
        "'observation.images.front' is not uint8",
    ),
    "no picture": (pictures(b"GIF89a"), "is no PNG or JPEG"),
    "a path instead": (pictures(None), "has pictures in files of their own"),
}


@pytest.mark.parametrize("kind", [*TABLES])
def test_pictures_that_are_refused(dataset: Path, kind: str):
    values, text = TABLES[kind]
    change(dataset, DATA, **{"observation.images.front": values})
    with pytest.raises(ValueError) as caught:
        imported(dataset)
    assert text in str(caught.value)


COLUMNS = {
    "rows of no episode": (DATA, "episode_index", [0] * 13, "episode 0 has 13 rows"),
    "vectors of several lengths": (
        DATA,
        "action",
        [[0.0] * 4] * 12 + [[0.0] * 3],
        "several lengths",
    ),
    "short vectors": (DATA, "action", [[0.0] * 3] * 13, "has vectors of several lengths"),
    "text": (DATA, "next.reward", ["a"] * 13, "'next.reward' is not float32[1]"),
    "holes": (DATA, "next.reward", [None] * 12 + [1.0], "'next.reward' lacks values"),
    "no such column": (DATA, "action", None, "file-000.parquet has no column 'action'"),
    "no lengths": (EPISODES, "length", None, "has no column 'length'"),
    "endless lengths": (EPISODES, "length", [2**40] * 3, "lacks episodes, or places of theirs"),
    "no steps": (EPISODES, "length", [4, 0, 3], "lacks episodes, or places of theirs"),
    "half steps": (EPISODES, "length", [4.0, 6.5, 3.0], "lacks episodes, or places of theirs"),
    "holes in places": (EPISODES, "length", [None, 1, 1], "lacks episodes, or places of theirs"),
    "a file that is not there": (EPISODES, "data/file_index", [0, 0, 7], "file-007.parquet"),
}


@pytest.mark.parametrize("kind", [*COLUMNS])
def test_tables_that_are_refused(dataset: Path, kind: str):
    place, name, values, text = COLUMNS[kind]
    change(dataset, place, **{name: None if values is None else pa.array(values)})
    with pytest.raises(ValueError) as caught:
        imported(dataset)
    assert text in str(caught.value) and "\n" not in str(caught.value)


INFOS = {
    "older": ({"codebase_version": "v2.1"}, "is a dataset of version v2.1, allowed: v3.0"),
    "paths elsewhere": ({"data_path": "../{chunk_index}"}, "allowed: data/chunk-"),
    "no rate": ({"fps": "ten"}, "allowed: data/chunk-"),
    "features of text": ({"features": "x"}, "a feature is not as allowed"),
    "a shape of text": (
        {"features": {"x": {"dtype": "float32", "shape": "ab"}}},
        "a feature is not as allowed",
    ),
}


@pytest.mark.parametrize("kind", [*INFOS])
def test_infos_that_are_refused(dataset: Path, kind: str):
    values, text = INFOS[kind]
    change_info(dataset, **values)
    with pytest.raises(ValueError) as caught:
        imported(dataset)
    assert text in str(caught.value)


def test_info_that_is_no_json(dataset: Path):
    (dataset / "meta/info.json").write_text("[1")
    with pytest.raises(ValueError, match=r"info\.json is none of a LeRobotDataset v3\.0"):
        imported(dataset)


def test_more_than_fits_into_memory_is_not_read(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "MOST_BYTES", 2000)
    with pytest.raises(ValueError, match="holds more than 2000 bytes of arrays"):
        imported(dataset)


def test_rows_that_are_packed_into_nothing_are_counted(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
):
    """A table of some kB may say one row a million times."""
    count = 1_000_000
    first = pq.read_table(dataset / DATA).slice(0, 1).drop(["observation.images.front"])
    repeated = pa.concat_tables([first] * 1000).combine_chunks()
    pq.write_table(pa.concat_tables([repeated] * (count // 1000)).combine_chunks(), dataset / DATA)
    assert (dataset / DATA).stat().st_size < 1 << 20
    monkeypatch.setattr(source, "MOST_BYTES", 16 << 20)
    with pytest.raises(ValueError, match="holds more than 16777216 bytes of arrays"):
        imported(dataset, contract=contract_of(*NUMBERS))


def test_a_table_cut_anywhere_is_refused(dataset: Path):
    whole = (dataset / DATA).read_bytes()
    for share in (0.0, 0.5, 0.95):
        (dataset / DATA).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="is no LeRobotDataset v3"):
            imported(dataset)
