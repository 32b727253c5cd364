"""Demonstration files: what is written comes back, and whatever does not fit is said by name."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjx_serl.data.demos import DemoContract, load_demos, save_demos, select_episodes
from mjx_serl.types import Transition
from scenes.contract import demonstrations
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

STEPS, EPISODES = 6, 3
OBS = ObsSpec(fields=(ObsField(name="x", shape=(3,)), ObsField(name="eye", shape=(4, 4, 3))))
ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(0.1, 0.1, 0.1, 1.0), rate=10.0,
    base="target",
)  # fmt: skip


def contract(**changes: Any) -> DemoContract:
    fields = tuple(
        dataclasses.replace(f, dtype="uint8") if f.name == "eye" else f for f in OBS.fields
    )
    made = DemoContract.of("toy", ObsSpec(fields=fields), ACTION, episode_steps=STEPS)
    return dataclasses.replace(made, **changes)


def episodes(count: int = EPISODES) -> Transition:
    """Random episodes; each is solved at its own step, its rows after that are not valid."""
    rng = np.random.default_rng(0)
    shape, last = (STEPS, count), STEPS - 1 - np.arange(count) % 3
    after = np.arange(STEPS)[:, None] - last
    return Transition(
        obs={
            "x": rng.normal(size=(*shape, 3)).astype(np.float32),
            "eye": rng.integers(0, 256, (*shape, 4, 4, 3)).astype(np.uint8),
        },
        action=rng.uniform(-1, 1, (*shape, 4)).astype(np.float32),
        reward=(after == 0).astype(np.float32),
        terminated=after == 0,
        truncated=np.zeros(shape, bool),
        valid=after <= 0,
        expert=np.ones(shape, bool),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shown" / "demos.npz"


def refusal(path: Path, task: DemoContract | None = None) -> list[str]:
    with pytest.raises(ValueError) as caught:
        load_demos(path, task or contract())
    return str(caught.value).splitlines()


def write_arrays(path: Path, **changes: Any) -> Path:
    """A file with some arrays replaced, or left out where None."""
    save_demos(path, episodes(), contract())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    path.unlink()
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


# -- round trip --------------------------------------------------------------------------------


def test_what_is_written_comes_back(path: Path):
    rows = episodes()
    save_demos(path, rows, contract())
    back = load_demos(path, contract())
    assert list(path.parent.iterdir()) == [path]
    for name in ("action", "reward", "terminated", "truncated", "valid", "expert"):
        want, got = getattr(rows, name), getattr(back, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert back.obs.keys() == rows.obs.keys()
    for name, x in rows.obs.items():
        assert back.obs[name].dtype == x.dtype
        np.testing.assert_array_equal(back.obs[name], x)


def test_a_file_is_never_overwritten(path: Path):
    save_demos(path, episodes(), contract())
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_demos(path, episodes(2), contract())
    assert path.read_bytes() == before


def test_a_missing_file_is_named(path: Path):
    with pytest.raises(FileNotFoundError, match=r"demos\.npz' do not exist; `python record_"):
        load_demos(path, contract())


def test_the_first_solved_episodes_are_chosen():
    rows = episodes()
    chosen = select_episodes(rows, np.array([False, True, True]), 1)
    np.testing.assert_array_equal(chosen.action, rows.action[:, 1:2])
    with pytest.raises(ValueError, match=r"solved 2 of 3 episodes, 3 wanted; lower demos\.count"):
        select_episodes(rows, np.array([False, True, True]), 3)


# -- demonstrations of something else ----------------------------------------------------------


MISMATCHES = {
    "no such observation": (
        {"obs": (("x", (3,), "float32"),)},
        "observation 'eye': task missing, demonstrations uint8[4, 4, 3]",
    ),
    "other shape": (
        {"obs": (("eye", (8, 8, 3), "uint8"), ("x", (3,), "float32"))},
        "observation 'eye': task uint8[8, 8, 3], demonstrations uint8[4, 4, 3]",
    ),
    "other dtype": (
        {"obs": (("eye", (4, 4, 3), "float32"), ("x", (3,), "float32"))},
        "observation 'eye': task float32[4, 4, 3], demonstrations uint8[4, 4, 3]",
    ),
    "task": (
        {"task": "toy_dense"},
        "task: task toy_dense, demonstrations toy; --demos.relabel judges them anew",
    ),
    "time limit": (
        {"episode_steps": 9},
        "episode_steps (time limit): task 9, demonstrations 6; --demos.relabel judges them anew",
    ),
    "mode": (
        {"mode": "ee_delta_osc"},
        "mode of actions: task ee_delta_osc, demonstrations ee_delta",
    ),
    "frame": ({"frame": "tool"}, "frame of actions: task tool, demonstrations world"),
    "rate": ({"rate": 50.0}, "rate [Hz]: task 50.0, demonstrations 10.0"),
    "base": ({"base": "measured"}, "base: task measured, demonstrations target"),
    "scale": (
        {"action_scale": (0.025, 0.025, 0.025, 1.0)},
        "action_scale [m per step, gripper 1]: task (0.025, 0.025, 0.025, 1.0), "
        "demonstrations (0.1, 0.1, 0.1, 1.0)",
    ),
}


@pytest.mark.parametrize("kind", [*MISMATCHES])
def test_every_mismatch_is_one_line(path: Path, kind: str):
    changes, line = MISMATCHES[kind]
    assert contract(**changes).mismatches(contract()) == [line]
    save_demos(path, episodes(), contract())
    assert f"demos.npz: {line}" in refusal(path, contract(**changes))


def test_all_mismatches_are_told_at_once(path: Path):
    save_demos(path, episodes(), contract())
    lines = refusal(path, contract(rate=50.0, base="measured"))
    assert len(lines) == 2
    assert contract().mismatches(contract()) == []


def test_what_an_older_file_does_not_say_is_not_compared_and_told_once(
    path: Path, capsys: pytest.CaptureFixture[str]
):
    """As files were before contracts had a mode, a frame and a time limit."""
    later = ("mode", "frame", "episode_steps", "states", "scene")
    said = {k: v for k, v in dataclasses.asdict(contract()).items() if k not in later}
    write_arrays(path, contract=np.array(json.dumps(said)))
    for _ in range(2):
        assert load_demos(path, contract()).reward.shape == (STEPS, EPISODES)
    line = "demos.npz does not say its episode_steps, mode, frame: not compared\n"
    assert capsys.readouterr().err == line
    (line,) = refusal(path, contract(rate=50.0))
    assert "rate [Hz]" in line


# -- states of the simulator -------------------------------------------------------------------

STATED: dict[str, Any] = {"states": (("sim/height", (2,), "float32"),), "scene": "table"}


def stated() -> Transition:
    heights = np.random.default_rng(1).normal(size=(STEPS, EPISODES, 2)).astype(np.float32)
    return episodes().replace(extras={"sim/height": heights})


def test_states_are_read_only_by_who_judges_anew(path: Path):
    rows = stated()
    save_demos(path, rows, contract(**STATED))
    assert load_demos(path, contract()).extras == {}
    back = load_demos(path, contract(task="other", **STATED), relabel=True)
    np.testing.assert_array_equal(back.extras["sim/height"], rows.extras["sim/height"])


RELABELS = {
    "no states": ({}, {}, "holds no states of the simulator, without which nothing can be judged"),
    "other scene": (STATED, {"scene": "floor"}, "its states are of another scene than the task's"),
    "other task state": (
        STATED,
        {"states": (("sim/height", (3,), "float32"),)},
        "state 'sim/height' is none of the task's, or of another shape",
    ),
    "rate": (STATED, {"rate": 50.0}, "rate [Hz]: task 50.0, demonstrations 10.0"),
}


@pytest.mark.parametrize("kind", [*RELABELS])
def test_what_cannot_be_judged_anew(path: Path, kind: str):
    written, wanted, text = RELABELS[kind]
    save_demos(path, stated(), contract(**written))
    with pytest.raises(ValueError) as caught:
        load_demos(path, contract(**(STATED | {"task": "other"} | wanted)), relabel=True)
    (line,) = str(caught.value).splitlines()
    assert text in line


def test_states_that_are_not_finite_or_not_there_are_refused(path: Path):
    rows = stated()
    rows.extras["sim/height"][0, 0, 0] = np.nan
    save_demos(path, rows, contract(**STATED))
    with pytest.raises(ValueError, match="'state/sim/height' is not finite"):
        load_demos(path, contract(**STATED), relabel=True)
    assert load_demos(path, contract()).extras == {}


# -- damaged or hostile files ------------------------------------------------------------------


def bad(name: str, index: tuple[int, ...], value: float) -> np.ndarray:
    x = np.array(getattr(episodes(), name))
    x[index] = value
    return x


CONTENTS = {
    "a NaN action": ({"action": bad("action", (0, 0, 0), np.nan)}, "'action' is not finite"),
    "an infinite reward": ({"reward": bad("reward", (1, 0), np.inf)}, "'reward' is not finite"),
    "a large action": ({"action": bad("action", (0, 0, 0), 1.01)}, "actions leave [-1, 1]"),
    "float64": ({"reward": np.zeros((STEPS, EPISODES))}, "wanted float32[6, 3], got float64[6, 3]"),
    "one episode less": ({"valid": np.ones((STEPS, 2), bool)}, "wanted bool[6, 3], got bool[6, 2]"),
    "no episodes": ({"reward": np.zeros((0, 0), np.float32)}, "wanted [steps, episodes], got"),
    "one axis": ({"reward": np.zeros(STEPS, np.float32)}, "wanted [steps, episodes], got [6]"),
    "nothing valid": ({"valid": np.zeros((STEPS, EPISODES), bool)}, "no step is valid"),
    "no end": (
        {"terminated": np.zeros((STEPS, EPISODES), bool)},
        "episodes stop without being terminated or truncated",
    ),
    "two ends": (
        {"truncated": np.array(episodes().terminated)},
        "steps both terminated and truncated",
    ),
    "a missing array": ({"expert": None}, "is no demonstration file: 'expert"),
    "no observation": ({"obs/eye": None}, "array 'obs/eye': wanted uint8[6, 3, 4, 4, 3], got miss"),
    "one too many": ({"obs/z": np.zeros(2)}, "array 'obs/z' is not in the contract"),
    "no contract": ({"contract": None}, "is no demonstration file: 'contract"),
    "a contract of text": ({"contract": np.array("hello")}, "is no demonstration file"),
    "a contract of lists": ({"contract": np.array("[1]")}, "is no demonstration file"),
    "a contract that says more": (
        {"contract": np.array(json.dumps(dataclasses.asdict(contract()) | {"x": 1}))},
        "is no demonstration file",
    ),
}


@pytest.mark.parametrize("kind", [*CONTENTS])
def test_arrays_that_cannot_be_learned_from(path: Path, kind: str):
    changes, line = CONTENTS[kind]
    lines = refusal(write_arrays(path, **changes))
    assert len(lines) == 1 and line in lines[0] and "demos.npz" in lines[0]


def test_a_pickle_is_refused_and_never_run(path: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return path.touch, ()

    trap = np.empty(1, object)
    trap[0] = Trap()
    file = path.parent.parent / "trap.npz"
    np.savez(file, action=trap)
    (line,) = refusal(file)
    assert "is no demonstration file" in line and "allow_pickle=False" in line
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 40, b"\x93NUMPY"])
def test_garbage_is_no_demonstration_file(tmp_path: Path, content: bytes):
    path = tmp_path / "garbage.npz"
    path.write_bytes(content)
    (line,) = refusal(path)
    assert "garbage.npz is no demonstration file" in line


def test_a_file_cut_anywhere_is_refused(path: Path):
    save_demos(path, episodes(), contract())
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        assert len(refusal(path)) == 1


def test_flipped_bits_are_refused(path: Path):
    """In the packed data; zip's own bookkeeping holds bits that mean nothing."""
    save_demos(path, episodes(), contract())
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("action.npy")
    start = entry.header_offset + 64
    for offset in range(start, start + entry.compress_size - 64, 17):
        broken = bytearray(whole)
        broken[offset] ^= 0x10
        path.write_bytes(broken)
        assert "is no demonstration file" in refusal(path)[0]


def test_a_small_archive_that_would_expand_too_far(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demonstrations, "MAX_BYTES", 100_000)
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("action.npy", bytes(1_000_000))
    assert path.stat().st_size < 5_000
    (line,) = refusal(path)
    assert "expands to 1000000 bytes, allowed are 100000" in line


def test_a_header_that_claims_more_than_there_is(path: Path):
    """A few bytes that say they are 8 PB must not take the machine down."""
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 51,)}
    np.lib.format.write_array_header_1_0(header, shape)
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("action.npy", header.getvalue())
    assert "is no demonstration file" in refusal(path)[0]
