"""Reading a bundle: what is whole runs and says so, everything else is refused in one line."""

import dataclasses
import importlib.metadata
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_env import PeerEnv, peer_python
from tiny_bundle import sign_again

from robot_bridge.policy import bundle as bundle_module
from robot_bridge.policy.bundle import Bundle, BundleError, find_bundle, load_bundle
from robot_bridge.policy.policy import OnnxPolicy, measure_latency
from scenes.contract import weights
from scenes.contract.errors import InputError
from scenes.contract.manifest import FILES, OPTIONAL, SUMS, sha256
from scenes.contract.serialize import digest
from scenes.contract.weights import read_safetensors

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def whole(bundle_folder: Path) -> Path:
    """A bundle as the trainer writes it."""
    return bundle_folder


@pytest.fixture(scope="module")
def loaded(whole: Path) -> Bundle:
    """The same, read."""
    return load_bundle(whole)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def golden(path: Path) -> dict[str, np.ndarray]:
    with np.load(path / "golden.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def observation(path: Path, i: int = 0) -> dict[str, np.ndarray]:
    return {n.removeprefix("obs/"): x[i] for n, x in golden(path).items() if n != "actions"}


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.startswith(f"Bundle '{path}': ")
    assert line.isprintable() and len(line) < 500
    return line


# -- a whole one -----------------------------------------------------------------------------------


def test_a_run_without_a_bundle_names_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no bundle, which `python -m mjx_serl.export /"):
        find_bundle(tmp_path)


def test_what_the_trainer_writes_is_read(whole: Path, loaded: Bundle):
    assert loaded.manifest.task == "franka/pick_cube"
    assert loaded.contract is loaded.manifest.contract
    assert loaded.manifest.contract_digest == digest(loaded.contract)
    assert loaded.digest == sha256((whole / SUMS).read_bytes())
    assert 0.0 <= loaded.golden_error < 1e-5


def test_the_policy_answers_as_it_did_in_training(whole: Path, loaded: Bundle):
    wanted = golden(whole)["actions"]
    loaded.policy.reset()
    for i in range(len(wanted)):
        action = loaded.policy.act(observation(whole, i))
        assert action.shape == (1, 4) and action.dtype == np.float32
        np.testing.assert_allclose(action, wanted[i], atol=1e-5)


def test_a_link_to_the_folder_is_followed(whole: Path, loaded: Bundle, tmp_path: Path):
    """Links inside a bundle are not; where it is kept is the operator's choice."""
    (tmp_path / "current").symlink_to(whole)
    assert load_bundle(tmp_path / "current").digest == loaded.digest


def test_the_policy_runs_on_one_thread(loaded: Bundle):
    assert isinstance(loaded.policy, OnnxPolicy)
    session = loaded.policy._session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_latency_is_measured(whole: Path, loaded: Bundle):
    latency = measure_latency(loaded.policy, observation(whole), count=50)
    assert 0 < latency.p50 <= latency.p99 <= latency.worst < 10 and latency.count == 50


# -- observations it was not trained on ------------------------------------------------------------


OBSERVATIONS = {
    "a field missing": (lambda o: o.pop("ee_lag"), "Observation has .*, allowed: .*ee_lag"),
    "one too many": (lambda o: o.update(force=o["ee_lag"]), "Observation has .*force"),
    "float64": (
        lambda o: o.update(ee_lag=np.float64(o["ee_lag"])),
        r"'ee_lag' is float64\[3\], allowed: float32\[3\]",
    ),
    "a batch": (lambda o: o.update(ee_lag=o["ee_lag"][None]), r"is float32\[1, 3\]"),
    "a list": (lambda o: o.update(ee_lag=[0.0, 0.0, 0.0]), "is list, allowed"),
    "a NaN": (lambda o: o.update(ee_lag=np.float32([0, np.nan, 0])), "'ee_lag' is not finite"),
    "infinity": (lambda o: o.update(ee_lag=np.float32([0, np.inf, 0])), "'ee_lag' is not finite"),
}


@pytest.mark.parametrize("kind", [*OBSERVATIONS])
def test_another_observation_is_refused(whole: Path, loaded: Bundle, kind: str):
    change, line = OBSERVATIONS[kind]
    obs = observation(whole)
    change(obs)
    with pytest.raises(ValueError, match=line):
        loaded.policy.act(obs)


# -- files -----------------------------------------------------------------------------------------


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def linked(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda p: flip(p / "policy.onnx"), "policy.onnx has SHA256 .*copy the bun"),
    "in the manifest": (lambda p: flip(p / "manifest.json", 40), "manifest.json has SHA256"),
    "an extra file": (lambda p: (p / "run.sh").touch(), r"Unknown file 'run\.sh'\. .*Allowed: "),
    "a hidden file": (lambda p: (p / ".hidden").touch(), r"Unknown file '\.hidden'"),
    "a name that speaks to the terminal": (
        lambda p: (p / "\x1b[2Jgood\nbundle").touch(),
        r"Unknown file '\?\[2Jgood bundle'",
    ),
    "a folder": (lambda p: (p / "assets").mkdir(), "Unknown file 'assets'"),
    "a missing file": (lambda p: (p / "golden.npz").unlink(), "golden.npz is missing"),
    "a link": (lambda p: linked(p / "policy.onnx"), "policy.onnx is no plain file; links"),
    "a pipe": (lambda p: as_pipe(p / "policy.onnx"), "policy.onnx is no plain file"),
    "an empty folder": (lambda p: [f.unlink() for f in p.iterdir()], "SHA256SUMS is missing"),
    "a path upwards": (
        lambda p: replace_in(p / SUMS, "policy.onnx", "../policy.onnx"),
        r"SHA256SUMS: Unknown file '\.\./policy\.onnx'",
    ),
    "an absolute path": (
        lambda p: replace_in(p / SUMS, "policy.onnx", "/etc/passwd"),
        "SHA256SUMS: Unknown file '/etc/passwd'",
    ),
    "its own sum": (
        lambda p: replace_in(p / SUMS, "policy.onnx", SUMS),
        "SHA256SUMS: Unknown file 'SHA256SUMS'",
    ),
    "a sum too few": (
        lambda p: (p / SUMS).write_text("".join((p / SUMS).read_text().splitlines(True)[1:])),
        "SHA256SUMS: does not list golden.npz",
    ),
    "a sum twice": (
        lambda p: (p / SUMS).write_text(2 * (p / SUMS).read_text()),
        "SHA256SUMS: lists golden.npz twice",
    ),
    "no sums": (lambda p: (p / SUMS).write_bytes(b"\xff\x00hello\n"), "allowed: SHA256, two spa"),
    "sums too long": (
        lambda p: (p / SUMS).write_bytes(b"\n" * 5000),
        "SHA256SUMS has 5000 bytes, allowed: 4096",
    ),
}


@pytest.mark.parametrize("kind", [*FAULTS])
def test_a_fault_in_the_files_is_refused(copy: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Before anything is parsed."""
    spoil, line = FAULTS[kind]
    spoil(copy)
    for name in ("read_manifest", "read_safetensors", "read_golden", "OnnxPolicy"):
        monkeypatch.setattr(bundle_module, name, None)
    found = refusal(copy)
    assert re.search(line, found), found


@pytest.mark.parametrize("name", [n for n in FILES if n not in (SUMS, *OPTIONAL)])
def test_a_file_that_is_too_large_is_refused_unread(copy: Path, name: str):
    with (copy / name).open("r+b") as file:
        file.truncate(FILES[name] + 1)
    assert f"{name} has {FILES[name] + 1} bytes, allowed: {FILES[name]}" in refusal(copy)


def test_a_file_swapped_for_a_link_after_the_listing_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    read = bundle_module._read

    def swap_then_read(path: Path, most: int) -> bytes:
        if path.name == "policy.onnx":
            linked(path)
        return read(path, most)

    monkeypatch.setattr(bundle_module, "_read", swap_then_read)
    assert "policy.onnx cannot be opened" in refusal(copy)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x")])
def test_what_is_no_folder_is_refused(tmp_path: Path, make: Callable[[Path], Any]):
    make(tmp_path / "no")
    assert "cannot be opened" in refusal(tmp_path / "no")


# -- contents whose checksums are right ------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    """Change top-level entries of the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


def edit_contract(path: Path, change: Callable[[dict], Any]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["contract"])
    (path / "manifest.json").write_text(json.dumps(manifest))


def resized(path: Path, name: str, data: bytes) -> None:
    """Replace a file and what the manifest says of its size."""
    (path / name).write_bytes(data)
    sizes = json.loads((path / "manifest.json").read_text())["sizes"]
    edit(path, sizes=sizes | {name: len(data)})


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def golden_with(path: Path, **changes: Any) -> None:
    arrays = golden(path)
    for name, change in changes.items():
        name = name if name == "actions" else f"obs/{name}"
        arrays[name] = change(arrays[name])
    resized(path, "golden.npz", npz(**{k: x for k, x in arrays.items() if x is not None}))


def poisoned(path: Path) -> None:
    """A NaN in the last number of the parameters."""
    data = (path / "params.safetensors").read_bytes()
    (path / "params.safetensors").write_bytes(data[:-4] + struct.pack("<f", float("nan")))


def cut(path: Path, name: str, share: float) -> None:
    data = (path / name).read_bytes()
    resized(path, name, data[: int(share * len(data))])


CONTENTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a newer schema": (
        lambda p: edit(p, schema=3, more=1),
        "manifest.json has schema 3, allowed: 1 to 2; it was written by a newer version: update",
    ),
    "no schema": (lambda p: edit(p, schema=None), "has schema null, allowed: 1 to 2"),
    "true for one": (lambda p: edit(p, schema=True), "has schema true, allowed: 1 to 2"),
    "no JSON": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is not JSON"),
    "nested JSON": (lambda p: (p / "manifest.json").write_text("[" * 99999), "is not JSON"),
    "a list": (lambda p: (p / "manifest.json").write_text("[]"), "has schema null"),
    "an unknown field": (lambda p: edit(p, horizont=1), "Did you mean 'horizon'"),
    "a wrong type": (lambda p: edit(p, horizon="1"), "Field 'horizon': got \"1\", allowed: int"),
    "horizon 0": (lambda p: edit(p, horizon=0), "horizon 0, allowed: 1 to 1000"),
    "a generous tolerance": (
        lambda p: edit(p, tolerance=1.0),
        "tolerance 1.0, allowed: above 0 to 0.0001",
    ),
    "another rate": (lambda p: edit(p, rate=20.0), "rate 20.0 Hz, the contract's is 10.0 Hz"),
    "another contract": (
        lambda p: edit_contract(p, lambda c: c["action"].update(scale=[0.1, 0.1, 0.1, 1.0])),
        "contract_digest .* but the contract's is .* changed after training",
    ),
    "another digest": (
        lambda p: edit(p, contract_digest="0" * 64),
        "contract_digest 0{12}[.]{3}, but the contract's is",
    ),
    "a task that speaks to the terminal": (
        lambda p: edit(p, task="\x1b[2Jpick"),
        "task, agent, commit or created, allowed: printable",
    ),
    "a success beyond all": (
        lambda p: edit(p, measured={"success_rate": 1.5, "ci95": [0.0, 1.0], "episodes": 2}),
        "Measured: 1.5, .* allowed: 0 to 1",
    ),
    "statistics of nothing": (
        lambda p: edit(p, normalizer={"ee_lag": {"mean": [0.0], "std": [0.0]}}),
        "Statistics: std 0.0, allowed: positive",
    ),
    "statistics of two lengths": (
        lambda p: edit(p, normalizer={"ee_lag": {"mean": [0.0, 0.0], "std": [1.0]}}),
        "Statistics: got 2 means and 1 stds",
    ),
    "another size": (
        lambda p: (p / "policy.stablehlo").write_bytes(b"x"),
        "policy.stablehlo has 1 bytes, the manifest says",
    ),
    "truncated parameters": (
        lambda p: cut(p, "params.safetensors", 0.9),
        "params.safetensors: truncated: tensor",
    ),
    "a NaN parameter": (poisoned, "params.safetensors: tensor '.*' is not finite"),
    "no model": (
        lambda p: resized(p, "policy.onnx", b"hello"),
        "policy.onnx: onnxruntime refuses the model",
    ),
    "half a model": (
        lambda p: cut(p, "policy.onnx", 0.5),
        "policy.onnx: onnxruntime refuses the model",
    ),
    "golden actions of another": (
        lambda p: golden_with(p, actions=lambda x: x + np.float32(2e-4)),
        "golden actions are missed by 2.00e-04 at observation 0, allowed: 0.0001",
    ),
    "one golden action off": (
        lambda p: golden_with(p, actions=lambda x: np.concatenate([x[:-1], x[-1:] + 1.0])),
        "golden actions are missed by 1.00e\\+00 at observation 23",
    ),
    "golden NaN": (
        lambda p: golden_with(p, actions=lambda x: x * np.float32(np.nan)),
        "golden actions are missed by nan",
    ),
    "a golden NaN observation": (
        lambda p: golden_with(p, ee_lag=lambda x: x * np.float32(np.nan)),
        "'ee_lag' is not finite",
    ),
    "no golden samples": (
        lambda p: golden_with(p, actions=lambda x: x[:0]),
        "golden.npz: holds no actions",
    ),
    "fewer golden observations": (
        lambda p: golden_with(p, ee_lag=lambda x: x[1:]),
        r"'obs/ee_lag' is float32\[23, 3\], allowed: float32\[24, 3\]",
    ),
    "another golden field": (
        lambda p: resized(p, "golden.npz", npz(**golden(p), more=np.zeros(24))),
        "'more' is float64.24., allowed: none such",
    ),
    "no golden archive": (
        lambda p: resized(p, "golden.npz", b"PK\x03\x04" + b"\0" * 40),
        "golden.npz: is no archive of arrays",
    ),
    "a pickle": (
        lambda p: resized(p, "golden.npz", npz(actions=np.array([{}], object))),
        "golden.npz: is no archive of arrays: .*allow_pickle=False",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*CONTENTS])
def test_contents_that_are_wrong_are_refused(copy: Path, kind: str):
    spoil, line = CONTENTS[kind]
    spoil(copy)
    sign_again(copy)
    found = refusal(copy)
    assert re.search(line, found), found


def test_an_archive_that_would_expand_too_far_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("actions.npy", bytes(1_000_000))
    monkeypatch.setattr(bundle_module, "MAX_GOLDEN", 100_000)
    resized(copy, "golden.npz", file.getvalue())
    sign_again(copy)
    assert "expands to 1000000 bytes, allowed: 100000" in refusal(copy)


@pytest.mark.parametrize("step", ["_start", "_compare"])
def test_a_model_that_takes_for_ever_is_refused(
    whole: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    """A product of 20000 by 20000 numbers, as far as one can see from outside."""
    over = threading.Event()
    monkeypatch.setattr(bundle_module, step, lambda *_: over.wait(20.0))
    monkeypatch.setattr(bundle_module, "MAX_SECONDS", 0.05)
    if step == "_compare":
        monkeypatch.setattr(bundle_module, "_start", lambda *_: None)
    began = time.monotonic()
    assert "takes longer than 0.05 s to check; it could not run on an arm" in refusal(whole)
    assert time.monotonic() - began < 5.0
    over.set()


@pytest.mark.parametrize("task", ["", "../../etc/passwd", "/etc", "a//b", "a/..", "a b", "~/x"])
def test_a_task_is_named_and_not_a_path(loaded: Bundle, task: str):
    with pytest.raises(ValueError, match=r"allowed: a task's name, e\.g\. franka/pick_cube"):
        dataclasses.replace(loaded.manifest, task=task)
    for name in ("bench", "franka/pick_cube", "my-lab/peg_2.1"):
        assert dataclasses.replace(loaded.manifest, task=name).task == name


def test_a_model_of_another_contract_is_refused(whole: Path, loaded: Bundle):
    """As many numbers under other names, other shapes, another horizon, other actions."""
    model, obs = (whole / "policy.onnx").read_bytes(), loaded.contract.obs
    first = dataclasses.replace(obs.fields[0], name="other")
    wide = dataclasses.replace(obs.fields[0], shape=(4,))
    for field in (first, wide):
        spec = dataclasses.replace(obs, fields=(field, *obs.fields[1:]))
        with pytest.raises(ValueError, match="of the model is .* the contract wants"):
            OnnxPolicy(model, spec, horizon=1, action_dim=4)
    for horizon, dim in ((2, 4), (1, 7)):
        with pytest.raises(ValueError, match="The model's outputs are .* allowed: "):
            OnnxPolicy(model, obs, horizon=horizon, action_dim=dim)


def test_without_onnxruntime_the_extra_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime .*'mjx-serl\[bridge\]'"):
        load_bundle(whole)


# -- safetensors -----------------------------------------------------------------------------------


def packed(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list, start: int, stop: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_safetensors_are_read_as_their_own_library_reads_them(whole: Path):
    from safetensors.numpy import load, save

    data = (whole / "params.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    shapes = [(), (3,), (2, 3), (0, 4), (1, 1, 5)]
    drawn = {f"x/{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    for content in (data, save(drawn), save(drawn, metadata={"format": "np"})):
        ours, theirs = read_safetensors(content), load(content)
        assert ours.keys() == theirs.keys()
        for name, x in theirs.items():
            np.testing.assert_array_equal(ours[name], x, strict=True)


HEADERS = {
    "nothing": (b"", "truncated or no safetensors"),
    "seven bytes": (b"\0" * 7, "truncated or no safetensors"),
    "a header beyond the end": (struct.pack("<Q", 1 << 40) + b"{}", "header of 1099511627776"),
    "an endless header": (struct.pack("<Q", 3 << 20) + b" " * (3 << 20), "allowed: 2 to 1048576"),
    "no JSON": (packed(b"{hello}"), "the header is not JSON"),
    "nested": (packed(b"[" * 99999), "the header is not JSON"),
    "a list": (packed([1, 2]), "the header is a list"),
    "a name twice": (packed(b'{"a":1,"a":2}'), "a name is there twice"),
    "an entry of text": (packed({"a": "b"}), "tensor 'a': got b"),
    "another dtype": (packed({"a": entry([1], 0, 8, "F64")}, bytes(8)), "has dtype F64"),
    "a negative shape": (packed({"a": entry([-1], 0, 4)}, bytes(4)), "allowed: whole numbers"),
    "a shape of floats": (packed({"a": entry([1.0], 0, 4)}, bytes(4)), "allowed: whole numbers"),
    "a shape of truth": (packed({"a": entry([True], 0, 4)}, bytes(4)), "allowed: whole numbers"),
    "nine axes": (packed({"a": entry([1] * 9, 0, 4)}, bytes(4)), "tensor 'a': shape"),
    "a huge shape": (packed({"a": entry([1 << 62] * 4, 0, 4)}, bytes(4)), "cannot have 4 bytes"),
    "more bytes than shape": (packed({"a": entry([1], 0, 8)}, bytes(8)), "cannot have 8 bytes"),
    "backwards": (packed({"a": entry([1], 4, 0)}, bytes(8)), "cannot have -4 bytes"),
    "a gap": (packed({"a": entry([1], 4, 8)}, bytes(8)), "starts at byte 4, allowed: 0"),
    "an overlap": (
        packed({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)),
        "tensor 'b' starts at byte 4, allowed: 8",
    ),
    "beyond the end": (packed({"a": entry([2], 0, 8)}, bytes(4)), "truncated: tensor 'a' ends at"),
    "a tail": (packed({"a": entry([1], 0, 4)}, bytes(8)), "4 bytes after the last tensor"),
    "infinity": (
        packed({"a": entry([1], 0, 4)}, struct.pack("<f", float("inf"))), "'a' is not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*HEADERS])
def test_a_header_that_lies_is_refused(kind: str):
    data, line = HEADERS[kind]
    with pytest.raises(ValueError, match=line) as caught:
        read_safetensors(data)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 90), st.integers(0, 255))
def test_any_bytes_are_read_or_refused(noise: bytes, raw: bool, at: int, value: int):
    """Noise, and a good file with one byte changed: arrays or ValueError, never anything else."""
    good = bytearray(packed({"a": entry([2], 0, 8), "b": entry([1, 1], 8, 12)}, bytes(12)))
    good[at % len(good)] = value
    try:
        found = weights.read_safetensors(noise if raw else bytes(good))
    except ValueError:
        return
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in found.values())


# -- on a robot's computer: numpy and onnxruntime, no JAX ------------------------------------------

ALONE = """if True:
    import importlib, importlib.util, pkgutil, sys
    import numpy as np
    import robot_bridge

    absent = ("jax", "flax", "mujoco", "torch", "scipy", "safetensors", "onnx")
    present = [name for name in absent if importlib.util.find_spec(name)]
    assert not present, present
    names = [m.name for m in pkgutil.walk_packages(robot_bridge.__path__, "robot_bridge.")]
    assert {"robot_bridge.policy.bundle", "robot_bridge.policy.policy"} <= {*names}
    for name in names:
        importlib.import_module(name)
    from robot_bridge.policy.bundle import load_bundle

    bundle = load_bundle(sys.argv[1])
    assert bundle.golden_error <= 1e-5, bundle.golden_error
    golden = np.load(sys.argv[1] + "/golden.npz", allow_pickle=False)
    for i, wanted in enumerate(golden["actions"]):
        obs = {n: golden["obs/" + n][i] for n in bundle.contract.obs.names}
        assert np.abs(bundle.policy.act(obs) - wanted).max() <= 1e-5
    print("modules", len(names), "digest", bundle.digest)
"""


ROBOT = PeerEnv(
    f"robot-{sys.version_info[0]}.{sys.version_info[1]}",
    pins=tuple(f"{n}=={importlib.metadata.version(n)}" for n in ("numpy", "onnxruntime")),
    ours=False,
)


@pytest.mark.slow
def test_the_bridge_runs_a_bundle_where_there_is_no_jax(whole: Path, loaded: Bundle):
    done = subprocess.run(
        [str(peer_python(ROBOT)), "-W", "error", "-c", ALONE, str(whole)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == loaded.digest
