"""What a sweep is made of: a TOML file with options of train.py, and the runs that it stands for.

seeds = "0..7"                 # or a list
folder = "runs/rates"          # default: runs/ and the file's name
together = true                # a variant's seeds in one process, at the same time
[base]                         # options of all runs, as train.py takes them
task = "franka/pick_cube"
[grid]                         # every combination is a variant
agent.lr = [3e-4, 6e-4]
[variants.chunked]             # named ones, each with every combination of the grid
preset = "qc_rlpd"

[search]                       # in place of both: Optuna chooses each trial's options
trials = 20
[search.space]
agent.lr = {low = 1e-4, high = 3e-3, log = true}
num-envs = [8, 16, 32]
"""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.ranges import require_number, require_seed

KEYS = ("seeds", "folder", "together", "base", "grid", "variants", "search")
SEARCH_KEYS = ("trials", "space", "aim", "storage", "seed")
AIMS = ("final", "mean")
# What the sweep itself says to each run.
OWN = ("seed", "seeds", "together", "resume", "run.folder", "run.name", "help")
# Options that are said once for each of their values.
_REPEATED = ("plugin",)
_ONLY = "base"  # what the variant is called where there is one
_MOST_BYTES = 1 << 20
MOST_RUNS = 10_000
_MOST_NAME = 150  # of a folder; most file systems take 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=,+-]*")

Options = Mapping[str, Any]
"""Values by the option's name without its dashes, `agent.lr` or `num-envs`."""


@dataclass(frozen=True)
class Variant:
    """Options that runs of several seeds share.

    Attributes:
        name: of its folder.
        options: all of them, the base's too.
        over_tasks: its name without the task, where the grid has several.
    """

    name: str
    options: Options
    over_tasks: str

    def words(self) -> list[str]:
        """What train.py is told."""
        return [word for name, value in self.options.items() for word in _words(name, value)]


@dataclass(frozen=True)
class Range:
    """Numbers that an option may be.

    Attributes:
        low: the least.
        high: the greatest.
        log: drawn by their logarithm.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers."""
        return type(self.low) is int and type(self.high) is int


@dataclass(frozen=True)
class Choice:
    """Values that an option may be."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Search:
    """What Optuna looks for.

    Attributes:
        trials: so many are made in all.
        space: what each option may be.
        aim: success that is to be as great as can be: that of the final evaluation, or the mean of
            all evaluations, which is greater of a run that learns sooner. Of several seeds it is
            the interquartile mean.
        storage: of Optuna: a URL (sqlite:///FILE), or the file of a journal; None is one in the
            sweep's folder.
        seed: of what is drawn.
    """

    trials: int
    space: Mapping[str, Range | Choice]
    aim: str = "final"
    storage: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Spec:
    """A sweep.

    Attributes:
        text: of the file.
        folder: for its runs.
        variants: in the file's order; of a search none before its trials are known.
        seeds: one run each, of each variant.
        together: those of a variant are trained at the same time, in one process.
        base: options of all of them.
        search: what is looked for; None where the file has all variants.
    """

    text: str
    folder: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    together: bool = False
    base: Options = field(default_factory=dict)
    search: Search | None = None


def read_spec(path: Path, *, folder: Path | None = None) -> Spec:
    """Read a file; `folder` goes before what it says itself.

    Raises InputError, with what is allowed, and UnknownNameError.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path} has over {_MOST_BYTES:,} bytes: that is no sweep")
    text = path.read_text(errors="replace")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    for key in data:
        if key not in KEYS:
            raise UnknownNameError(f"{path}: {unknown_name('key of a sweep', key, KEYS)}")
    search = _search(data) if "search" in data else None
    seeds, variants = _seeds(data.get("seeds")), () if search else tuple(_variants(data))
    what, many = ("trials", search.trials) if search else ("variants", len(variants))
    if len(seeds) * many > MOST_RUNS:
        raise InputError(f"{many} {what} x {len(seeds)} seeds, allowed: {MOST_RUNS:,} runs")
    together = data.get("together", False)
    if not isinstance(together, bool):
        raise InputError(f"together {together!r}, allowed: true, false")
    base = _options(data.get("base", {}), "base")
    return Spec(text, folder or _folder(data, path), variants, seeds, together, base, search)


def _folder(data: Mapping[str, Any], path: Path) -> Path:
    said = data.get("folder", str(Path("runs") / path.stem))
    if not isinstance(said, str) or not said:
        raise InputError(f"folder {said!r}, allowed: a path, as text")
    return Path(said)


def _seeds(said: Any) -> tuple[int, ...]:
    """The seeds of "0..7", both ends among them, or of a list."""
    ends = re.fullmatch(r"(\d{1,10})\.\.(\d{1,10})", said) if isinstance(said, str) else None
    if ends is not None:
        first, last = map(int, ends.groups())
        if last - first >= MOST_RUNS:
            raise InputError(f"seeds {said}, allowed: {MOST_RUNS:,} runs")
        said = list(range(first, last + 1))
    if not isinstance(said, list) or not said or not all(type(seed) is int for seed in said):
        raise InputError(f'seeds {said!r}, allowed: "0..7" or a list of numbers')
    if len(set(said)) < len(said):
        raise InputError(f"seeds {said}, allowed: each of them once")
    for seed in said:
        require_seed(seed)
    return tuple(said)


