"""A policy bundle's table of contents: written by the trainer, believed by nobody before checks.

A bundle is one folder of plain files (`FILES`). `manifest.json` says what the policy takes for
granted (`Contract`) and how it was measured; `SHA256SUMS` covers every other file in the format
of `sha256sum`. The digest of that list is the digest of the bundle.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scenes.contract.errors import InputError
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.serialize import digest, from_json, to_json

# 2: actions may turn the end effector (`ActionSpec.names`, `frame`, `turn_limit`).
SCHEMA = 2
TOLERANCE = 1e-4  # of an action in [-1, 1], between the trainer's and the exported policy

MAX_TEXT = 200  # of a name or a date [characters]
# Of a task: words with slashes between them, none of which could lead out of a folder.
_TASK = re.compile(r"\w[\w.:+-]*(/\w[\w.:+-]*)*")

MANIFEST = "manifest.json"
PARAMS = "params.safetensors"
ONNX = "policy.onnx"
STABLEHLO = "policy.stablehlo"
GOLDEN = "golden.npz"
EXPLORE = "explore.onnx"
REWARD = "reward.onnx"
SUMS = "SHA256SUMS"
# In the ONNX files: what a policy answers with, what one that explores is given besides, and how
# far a classifier's success is above its threshold.
ACTIONS_OUTPUT, NOISE_INPUT, MARGIN_OUTPUT = "actions", "noise", "margin"

# The files of a bundle, all of them, and the most each may hold [bytes]. ResNet-10 with two
# cameras has 40 MB of parameters, which policy.onnx holds once more.
FILES: Mapping[str, int] = {
    MANIFEST: 1 << 20,
    PARAMS: 512 << 20,
    ONNX: 512 << 20,
    STABLEHLO: 64 << 20,
    GOLDEN: 64 << 20,
    EXPLORE: 512 << 20,
    REWARD: 512 << 20,
    SUMS: 4096,
}
# Only in the bundle of a policy that is still learning: observation and noise -> actions, and
# pictures -> how far their success is above the threshold.
OPTIONAL = (EXPLORE, REWARD)
CONTENTS = tuple(name for name in FILES if name not in (MANIFEST, SUMS, *OPTIONAL))

_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of one observation's entries, flattened [its unit]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean)):
            raise InputError(
                f"Statistics: got {len(self.mean)} means and {len(self.std)} stds, allowed: as "
                "many, all finite"
            )
        if not all(0.0 < std < math.inf for std in self.std):
            raise InputError(f"Statistics: std {min(self.std)}, allowed: positive and finite")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Success on held-out episodes of the simulator: share [1], Wilson 95 % interval, episodes."""

    success_rate: float
    ci95: tuple[float, float]
    episodes: int

    def __post_init__(self) -> None:
        if not all(0.0 <= share <= 1.0 for share in (self.success_rate, *self.ci95)):
            raise InputError(f"Measured: {self.success_rate}, {self.ci95}, allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a bundle.

    Attributes:
        schema: of the manifest; those of older ones are read as this one.
        task, agent: where the policy comes from.
        contract, contract_digest: what it takes for granted about its arm.
        rate: observations per second [Hz].
        horizon: actions per observation, the first for now.
        trained_in: precision of the products while it was trained and measured; what is exported
            is float32.
        normalizer: by observation, for people; the policy has it inside.
        measured: None before a run has ended.
        commit: of the code, None outside a checkout. created: UTC, ISO 8601.
        sizes: of `CONTENTS`, and of what there is of `OPTIONAL` [bytes].
        tolerance: largest difference from golden.npz of any entry of an action.
    """

    schema: int = SCHEMA
    task: str
    agent: str
    contract: Contract
    contract_digest: str
    rate: float
    horizon: int
    trained_in: Literal["float32", "bfloat16"] = "float32"
    normalizer: Mapping[str, Statistics]
    measured: Measured | None
    commit: str | None
    created: str
    sizes: Mapping[str, int]
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        for wrong, line in self._problems():
            if wrong:
                raise InputError(f"Manifest: {line}")

    def _problems(self) -> list[tuple[bool, str]]:
        found = digest(self.contract)
        action = self.contract.action
        texts = (self.task, self.agent, self.commit or "", self.created)
        return [
            (self.schema != SCHEMA, f"schema {self.schema}, allowed: {SCHEMA}"),
            (
                self.contract_digest != found,
                f"contract_digest {self.contract_digest[:12]}..., but the contract's is "
                f"{found[:12]}...; it was changed after training",
            ),
            (self.rate != action.rate, f"rate {self.rate} Hz, the contract's is {action.rate} Hz"),
            (not 1 <= self.horizon <= 1000, f"horizon {self.horizon}, allowed: 1 to 1000 actions"),
            (
                not 0.0 < self.tolerance <= TOLERANCE,
                f"tolerance {self.tolerance}, allowed: above 0 to {TOLERANCE}",
            ),
            (
                set(self.sizes) - set(OPTIONAL) != set(CONTENTS),
                f"sizes of {', '.join(sorted(self.sizes))}, allowed: of {', '.join(CONTENTS)}",
            ),
            (
                # An operator's terminal shows them.
                not all(text.isprintable() and len(text) <= MAX_TEXT for text in texts),
                f"task, agent, commit or created, allowed: printable, up to {MAX_TEXT} characters",
            ),
            (
                not _TASK.fullmatch(self.task),
                f"task {self.task[:80]!r}, allowed: a task's name, e.g. franka/pick_cube",
            ),
        ]


def write_manifest(manifest: Manifest) -> bytes:
    """The text of manifest.json."""
    return (json.dumps(to_json(manifest), indent=2, allow_nan=False) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """Read manifest.json of this schema or an older one; every mistake is a ValueError of one line.

    The schema is looked at first: a newer one may have other fields.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{MANIFEST} is not JSON: {error}") from error
    raw = _upgraded(raw)
    try:
        return from_json(Manifest, raw)
    except (ValueError, TypeError) as error:
        raise InputError(f"{MANIFEST}: {error}") from error


def _upgraded(raw: Any) -> dict[str, Any]:
    """A manifest's fields as this schema has them; ValueError for a schema that is not known."""
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if type(schema) is not int or not (schema == SCHEMA or schema in _UPGRADES):
        newer = type(schema) is int and schema > SCHEMA
        todo = (
            "it was written by a newer version: update this program"
            if newer
            else "export the run again with `python -m mjx_serl.export`"
        )
        raise InputError(
            f"{MANIFEST} has schema {json.dumps(schema)[:40]}, allowed: {min(_UPGRADES)} to "
            f"{SCHEMA}; {todo}"
        )
    while raw["schema"] != SCHEMA:
        raw = _UPGRADES[raw["schema"]](raw)
    return raw


def _from_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had the actions that do not turn, which schema 2 writes the same way."""
    return raw | {"schema": 2}


_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


def write_sums(files: Mapping[str, bytes]) -> bytes:
    """The text of SHA256SUMS over files; `sha256sum -c` reads it."""
    lines = [f"{sha256(data)}  {name}\n" for name, data in sorted(files.items())]
    return "".join(lines).encode()


def read_sums(data: bytes) -> dict[str, str]:
    """Read SHA256SUMS: hex digest by file name.

    ValueError unless it lists every file of a bundle but itself, each once, and nothing else; of
    `OPTIONAL` what there is.
    """
    found: dict[str, str] = {}
    for line in data.decode("ascii", errors="replace").splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{SUMS}: got '{line[:80]}', allowed: SHA256, two spaces, a file name")
        name = match[2]
        if name not in FILES or name == SUMS:
            raise InputError(f"{SUMS}: {unknown_name('file', name[:80], _summed())}")
        if name in found:
            raise InputError(f"{SUMS}: lists {name} twice")
        found[name] = match[1]
    missing = [name for name in _summed() if name not in found and name not in OPTIONAL]
    if missing:
        raise InputError(f"{SUMS}: does not list {', '.join(missing)}")
    return found


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def _summed() -> list[str]:
    return [name for name in FILES if name != SUMS]
