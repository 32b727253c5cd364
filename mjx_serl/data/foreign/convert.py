"""Another project's episodes as ours: observations and actions by the map, ends as they were."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.mapping import Source, find_source, parse_map
from mjx_serl.data.foreign.source import ACTION, Column, ForeignEpisode, ForeignFile
from scenes.contract.demonstrations import OBS, Arrays, DemoContract, refusal, stack_episodes
from scenes.contract.errors import InputError
from scenes.contract.language import INSTRUCTION, Tokenizer, tokens_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How a person says that a file is to be taken.

    Attributes:
        mapping: words OURS=THEIRS, see `mjx_serl.data.foreign.mapping`.
        clip_actions: cut what leaves [-1, 1].
        solved_at_end: each episode's last step pays 1 and ends it, whatever the file pays.
        words: what was done in episodes of which the file does not say it.
        tokenizer: of those words, where the task observes them.
    """

    mapping: tuple[str, ...] = ()
    clip_actions: bool = False
    solved_at_end: bool = False
    words: str = ""
    tokenizer: Tokenizer | None = None


@dataclasses.dataclass(frozen=True)
class Converted:
    """Episodes of a file.

    Attributes:
        episodes: arrays [steps, ...] by name, as `stack_episodes` takes them.
        notes: what is told of them, a line each.
    """

    episodes: tuple[Arrays, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return sum(len(episode["reward"]) for episode in self.episodes)


def stack(files: Sequence[Converted]) -> Arrays:
    """Return the episodes of several files as arrays [T, M, ...]."""
    return stack_episodes([episode for file in files for episode in file.episodes])


def convert(file: ForeignFile, contract: DemoContract, options: ConvertOptions) -> Converted:
    """Return a file's episodes as the task of a contract observes and acts.

    Episodes with numbers that are not finite are left out, and counted in the notes.

    Raises:
        InputError: one line for each thing that does not fit, or no episode is left.
    """
    wanted = _wanted(contract)
    sources = _sources(file, contract, wanted, options)
    reading = frozenset().union(*(source.names for source in sources.values()))
    every = [_episode(episode, sources, wanted, options) for episode in file.episodes(reading)]
    if any(episode is None for episode in every):
        raise refusal(file.path, [_UNPAID])
    made = [episode for episode in every if episode is not None]
    chosen = tuple(episode for episode in made if _finite(episode))
    if not chosen:
        raise refusal(file.path, [f"no episode can be used, of {len(made)} that there are"])
    notes = [f"{ours} = {source}" for ours, source in sources.items()]
    notes += [*file.notes, *_unsaid(file, contract)]
    if len(chosen) < len(made):
        notes.append(
            f"{len(made) - len(chosen)} episodes with numbers that are not finite left out"
        )
    notes += _bounded(file, chosen, clip=options.clip_actions)
    notes += _ends(chosen, contract)
    return Converted(chosen, tuple(notes))


_UNPAID = (
    "says nothing of rewards; allowed: with --solved-at-end, which takes each episode for solved "
    "at its last step"
)


def _wanted(contract: DemoContract) -> dict[str, Column]:
    # What was said is no column.
    told = {INSTRUCTION} if contract.tokenizer else set()
    fields = {n: Column(shape, dtype) for n, shape, dtype in contract.obs if n not in told}
    return fields | {ACTION: Column((len(contract.action_names),), "float32")}


def _sources(
    file: ForeignFile,
    contract: DemoContract,
    wanted: Mapping[str, Column],
    options: ConvertOptions,
) -> dict[str, Source]:
    """What each observation and the action is made of; InputError with all that does not fit."""
    said = parse_map(options.mapping)
    unknown = [f"--map {name}: the task has {', '.join(wanted)}" for name in said.keys() - wanted]
    lines, sources = sorted(unknown), {}
    for name, column in wanted.items():
        source = said.get(name) or find_source(name, column, file.columns)
        problem = _missing(name, column) if source is None else _misfit(file, name, column, source)
        if problem:
            lines.append(problem)
        elif source is not None:
            sources[name] = source
    lines += _other_actions(file, contract, mapped=ACTION in said)
    if file.rate is not None and file.rate != contract.rate:
        lines.append(f"rate [Hz]: task {contract.rate:g}, file {file.rate:g}")
    if lines:
        there = ", ".join(f"{name} {column}" for name, column in file.columns.items())
        raise refusal(file.path, [*lines, f"the file ({file.kind}) has: {there}"])
    return sources


def _missing(name: str, column: Column) -> str:
    what = "" if name == ACTION else "observation "
    return f"{what}'{name}' {column}: nothing is called so; say --map {name}=..."


def _misfit(file: ForeignFile, name: str, column: Column, source: Source) -> str:
    """What is wrong with a source, else ""."""
    unknown = sorted(source.names - file.columns.keys())
    if unknown:
        return f"--map {name}: the file has no {', '.join(unknown)}"
    if column.dtype == "uint8":
        theirs = file.columns.get(source.plain)
        if theirs is None or (theirs.shape, theirs.dtype) != (column.shape, "uint8"):
            got = theirs or f"'{source}'"
            return f"picture '{name}': task {column}, file {got}; --image-size, or record anew"
        return ""
    try:
        size = source.size(file.columns)
    except InputError as error:
        return f"--map {name}: {error}"
    if size not in (None, int(np.prod(column.shape, dtype=int))):
        return f"'{name}': task {column}, file '{source}' of {size} entries; say --map {name}=..."
    return ""


def _other_actions(file: ForeignFile, contract: DemoContract, *, mapped: bool) -> list[str]:
    """What the file says of its actions that the task does not; a map answers for their scale."""
    lines = []
    if file.contract is not None:
        skip = ("task", "episode_steps", "rate", "action_names")
        skip += ("action_scale",) if mapped else ()
        lines += contract.differences(file.contract, skip=skip)
    if not mapped:
        lines += _other_entries(file.columns.get(ACTION), contract.action_names)
    return lines


def _other_entries(column: Column | None, names: tuple[str, ...]) -> list[str]:
    if column is None or not column.names or column.names == names:
        return []
    theirs = ", ".join(column.names)
    return [f"entries of the action: task {', '.join(names)}, file {theirs}; say --map action=..."]


def _episode(
    episode: ForeignEpisode,
    sources: Mapping[str, Source],
    wanted: Mapping[str, Column],
    options: ConvertOptions,
) -> Arrays | None:
    """Arrays of an episode; None where nothing says what it pays."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and so left out
        columns = {
            name: source.of(episode.columns, wanted[name].shape, wanted[name].dtype)
            for name, source in sources.items()
        }
    length = len(columns[ACTION])
    last = np.arange(length) == length - 1
    reward, solved = episode.reward, episode.solved
    if options.solved_at_end:
        reward, solved = last.astype(np.float32), True
    if reward is None:
        return None
    expert = np.ones(length, bool) if episode.expert is None else episode.expert
    steps = {"reward": reward, "terminated": last & solved, "truncated": last & (not solved)}
    obs = {f"{OBS}{name}": x for name, x in columns.items() if name != ACTION}
    if options.tokenizer is not None:
        obs |= _told(options.tokenizer, episode.task or options.words, length)
    return obs | steps | {"action": columns[ACTION], "expert": expert}


def _told(tokenizer: Tokenizer, words: str, length: int) -> Arrays:
    """What a policy would have observed of the words of an episode."""
    if not words:
        raise InputError(
            "The task is told in words, and the file does not say what was done; allowed: --words"
        )
    return {f"{OBS}{INSTRUCTION}": np.tile(tokens_of(tokenizer, words), (length, 1))}


def _finite(episode: Arrays) -> bool:
    return all(np.isfinite(x).all() for x in episode.values() if x.dtype.kind == "f")


def _unsaid(file: ForeignFile, contract: DemoContract) -> Iterator[str]:
    if file.contract is not None:
        return
    scale = ", ".join(map("{:g}".format, contract.action_scale))
    unsaid = f"scale {scale} [m, rad or 1 per step], mode {contract.mode}, base {contract.base}"
    if file.rate is None:
        unsaid = f"rate {contract.rate:g} Hz, {unsaid}"
    yield f"does not say what its actions mean; taken as this task's: {unsaid}"


def _bounded(file: ForeignFile, episodes: Sequence[Arrays], *, clip: bool) -> Iterator[str]:
    """Cut actions to [-1, 1] where that was asked for; InputError where it is needed and not."""
    actions: list[NDArray[Any]] = [episode["action"] for episode in episodes]
    beyond = sum(int((np.abs(x) > 1.0).any(axis=1).sum()) for x in actions)
    if not beyond:
        return
    largest = max(float(np.abs(x).max()) for x in actions)
    of = sum(map(len, actions))
    said = f"{beyond} of {of} steps have actions beyond [-1, 1], up to {largest:.3g}"
    if not clip:
        hint = "--clip-actions cuts them, or give a factor: --map action=0.5*action"
        raise refusal(file.path, [f"{said}: {hint}"])
    for x in actions:
        np.clip(x, -1.0, 1.0, out=x)
    yield f"{said}: cut"


def _ends(episodes: Sequence[Arrays], contract: DemoContract) -> Iterator[str]:
    """What a person would want to know of what episodes pay and how they end."""
    least = min(float(episode["reward"].min()) for episode in episodes)
    most = max(float(episode["reward"].max()) for episode in episodes)
    yield f"steps pay {least:.3g} to {most:.3g}"
    limit = contract.episode_steps
    over = sum(limit is not None and len(episode["reward"]) > limit for episode in episodes)
    if over:
        yield f"{over} episodes are longer than the task's limit of {limit} steps: taken whole"
    cut = sum(bool(episode["truncated"].any()) for episode in episodes)
    if cut:
        yield f"{cut} of {len(episodes)} episodes end unsolved: their last step is truncated"