def _variants(data: Mapping[str, Any]) -> Iterator[Variant]:
    """Each named variant, one without a name where there is none, at each point of the grid."""
    base = _options(data.get("base", {}), "base")
    named = data.get("variants", {})
    _require_table(named, "variants")
    grid = _options(data.get("grid", {}), "grid")
    for option, values in grid.items():
        _require_choices(option, values)
    taken: set[str] = set()
    for name, own in [(n, _options(t, f"variants.{n}")) for n, t in named.items()] or [("", {})]:
        if twice := [option for option in own if option in grid]:
            raise InputError(f"{twice[0]} is in variants.{name} and in grid, allowed: one of them")
        for point in itertools.product(*grid.values()):
            chosen = dict(zip(grid, point, strict=True))
            folder = _name(name, chosen)
            if folder in taken:
                raise InputError(f"two variants are called '{folder}', allowed: each once")
            taken.add(folder)
            rest = {option: value for option, value in chosen.items() if option != "task"}
            yield Variant(folder, {**base, **own, **chosen}, _name(name, rest))


def _search(data: Mapping[str, Any]) -> Search:
    for key in ("grid", "variants"):
        if key in data:
            raise InputError(f"search and {key}, allowed: one of them")
    said = data["search"]
    _require_table(said, "search")
    for key in said:
        if key not in SEARCH_KEYS:
            raise UnknownNameError(f"search: {unknown_name('key of a search', key, SEARCH_KEYS)}")
    trials, aim, seed = said.get("trials"), said.get("aim", AIMS[0]), said.get("seed", 0)
    require_number("search.trials", trials, least=1, most=MOST_RUNS, whole=True)
    require_seed(seed)
    if aim not in AIMS:
        raise InputError(f"search.aim {aim!r}, allowed: {', '.join(AIMS)}")
    storage = said.get("storage")
    if storage is not None and (not isinstance(storage, str) or not storage):
        raise InputError(f"search.storage {storage!r}, allowed: a URL or a path, as text")
    space = _space(said.get("space", {}))
    if not space:
        raise InputError("search without [search.space], allowed: one option or more")
    if twice := [option for option in _options(data.get("base", {}), "base") if option in space]:
        raise InputError(f"{twice[0]} is in base and in search.space, allowed: one of them")
    return Search(trials, space, aim, storage, seed)


def _space(table: Any, prefix: str = "") -> dict[str, Range | Choice]:
    """What each option may be: a list of values, or the ends of a range."""
    _require_table(table, "search.space")
    found: dict[str, Range | Choice] = {}
    for key, said in table.items():
        name = prefix + _option(key)
        if isinstance(said, Mapping) and not {"low", "high"} <= said.keys():
            found |= _space(said, f"{name}.")
        elif name in OWN:
            raise InputError(f"search.space: {name}, which the sweep says to each run itself")
        elif isinstance(said, Mapping):
            found[name] = _range(name, said)
        else:
            _require_choices(name, said, "search.space")
            _require_plain(f"search.space: {name}", said)
            found[name] = Choice(tuple(said))
    return found


def _range(name: str, said: Mapping[str, Any]) -> Range:
    for key in said:
        if key not in ("low", "high", "log"):
            raise UnknownNameError(f"search.space: {name}: {key}, allowed: low, high, log")
    low, high, log = said["low"], said["high"], said.get("log", False)
    fine = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    if not fine or low >= high or not isinstance(log, bool) or (log and low <= 0):
        raise InputError(
            f"search.space: {name}: low {low!r}, high {high!r}, log {log!r}, allowed: two "
            "numbers, the greater as high, and log = true where both are above 0"
        )
    return Range(low, high, log)


def _name(name: str, chosen: Options) -> str:
    parts = [f"{option}={_spelt(value)}" for option, value in chosen.items()]
    folder = ",".join([name, *parts] if name else parts) or _ONLY
    if _NAME.fullmatch(folder) is None or len(folder) > _MOST_NAME:
        raise InputError(
            f"variant '{folder}', allowed: up to {_MOST_NAME} letters, digits and _.=,+-; "
            "[variants.NAME] gives a name to options"
        )
    return folder


def _spelt(value: Any) -> str:
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text)


def _options(table: Any, where: str, prefix: str = "") -> dict[str, Any]:
    """The options of a table, of which `agent.lr`, `"agent.lr"` and `[agent] lr` are the same."""
    _require_table(table, where)
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + _option(key)
        inner = isinstance(value, Mapping)
        for option, said in (
            _options(value, where, f"{name}.") if inner else {name: value}
        ).items():
            if option in found:
                raise InputError(f"{where}: {option} twice, allowed: once")
            if option in OWN:
                raise InputError(f"{where}: {option}, which the sweep says to each run itself")
            _require_plain(f"{where}: {option}", said)
            found[option] = said
    return found


def _option(key: str) -> str:
    return key.removeprefix("--").replace("_", "-")


def _require_table(table: Any, where: str) -> None:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} {table!r}, allowed: a table, [{where}]")


def _require_choices(option: str, values: Any, where: str = "grid") -> None:
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: {option} {values!r}, allowed: a list of values")
    if any(value in values[:place] for place, value in enumerate(values)):
        raise InputError(f"{where}: {option} {values!r}, allowed: each value once")


def _require_plain(what: str, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _require_plain(what, item)
    elif not isinstance(value, (bool, int, float, str)):
        raise InputError(f"{what} {value!r}, allowed: a number, true, false, text, or a list")


def _words(name: str, value: Any) -> Sequence[str]:
    if isinstance(value, bool):
        before, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{before}{dot}no-{last}"]
    if isinstance(value, list) and name not in _REPEATED:
        return [f"--{name}", *map(str, value)]
    # With a sign of equality what begins with a dash is a value as well.
    return [f"--{name}={item}" for item in (value if isinstance(value, list) else [value])]
