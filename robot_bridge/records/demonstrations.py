"""Recordings as demonstrations: the .npz that `train.py --demos.file` reads, with numpy alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robot_bridge.messages import Ending
from robot_bridge.records.reader import Episode, RecordReader, episodes
from robot_bridge.records.steps import step_arrays
from scenes.contract.demonstrations import (
    DemoContract,
    check_new,
    stack_episodes,
    write_demonstrations,
)
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract
from scenes.contract.serialize import digest


@dataclass(frozen=True)
class Exported:
    """What an export took.

    Attributes:
        episodes: in number.
        steps: of all of them.
        intervened: steps of which a person chose the action.
    """

    episodes: int
    steps: int
    intervened: int


def export_demos(
    recordings: Sequence[Path],
    path: Path,
    contract: Contract,
    *,
    task: str,
    endings: Sequence[Ending] = ("success",),
    allow_damage: bool = False,
) -> Exported:
    """Write the episodes of recordings as demonstrations.

    An episode's last step pays 1 where it was a success; success and failure terminate, anything
    else truncates. The actions are those executed, so a person's where one intervened (`expert`).

    Args:
        recordings: folders.
        path: of the .npz; never overwritten.
        contract: that of the recorded policy, from its bundle.
        task: name of the task, for example "franka/pick_cube".
        endings: of the episodes to take.
        allow_damage: take what is whole of a recording that is damaged.

    Raises:
        FileExistsError: `path` is there.
        ValueError: a recording was made under another contract or is damaged, or no episode fits.
    """
    check_new(path)
    chosen = list(choose_episodes(recordings, contract, endings=endings, allow_damage=allow_damage))
    demo_contract = DemoContract.of(
        task,
        contract.obs,
        contract.action,
        episode_steps=contract.episode_steps,
        language=contract.language,
    )
    arrays = stack_episodes(
        [step_arrays(episode.steps, contract.obs, episode.ending) for episode in chosen]
    )
    write_demonstrations(path, arrays, demo_contract)
    return summarize(chosen)


def choose_episodes(
    recordings: Sequence[Path],
    contract: Contract,
    *,
    endings: Sequence[Ending],
    allow_damage: bool = False,
) -> Iterable[Episode]:
    """Yield the complete episodes that ended so; ValueError where there is none.

    Episodes with lost ticks, or into which damage falls, are left out: their steps do not follow
    each other. Without `allow_damage` a recording that is damaged is a ValueError before the first.
    """
    seen: dict[str, int] = {}
    found = False
    readers = [_checked(recording, contract) for recording in recordings]
    if not allow_damage:
        _require_whole(readers)
    for reader in readers:
        for episode in episodes(reader):
            kind = "incomplete" if episode.missing else episode.ending
            seen[kind] = seen.get(kind, 0) + 1
            if kind in endings:
                found = True
                yield episode
    if not found:
        there = ", ".join(f"{n} {kind}" for kind, n in sorted(seen.items())) or "none"
        raise InputError(f"No episode fits: wanted {' or '.join(endings)}, recorded are: {there}")


def summarize(chosen: Iterable[Episode]) -> Exported:
    """Count episodes, steps and interventions."""
    flags = [[step.intervened for step in episode.steps] for episode in chosen]
    return Exported(len(flags), sum(map(len, flags)), sum(map(sum, flags)))


def _require_whole(readers: Sequence[RecordReader]) -> None:
    damage = [place for reader in readers for place in reader.survey()]
    if damage:
        more = f", and {len(damage) - 1} more places" if len(damage) > 1 else ""
        raise InputError(
            f"{damage[0]}{more}; --allow-damage exports the episodes that are whole nevertheless"
        )


def _checked(recording: Path, contract: Contract) -> RecordReader:
    reader = RecordReader(recording)
    want, got = digest(contract), reader.header.contract
    if got != want:
        raise InputError(
            f"{recording} was recorded under contract {got[:12]}, this one is {want[:12]}; "
            "give the bundle it was recorded with"
        )
    return reader
