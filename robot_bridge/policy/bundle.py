"""A policy bundle from disk: nothing of it is parsed before its files and checksums are right.

Every file is read once, so that what is checked is what is used. Checksums tell a damaged bundle
from a whole one, not a good one from a bad one: who may put bundles on a robot's computer is for
that computer to say. (A signature would need more than the standard library; the digest that a
person confirms before the first motion is there instead.)
"""

import concurrent.futures
import io
import os
import queue
import stat
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robot_bridge.policy.policy import OnnxPolicy, Policy, StackingPolicy
from scenes.contract import manifest as names
from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError
from scenes.contract.manifest import FILES, Manifest, read_manifest, read_sums, sha256
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.weights import read_safetensors

MAX_SECONDS = 60.0  # to start the policy, and as long to compare all golden actions [s]
MAX_GOLDEN = 256 << 20  # of golden.npz when unpacked [bytes]
MAX_MESSAGE = 300  # of an error [characters]
# What numpy and zipfile raise on archives that are damaged or lie about their sizes.
_BROKEN = (KeyError, TypeError, ValueError, EOFError, MemoryError, OSError, RuntimeError)


class BundleError(InputError):
    """A bundle that must not be run; one line says why."""


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A policy that has passed every check.

    digest: of the whole bundle, hex; what a person confirms and records name. golden_error:
    largest difference between its actions here and those of the process that trained it.
    parameters: by name. explore: an ONNX file of observation and noise, where the policy is still
    learning; None elsewhere. reward: an ONNX file of its pictures, where a classifier says what is
    success; None elsewhere.
    """

    path: Path
    manifest: Manifest
    policy: Policy
    digest: str
    golden_error: float
    parameters: Mapping[str, NDArray[Any]]
    explore: bytes | None = None
    reward: bytes | None = None

    @property
    def contract(self) -> Contract:
        """What the policy takes for granted about its arm."""
        return self.manifest.contract


def find_bundle(path: Path) -> Path:
    """The bundle of a run folder, or the path itself; InputError for a run that has none."""
    if (path / "bundle").is_dir():
        return path / "bundle"
    if (path / "config.json").is_file() and not (path / names.MANIFEST).exists():
        raise InputError(
            f"Run '{path}' has no bundle, which `{how_to_start('export')} {path}` makes"
        )
    return path


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle and run its policy on the golden observations.

    In order: only the files of a bundle, plain ones, none too large; every checksum; the
    manifest, its schema and the contract's digest; the parameters; the policy's inputs and
    outputs; the golden actions.

    Raises:
        BundleError: one line with the first check that failed.
        ImportError: onnxruntime is not installed.
    """
    path = Path(path)
    try:
        files = read_files(path)
        _check_sums(files)
        manifest = read_manifest(files[names.MANIFEST])
        _check_sizes(manifest, files)
        parameters = _named(names.PARAMS, read_safetensors, files[names.PARAMS])
        policy = _named(names.ONNX, _within, _start, files[names.ONNX], manifest)
        golden = _named(names.GOLDEN, read_golden, files[names.GOLDEN], manifest)
        error = _within(_compare, policy, golden, manifest)
    except ValueError as problem:
        raise BundleError(f"Bundle '{path}': {_one_line(str(problem))}") from problem
    return Bundle(
        path=path,
        manifest=manifest,
        policy=stacking(policy, manifest.contract),
        digest=sha256(files[names.SUMS]),
        golden_error=error,
        parameters=parameters,
        explore=files.get(names.EXPLORE),
        reward=files.get(names.REWARD),
    )


