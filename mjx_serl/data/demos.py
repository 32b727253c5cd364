"""Demonstrations on disk: one .npz of plain arrays with a JSON contract, never a pickle."""

import dataclasses
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mjx_serl.types import Transition
from scenes.contract.specs import ActionSpec, ObsSpec

MAX_BYTES = 4 << 30  # a file may not expand to more [bytes]
_CONTRACT = "contract"
# What numpy and zipfile raise on archives that are damaged, encrypted or lie about their sizes.
_BROKEN = (
    *(KeyError, TypeError, ValueError, AttributeError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
_STEP_FIELDS = ("action", "reward", "terminated", "truncated", "valid", "expert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoContract:
    """What demonstrations must agree on with the task that uses them."""

    task: str
    obs: tuple[tuple[str, tuple[int, ...], str], ...]
    action_names: tuple[str, ...]
    action_scale: tuple[float, ...]
    rate: float
    base: str

    @classmethod
    def of(cls, task: str, obs: ObsSpec, action: ActionSpec) -> "DemoContract":
        """The contract of a task."""
        return cls(
            task=task,
            obs=tuple(sorted((f.name, f.shape, f.dtype) for f in obs.fields)),
            action_names=action.names,
            action_scale=action.scale,
            rate=action.rate,
            base=action.base,
        )

    def mismatches(self, other: "DemoContract") -> list[str]:
        """One line for each thing in which `other` (a file) differs from this task."""
        lines = []
        mine = {name: (shape, dtype) for name, shape, dtype in self.obs}
        theirs = {name: (shape, dtype) for name, shape, dtype in other.obs}
        for name in sorted(mine.keys() | theirs.keys()):
            want, got = _shape(mine.get(name)), _shape(theirs.get(name))
            if want != got:
                lines.append(f"observation '{name}': task {want}, demonstrations {got}")
        for field, unit in (
            ("action_names", ""),
            ("action_scale", " [m per step, gripper 1]"),
            ("rate", " [Hz]"),
            ("base", ""),
        ):
            want, got = getattr(self, field), getattr(other, field)
            if want != got:
                lines.append(f"{field}{unit}: task {want}, demonstrations {got}")
        return lines


def select_episodes(rows: Transition, solved: np.ndarray, count: int) -> Transition:
    """The first `count` solved episodes of [T, M, ...] rows.

    Raises ValueError where fewer were solved.
    """
    chosen = np.flatnonzero(solved)[:count]
    if len(chosen) < count:
        raise ValueError(
            f"The scripted expert solved {len(chosen)} of {len(solved)} episodes, {count} wanted; "
            "lower demos.count or demos.noise"
        )
    return _map(rows, lambda x: np.asarray(x)[:, chosen])


def save_demos(path: Path, rows: Transition, contract: DemoContract) -> None:
    """Write rows [T, M, ...] atomically; raises FileExistsError rather than overwrite."""
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; demonstrations are never overwritten")
    arrays = {f"obs/{k}": np.asarray(v) for k, v in rows.obs.items()}
    arrays |= {k: np.asarray(getattr(rows, k)) for k in _STEP_FIELDS}
    text = json.dumps(dataclasses.asdict(contract))
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp")
    with tmp.open("wb") as file:
        np.savez_compressed(file, **arrays, **{_CONTRACT: np.array(text)})  # pyright: ignore
        file.flush()
        os.fsync(file.fileno())
    tmp.rename(path)


def load_demos(path: Path, contract: DemoContract) -> Transition:
    """Read rows [T, M, ...] and check them against the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no demonstration file, would expand beyond 4 GiB, is not finite, or
            does not fit the task; one line per mismatch.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Demonstrations '{path}' do not exist; see record_demos.py --help")
    _check_size(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = _read_contract(arrays.pop(_CONTRACT))
        obs = {n.removeprefix("obs/"): arrays.pop(n) for n in list(arrays) if n[:4] == "obs/"}
        rows = Transition(obs=obs, **{k: arrays[k] for k in _STEP_FIELDS})
    except _BROKEN as error:
        raise ValueError(f"{path} is no demonstration file: {error}") from error
    lines = contract.mismatches(found) + _array_problems(rows, contract)
    if lines:
        raise ValueError("\n".join(f"{path.name}: {line}" for line in lines))
    return rows


def _check_size(path: Path) -> None:
    # An archive of a few MB can claim to hold GBs; its directory says so before it is read.
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no demonstration file: {error}") from error
    if total > MAX_BYTES:
        raise ValueError(f"{path} expands to {total} bytes, allowed are {MAX_BYTES}")


def _read_contract(text: np.ndarray) -> DemoContract:
    raw: dict[str, Any] = json.loads(str(text))
    raw["obs"] = tuple((n, tuple(s), d) for n, s, d in raw["obs"])
    for name in ("action_names", "action_scale"):
        raw[name] = tuple(raw[name])
    return DemoContract(**raw)


def _array_problems(rows: Transition, contract: DemoContract) -> list[str]:
    lead = rows.reward.shape
    if len(lead) != 2 or min(lead) < 1:
        return [f"array 'reward': wanted [steps, episodes], got {list(lead)}"]
    expected = {f"obs/{n}": (s, d) for n, s, d in contract.obs}
    expected |= {"action": ((len(contract.action_names),), "float32"), "reward": ((), "float32")}
    expected |= dict.fromkeys(("terminated", "truncated", "valid", "expert"), ((), "bool"))
    found = {f"obs/{k}": x for k, x in rows.obs.items()}
    found |= {k: getattr(rows, k) for k in _STEP_FIELDS}
    lines = [f"array '{name}' is not in the contract" for name in found.keys() - expected.keys()]
    for name, (shape, dtype) in expected.items():
        x = found.get(name)
        if x is None or x.shape != (*lead, *shape) or x.dtype != dtype:
            got = "missing" if x is None else f"{x.dtype}{list(x.shape)}"
            lines.append(f"array '{name}': wanted {dtype}{[*lead, *shape]}, got {got}")
        elif x.dtype.kind == "f" and not np.isfinite(x).all():
            lines.append(f"array '{name}' is not finite")
    return lines or _content_problems(rows)


def _content_problems(rows: Transition) -> list[str]:
    over = rows.terminated | rows.truncated
    # A row that is not valid but ended (physics failed there) still shows what came before.
    cut = rows.valid[:-1] & ~over[:-1] & ~rows.valid[1:] & ~over[1:]
    problems = [
        (np.abs(rows.action).max(initial=0.0) > 1.0, "actions leave [-1, 1]"),
        (not rows.valid.any(), "no step is valid"),
        (bool((rows.terminated & rows.truncated).any()), "steps both terminated and truncated"),
        (bool(cut.any()), "episodes stop without being terminated or truncated"),
    ]
    return [text for wrong, text in problems if wrong]


def _shape(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if entry is None else f"{entry[1]}{list(entry[0])}"


def _map(rows: Transition, function: Any) -> Transition:
    obs = {k: function(np.asarray(v)) for k, v in rows.obs.items()}
    rest = {k: function(np.asarray(getattr(rows, k))) for k in _STEP_FIELDS}
    return Transition(obs=obs, **rest)
