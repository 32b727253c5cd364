"""Demonstrations on disk: one .npz of plain arrays with a JSON contract, never a pickle.

Arrays are [T, M, ...]: step t of episode m. "obs/NAME" is an observation; `STEP_ARRAYS` stand
beside them; "contract" is a `DemoContract` as JSON text. "state/NAME" may say in what state of a
simulator each step ended, for whoever would judge it anew. The trainer and the bridge both write
and read it here.
"""

import dataclasses
import functools
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError
from scenes.contract.files import new_file, require_writable
from scenes.contract.language import Language
from scenes.contract.serialize import digest
from scenes.contract.specs import ActionSpec, ObsSpec

Arrays = dict[str, NDArray[Any]]

# What every file has besides observations: valid is false after an episode's end, expert true where
# a person or a scripted expert chose the action.
STEP_ARRAYS = ("action", "reward", "terminated", "truncated", "valid", "expert")
OBS = "obs/"
STATE = "state/"
MAX_BYTES = 4 << 30  # a file may not expand to more [bytes]
_CONTRACT = "contract"
_SHOWN = 4  # names of another file's arrays in a message
# What numpy and zipfile raise on archives that are damaged, encrypted or lie about their sizes.
BROKEN = (
    *(KeyError, TypeError, ValueError, AttributeError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


Field = tuple[str, tuple[int, ...], str]  # name, shape, dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoContract:
    """What demonstrations must agree on with the task that uses them.

    None and "" are for what a file does not say, as files from before there was the field: that is
    not compared.

    Attributes:
        task: its name.
        obs: name, shape and dtype of each observation, sorted by name.
        action_names: one per entry of an action.
        action_scale: of each entry per step, [m] or [rad]; gripper [1].
        rate: actions per second [Hz].
        base: what an action is added to, as `ActionSpec.base`.
        mode: how actions act, as `ActionSpec.mode`.
        frame: whose axes they are along, as `ActionSpec.frame`.
        episode_steps: time limit in control steps.
        states: name, shape and dtype of each array of a simulator's state, sorted by name.
        scene: digest of the scene that the states are of.
        tokenizer: digest of the `TokenizerConfig` that words became numbers by; "" without words.
    """

    task: str
    obs: tuple[Field, ...]
    action_names: tuple[str, ...]
    action_scale: tuple[float, ...]
    rate: float
    base: str
    mode: str | None = None
    frame: str | None = None
    episode_steps: int | None = None
    states: tuple[Field, ...] = ()
    scene: str = ""
    tokenizer: str = ""

    @classmethod
    def of(
        cls,
        task: str,
        obs: ObsSpec,
        action: ActionSpec,
        *,
        episode_steps: int | None = None,
        language: Language | None = None,
    ) -> "DemoContract":
        """The contract of a task."""
        return cls(
            task=task,
            obs=tuple(sorted((f.name, f.shape, f.dtype) for f in obs.fields)),
            action_names=action.names,
            action_scale=action.scale,
            rate=action.rate,
            base=action.base,
            mode=action.mode,
            frame=action.frame,
            episode_steps=episode_steps,
            tokenizer="" if language is None else digest(language.tokenizer),
        )

    def mismatches(self, other: "DemoContract", *, relabel: bool = False) -> list[str]:
        """One line for each thing in which `other` (a file) differs from this task.

        With `relabel` it may be of another task and time limit.
        """
        lines = []
        mine = {name: (shape, dtype) for name, shape, dtype in self.obs}
        theirs = {name: (shape, dtype) for name, shape, dtype in other.obs}
        for name in sorted(mine.keys() | theirs.keys()):
            want, got = _shape(mine.get(name)), _shape(theirs.get(name))
            if want != got:
                lines.append(f"observation '{name}': task {want}, demonstrations {got}")
        if "" not in (self.tokenizer, other.tokenizer) and self.tokenizer != other.tokenizer:
            lines.append("tokenizer of the instructions: another one in the demonstrations")
        return lines + self.differences(other, skip=_RELABELLED if relabel else ())

    def differences(self, other: "DemoContract", *, skip: Sequence[str] = ()) -> list[str]:
        """One line for each thing but observations in which `other` differs."""
        lines = []
        for field, unit in _COMPARED.items():
            want, got = getattr(self, field), getattr(other, field)
            if want != got and None not in (want, got) and field not in skip:
                hint = "; --demos.relabel judges them anew" if field in _RELABELLED else ""
                lines.append(f"{field}{unit}: task {want}, demonstrations {got}{hint}")
        return lines

    @property
    def unsaid(self) -> tuple[str, ...]:
        """What is not told of, and so not compared."""
        return tuple(field for field in _COMPARED if getattr(self, field) is None)


_COMPARED = {
    "task": "",
    "episode_steps": " (time limit)",
    "mode": " of actions",
    "frame": " of actions",
    "action_names": "",
    "action_scale": " [m per step, gripper 1]",
    "rate": " [Hz]",
    "base": "",
}
_RELABELLED = ("task", "episode_steps")


def write_demonstrations(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    contract: DemoContract,
    *,
    overwrite: bool = False,
) -> None:
    """Write arrays [T, M, ...] atomically; FileExistsError unless it may overwrite."""
    if not overwrite:
        check_new(path)
    said = dataclasses.asdict(contract)
    if not contract.tokenizer:
        del said["tokenizer"]  # files without words are as they were before there were any
    text = np.array(json.dumps(said))
    with new_file(path, overwrite=overwrite) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays, **{_CONTRACT: text})  # pyright: ignore


def check_new(path: Path) -> None:
    """Make the folder of a file to write.

    Raises FileExistsError, before any work is done, where there is such a file, OSError where it
    cannot be written.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; demonstrations are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_writable(path)


def read_demonstrations(
    path: Path, contract: DemoContract, *, relabel: bool = False, states: bool = False
) -> Arrays:
    """Return the arrays [T, M, ...] of a file that fits a task.

    What the file does not say of itself, and so is not compared, is said once on stderr.

    Args:
        path: of the file.
        contract: of the task.
        relabel: it may be of another task and time limit, and must hold states of this task's
            scene, which are returned too.
        states: those that the file holds are returned too, and must be of this task's scene.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder or no demonstration file, would expand beyond 4 GiB, is not
            finite, or does not fit the task; one line per mismatch.
    """
    arrays, found = load_demonstrations(path, states=relabel or states)
    lines = contract.mismatches(found, relabel=relabel)
    if relabel or (states and found.states):
        lines += _state_mismatches(contract, found)
    if lines:
        raise refusal(path, lines)
    if found.unsaid:
        _say_once(f"{path.name} does not say its {', '.join(found.unsaid)}: not compared")
    return arrays


def load_demonstrations(path: Path, *, states: bool = False) -> tuple[Arrays, DemoContract]:
    """Return the arrays of a file and its own contract; raises as `read_demonstrations` does.

    Args:
        path: of the file.
        states: of a simulator are read too.
    """
    if path.is_dir():
        raise InputError(
            f"Demonstrations '{path}' are a folder, allowed: one .npz file; of recordings in it "
            f"`{how_to_start('bridge')} export-demos` makes one"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"Demonstrations '{path}' do not exist; `{how_to_start('record')} {path}` makes some"
        )
    check_size(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = [n for n in file.files if states or not n.startswith(STATE)]
            arrays = {name: file[name] for name in wanted}
        _check_names(path, tuple(arrays))
        found = _read_contract(arrays.pop(_CONTRACT))
    except InputError:
        raise
    except BROKEN as error:
        raise _no_demonstrations(path, error) from error
    lines = _array_problems(arrays, found, states=states)
    if lines:
        raise refusal(path, lines)
    return arrays, found


def refusal(path: Path, lines: Sequence[str]) -> InputError:
    """One error of all that is wrong with a file, a line each."""
    return InputError("\n".join(f"{path.name}: {line}" for line in lines))


def stack_episodes(episodes: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """Return arrays [T, M, ...] of M episodes: a column each, zero after its end.

    Args:
        episodes: arrays [steps, ...] by the same names; "valid" is added where there is none, true
            for each of the steps.
    """
    steps = max(len(episode["reward"]) for episode in episodes)
    first = episodes[0]
    arrays = {
        name: np.zeros((steps, len(episodes), *x.shape[1:]), x.dtype) for name, x in first.items()
    }
    arrays.setdefault("valid", np.zeros((steps, len(episodes)), bool))
    for column, episode in enumerate(episodes):
        length = len(episode["reward"])
        arrays["valid"][:length, column] = True
        for name, x in episode.items():
            arrays[name][:length, column] = x
    return arrays


def whole_episodes(arrays: Arrays) -> Iterator[tuple[slice, int]]:
    """Yield rows and column of each episode of which every step may be learned from."""
    over = arrays["terminated"] | arrays["truncated"]
    for column in range(over.shape[1]):
        ends = np.flatnonzero(over[:, column])
        length = int(ends[0]) + 1 if len(ends) else len(over)
        if arrays["valid"][:length, column].all():
            yield slice(0, length), column


@functools.cache
def _say_once(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def expanded_bytes(path: Path) -> int:
    """Return what an archive says it expands to [bytes]; raises BadZipFile for what is none.

    One of a few MB can claim to hold GBs; its directory says so before it is read.
    """
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an archive, none of which is read; () for what is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()  # whoever reads it says why


def check_size(path: Path) -> None:
    """Raise InputError for what is no archive, or expands beyond `MAX_BYTES`."""
    try:
        total = expanded_bytes(path)
    except zipfile.BadZipFile as error:
        raise _no_demonstrations(path, error) from error
    if total > MAX_BYTES:
        raise InputError(f"{path} expands to {total} bytes, allowed are {MAX_BYTES}")


def _check_names(path: Path, found: Sequence[str]) -> None:
    missing = [name for name in (_CONTRACT, *STEP_ARRAYS) if name not in found]
    if missing:
        more = ", ..." if len(found) > _SHOWN else ""
        holds = f"its arrays are {', '.join(found[:_SHOWN])}{more}" if found else "it is empty"
        raise _no_demonstrations(path, f"'{missing[0]}' is missing, {holds}")


def _no_demonstrations(path: Path, why: object) -> InputError:
    return InputError(
        f"{path} is no demonstration file: {why}; allowed: .npz files that "
        f"`{how_to_start('record')}`, `{how_to_start('bridge')} export-demos` or, of other "
        f"projects' files, `{how_to_start('demos')} import` wrote"
    )


def _read_contract(text: np.ndarray) -> DemoContract:
    raw: dict[str, Any] = json.loads(str(text))
    for name in ("obs", "states"):
        raw[name] = tuple((str(n), tuple(map(int, s)), str(d)) for n, s, d in raw.get(name, ()))
    for name in ("action_names", "action_scale"):
        raw[name] = tuple(raw[name])
    return DemoContract(**raw)


def _state_mismatches(task: DemoContract, found: DemoContract) -> list[str]:
    if not found.states:
        return [
            "holds no states of the simulator, without which nothing can be judged anew (pictures "
            "and what a policy observes do not say what a task pays for); allowed: files that "
            f"`{how_to_start('record')}` wrote"
        ]
    if found.scene != task.scene:
        return ["its states are of another scene than the task's"]
    want, got = set(task.states), set(found.states)
    differ = sorted({name for name, *_ in want ^ got})
    return [f"state '{name}' is none of the task's, or of another shape" for name in differ]


def _array_problems(arrays: Arrays, contract: DemoContract, *, states: bool) -> list[str]:
    lead = arrays["reward"].shape
    if len(lead) != 2 or min(lead) < 1:
        return [f"array 'reward': wanted [steps, episodes], got {list(lead)}"]
    expected = {f"{OBS}{n}": (s, d) for n, s, d in contract.obs}
    expected |= {f"{STATE}{n}": (s, d) for n, s, d in contract.states if states}
    expected |= {"action": ((len(contract.action_names),), "float32"), "reward": ((), "float32")}
    expected |= dict.fromkeys(("terminated", "truncated", "valid", "expert"), ((), "bool"))
    lines = [f"array '{name}' is not in the contract" for name in arrays.keys() - expected.keys()]
    for name, (shape, dtype) in expected.items():
        x = arrays.get(name)
        if x is None or x.shape != (*lead, *shape) or x.dtype != dtype:
            got = "missing" if x is None else f"{x.dtype}{list(x.shape)}"
            lines.append(f"array '{name}': wanted {dtype}{[*lead, *shape]}, got {got}")
        elif x.dtype.kind == "f" and not np.isfinite(x).all():
            lines.append(f"array '{name}' is not finite")
    return lines or _content_problems(arrays)


def _content_problems(arrays: Arrays) -> list[str]:
    terminated, truncated, valid = (arrays[k] for k in ("terminated", "truncated", "valid"))
    over = terminated | truncated
    # A row that is not valid but ended (physics failed there) still shows what came before.
    cut = valid[:-1] & ~over[:-1] & ~valid[1:] & ~over[1:]
    problems = [
        (np.abs(arrays["action"]).max(initial=0.0) > 1.0, "actions leave [-1, 1]"),
        (not valid.any(), "no step is valid"),
        (bool((terminated & truncated).any()), "steps both terminated and truncated"),
        (bool(cut.any()), "episodes stop without being terminated or truncated"),
    ]
    return [text for wrong, text in problems if wrong]


def _shape(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if entry is None else f"{entry[1]}{list(entry[0])}"