def _one_line(text: str) -> str:
    """What a terminal can show: a bundle's own words could move its cursor."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in words)[:MAX_MESSAGE]


# -- files and checksums ---------------------------------------------------------------------------


def read_files(path: Path) -> dict[str, bytes]:
    """Bytes by name; ValueError unless the folder holds the files of a bundle and nothing else."""
    try:
        entries = {entry.name: entry for entry in os.scandir(path)}
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror}") from error
    for name, entry in sorted(entries.items()):
        if name not in FILES:
            raise InputError(unknown_name("file", name, FILES))
        if not entry.is_file(follow_symlinks=False):
            raise InputError(f"{name} is no plain file; links and folders are not followed")
    missing = [name for name in FILES if name not in entries and name not in names.OPTIONAL]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing")
    return {name: _read(path / name, most) for name, most in FILES.items() if name in entries}


def _read(path: Path, most: int) -> bytes:
    # What was a plain file a moment ago may have become a link or a pipe.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path.name} cannot be opened: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path.name} is no plain file")
        if facts.st_size > most:
            raise InputError(f"{path.name} has {facts.st_size} bytes, allowed: {most}")
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path.name} has grown beyond {most} bytes")
    return data


def _check_sums(files: Mapping[str, bytes]) -> None:
    sums = read_sums(files[names.SUMS])
    for name in names.OPTIONAL:
        if (name in sums) != (name in files):
            where = "there" if name in files else "missing"
            raise InputError(f"{name} is {where}, {names.SUMS} says otherwise")
    for name, wanted in sums.items():
        found = sha256(files[name])
        if found != wanted:
            raise InputError(
                f"{name} has SHA256 {found[:12]}..., {names.SUMS} says {wanted[:12]}...; copy the "
                "bundle again"
            )


def _check_sizes(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    for name, size in manifest.sizes.items():
        found = len(files.get(name, b""))
        if found != size:
            raise InputError(f"{name} has {found} bytes, the manifest says {size}")


# -- what is inside --------------------------------------------------------------------------------


def _named(name: str, read: Any, *args: Any) -> Any:
    """Call `read`; a ValueError of it gets the file's name."""
    try:
        return read(*args)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def _within(call: Callable[..., T], *args: Any) -> T:
    """Call with a time limit: a model may be a product that takes hours; ValueError beyond it.

    Nothing ends a product that runs in onnxruntime: its thread is left behind, and ends with the
    process, which has nothing else to do.
    """
    done: queue.SimpleQueue[concurrent.futures.Future[T]] = queue.SimpleQueue()

    def work() -> None:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            future.set_result(call(*args))
        except BaseException as error:
            future.set_exception(error)
        done.put(future)

    threading.Thread(target=work, name="bundle", daemon=True).start()
    try:
        return done.get(timeout=MAX_SECONDS).result()
    except queue.Empty:
        raise InputError(
            f"the policy takes longer than {MAX_SECONDS:g} s to check; it could not run on an arm"
        ) from None


def _start(model: bytes, manifest: Manifest) -> OnnxPolicy:
    contract, horizon = manifest.contract, manifest.horizon
    if contract.stack > 1 and horizon > 1:
        raise InputError(
            f"stacks {contract.stack} pictures and answers with {horizon} actions, allowed: one of "
            "the two: between two answers no picture is seen"
        )
    return OnnxPolicy(model, contract.inputs, horizon=horizon, action_dim=contract.action.dim)


def stacking(policy: Policy, contract: Contract) -> Policy:
    """The policy as it is shown one observation after the other."""
    if contract.stack == 1:
        return policy
    return StackingPolicy(policy, [camera.name for camera in contract.cameras], contract.stack)


def read_golden(data: bytes, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Arrays of golden.npz: "obs/<name>" [G, *shape] and "actions" [G, H, A].

    Raises ValueError unless they are those of the contract, as many of each, at least one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_GOLDEN:
            raise InputError(f"expands to {total} bytes, allowed: {MAX_GOLDEN}")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (*_BROKEN, zipfile.BadZipFile) as error:
        raise InputError(f"is no archive of arrays: {error}") from error
    _check_golden(arrays, manifest)
    return arrays


def _check_golden(arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    wanted = {f"obs/{f.name}": (f.dtype, f.shape) for f in manifest.contract.inputs.fields}
    wanted[names.ACTIONS_OUTPUT] = ("float32", (manifest.horizon, manifest.contract.action.dim))
    actions = arrays.get(names.ACTIONS_OUTPUT)
    count = len(actions) if actions is not None and actions.ndim else 0
    if count < 1:
        raise InputError("holds no actions")
    for name in sorted(wanted.keys() | arrays.keys()):
        dtype, shape = wanted.get(name, ("none such", ()))
        x = arrays.get(name)
        if x is None or x.dtype.name != dtype or x.shape != (count, *shape):
            got = "missing" if x is None else f"{x.dtype}{[*x.shape]}"
            allowed = dtype if name not in wanted else f"{dtype}{[count, *shape]}"
            raise InputError(f"'{name[:80]}' is {got}, allowed: {allowed}")


def _compare(policy: Policy, golden: Mapping[str, NDArray[Any]], manifest: Manifest) -> float:
    """Largest difference from the golden actions; ValueError beyond the tolerance."""
    worst = 0.0
    for i, wanted in enumerate(golden[names.ACTIONS_OUTPUT]):
        obs = {name: golden[f"obs/{name}"][i] for name in manifest.contract.inputs.names}
        error = float(np.abs(policy.act(obs) - wanted).max())
        # A NaN is not within the tolerance either.
        if not error <= manifest.tolerance:
            raise InputError(
                f"golden actions are missed by {error:.2e} at observation {i}, allowed: "
                f"{manifest.tolerance}; another onnxruntime, or not the policy that was exported"
            )
        worst = max(worst, error)
    return worst
