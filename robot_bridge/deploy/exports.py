"""Recordings as data for learning: `python -m robot_bridge export-demos|export-lerobot`."""

import sys
from pathlib import Path

from robot_bridge.messages import ENDINGS, Ending
from robot_bridge.policy.bundle import find_bundle, load_bundle
from robot_bridge.records import demonstrations, lerobot
from robot_bridge.records.demonstrations import Exported
from robot_bridge.records.reader import RecordReader
from scenes.contract.errors import InputError


def export_demos(
    recordings: tuple[Path, ...],
    /,
    *,
    bundle: Path,
    out: Path,
    endings: tuple[Ending, ...] = ("success",),
    allow_damage: bool = False,
) -> int:
    """Write recorded episodes as demonstrations, for train.py --demos.file.

    Args:
        recordings: folders that deploy.py --record wrote.
        bundle: the recorded policy's run folder or bundle; it says what was observed and done.
        out: the .npz file; never overwritten.
        endings: of the episodes to take.
        allow_damage: take the whole episodes of recordings that are damaged; those into which the
            damage falls are left out.
    """
    _require_some(recordings)
    loaded = load_bundle(find_bundle(bundle))
    task = loaded.manifest.task
    said = demonstrations.export_demos(
        recordings,
        out,
        loaded.contract,
        task=task,
        endings=endings,
        allow_damage=allow_damage,
    )
    return _report(said, out)


def export_lerobot(
    recordings: tuple[Path, ...],
    /,
    *,
    bundle: Path,
    out: Path,
    task: str = "",
    endings: tuple[Ending, ...] = ENDINGS,
    allow_damage: bool = False,
) -> int:
    """Write recorded episodes as a LeRobotDataset v3.0.

    Args:
        recordings: folders that deploy.py --record wrote.
        bundle: the recorded policy's run folder or bundle; it says what was observed and done.
        out: the dataset's folder; never added to.
        task: what was done, in words; what the policy was told if that is one thing, else the
            task's name.
        endings: of the episodes to take.
        allow_damage: take the whole episodes of recordings that are damaged; those into which the
            damage falls are left out.
    """
    _require_some(recordings)
    loaded = load_bundle(find_bundle(bundle))
    words = task or _told(recordings) or loaded.manifest.task
    said = lerobot.export_lerobot(
        recordings,
        out,
        loaded.contract,
        task=words,
        endings=endings,
        allow_damage=allow_damage,
    )
    return _report(said, out)


def _require_some(recordings: tuple[Path, ...]) -> None:
    if not recordings:
        raise InputError("No recording is given; name the folders that deploy.py --record wrote")


def _told(recordings: tuple[Path, ...]) -> str:
    """What the policy was told in all recordings; "" where that differs, or is nothing."""
    prompts = {RecordReader(recording).header.prompt for recording in recordings}
    return prompts.pop() if len(prompts) == 1 else ""


def _report(said: Exported, out: Path) -> int:
    sys.stdout.write(
        f"{out}: {said.episodes} episodes, {said.steps} steps, {said.intervened} of them a "
        "person's\n"
    )
    return 0
