"""Recordings as a LeRobotDataset v3.0, whose layout is `scenes.contract.lerobot`'s."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import ENDINGS, Ending
from robot_bridge.records.demonstrations import Exported, choose_episodes
from robot_bridge.records.reader import Episode
from robot_bridge.records.steps import read_field
from scenes.contract.errors import InputError
from scenes.contract.files import new_folder
from scenes.contract.lerobot import (
    INTERVENED,
    STATE_KEY,
    DatasetLayout,
    DatasetWriter,
    entry_names,
    require_whole_rate,
)
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ObsField


def export_lerobot(
    recordings: Sequence[Path],
    path: Path,
    contract: Contract,
    *,
    task: str,
    endings: Sequence[Ending] = ENDINGS,
    allow_damage: bool = False,
    frames_per_file: int = 36_000,
) -> Exported:
    """Write the episodes of recordings as one dataset.

    "observation.state" is all numbers that the policy observes, in the contract's order,
    "observation.images.NAME" its pictures, "action" what was executed; "next.reward" is 1 at the
    end of a success, "next.done" true at the end of every episode, and
    "complementary_info.is_intervention" true where a person acted.

    Args:
        recordings: folders.
        path: of the dataset; made, never added to.
        contract: that of the recorded policy, from its bundle.
        task: what was done, in words.
        endings: of the episodes to take.
        allow_damage: take what is whole of a recording that is damaged.
        frames_per_file: steps after which a new table and new videos are begun.

    Raises:
        FileExistsError: `path` is there.
        ValueError: a recording was made under another contract or is damaged, no episode fits, or
            the rate of actions is no whole number, which the format does not know.
        OSError: ffmpeg could not write a video; the message is ffmpeg's own.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a dataset is never added to")
    require_whole_rate(contract.action.rate)
    layout = Layout.of(contract)
    counts = np.zeros(3, int)
    with new_folder(path) as part, ExitStack() as stack:
        writer = DatasetWriter(part, layout.columns, frames_per_file=frames_per_file)
        stack.callback(writer.close)
        for episode in choose_episodes(
            recordings, contract, endings=endings, allow_damage=allow_damage
        ):
            writer.add(episode_columns(episode, layout), _pictures(episode, layout))
            counts += (1, len(episode.steps), sum(step.intervened for step in episode.steps))
        writer.close()
        writer.write_meta(task, contract.robot.name)
    return Exported(*counts.tolist())


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which observations are numbers and which are pictures.

    Attributes:
        numbers: observations that become the state.
        pictures: observations that become videos.
        columns: of the dataset.
    """

    numbers: tuple[ObsField, ...]
    pictures: tuple[ObsField, ...]
    columns: DatasetLayout

    @classmethod
    def of(cls, contract: Contract) -> "Layout":
        """Make that of a contract."""
        names = {camera.name for camera in contract.cameras}
        fields = contract.obs.fields
        if contract.depth:
            raise InputError("Pictures with depth have no video, allowed: a policy of colours")
        # What it was told stands beside, in words.
        numbers = tuple(f for f in fields if f.name not in names and f.kind != "tokens")
        pictures = tuple(f for f in fields if f.name in names)
        sizes = ((f.name, int(np.prod(f.shape, dtype=int))) for f in numbers)
        columns = DatasetLayout(
            state_names=tuple(name for entry in sizes for name in entry_names(*entry)),
            pictures={f.name: f.shape for f in pictures},
            action_names=contract.action.names,
            flags={"next.reward": "float32", "next.done": "bool", INTERVENED: "bool"},
            fps=int(contract.action.rate),
            videos=True,
        )
        return cls(numbers, pictures, columns)


def _pictures(episode: Episode, layout: Layout) -> dict[str, NDArray[np.uint8]]:
    return {
        f.name: np.stack([read_field(s, f.name, f.shape, f.dtype) for s in episode.steps])
        for f in layout.pictures
    }


def episode_columns(episode: Episode, layout: Layout) -> dict[str, NDArray[Any]]:
    """State, action and flags [T, ...] of an episode."""
    steps = episode.steps
    ends = np.arange(len(steps)) == len(steps) - 1
    columns: dict[str, NDArray[Any]] = {}
    if layout.numbers:
        rows = [
            [read_field(step, f.name, f.shape, f.dtype).ravel() for f in layout.numbers]
            for step in steps
        ]
        columns[STATE_KEY] = np.array([np.concatenate(row) for row in rows], np.float32)
    columns["action"] = np.stack([step.action for step in steps])
    columns["next.reward"] = (ends & (episode.ending == "success")).astype(np.float32)
    columns["next.done"] = ends
    columns[INTERVENED] = np.array([step.intervened for step in steps])
    return columns
