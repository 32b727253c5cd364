"""robomimic's HDF5: what is read, and that a hostile file reaches nothing but itself."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from foreign_task import SIZE, imported, numbers

from mjx_serl.data.foreign import source
from scenes.contract.errors import UserError

LENGTHS = {"demo_0": 5, "demo_2": 3, "demo_10": 4}


def made(path: Path, *, rate: float | None = 10.0, **ends: Any) -> Path:
    """A file with episodes that are paid at their last step, and 1 more done after that."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if rate is not None:
            data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": rate}})
        for name, length in LENGTHS.items():
            demo, found = data.create_group(name), numbers(length, length)
            demo["actions"] = found["action"].astype(np.float64)
            last = np.arange(length) == length - 1
            demo["rewards"] = ends.get("rewards", last.astype(np.float64))
            demo["dones"] = ends.get("dones", last.astype(np.int64))
            for key in ("position", "grip", "front"):
                demo.create_dataset(f"obs/{key}", data=found[key], compression="gzip")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made(tmp_path / "demo.hdf5")


def test_episodes_come_as_they_were_in_the_order_of_their_numbers(file: Path):
    found = imported(file)
    assert [len(e["reward"]) for e in found.episodes] == [5, 3, 4]
    for episode, length in zip(found.episodes, (5, 3, 4), strict=True):
        data = numbers(length, length)
        for name in ("position", "grip", "front"):
            np.testing.assert_array_equal(episode[f"obs/{name}"], data[name])
        np.testing.assert_array_equal(episode["action"], data["action"])
        assert episode["action"].dtype == np.float32
        np.testing.assert_array_equal(episode["terminated"], np.arange(length) == length - 1)
        np.testing.assert_array_equal(episode["reward"], episode["terminated"])
    assert not any("rate 10 Hz" in note for note in found.notes)


def test_an_episode_ends_where_it_is_solved(tmp_path: Path):
    """robomimic goes on for some steps after success, all of them paid."""
    path = tmp_path / "x.hdf5"
    made(path)
    with h5py.File(path, "a") as file:
        demo: Any = file["data/demo_0"]
        demo["rewards"][2:], demo["dones"][2:] = 1.0, 1
        demo = file["data/demo_2"]
        demo["rewards"][:], demo["dones"][:] = 0.0, 0
    found = imported(path)
    assert [len(e["reward"]) for e in found.episodes] == [3, 3, 4]
    assert found.episodes[0]["terminated"].tolist() == [False, False, True]
    assert found.episodes[1]["truncated"].tolist() == [False, False, True]
    assert "2 steps after the one that solved it left out" in found.notes
    assert "1 episodes are not solved: cut" in found.notes


def test_another_rate_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"demo\.hdf5: rate \[Hz\]: task 10, file 20"):
        imported(made(tmp_path / "demo.hdf5", rate=20.0))
    found = imported(made(tmp_path / "unsaid.hdf5", rate=None))
    assert any("taken as this task's: rate 10 Hz, scale" in note for note in found.notes)


def test_only_what_is_asked_for_is_read(file: Path, monkeypatch: pytest.MonkeyPatch):
    """And no more of it than fits into memory."""
    monkeypatch.setattr(source, "MOST_BYTES", 12 * (SIZE * SIZE * 3 + 4 * 4 + 4 * 8 + 2 * 8))
    assert imported(file).steps == 12
    monkeypatch.setattr(source, "MOST_BYTES", source.MOST_BYTES - 1)
    with pytest.raises(ValueError, match=r"holds more than \d+ bytes of arrays"):
        imported(file)


# -- hostile and damaged files -----------------------------------------------------------------


def test_links_are_refused(file: Path, tmp_path: Path):
    secret = made(tmp_path / "secret.hdf5")
    kinds = {
        "ExternalLink": h5py.ExternalLink(secret.name, "data/demo_0/actions"),
        "SoftLink": h5py.SoftLink("/data/demo_2/actions"),
    }
    for kind, link in kinds.items():
        with h5py.File(file, "a") as opened:
            demo: Any = opened["data/demo_0"]
            del demo["actions"]
            demo["actions"] = link
        with pytest.raises(ValueError, match=f"/data/demo_0/actions is a {kind}, allowed: what"):
            imported(file)
    with h5py.File(file, "a") as opened:
        del opened["data"]
        opened["data"] = h5py.ExternalLink(secret.name, "data")
    with pytest.raises(ValueError, match="/data is a ExternalLink"):
        imported(file)


