"""Files of demonstrations, ours and other projects': see `mjx_serl.demos`, the command line."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mjx_serl.data.demo_file import DemoFile
from mjx_serl.data.foreign.convert import Converted, ConvertOptions, convert, stack
from mjx_serl.data.foreign.export import export_lerobot
from mjx_serl.data.foreign.opening import open_foreign
from mjx_serl.envs.env import make_env
from mjx_serl.envs.observation import PixelConfig
from mjx_serl.training.demonstrations import demo_contract
from scenes.contract.command_line import how_to_start
from scenes.contract.demonstrations import DemoContract, check_new, write_demonstrations
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES, TokenizerConfig
from scenes.contract.plugins import load_plugins
from scenes.contract.serialize import digest

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportDemos:
    """Write demonstrations of SERL, HIL-SERL, robomimic or LeRobot as one file for a task.

    Attributes:
        files: pickles of SERL or HIL-SERL, HDF5 of robomimic, folders of LeRobotDataset v3, or our
            own .npz of another task; what each is shows in what it holds.
        task: a registered task, which the demonstrations are of.
        out: the .npz file to write; an existing one is never overwritten.
        mapping: what is made of the files' columns, OURS=THEIRS, where names do not say it, as
            ee_position=state[1:4] cube_from_ee=state[7:10]-state[1:4]
            action=40*action[0:3],-action[6]; a comma puts parts behind each other, a number alone
            is a constant.
        cameras: cameras of the task whose pictures are observed, for example front wrist; without,
            what only a simulator knows is observed too.
        image_size: width and height of the pictures [px]; those of the files must have it.
        clip_actions: cut actions to [-1, 1] where they leave it.
        solved_at_end: every episode is solved at its last step, which pays 1, whatever is said.
        allow_pickle: read pickles. A pickle is a program; none is run here, and whatever else opens
            the file runs it: say so only of files whose origin you know.
        words: what was done, of files that do not say it; for a task that is told in words.
        tokenizer: of what the episodes were told, as in training.
        plugin: modules to import first, which register tasks of yours.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    task: str
    out: Path
    mapping: Annotated[tuple[str, ...], tyro.conf.arg(name="map")] = ()
    cameras: tuple[str, ...] = ()
    image_size: int = 64
    clip_actions: bool = False
    solved_at_end: bool = False
    allow_pickle: bool = False
    words: str = ""
    tokenizer: TokenizerConfig = BYTES
    plugin: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportDemos:
    """Write a file of demonstrations as another project's.

    Attributes:
        file: of demonstrations, .npz.
        out: the dataset's folder; an existing one is never added to.
        to: what is written: "lerobot" is a LeRobotDataset v3.0 of all that the file holds; "gsenv"
            one as ManiSkill-GS's of PutCubeOnPlate, with its names and units.
        words: what was done, in words. Without it what each episode was told, else the task's name.
        tokenizer: that instructions in the file were recorded with.
        plugin: modules to import first, which register tasks of yours.
    """

    file: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    to: Literal["lerobot", "gsenv"] = "lerobot"
    words: str = ""
    tokenizer: TokenizerConfig = BYTES
    plugin: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowDemos:
    """List the episodes of a file.

    Attributes:
        file: of demonstrations, .npz.
    """

    file: tyro.conf.Positional[Path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeleteDemos:
    """Drop episodes of a file, which is replaced whole; the others are numbered anew.

    Attributes:
        file: of demonstrations, .npz.
        episodes: numbers, as `show` lists them.
    """

    file: tyro.conf.Positional[Path]
    episodes: tuple[int, ...]


def import_demos(cfg: ImportDemos, say: Say) -> None:
    """Read, convert, write; what was decided is said, a line each.

    Raises FileExistsError, FileNotFoundError, KeyError for an unknown task or camera, and
    InputError for what cannot be read or does not fit the task.
    """
    if not cfg.files:
        raise InputError("No file is named; allowed: one or more, before --task")
    if cfg.out.suffix != ".npz":
        raise InputError(f"Demonstrations are .npz files, got '{cfg.out}'")
    check_new(cfg.out)
    load_plugins(cfg.plugin)
    files = [open_foreign(path, allow_pickle=cfg.allow_pickle) for path in cfg.files]
    pixels = PixelConfig(cameras=cfg.cameras, size=cfg.image_size)
    contract = demo_contract(pixels.undrawn(make_env(cfg.task, tokenizer=cfg.tokenizer)))
    options = ConvertOptions(
        mapping=cfg.mapping,
        clip_actions=cfg.clip_actions,
        solved_at_end=cfg.solved_at_end,
        words=cfg.words,
        tokenizer=cfg.tokenizer.build() if contract.tokenizer else None,
    )
    made: list[Converted] = []
    for file in files:
        made.append(convert(file, contract, options))
        say(f"{file.path}: {file.kind}, {len(made[-1].episodes)} episodes, {made[-1].steps} steps")
        for note in made[-1].notes:
            say(f"  {note}")
    write_demonstrations(cfg.out, stack(made), contract)
    episodes, steps = sum(len(m.episodes) for m in made), sum(m.steps for m in made)
    say(f"{cfg.out}: {episodes} episodes, {steps} steps of {cfg.task}")


def export_demos(cfg: ExportDemos, say: Say) -> None:
    """Write the dataset; raises what `export_lerobot` does, KeyError for a task of a plug-in."""
    load_plugins(cfg.plugin)
    texts = partial(_texts, cfg.tokenizer)
    episodes, steps = export_lerobot(cfg.file, cfg.out, words=cfg.words, form=cfg.to, texts=texts)
    say(f"{cfg.out}: {episodes} episodes, {steps} steps")


def _texts(tokenizer: TokenizerConfig, contract: DemoContract) -> Mapping[bytes, str]:
    """What the episodes of a task may have been told, by their numbers."""
    if digest(tokenizer.anywhere) != contract.tokenizer:
        raise InputError(
            f"The file was recorded with another tokenizer than --tokenizer.name {tokenizer.name} "
            f"--tokenizer.slots {tokenizer.slots}; allowed: that one, or --words"
        )
    told = make_env(contract.task, tokenizer=tokenizer).told
    if told is None:
        return {}
    return {row.tobytes(): text for row, text in zip(told.tokens, told.texts, strict=True)}


def show_demos(cfg: ShowDemos, say: Say) -> None:
    """Say number, steps and return of each episode; raises what `load_demonstrations` does."""
    file = DemoFile(cfg.file)
    for number, (_, steps, total) in enumerate(file.episodes, start=1):
        say(f"{number:4}  {steps:4} steps  return {total:g}")
    say(f"{cfg.file}: {len(file)} episodes, {file.steps} steps of {file.contract.task}")


def delete_demos(cfg: DeleteDemos, say: Say) -> None:
    """Replace the file by one of the other episodes.

    Raises InputError for a number that no episode has, or where none would be left, and what
    `load_demonstrations` does; the file is as it was then.
    """
    file = DemoFile(cfg.file)
    wanted = sorted(set(cfg.episodes))
    wrong = [number for number in wanted if not 1 <= number <= len(file)]
    if not wanted or wrong:
        got = f"got {', '.join(map(str, wrong))}" if wrong else "none is named"
        raise InputError(
            f"--episodes: {got}, allowed: 1 to {len(file)}; `{how_to_start('demos')} show "
            f"{cfg.file}` lists them"
        )
    if len(wanted) == len(file):
        raise InputError(f"{cfg.file} would hold no episode; remove the file instead")
    keys = [episode.key for episode in file.episodes]
    file.delete(*(keys[number - 1] for number in wanted))
    gone = ", ".join(map(str, wanted))
    say(f"{cfg.file}: without {gone}; {len(file)} episodes, {file.steps} steps")