def test_data_elsewhere_is_refused(file: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(5 * 8))
    with h5py.File(file, "a") as opened:
        demo: Any = opened["data/demo_0"]
        del demo["rewards"]
        demo.create_dataset("rewards", (5,), "f8", external=[(str(secret), 0, 40)])
    with pytest.raises(ValueError, match="demo_0/rewards is of data elsewhere"):
        imported(file)
    with h5py.File(file, "a") as opened:
        demo = opened["data/demo_0"]
        del demo["rewards"]
        layout = h5py.VirtualLayout((5,), "f8")
        layout[:] = h5py.VirtualSource(str(made(tmp_path / "b.hdf5")), "data/demo_0/rewards", (5,))
        demo.create_virtual_dataset("rewards", layout)
    with pytest.raises(ValueError, match="demo_0/rewards is of data elsewhere"):
        imported(file)


def test_strange_filters_are_refused(file: Path):
    """A filter that HDF5 does not bring would be looked for among the plug-ins of the machine."""
    with h5py.File(file, "a") as opened:
        demo: Any = opened["data/demo_0"]
        del demo["rewards"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((5,))
        plan.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, ())  # LZ4
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(demo.id, b"rewards", h5py.h5t.NATIVE_DOUBLE, space, plan)
    with pytest.raises(ValueError, match="is packed by filter 32004, allowed: deflate, shuffle"):
        imported(file)


def changed(file: Path, place: str, value: Any) -> None:
    with h5py.File(file, "a") as opened:
        if place in opened:
            del opened[place]
        if value is not None:
            opened[place] = value


CHANGES = {
    "text": ("data/demo_0/rewards", np.array([b"a"] * 5), "rewards is |S1, allowed: arrays of"),
    "objects": ("data/demo_0/rewards", ["a"] * 5, "rewards is object, allowed: arrays of numbers"),
    "other length": ("data/demo_0/obs/grip", np.zeros((4, 1)), "5 actions and 4 of 'grip'"),
    "no actions": ("data/demo_2/actions", None, "has no /data/demo_2/actions; allowed: robomimic"),
    "no rewards": ("data/demo_0/rewards", None, "has no /data/demo_0/rewards"),
    "no observations": ("data/demo_0/obs", None, "has no /data/demo_0/obs"),
    "no grip later": ("data/demo_2/obs/grip", None, "/data/demo_2 has no obs/grip, other episodes"),
    "a dataset of episodes": (
        "data/demo_0",
        np.zeros(3),
        "/data/demo_0 is a Dataset, allowed: a G",
    ),
    "no data": ("data", None, "has no /data; allowed: robomimic HDF5"),
}


@pytest.mark.parametrize("kind", [*CHANGES])
def test_files_that_are_not_robomimic_s(file: Path, kind: str):
    place, value, text = CHANGES[kind]
    changed(file, place, value)
    with pytest.raises(ValueError) as caught:
        imported(file)
    assert text in str(caught.value) and "demo.hdf5" in str(caught.value)


def test_flipped_bits_are_refused_or_change_nothing_but_numbers(file: Path):
    """h5py raises a dozen kinds of errors; here each is one that a command line says."""
    whole, refused = file.read_bytes(), 0
    for offset in range(0, len(whole), 997):
        broken = bytearray(whole)
        broken[offset] ^= 0xFF
        file.write_bytes(broken)
        try:
            imported(file, clip_actions=True)
        except UserError as error:
            refused += 1
            assert "demo.hdf5" in str(error)
    assert refused > 3


def test_a_file_cut_anywhere_is_refused(file: Path):
    whole = file.read_bytes()
    for share in (0.1, 0.5, 0.9):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"demo\.hdf5"):
            imported(file)
